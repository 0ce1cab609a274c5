"""Reader of Nextflow trace files (docs.seqera.io/nextflow/reports), tab- or comma-separated, raw numbers or human forms.

A trace is one run, named by its file: it is the job's project and task. ``rchar`` and ``wchar`` are taken as read and written bytes, not
``read_bytes`` and ``write_bytes``: they are what the program asked for, the same each time it runs, while the others count what
missed the page cache and are 0 for a warm file; these stand in only where the trace lacks the first.
A job is named by the whole hash of its work folder where the trace has it, else by the short hash, the native id or the task id: the hash
is the same in the trace of a resumed run, so a cached task is the same job.
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
from jobs.readers.delimited import columns_of, read_records, sniff
from jobs.readers.errors import FieldError, ReadError
from jobs.readers.rows import Item, Row, gather, value, whole_id

MARKS = {
    "task_id",
    "hash",
    "native_id",
    "process",
    "name",
    "realtime",
    "%cpu",
    "peak_rss",
    "rchar",
    "wchar",
    "workdir",
}
"""Columns by which a trace is known: four of them are in any that anybody keeps."""

USED = {
    "task_id",
    "hash",
    "native_id",
    "process",
    "tag",
    "name",
    "status",
    "attempt",
    "submit",
    "start",
    "complete",
    "duration",
    "realtime",
}
USED |= {
    "cpus",
    "memory",
    "time",
    "queue",
    "hostname",
    "%cpu",
    "peak_rss",
    "rchar",
    "wchar",
    "read_bytes",
    "write_bytes",
    "workdir",
}
UNUSED = {
    "exit",
    "module",
    "container",
    "disk",
    "%mem",
    "rss",
    "vmem",
    "peak_vmem",
    "syscr",
    "syscw",
    "vol_ctxt",
    "inv_ctxt",
    "env",
}
UNUSED |= {"script", "scratch", "error_action", "cpu_model"}
STATUS = {
    "NEW": "waiting",
    "SUBMITTED": "waiting",
    "RUNNING": "running",
    "COMPLETED": "completed",
    "CACHED": "completed",
    "FAILED": "failed",
    "ABORTED": "cancelled",
}
FOLDER_HASH = re.compile(r"([0-9a-f]{2})/([0-9a-f]{30})/?$")


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first line names four of the columns that only a trace has."""
    return len(MARKS & {name.lower() for name in sniff(head, "\t,")[1]}) >= 4


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the tasks of a trace; raises ReadError where it has no column for the job's id or submission."""
    delimiter, names = columns_of(path, "\t,")
    if not {"hash", "native_id", "task_id", "workdir"} & {name.lower() for name in names}:
        raise ReadError(f"{path} has no column hash: its columns are {', '.join(names)[:300]}")
    for batch in gather(_items(path, options, delimiter), options.batch_rows):
        yield replace(
            batch,
            jobs=batch.jobs.assign(
                source=options.source or "nextflow", project=stem(path), task_id=stem(path)
            ),
        )


def _items(path: Path, options: ReadOptions, delimiter: str) -> Iterator[Item]:
    records = read_records(path, options.batch_rows, USED | UNUSED, ("submit",), delimiter)
    for record in records:
        if isinstance(record, Reject | str):
            yield record
            continue
        line, raw, fields = record
        try:
            yield line, _job(fields, options.timezone)
        except FieldError as error:
            yield Reject(line, str(error), raw)
            continue
        if fields.get("attempt", "1").strip() not in ("1", "-", ""):
            yield "task retried: a later attempt is a job of its own"
        state = fields.get("status", "-").strip().upper()
        if state == "CACHED":
            yield "cached task: it ran in an earlier run"
        elif state not in STATUS and not units.is_missing(state):
            yield f"unknown status {state[:60]}"


def _job(record: dict[str, str], timezone: str) -> Row:
    """One task; raw times are milliseconds, raw sizes bytes."""
    read = partial(value, record)
    realtime = read("realtime", partial(units.duration, unit=1e-3), nan)
    printed = [read(name, _moment, None) for name in ("submit", "start", "complete")]
    submit, start, complete = units.to_utc(printed, timezone, realtime)
    start = _not_before(start, submit)
    complete = _not_before(complete, start)
    walltime = complete - start if isnan(realtime) else realtime
    requested = read("time", partial(units.duration, unit=1e-3), nan)
    cores = read("cpus", units.number, nan)
    return {
        "job_id": whole_id(
            _hash(record),
            *(read(name, units.words, None) for name in ("hash", "native_id", "task_id")),
        ),
        "program": read("process", units.words, None)
        or (read("name", units.words, None) or "").split(" (")[0]
        or None,
        "job_name": read("tag", units.words, None),
        "queue": read("queue", units.words, None),
        "host": read("hostname", units.words, None),
        "requested_walltime": requested,
        "requested_cores": cores,
        "requested_memory": read("memory", units.size, nan),
        "submitted_at": submit,
        "started_at": start,
        "ended_at": complete,
        "status": _status(read("status", units.words, None), walltime, requested),
        "cores": cores,
        "walltime": walltime,
        "cpu_time": read("%cpu", units.percent, nan) * walltime,
        "peak_memory": read("peak_rss", units.size, nan),
        "read_bytes": _either(read("rchar", units.size, nan), read("read_bytes", units.size, nan)),
        "written_bytes": _either(
            read("wchar", units.size, nan), read("write_bytes", units.size, nan)
        ),
    }


def _not_before(moment: float, earlier: float) -> float:
    """A start or end that some executors (Kubernetes) cut to the second may seem to lie before a submission in the same second."""
    return earlier if moment % 1 == 0 and 0 < earlier - moment < 1 else moment


def _moment(text: str) -> units.Moment:
    text = text.strip()
    return units.timestamp(text, 1e-3) if text.isdigit() else units.calendar(text)


def _hash(record: dict[str, str]) -> str | None:
    found = FOLDER_HASH.search(record.get("workdir", ""))
    return f"{found[1]}/{found[2]}" if found else None


def _either(first: float, second: float) -> float:
    return second if isnan(first) else first


def _status(word: str | None, walltime: float, requested: float) -> str | None:
    status = STATUS.get(word.upper(), "unknown") if word else None
    return (
        "timeout"
        if status == "failed" and requested > 0 and walltime >= units.AT_THE_LIMIT * requested
        else status
    )


NEXTFLOW = Reader("nextflow", recognises, read, ())
"""The reader to put in the list."""
