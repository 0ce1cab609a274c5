"""Reader of HTCondor's job history: ``condor_history -json``, and the ClassAds of ``condor_history -long`` and of history files.

An attribute whose value is an expression, not a literal, is missing. Walltime is CommittedTime, that of the run that counted: where there
is none (a job removed while it ran) it is RemoteWallClockTime, which adds up the runs that were lost to evictions. Peak memory is
ResidentSetSize_RAW (KiB) where it is known, else MemoryUsage (MiB), else ResidentSetSize, which is rounded up by as much as a quarter.

The site is the one that the job asked for (DESIRED_Sites, where it names one): where a glidein ran it is known only when it started, and
a prediction at submission may not know it.
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
from jobs.readers.errors import FieldError
from jobs.readers.lines import head_lines, read_chunks
from jobs.readers.objects import JsonRecord, read_objects
from jobs.readers.rows import Row, gather, jobs_of

Ad = dict[str, Any]

STATUS: dict[float, str] = {
    1: "waiting",
    2: "running",
    3: "cancelled",
    4: "completed",
    5: "waiting",
    6: "running",
    7: "running",
}
HELD = 5
TOO_MUCH_MEMORY = (34,)
TOO_LONG = (46, 47)
"""HoldReasonCode of a job held for more memory than it asked for, and for a run beyond AllowedJobDuration or AllowedExecuteDuration."""

MIB = 1024.0**2
ATTRIBUTE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=\s?(.*)")
STRING = re.compile(r'"((?:[^"\\]|\\.)*)"')
MARK = re.compile(
    r"(?im)^\s*\"?(ClusterId|ProcId|GlobalJobId|QDate|JobStatus|RemoteWallClockTime|MyType|Owner)\"?\s*[:=]"
)


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first records have three of the attributes that every job's ClassAd has."""
    text = "\n".join(head_lines(head))
    if text.lstrip()[:1] in ("[", "{"):
        # Compact JSON has no attribute at a line's start.
        text = text.replace("{", "{\n").replace(',"', ',\n"').replace(', "', ',\n"')
    return len({name.lower() for name in MARK.findall(text)}) >= 3


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs of a history; a record without ClusterId, ProcId or QDate is rejected."""
    first = next(
        (line for chunk in read_chunks(path, 64) for line in chunk.lines if line.strip()), ""
    )
    records = (
        read_objects(path)
        if first.lstrip()[:1] in ("[", "{")
        else _read_ads(path, options.batch_rows)
    )
    return gather(jobs_of(records, partial(_job, source=options.source)), options.batch_rows)


def _read_ads(path: Path, size: int) -> Iterator[JsonRecord]:
    """ClassAds as (number of the first line, text, attributes); blank lines and ``***`` banners part them."""
    ad: Ad = {}
    first, raw = 0, ""
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        for note, count in chunk.notes.items():
            yield from [note] * count
        refused = {reject.line for reject in chunk.rejects}
        for number, line in enumerate(chunk.lines, chunk.first):
            attribute = ATTRIBUTE.fullmatch(line)
            if attribute and not line.startswith("***"):
                if not ad:
                    first, raw = number, line
                ad[attribute[1]] = _literal(attribute[2].strip())
            elif line.startswith("***") or (not line.strip() and number not in refused):
                if ad:
                    yield first, raw, ad
                ad = {}
            elif line.strip():
                yield Reject(number, "the line is no ClassAd attribute", line)
    if ad:
        yield first, raw, ad


def _literal(text: str) -> Any:
    """The value of a ClassAd literal; None for expressions, undefined and error."""
    if found := STRING.fullmatch(text):
        return re.sub(r"\\(.)", r"\1", found[1])
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return float(text) if units.NUMBER.fullmatch(text) else None


def _job(attributes: Ad, source: str | None) -> Row:
    """One ClassAd; MB of HTCondor are MiB, its kilobytes KiB."""
    ad = {name.lower(): attribute for name, attribute in attributes.items()}
    number, words = partial(_number, ad), partial(_words, ad)
    status, ended = _status(ad)
    submitted, started = (
        _time(ad, "QDate"),
        _known(_time(ad, "JobCurrentStartDate"), _time(ad, "JobStartDate")),
    )
    if isnan(submitted):
        raise FieldError("QDate is missing")
    walltime = _known(number("CommittedTime"), number("RemoteWallClockTime"))
    memory = _known(
        number("ResidentSetSize_RAW") * 1024,
        number("MemoryUsage") * MIB,
        number("ResidentSetSize") * 1024,
    )
    cores = number("RequestCpus")
    cluster = _identity(ad, "ClusterId")
    cpu_time = number("RemoteUserCpu") + number("RemoteSysCpu")
    ran = ended and (started > 0 or walltime > 0)
    return {
        "job_id": f"{cluster}.{_identity(ad, 'ProcId')}",
        "task_id": cluster,
        "request_id": _dag(ad),
        "source": source or (words("GlobalJobId") or "").partition("#")[0] or "condor",
        "user": words("Owner", "User"),
        "group": words("x509UserProxyVOName", "AcctGroup"),
        "project": words("ProjectName", "AcctGroup"),
        "program": (words("Cmd") or "").replace("\\", "/").rstrip("/").rpartition("/")[2] or None,
        "job_name": words("JobBatchName"),
        "site": _only(words("DESIRED_Sites")),
        "host": (words("LastRemoteHost", "RemoteHost") or "").rpartition("@")[2] or None,
        "requested_walltime": _known(
            number("AllowedExecuteDuration"),
            number("AllowedJobDuration"),
            number("MaxRuntime"),
            number("maxWallTime") * 60,
        ),
        "requested_cores": cores,
        "requested_memory": number("RequestMemory") * MIB,
        "input_bytes": number("TransferInputSizeMB") * MIB,
        "submitted_at": submitted,
        "started_at": started,
        "ended_at": _known(_time(ad, "CompletionDate"), _time(ad, "EnteredCurrentStatus"))
        if ended
        else nan,
        "status": status,
        "cores": _known(number("CpusProvisioned"), cores) if started > 0 else nan,
        "walltime": walltime if ran else nan,
        "cpu_time": cpu_time if ran else nan,
        "peak_memory": memory if ran else nan,
        "read_bytes": number("BytesRecvd") if ran else nan,
        "written_bytes": number("BytesSent") if ran else nan,
    }


def _status(ad: Ad) -> tuple[str | None, bool]:
    """The status, and whether the job is over; a job held or removed for its memory or time ended by that."""
    code = _number(ad, "JobStatus")
    if isnan(code):
        return None, _number(ad, "CompletionDate") > 0
    word = STATUS.get(code, "unknown")
    if word == "completed":
        failed = abs(_number(ad, "ExitCode")) > 0 or ad.get("exitbysignal") is True
        return ("failed" if failed else "completed"), True
    reason = _known(_number(ad, "HoldReasonCode"), _number(ad, "LastHoldReasonCode"))
    if word == "cancelled" or code == HELD:
        if reason in TOO_MUCH_MEMORY:
            return "out_of_memory", True
        if reason in TOO_LONG:
            return "timeout", True
    return word, word == "cancelled"


def _number(ad: Ad, name: str) -> float:
    """A number of the ad, NaN where there is none or it is an expression; raises FieldError where it is another thing."""
    found = ad.get(name.lower())
    if (
        found is None
        or isinstance(found, dict | list)
        or (isinstance(found, str) and found.startswith(("/Expr", "Expr(")))
    ):
        return nan
    try:
        return units.number(found) if isinstance(found, str) else float(found)
    except (ValueError, OverflowError):
        raise FieldError(f"{name} is not a number: {str(found)[:60]}") from None


def _time(ad: Ad, name: str) -> float:
    """Seconds since 1970; raises FieldError where no calendar holds them."""
    found = _number(ad, name)
    if abs(found) > units.LATEST:
        raise FieldError(f"{name} is a time that no calendar holds: {found:g}")
    return found


def _words(ad: Ad, *names: str) -> str | None:
    """The first of these attributes that is a known text."""
    for name in names:
        found = ad.get(name.lower())
        if (
            isinstance(found, str | int | float)
            and not isinstance(found, bool)
            and (text := units.words(found))
        ):
            return text
    return None


def _only(listed: str | None) -> str | None:
    """The one name of a list of sites, None of several."""
    return None if listed is None or re.search(r"[,\s]", listed) else listed


def _identity(ad: Ad, name: str) -> str:
    found = _number(ad, name)
    if isnan(found) or found < 0 or found % 1:
        raise FieldError(
            f"{name} is missing" if isnan(found) else f"{name} is not a whole number: {found:g}"
        )
    return str(int(found))


def _dag(ad: Ad) -> str | None:
    """The cluster of the DAGMan that submitted the job."""
    found = _number(ad, "DAGManJobId")
    return None if isnan(found) else f"{found:.0f}"


def _known(*numbers: float) -> float:
    """The first that is known: HTCondor writes 0 for a date or time it does not have."""
    return next((number for number in numbers if not isnan(number) and number != 0), nan)


CONDOR = Reader("condor", recognises, read)
"""The reader to put in the list."""
