"""Reader of PanDA job records under PanDA's own names, as JSON (an array, ``{"jobs": [...]}``, an object a line) or CSV.

Names are met in any case. Times are UTC, maxrss and maxpss kB (KiB) of the whole job, maxwalltime and cpuconsumptiontime seconds.
Peak memory is maxpss, which counts shared pages once, else maxrss. A corecount of 0 or none is one core. minramcount is MB (MiB) a core,
unless minramunit says that it is MB of the whole job.

What the pilot tells afterwards is no fact at submission: nevents (those processed) is not read, events are those asked for
(--maxEvents in jobparameters), and computingelement, where the pilot ran, is no queue. computingsite is what the broker chose.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.delimited import columns_of, read_records, sniff
from jobs.readers.errors import FieldError
from jobs.readers.lines import head_lines, peek
from jobs.readers.objects import JsonRecord, read_objects
from jobs.readers.rows import Row, gather, jobs_of, value

MARKS = (
    "jeditaskid",
    "produsername",
    "computingsite",
    "jobstatus",
    "transformation",
    "creationtime",
    "cpuconsumptiontime",
    "corecount",
)
USED = {
    "pandaid",
    "taskid",
    "jeditaskid",
    "produsername",
    "workinggroup",
    "vo",
    "project",
    "campaign",
    "prodsourcelabel",
    "transformation",
}
USED |= {
    "processingtype",
    "computingsite",
    "jobparameters",
    "modificationhost",
    "hs06",
    "cpuconsumptiontime",
    "maxrss",
    "maxpss",
}
USED |= {
    "minramcount",
    "minramunit",
    "corecount",
    "actualcorecount",
    "maxwalltime",
    "creationtime",
    "starttime",
    "endtime",
    "jobstatus",
}
USED |= {
    "ninputdatafiles",
    "inputfilebytes",
    "outputfilebytes",
    "totrbytes",
    "totwbytes",
    "piloterrorcode",
    "destinationse",
}
USED |= {"parent_tid", "reqid"}

_OTHERS = """
jobdefinitionid schedulerid pilotid creationhost modificationtime atlasrelease homepackage prodserieslabel produserid assignedpriority
currentpriority attemptnr maxattempt jobname maxcpucount maxcpuunit maxdiskcount maxdiskunit ipconnectivity cpuconsumptionunit
commandtopilot transexitcode piloterrordiag exeerrorcode exeerrordiag superrorcode superrordiag ddmerrorcode ddmerrordiag
brokerageerrorcode brokerageerrordiag jobdispatchererrorcode jobdispatchererrordiag taskbuffererrorcode taskbuffererrordiag
computingelement nevents metadata proddblock dispatchdblock destinationdblock grid cloud cpuconversion sourcesite destinationsite
transfertype cmtconfig statechangetime proddbupdatetime lockedby relocationflag jobexecutionid pilottiming ninputfiles countrygroup batchid
parentid specialhandling jobsetid inputfiletype inputfileproject noutputdatafiles jobmetrics workqueue_id jobsubstatus maxvmem
maxswap avgrss avgvmem avgswap avgpss nucleus eventservice failedattempt hs06sec gshare totrchar totwchar raterchar ratewchar raterbytes
ratewbytes resource_type diskio memory_leak memory_leak_x2 container_name outputfiletype
"""
KNOWN = USED.union(_OTHERS.split())

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
ASKED_EVENTS = re.compile(r"\bmaxEvents[= ]['\"]?(\d{1,15})\b")


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first records or the header have pandaid and two more of PanDA's names."""
    text = "\n".join(head_lines(head)).lower()
    if text.lstrip()[:1] in ("[", "{"):
        return '"pandaid"' in text and sum(f'"{name}"' in text for name in MARKS) >= 2
    names = {name.lower() for name in sniff(head)[1]}
    return "pandaid" in names and len(names.intersection(MARKS)) >= 2


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream PanDA's jobs; raises ReadError where a CSV has no column pandaid or creationtime."""
    return gather(
        jobs_of(_records(path, options), partial(_job, options=options)), options.batch_rows
    )


def _records(path: Path, options: ReadOptions) -> Iterator[JsonRecord]:
    if head_lines(peek(path))[0].lstrip()[:1] in ("[", "{"):
        for item in read_objects(path):
            yield item if isinstance(item, Reject | str) else (item[0], item[1], _texts(item[2]))
    else:
        yield from read_records(
            path, options.batch_rows, KNOWN, ("pandaid", "creationtime"), columns_of(path)[0]
        )


def _texts(record: dict[str, Any]) -> dict[str, str]:
    """A JSON record as a CSV would have it."""
    return {
        name.lower(): "" if found is None else str(found)
        for name, found in record.items()
        if name.lower() in USED
    }


def _job(fields: dict[str, str], options: ReadOptions) -> Row:
    """One job; a record that has not ended has no outcome yet."""
    number = partial(value, fields, parse=units.number, missing=nan)
    words = partial(value, fields, parse=units.words, missing=None)
    name = words("pandaid")
    if not name:
        raise FieldError("pandaid is missing")
    printed = [
        value(fields, key, units.calendar, None) for key in ("creationtime", "starttime", "endtime")
    ]
    submitted, started, ended_at = units.to_utc(printed, options.timezone)
    if isnan(submitted):
        raise FieldError("creationtime is missing")
    status = _status(fields, words("jobstatus"))
    ended = status not in ("waiting", "running")
    asked = _positive(number("corecount"), 1.0)
    ram = _positive(number("minramcount"), nan) * MIB
    whole = (words("minramunit") or "").lower() == "mb"
    ran = ended and not isnan(started)
    task = words("jeditaskid") or words("taskid")
    return {
        "job_id": name,
        "task_id": task,
        # ProdSys names a task without a predecessor as its own parent, and what there is not 0.
        "after_task_id": _other_than(words("parent_tid"), task, "0"),
        "request_id": _other_than(words("reqid"), "0"),
        "source": options.source or "panda",
        "user": words("produsername"),
        "group": words("workinggroup") or words("vo"),
        "project": words("project") or words("campaign") or words("prodsourcelabel"),
        "program": (words("transformation") or words("processingtype") or "")
        .rstrip("/")
        .rpartition("/")[2]
        or None,
        "job_name": words("processingtype"),
        "site": words("computingsite"),
        "host": (words("modificationhost") or "").rpartition("@")[2] or None,
        "host_power": _positive(number("hs06"), nan),
        "requested_walltime": _positive(number("maxwalltime"), nan),
        "requested_cores": asked,
        "requested_memory": ram if whole else ram * asked,
        "input_bytes": number("inputfilebytes"),
        "input_files": number("ninputdatafiles"),
        "events": _asked_events(fields.get("jobparameters", "")),
        "submitted_at": submitted,
        "started_at": started,
        "ended_at": ended_at if ended else nan,
        "status": status,
        "cores": _positive(number("actualcorecount"), asked) if not isnan(started) else nan,
        "cpu_time": number("cpuconsumptiontime") if ran else nan,
        "peak_memory": _positive(number("maxpss"), _positive(number("maxrss"), nan)) * 1024
        if ran
        else nan,
        "read_bytes": number("totrbytes") if ran else nan,
        "written_bytes": _first(number("totwbytes"), number("outputfilebytes")) if ran else nan,
    }


def _status(fields: dict[str, str], word: str | None) -> str | None:
    status = STATUS.get(word.lower(), "unknown") if word else None
    if status == "failed":
        code = value(fields, "piloterrorcode", units.number, nan)
        return (
            "out_of_memory" if code in OUT_OF_MEMORY else "timeout" if code in TIMED_OUT else status
        )
    return status


def _asked_events(parameters: str) -> float:
    found = ASKED_EVENTS.search(parameters)
    return _positive(float(found[1]), nan) if found else nan


def _positive(number: float, otherwise: float) -> float:
    """The number, or what stands for it where PanDA has none (it writes 0)."""
    return otherwise if isnan(number) or number == 0 else number


def _other_than(word: str | None, *nothing: str | None) -> str | None:
    return None if word in nothing else word


def _first(*numbers: float) -> float:
    return next((number for number in numbers if not isnan(number)), nan)


PANDA = Reader("panda", recognises, read)
"""The reader to put in the list."""
