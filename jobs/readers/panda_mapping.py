"""One mapping from a PanDA job to Gridcast's fields, for the reader and for the adapter in JEDI.

It needs nothing but Python: where the adapter runs this file lies beside it. Times are the callers'
own affair, since a log prints them and a JobSpec holds them.

maxrss and maxpss are kB (KiB) of the whole job, maxwalltime and cpuconsumptiontime seconds. Peak
memory is maxpss, which counts shared pages once, else maxrss. A corecount of 0 or none is one core.
minramcount is MB (MiB) a core, unless minramunit says that it is MB of the whole job.

What the pilot reports afterwards is no fact at submission: nevents (those processed) is not read,
events are those asked for (--maxEvents in jobparameters), and computingelement, where the pilot
ran, is no queue. computingsite is what the broker chose. The priority is assignedpriority, that at
submission: currentpriority changes while a job waits.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from math import isnan, nan
from typing import Any

_NAMES_TEXT = """
PandaID taskID jediTaskID prodUserName workingGroup VO project campaign prodSourceLabel
transformation processingType computingSite jobParameters modificationHost hs06 cpuConsumptionTime
maxRSS maxPSS minRamCount minRamUnit coreCount actualCoreCount maxWalltime creationTime startTime
endTime jobStatus nInputDataFiles inputFileBytes outputFileBytes totRBYTES totWBYTES
pilotErrorCode parent_tid reqID assignedPriority
"""
NAMES = _NAMES_TEXT.split()
"""What is read of a job, under PanDA's names."""

STATES = {
    "waiting": "pending defined waiting assigned activated sent throttled starting",
    "running": "running holding transferring merging",
    "completed": "finished",
    "failed": "failed",
    "cancelled": "cancelled closed",
}
STATUS = {word: status for status, words in STATES.items() for word in words.split()}
OUT_OF_MEMORY = (1212, 1235)
TIMED_OUT = (1213,)
"""The pilot's error codes PAYLOADOUTOFMEMORY, PAYLOADEXCEEDMAXMEM and REACHEDMAXTIME."""
MIB = 1024.0**2
NO_LIMITS = frozenset({2.0**31 - 1, 2.0**32 - 1, 2.0**63 - 1, 2.0**63})
REQUESTED_EVENTS = re.compile(r"\bmaxEvents[= ]['\"]?(\d{1,15})\b")


def status_of(word: str | None, pilot_error_code: float = nan) -> str | None:
    """The status that a jobStatus means, with the pilot's error code as the cause of a failure."""
    status = STATUS.get(word.lower(), "unknown") if word else None
    if status == "failed":
        return (
            "out_of_memory"
            if pilot_error_code in OUT_OF_MEMORY
            else "timeout"
            if pilot_error_code in TIMED_OUT
            else status
        )
    return status


def map_job(
    text: Callable[[str], str | None], number: Callable[[str], float], has_started: bool
) -> dict[str, Any]:
    """Gridcast's fields of a job but for its times; None and NaN where PanDA has nothing.

    Args:
        text: gives the text of a field by PanDA's name in lower case, None where it has none.
        number: gives a number by the same name, NaN where it has none.
        has_started: whether the job has a start time; without one it used nothing.
    """
    status = status_of(text("jobstatus"), number("piloterrorcode"))
    ran = has_started and status not in ("waiting", "running")

    def used(name: str) -> float:
        return number(name) if ran else nan

    requested_cores = _positive(number("corecount"), 1.0)
    memory = _limit(number("minramcount")) * MIB
    of_whole_job = (text("minramunit") or "").lower() == "mb"
    task = text("jeditaskid") or text("taskid")
    return {
        "job_id": text("pandaid"),
        "task_id": task,
        # ProdSys names a task without a predecessor as its own parent, and what there is not 0.
        "after_task_id": _other_than(text("parent_tid"), task, "0"),
        "request_id": _other_than(text("reqid"), "0"),
        "user": text("produsername"),
        "group": text("workinggroup") or text("vo"),
        "project": text("project") or text("campaign") or text("prodsourcelabel"),
        "program": _last_part(text("transformation") or text("processingtype")),
        "job_name": text("processingtype"),
        "site": text("computingsite"),
        "host": (text("modificationhost") or "").rpartition("@")[2] or None,
        "host_power": _positive(number("hs06")),
        "requested_walltime": _limit(number("maxwalltime")),
        "requested_cores": requested_cores,
        "requested_memory": memory if of_whole_job else memory * requested_cores,
        "priority": number("assignedpriority"),
        "input_bytes": number("inputfilebytes"),
        "input_files": number("ninputdatafiles"),
        "events": _requested_events(text("jobparameters") or ""),
        "status": status,
        "cores": _positive(number("actualcorecount"), requested_cores) if has_started else nan,
        "cpu_time": used("cpuconsumptiontime"),
        "peak_memory": _positive(used("maxpss"), _positive(used("maxrss"))) * 1024,
        "read_bytes": used("totrbytes"),
        "written_bytes": _first(used("totwbytes"), used("outputfilebytes")),
    }


def _requested_events(parameters: str) -> float:
    match = REQUESTED_EVENTS.search(parameters)
    return _positive(float(match[1])) if match else nan


def _last_part(path: str | None) -> str | None:
    return (path or "").rstrip("/").rpartition("/")[2] or None


def _positive(number: float, otherwise: float = nan) -> float:
    """The number, or ``otherwise`` where PanDA has none (it writes 0, or -1)."""
    return number if number > 0 else otherwise


def _limit(number: float) -> float:
    """A request, NaN where it is none or stands for "no limit"."""
    return nan if number in NO_LIMITS else _positive(number)


def _other_than(word: str | None, *nothing: str | None) -> str | None:
    return None if word in nothing else word


def _first(*numbers: float) -> float:
    return next((number for number in numbers if not isnan(number)), nan)
