"""Reader of Slurm accounting as ``sacct --parsable2`` prints it (slurm.schedmd.com/sacct.html), any columns in any order.

A job's row is followed by its steps' (``123.batch``, ``123.extern``, ``123.0``), which are folded into it:

- peak memory is that of the largest step, since steps mostly follow one another. A step's is the sum over its tasks, on all nodes, of each
  task's own peak: the ``mem`` of TRESUsageInTot where it is printed; else AveRSS × NTasks, the same sum by Slurm's definition of the
  average; else MaxRSS × NTasks. MaxRSS alone is only the largest task's, and times NTasks it is too much where one task is larger.
- CPU time is TotalCPU (user + system) of the job's row or the sum over its steps, whichever is more. CPUTimeRAW is no use: it is
  elapsed time × CPUs.
- bytes read and written are summed over the steps, each a sum over tasks in the same way.

Of a job that has not ended its resources so far are no outcome and are left out.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import isnan, nan
from pathlib import Path

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.delimited import columns_of, read_records, sniff
from jobs.readers.errors import FieldError, ReadError
from jobs.readers.rows import Item, Row, gather, value, whole_id
from jobs.readers.slurm_words import COLUMNS, FREE_TEXT, state

MARKS = {
    "jobid",
    "jobidraw",
    "state",
    "elapsed",
    "elapsedraw",
    "alloccpus",
    "reqcpus",
    "reqmem",
    "maxrss",
    "timelimit",
    "submit",
    "partition",
}
MEASURED: tuple[str, ...] = (
    "tresusageintot",
    "tresusageouttot",
    "maxrss",
    "averss",
    "totalcpu",
    "usercpu",
    "systemcpu",
)
MEASURED += ("maxdiskread", "avediskread", "maxdiskwrite", "avediskwrite")
OPEN_JOBS = 5_000
"""Jobs held back for steps still to come; sacct prints steps right after their job, sorted or merged files near it."""

Fields = dict[str, str]


@dataclass
class Job:
    """A job whose rows are still coming: its own row once met, and its steps' (memory, CPU time, read, written) by step id."""

    line: int
    raw: str
    row: Row | None = None
    text: str = ""
    steps: dict[str, tuple[float, float, float, float]] = field(default_factory=dict)


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first line has three of sacct's columns between bars, or four of its own words between other marks."""
    delimiter, columns = sniff(head, "|,;\t")
    names = {name.lower() for name in columns}
    if delimiter == "|":
        return len(COLUMNS & names) >= 3
    return len(MARKS & names) >= 4


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs of a sacct listing; raises ReadError where there is no column JobID (or JobIDRaw) or Submit."""
    delimiter, names = columns_of(path, "|,;\t")
    if not {"jobid", "jobidraw"} & {name.lower() for name in names}:
        raise ReadError(f"{path} has no column JobID: its columns are {', '.join(names)[:300]}")
    return gather(_items(path, options, delimiter), options.batch_rows)


def _items(path: Path, options: ReadOptions, delimiter: str) -> Iterator[Item]:
    waiting: dict[str, Job] = {}
    for record in read_records(path, options.batch_rows, COLUMNS, ("Submit",), delimiter, _mend):
        if isinstance(record, Reject | str):
            yield record
            continue
        line, raw, fields = record
        try:
            name, _, step = whole_id(
                *(units.words(fields.get(key, "")) for key in ("jobid", "jobidraw"))
            ).partition(".")
            key = f"{fields.get('cluster', '')}/{name}"
            if "[" in name:
                yield "array tasks not started yet, printed as one row, skipped"
                continue
            if step:
                waiting.setdefault(key, Job(line, raw)).steps[step] = _step(fields)
            elif key in waiting and waiting[key].row and waiting[key].text == raw:
                yield "repeated row skipped"
            else:
                row, new = _job(name, fields, options)
                if new:
                    yield f"unknown state {new[:60]}"
                if key in waiting and waiting[key].row:
                    yield from _close(waiting.pop(key))
                job = waiting.setdefault(key, Job(line, raw))
                job.line, job.row, job.text = line, row, raw
        except FieldError as error:
            yield Reject(line, str(error), raw)
        if len(waiting) > OPEN_JOBS:
            yield from _close(waiting.pop(next(iter(waiting))))
    for job in waiting.values():
        yield from _close(job)


def _close(job: Job) -> Iterator[Item]:
    """The finished row of a job, its steps folded in."""
    if job.row is None:
        yield Reject(job.line, "a step whose job's own row is not near it", job.raw)
        return
    row = job.row
    if row["status"] not in ("waiting", "running") and job.steps:
        memory, cpu, read, written = zip(*job.steps.values(), strict=True)
        row["peak_memory"] = _largest(row["peak_memory"], *memory)
        row["cpu_time"] = _largest(row["cpu_time"], _sum(cpu))
        row["read_bytes"] = _largest(row["read_bytes"], _sum(read))
        row["written_bytes"] = _largest(row["written_bytes"], _sum(written))
    yield job.line, row


def _job(name: str, fields: Fields, options: ReadOptions) -> tuple[Row, str]:
    """One job's own row, and its state where Slurm has a new word for it."""
    read = partial(value, fields)
    status, new = state(fields.get("state", ""))
    ended = status not in ("waiting", "running")
    elapsed = _first(read("elapsedraw", units.number, nan), read("elapsed", units.duration, nan))
    printed = [read(name, units.calendar, None) for name in ("submit", "start", "end")]
    submit, start, end = units.to_utc(printed, options.timezone, elapsed)
    given = _first(read("alloccpus", units.number, nan), read("ncpus", units.number, nan))
    allocated = _positive(given)
    requested = _first(_positive(read("reqcpus", units.number, nan)), allocated)
    memory, cpu, disk_read, disk_written = _step(fields)
    cluster = read("cluster", units.words, None)
    # A job cancelled in the queue has no start, or (before Slurm 20) one equal to its end and no CPUs.
    began = (
        status != "waiting" and not isnan(start) and not (elapsed == 0 and _first(given, 1.0) == 0)
    )
    ran = began and ended
    row: Row = {
        "job_id": name,
        "task_id": name.split("_")[0].split("+")[0] if "_" in name or "+" in name else None,
        "source": options.source or cluster or "slurm",
        "user": read("user", units.words, None),
        "group": read("group", units.words, None),
        "project": read("account", units.words, None),
        "job_name": read("jobname", units.words, None),
        "queue": read("partition", units.words, None),
        "site": cluster,
        "host": read("nodelist", _host, None),
        "requested_walltime": _first(
            read("timelimitraw", _limit, nan) * 60, read("timelimit", _limit, nan)
        ),
        "requested_cores": requested,
        "requested_memory": _requested_memory(fields, requested),
        "submitted_at": submit,
        "started_at": start if began else nan,
        "ended_at": end if ended else nan,
        "status": status,
        "cores": allocated if began else nan,
        "walltime": elapsed if ran else nan,
        "cpu_time": cpu if ran else nan,
        "peak_memory": memory if ran else nan,
        "read_bytes": disk_read if ran else nan,
        "written_bytes": disk_written if ran else nan,
    }
    return row, new


def _step(fields: Fields) -> tuple[float, float, float, float]:
    """Memory, CPU time, bytes read and written of one row, over all its tasks."""
    if not any(fields.get(name) for name in MEASURED):
        return nan, nan, nan, nan
    read = partial(value, fields)
    tasks = _first(_positive(read("ntasks", units.number, nan)), 1.0)
    used, written = _tres(fields, "tresusageintot"), _tres(fields, "tresusageouttot")
    cpu = _first(
        read("totalcpu", units.duration, nan),
        read("usercpu", units.duration, nan) + read("systemcpu", units.duration, nan),
    )
    return (
        _over_tasks(fields, used.get("mem", nan), "averss", "maxrss", tasks),
        cpu,
        _over_tasks(fields, used.get("fs/disk", nan), "avediskread", "maxdiskread", tasks),
        _over_tasks(fields, written.get("fs/disk", nan), "avediskwrite", "maxdiskwrite", tasks),
    )


def _over_tasks(fields: Fields, total: float, average: str, largest: str, tasks: float) -> float:
    """The sum over a step's tasks: as printed, or from the average, or from the largest; never less than the largest task's."""
    if not fields.get(average) and not fields.get(largest):
        return total
    most, mean = value(fields, largest, units.size, nan), value(fields, average, units.size, nan)
    return _largest(_first(total, mean * tasks if mean > 0 else nan, most * tasks), most)


def _requested_memory(fields: Fields, cores: float) -> float:
    """Bytes of the whole job from ``4Gc`` (a core), ``4Gn`` (a node) or ``4G`` (the job, since Slurm 21.08); 0 means a node's all."""
    text = fields.get("reqmem", "").strip()
    nodes = _positive(
        _first(
            value(fields, "reqnodes", units.number, nan), value(fields, "nnodes", units.number, nan)
        )
    )
    times = {"c": cores, "n": nodes}.get(text[-1:], 1.0)
    asked = value(
        {"reqmem": text[:-1] if text[-1:] in ("c", "n") else text}, "reqmem", units.size, nan
    )
    return _first(_positive(asked * times), _tres(fields, "reqtres").get("mem", nan))


def _tres(fields: Fields, name: str) -> dict[str, float]:
    """The sizes in a list such as ``cpu=00:01:05,fs/disk=4096,mem=12K``."""
    pairs = (part.partition("=") for part in fields.get(name, "").split(",") if "=" in part)
    return {
        kind: value({name: amount}, name, units.size, nan)
        for kind, _, amount in pairs
        if kind in ("mem", "fs/disk")
    }


def _limit(text: str) -> float:
    return nan if text.strip().lower() in ("unlimited", "partition_limit") else units.duration(text)


def _host(text: str) -> str | None:
    return None if text.strip().lower() == "none assigned" else units.words(text)


def _mend(header: list[str], cells: list[str]) -> list[str] | None:
    """sacct never quotes: a bar within the one free text of a row is put back."""
    places = [i for i, name in enumerate(header) if name.strip().lower() in FREE_TEXT]
    surplus = len(cells) - len(header)
    if surplus <= 0 or len(places) != 1:
        return None
    start = places[0]
    return [
        *cells[:start],
        "|".join(cells[start : start + surplus + 1]),
        *cells[start + surplus + 1 :],
    ]


def _first(*numbers: float) -> float:
    for number in numbers:
        if number == number:  # not NaN
            return number
    return nan


def _positive(number: float) -> float:
    return number if number != 0 else nan


def _largest(*numbers: float) -> float:
    largest = nan
    for number in numbers:
        if not number <= largest and number == number:
            largest = number
    return largest


def _sum(numbers: tuple[float, ...]) -> float:
    known = [number for number in numbers if number == number]
    return sum(known) if known else nan


SLURM = Reader("slurm", recognises, read)
"""The reader to put in the list."""
