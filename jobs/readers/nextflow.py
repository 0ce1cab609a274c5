"""Reader of Nextflow trace files (docs.seqera.io/nextflow/reports), tab- or comma-separated.

Numbers are raw or in human forms. A trace is one run, named by its file: it is the job's project
and task. ``duration`` is the time from submission to completion, so that a trace of Nextflow's
default columns, which has neither start nor completion, still says both.

``rchar`` and ``wchar`` are taken as read and written bytes, not ``read_bytes`` and ``write_bytes``:
they are what the program asked for, the same each time it runs, while the others count what missed
the page cache and are 0 for a warm file; these stand in only where the trace lacks the first.

A job is named by the whole hash of its work folder where the trace has it, else by the short hash,
the native id or the task id: the hash is the same in the trace of a resumed run, so a cached task
is the same job.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from math import isnan, nan
from pathlib import Path

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject, stem
from jobs.readers.delimited import Alignment, columns_of, read_records, sniff
from jobs.readers.errors import FieldError, ReadError
from jobs.readers.rows import Item, Row, Values, first_id, gather

_MARKS_TEXT = """
task_id hash native_id process name realtime %cpu peak_rss rchar wchar workdir
"""
MARKS = frozenset(_MARKS_TEXT.split())
"""Columns by which a trace is known: four of them are in any that anybody keeps."""
_USED_TEXT = """
task_id hash native_id process tag name status exit attempt submit start complete duration realtime
cpus memory time queue hostname %cpu peak_rss rchar wchar read_bytes write_bytes workdir
"""
USED = frozenset(_USED_TEXT.split())
_UNUSED_TEXT = """
module container disk %mem rss vmem peak_vmem syscr syscw vol_ctxt inv_ctxt env script
scratch error_action cpu_model
"""
UNUSED = frozenset(_UNUSED_TEXT.split())
FREE_TEXT = frozenset(
    ["name", "tag", "script", "env", "module", "container", "workdir", "scratch", "cpu_model"]
)
"""Columns that may hold delimiters and line feeds, which Nextflow does not quote."""
_NUMBER = re.compile(r"-|-?[\d.]+ ?[kKMGTP]?B?", re.ASCII)
_TIME = re.compile(r"-|[\d:.TZ+ -]+|(?:[\d.]+ ?(?:ms|s|m|h|d) ?)+", re.ASCII)
_TYPES = {
    re.compile(r"\d+|-", re.ASCII): "task_id",
    re.compile(r"[0-9a-f]{2}/[0-9a-f]{6,30}|-", re.ASCII): "hash",
    _NUMBER: "exit cpus attempt memory disk peak_rss peak_vmem rss vmem rchar wchar syscr syscw"
    " read_bytes write_bytes vol_ctxt inv_ctxt",
    re.compile(r"-|-?[\d.]+%?", re.ASCII): "%cpu %mem",
    _TIME: "submit start complete duration realtime time",
    re.compile(r"[A-Z]+|-"): "status error_action",
}
KINDS = {name: pattern for pattern, names in _TYPES.items() for name in names.split()}
STATUS = {
    "NEW": "waiting",
    "SUBMITTED": "waiting",
    "RUNNING": "running",
    "COMPLETED": "completed",
    "CACHED": "completed",
    "FAILED": "failed",
    "ABORTED": "cancelled",
}
KILLED = 137
"""Exit code of a task that SIGKILL ended: the kernel's answer to a task that outgrew its memory.

It is not taken for that where the task had used less than half of what it asked for.
"""
FOLDER_HASH = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30})/?$")


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first line names four of the columns that only a trace has."""
    return len(MARKS & {name.lower() for name in sniff(head, "\t,")[1]}) >= 4


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the tasks of a trace.

    Raises ReadError where it has no column for the job's id or its submission.
    """
    delimiter, names = columns_of(path, "\t,")
    columns = {name.lower() for name in names}
    if not {"hash", "native_id", "task_id", "workdir"} & columns:
        raise ReadError(f"{path} has no column hash: its columns are {', '.join(names)[:300]}")
    required = () if {"duration", "complete"} <= columns else ("submit",)
    align = partial(Alignment, KINDS, FREE_TEXT, delimiter)
    records = read_records(path, options.batch_rows, USED | UNUSED, required, delimiter, align)
    for batch in gather(_items(records, options.timezone), options.batch_rows):
        yield replace(
            batch,
            jobs=batch.jobs.assign(
                source=options.source or "nextflow", project=stem(path), task_id=stem(path)
            ),
        )


def _items(
    records: Iterator[tuple[int, str, dict[str, str]] | Reject | str], timezone: str
) -> Iterator[Item]:
    for record in records:
        if isinstance(record, Reject | str):
            yield record
            continue
        line, raw, fields = record
        values = Values(fields)
        try:
            yield line, _job(values, timezone)
        except FieldError as error:
            yield Reject(line, str(error), raw)
            continue
        yield from values.notes
        if fields.get("attempt", "1").strip() not in ("1", "-", ""):
            yield "task retried: a later attempt is a job of its own"
        state = fields.get("status", "-").strip().upper()
        if state == "CACHED":
            yield "cached task: it ran in an earlier run"
        elif state not in STATUS and not units.is_missing(state):
            yield f"unknown status {state[:60]}"


def _job(values: Values, timezone: str) -> Row:
    """One task; raw times are milliseconds, raw sizes bytes."""
    milliseconds = partial(units.duration, unit=1e-3)
    realtime = values.parse("realtime", milliseconds, nan)
    duration = values.parse("duration", milliseconds, nan)
    printed = [values.moment(name) for name in ("submit", "start", "complete")]
    submit, start, complete = units.to_utc(printed, timezone, realtime)
    status = _status(values.text("status"))
    if status not in ("waiting", "running"):
        complete = units.first_known(complete, submit + max(duration, 0.0))
        start = units.first_known(start, complete - max(realtime, 0.0))
    submit = units.first_known(submit, complete - max(duration, 0.0))
    if isnan(submit):
        raise FieldError("submit is missing")
    start = _not_before(start, submit)
    complete = _not_before(complete, start)
    # Clocks of two machines may be some milliseconds apart.
    walltime = units.first_known(max(realtime, 0.0), complete - start)
    requested = values.parse("time", milliseconds, nan)
    cores = values.number("cpus")
    memory, peak = values.size("memory"), units.first_nonzero(values.size("peak_rss"))
    if status == "failed":
        if requested > 0 and walltime >= units.AT_THE_LIMIT * requested:
            status = "timeout"
        elif values.number("exit") == KILLED and not peak < memory / 2:
            status = "out_of_memory"
    return {
        "job_id": first_id(
            _hash(values.fields.get("workdir", "")),
            *(values.text(name) for name in ("hash", "native_id", "task_id")),
        ),
        "program": values.text("process") or (values.text("name") or "").split(" (")[0] or None,
        "job_name": values.text("tag"),
        "queue": values.text("queue"),
        "host": values.text("hostname"),
        "requested_walltime": requested,
        "requested_cores": cores,
        "requested_memory": memory,
        "submitted_at": submit,
        "started_at": start,
        "ended_at": complete,
        "status": status,
        "cores": cores,
        "walltime": walltime,
        "cpu_time": values.parse("%cpu", units.percent, nan) * walltime,
        "peak_memory": peak,
        "read_bytes": units.first_known(values.size("rchar"), values.size("read_bytes")),
        "written_bytes": units.first_known(values.size("wchar"), values.size("write_bytes")),
    }


def _not_before(moment: float, earlier: float) -> float:
    """A time, no earlier than another in whose second it lies.

    Some executors (Kubernetes) cut starts and ends to the second.
    """
    return earlier if moment % 1 == 0 and 0 < earlier - moment < 1 else moment


def _hash(folder: str) -> str | None:
    match = FOLDER_HASH.search(folder[-100:])
    return f"{match[1]}/{match[2]}" if match else None


def _status(word: str | None) -> str | None:
    return STATUS.get(word.upper(), "unknown") if word else None


NEXTFLOW = Reader("nextflow", recognises, read, ())
"""The reader to put in the list."""
