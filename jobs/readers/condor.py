"""Reader of HTCondor's job history: ``condor_history -json``, ``-long``, ``-xml``, history files.

An attribute whose value is an expression, not a literal, is missing. Walltime is that of the last
run, LastRemoteWallClockTime or end - start. CommittedTime, which counts up to checkpoints only,
stands in where these are missing, and RemoteWallClockTime, which adds up the runs that were lost to
evictions, where that is missing too. GPU time is GPUsUsage, the mean number of GPUs in full use,
times the walltime. Peak memory is ResidentSetSize_RAW (KiB) where it is known,
else MemoryUsage (MiB), else ResidentSetSize, which is rounded up by as much as a quarter.

The site is the one that the job asked for (DESIRED_Sites, where it names one): where a glidein ran
it is known only when it started, and a prediction at submission may not know it. Jobs of the
scheduler universe (DAGMan) and the local universe run on the access point itself: they are skipped.
"""

from __future__ import annotations

import re
import xml.etree.ElementTree as ElementTree
from collections.abc import Iterator
from functools import partial
from math import isnan, nan
from pathlib import Path
from typing import Any

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.errors import FieldError
from jobs.readers.lines import BROKEN, head_lines, open_log, peek, read_chunks
from jobs.readers.objects import JsonRecord, read_objects
from jobs.readers.rows import Row, SkipRecord, Values, gather, parse_rows

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
IDLE, HELD = 1, 5
TOO_MUCH_MEMORY = (34,)
TOO_LONG = (46, 47)
"""HoldReasonCode of a job held for more memory than it asked for, and for a run beyond
AllowedJobDuration or AllowedExecuteDuration."""
ON_ACCESS_POINT: dict[float, str] = {7: "scheduler", 12: "local"}
PARALLEL = 11
"""Numbers of HTCondor's universes (JobUniverse)."""

MIB = 1024.0**2
ATTRIBUTE = re.compile(r"\s*([A-Za-z_][\w.]*)\s*=\s?(.*)")
NEW_LIST = re.compile(r"\{\s*+\[")
"""What a list of new ClassAds begins with."""
STRING_OR_REST = re.compile(r'"(?:[^"\\]++|\\.)*+"?|;|[^";]+')
STRING = re.compile(r'"((?:[^"\\]|\\.)*+)"')
MARK = re.compile(
    r"(?i)(?<![\w.])(ClusterId|ProcId|GlobalJobId|QDate|JobStatus|RemoteWallClockTime|MyType|Owner)"
    r"(?:\"?\s{0,9}[:=]|\"><)"
)


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first records have three of the attributes that every job's ClassAd has."""
    return len({name.lower() for name in MARK.findall("\n".join(head_lines(head)))}) >= 3


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs of a history; a record without ClusterId, ProcId or QDate is rejected."""
    first = head_lines(peek(path))
    start = "\n".join(first).lstrip()
    records: Iterator[JsonRecord]
    if start[:1] == "<":
        records = _read_xml(path)
    elif NEW_LIST.match(start):
        records = _read_ads(path, options.batch_rows)
    elif start[:1] == "{" or (start[:1] == "[" and not ATTRIBUTE.match(start[1:])):
        records = read_objects(path)
    else:
        records = _read_ads(path, options.batch_rows)
    lower = (
        (item[0], item[1], {name.lower(): value for name, value in item[2].items()})
        if isinstance(item, tuple)
        else item
        for item in records
    )
    return gather(parse_rows(lower, partial(_job, source=options.source)), options.batch_rows)


def _read_ads(path: Path, size: int) -> Iterator[JsonRecord]:
    """ClassAds as (number of the first line, its text, attributes).

    Old ClassAds have an attribute a line; blank lines and ``***`` banners part them. New ones stand
    in square brackets, with semicolons between attributes.
    """
    ad: Ad = {}
    first, raw = 0, ""
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        yield from chunk.notes.elements()
        refused = {reject.line for reject in chunk.rejects}
        for number, line in enumerate(chunk.lines, chunk.first):
            text = line.strip()
            text = text[:-1].rstrip() if text.endswith("],") else text
            ends = line.startswith("***") or text in ("]", "];", "[", "{", "}", "},", "};", ",")
            if ends or (not text and number not in refused):
                if ad:
                    yield first, raw, ad
                ad = {}
                continue
            for item in _attributes(text):
                attribute = ATTRIBUTE.fullmatch(item)
                if attribute:
                    if not ad:
                        first, raw = number, line
                    ad[attribute[1]] = _literal(attribute[2].strip())
                elif item == "]":
                    if ad:
                        yield first, raw, ad
                    ad = {}
                elif item:
                    yield Reject(number, "the line is no ClassAd attribute", line)
                    break
    if ad:
        yield first, raw, ad


def _attributes(text: str) -> list[str]:
    """The attributes of a line, ``]`` after the last of a new ClassAd."""
    if text[:1] != "[" and text[-1:] not in (";", "]"):
        return [text]
    parts, depth = [""], 0
    for piece in STRING_OR_REST.findall(text):
        if piece == ";":
            parts.append("")
            continue
        if piece[0] != '"':
            depth += piece.count("[") - piece.count("]")
        parts[-1] += piece
    closed = depth < 0 or (depth == 0 and text[:1] == "[")
    parts[0] = parts[0].removeprefix("[")
    parts[-1] = parts[-1].rstrip().removesuffix("]") if closed else parts[-1]
    return [item.strip() for item in parts if item.strip()] + (["]"] if closed else [])


def _read_xml(path: Path) -> Iterator[JsonRecord]:
    """ClassAds of ``condor_history -xml``: a ``<c>`` a job, an ``<a n="name">`` an attribute."""
    number, depth = 0, 0
    root: Any = None
    parser: Any = ElementTree.XMLPullParser(["start", "end"])
    with open_log(path) as file:
        try:
            while True:
                piece = file.read1(1 << 16)
                parser.feed(piece) if piece else parser.close()
                for event, element in parser.read_events():
                    root = element if root is None else root
                    depth += 1 if event == "start" else -1
                    # A ClassAd may be a value of another, which is not a job.
                    if event == "end" and element.tag == "c" and depth == 1:
                        number += 1
                        ad = {
                            attribute.get("n", ""): _xml_value(attribute)
                            for attribute in element.findall("a")
                        }
                        yield number, str(ad), ad
                        root.clear()
                if not piece:
                    return
        except ElementTree.ParseError as error:
            yield Reject(number + 1, f"the XML is broken here and the rest is lost: {error}", "")
        except BROKEN as error:
            reason = f"the gzip stream is broken here and the rest is lost: {error}"
            yield Reject(number + 1, reason, "")


def _xml_value(attribute: ElementTree.Element) -> Any:
    """The literal of ``<i>1</i>``, ``<r>1.0</r>``, ``<s>text</s>`` or ``<b v="t"/>``."""
    value = next(iter(attribute), None)
    if value is None or value.tag not in ("i", "r", "s", "b"):
        return None
    return value.get("v") == "t" if value.tag == "b" else value.text or ""


def _literal(text: str) -> Any:
    """The value of a ClassAd literal; None for expressions, undefined and error."""
    if match := STRING.fullmatch(text):
        return re.sub(r"\\(.)", r"\1", match[1])
    if text.lower() in ("true", "false"):
        return text.lower() == "true"
    return float(text) if units.NUMBER.fullmatch(text) else None


def _job(values: Values, source: str | None) -> Row:
    """One ClassAd; MB of HTCondor are MiB, its kilobytes KiB."""
    ad = _Ad(values)
    universe = ad.number("JobUniverse")
    if universe in ON_ACCESS_POINT:
        raise SkipRecord(f"job of the {ON_ACCESS_POINT[universe]} universe skipped")
    status, ended = _status(ad)
    submitted = ad.time("QDate")
    started = units.first_nonzero(ad.time("JobCurrentStartDate"), ad.time("JobStartDate"))
    if isnan(submitted):
        raise FieldError("QDate is missing")
    completed, changed = ad.time("CompletionDate"), ad.time("EnteredCurrentStatus")
    stopped = units.first_nonzero(completed, changed) if ended else nan
    walltime = _walltime(ad, started, stopped)
    memory = units.first_nonzero(
        ad.number("ResidentSetSize_RAW") * 1024,
        ad.number("MemoryUsage") * MIB,
        ad.number("ResidentSetSize") * 1024,
    )
    # In the parallel universe what is asked for is for each of the machines.
    machines = units.first_nonzero(ad.number("MaxHosts"), 1.0) if universe == PARALLEL else 1.0
    cores = units.amount(ad.number("RequestCpus")) * machines
    cluster = ad.identity("ClusterId")
    ran = ended and (started > 0 or walltime > 0)
    return {
        "job_id": f"{cluster}.{ad.identity('ProcId')}",
        "task_id": cluster,
        "request_id": None if isnan(dag := ad.number("DAGManJobId")) else f"{dag:.0f}",
        "source": source or (ad.text("GlobalJobId") or "").partition("#")[0] or "condor",
        "user": ad.text("Owner", "User"),
        "group": ad.text("x509UserProxyVOName", "AcctGroup"),
        "project": ad.text("ProjectName", "AcctGroup"),
        "program": (ad.text("Cmd") or "").replace("\\", "/").rstrip("/").rpartition("/")[2] or None,
        "job_name": ad.text("JobBatchName"),
        "site": _only(ad.text("DESIRED_Sites")),
        "host": (ad.text("LastRemoteHost", "RemoteHost") or "").rpartition("@")[2] or None,
        "requested_walltime": units.first_nonzero(
            units.amount(ad.number("AllowedExecuteDuration")),
            units.amount(ad.number("AllowedJobDuration")),
            units.amount(ad.number("MaxRuntime")),
            units.amount(ad.number("maxWallTime")) * 60,
        ),
        "requested_cores": cores,
        "requested_memory": units.amount(ad.number("RequestMemory")) * MIB * machines,
        # A request that is an expression is as large as what was provided for it.
        "requested_gpus": machines
        * units.first_known(
            units.amount(ad.number("RequestGpus")), units.amount(ad.number("GPUsProvisioned"))
        ),
        "requested_nodes": machines if universe == PARALLEL else nan,
        "priority": ad.number("JobPrio"),
        "input_bytes": ad.number("TransferInputSizeMB") * MIB,
        "submitted_at": submitted,
        "started_at": started,
        "ended_at": stopped,
        "status": status,
        "cores": units.first_nonzero(ad.number("CpusProvisioned") * machines, cores)
        if started > 0
        else nan,
        "walltime": walltime if ran else nan,
        "cpu_time": ad.number("RemoteUserCpu") + ad.number("RemoteSysCpu") if ran else nan,
        "peak_memory": memory if ran else nan,
        "read_bytes": ad.number("BytesRecvd") if ran else nan,
        "written_bytes": ad.number("BytesSent") if ran else nan,
        "nodes": machines if universe == PARALLEL and started > 0 else nan,
        "gpu_time": units.first_known(ad.number("GPUsUsage"), ad.number("GPUsAverageUsage"))
        * walltime
        if ran
        else nan,
        "peak_gpu_memory": ad.number("GPUsMemoryUsage") * MIB if ran else nan,
    }


def _walltime(ad: _Ad, started: float, stopped: float) -> float:
    """Seconds of the last run; a job removed while idle or held had stopped before."""
    last_status = ad.number("LastJobStatus")
    was_running = not (ad.number("JobStatus") != 4 and last_status in (IDLE, HELD))
    return units.first_nonzero(
        ad.number("LastRemoteWallClockTime"),
        stopped - started if was_running and stopped >= started else nan,
        ad.number("CommittedTime"),
        ad.number("RemoteWallClockTime"),
    )


def _status(ad: _Ad) -> tuple[str | None, bool]:
    """The status, and whether the job is over.

    A job held or removed for its memory or time ended by that.
    """
    code = ad.required("JobStatus")
    if isnan(code):
        return None, ad.number("CompletionDate") > 0
    word = STATUS.get(code, "unknown")
    if word == "completed":
        failed = abs(ad.number("ExitCode")) > 0 or ad.is_true("ExitBySignal")
        return ("failed" if failed else "completed"), True
    reason = units.first_nonzero(ad.number("HoldReasonCode"), ad.number("LastHoldReasonCode"))
    if word == "cancelled" or code == HELD:
        if reason in TOO_MUCH_MEMORY:
            return "out_of_memory", True
        if reason in TOO_LONG:
            return "timeout", True
    return word, word == "cancelled"


class _Ad:
    """Typed access to a ClassAd's attributes, in any case."""

    def __init__(self, values: Values) -> None:
        self._values = values

        self.text = values.text

    def is_true(self, name: str) -> bool:
        return self._values.fields.get(name.lower()) is True

    def number(self, name: str) -> float:
        """A number, NaN where there is none, it is an expression or cannot be read."""
        return self._values.parse(name, _number, nan)

    def required(self, name: str) -> float:
        """A number as ``number`` has it; raises FieldError where it cannot be read."""
        return self._values.required(name, _number, nan)

    def time(self, name: str) -> float:
        """Seconds since 1970; raises FieldError where no calendar holds them."""
        number = self.required(name)
        try:
            return units.epoch_seconds(number) if number == number else nan
        except ValueError as error:
            raise FieldError(f"{name} {error}") from None

    def identity(self, name: str) -> str:
        number = self.required(name)
        if isnan(number) or number < 0 or number % 1:
            raise FieldError(
                f"{name} is missing"
                if isnan(number)
                else f"{name} is not a whole number: {number:g}"
            )
        return str(int(number))


def _number(text: str) -> float:
    return nan if text.startswith(("/Expr", "Expr(")) else units.number(text)


def _only(listed: str | None) -> str | None:
    """The one name of a list of sites, None of several."""
    return None if listed is None or re.search(r"[,\s]", listed) else listed


CONDOR = Reader("condor", recognises, read)
"""The reader to put in the list."""
