"""Reader of Slurm accounting: ``sacct --parsable2``, any columns, and ``sacct --json``.

A job's row is followed by its steps' (``123.batch``, ``123.extern``, ``123.0``), which are folded
into it (slurm.schedmd.com/sacct.html):

- peak memory is that of the largest step, since steps mostly follow one another. A step's is the
  sum over its tasks, on all nodes, of each task's own peak: the ``mem`` of TRESUsageInTot where it
  is printed; else AveRSS × NTasks, the same sum by Slurm's definition of the average; else
  MaxRSS × NTasks. MaxRSS alone is only the largest task's, and times NTasks it is too much where
  one task is larger.
- CPU time is TotalCPU (user + system) of the job's row or the sum over its steps, whichever is
  more. CPUTimeRAW is no use: it is elapsed time × CPUs.
- bytes read and written are summed over the steps, each a sum over tasks in the same way.
- GPU time is the gpuutil of TRESUsageInTot (a percentage summed over GPUs and tasks) times how
  long the step ran, summed over the steps. Slurm keeps the largest or last utilisation of each
  task, not its mean, so that this is an upper estimate. Peak GPU memory is read as memory is.
- energy is ConsumedEnergyRaw of the job's row, else that of the step with most: steps overlap.
- a failed job of which a step ran out of memory ran out of memory: since Slurm 22.05.4 only the
  step says so.
- what a job requested is what its user did, which the admin comment keeps where Gridcast's adapter
  wrote less: else predictions would be limited by earlier predictions.

A job that has not ended has no outcome: its resources so far are left out. Of a job that was
requeued each run is a row; the store keeps the last as the outcome, the others as attempts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import partial
from math import nan
from pathlib import Path
from typing import Any, NamedTuple

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.delimited import Alignment, columns_of, read_records, sniff
from jobs.readers.errors import FieldError, ReadError
from jobs.readers.foreign_forms import hint
from jobs.readers.lines import head_lines, peek
from jobs.readers.rows import Item, Row, Values, first_id, gather, queued_again
from jobs.readers.slurm_json import MARKS as JSON_MARKS
from jobs.readers.slurm_json import read_json
from jobs.readers.slurm_words import COLUMNS, FREE_TEXT, KINDS, LISTS, OUT_OF_MEMORY_EXIT, state

_MARKS_TEXT = """
jobid jobidraw state elapsed elapsedraw alloccpus reqcpus reqmem maxrss timelimit submit partition
"""
MARKS = frozenset(_MARKS_TEXT.split())
OPEN_JOBS = 5_000
"""Jobs that wait for more steps; sacct prints steps right after their job, merged files near it."""
ARRAY_NOT_STARTED = "array tasks not started yet, printed as one row, skipped"
MIB = 1024.0**2
PER_CPU_FLAGS = (2**63, 2**31)
"""Bits by which Slurm's database marks a memory request as one for each CPU."""
MEBIBYTES = re.compile(r"(\d{1,20})M", re.ASCII)
GPUS = re.compile(r"gres/gpu(?::([^=,]+))?=(\d{1,9})", re.ASCII)
TRES_LIST = re.compile(r"[a-z]+(?:/[\w:.-]+)?=[^,=]+(?:,[a-z]+(?:/[\w:.-]+)?=[^,=]+)*", re.ASCII)
GRES = re.compile(
    r"(?:per_node:|gres:)?gpu(?::([^:,()]*[^\d:,()][^:,()]*))?(?::(\d{1,9}))?(?:\([^)]*\))?",
    re.ASCII | re.IGNORECASE,
)
"""A request of GPUs a node: ``gpu:2``, ``gpu:k80:2(S:0)``."""
GPU_REQUEST = re.compile(r"(?:^|[,/:])gpu(?=[:=,]|$)", re.ASCII | re.IGNORECASE)
"""GPUs in a request that may be unreadable; not their memory and use."""
JOULES = re.compile(r"(\d++(?:\.\d*)?)([KMGTP]?)", re.ASCII)
EXCLUSIVE = re.compile(r"(?:^|\s)--exclusive(?![^\s=])(?!=(?:user|mcs)\b)")
"""Whole nodes: not those that one user's jobs (``--exclusive=user``) or an MCS group's share."""
USERS_REQUEST = re.compile(
    r"gridcast: .*; requests "
    r"(?:memory (?:\d{1,12}, )*(\d{1,12}) MiB)?(?:, )?(?:time (?:\d{1,9}, )*(\d{1,9}) min)? after",
    re.ASCII,
)
"""The end of each ladder that adapters/slurm/gridcast.lua wrote: the request of the job's user."""


class Measured(NamedTuple):
    """What one row used, over all its tasks: bytes, s and J."""

    memory: float
    cpu_time: float
    bytes_read: float
    bytes_written: float
    gpu_time: float
    gpu_memory: float
    energy: float


@dataclass
class Job:
    """A job whose rows are still coming: its own row once met, and its steps' by step id."""

    line: int
    raw: str
    row: Row | None = None
    text: str = ""
    steps: dict[str, Measured] = field(default_factory=dict)
    out_of_memory: bool = False
    waits_again: bool = False
    rejected: bool = False


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first line has sacct's columns, or the first object the fields of its JSON."""
    text = "\n".join(head_lines(head))
    if text.lstrip()[:1] in ("[", "{"):
        return sum(mark in text for mark in JSON_MARKS) >= 3
    delimiter, columns = sniff(head, "|,;\t")
    names = {name.lower() for name in columns}
    if delimiter == "|":
        return len(COLUMNS & names) >= 3
    return len(MARKS & names) >= 4


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs of a sacct listing.

    Raises ReadError where there is no column JobID (or JobIDRaw) or Submit.
    """
    head = peek(path)
    if head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"[", b"{"):
        return gather(_items(read_json(path), options), options.batch_rows)
    delimiter, names = columns_of(path, "|,;\t")
    if not {"jobid", "jobidraw"} & {name.lower() for name in names}:
        raise ReadError(
            hint(path, head)
            or f"{path} has no column JobID: its columns are {', '.join(names)[:300]}"
        )
    free_text = FREE_TEXT | LISTS if delimiter == "," else FREE_TEXT
    align = partial(Alignment, KINDS, free_text, delimiter, certain=("constraints", "reservation"))
    records = read_records(path, options.batch_rows, COLUMNS, ("Submit",), delimiter, align)
    return gather(_items(records, options), options.batch_rows)


def _items(
    records: Iterator[tuple[int, str, dict[str, str]] | Reject | str], options: ReadOptions
) -> Iterator[Item]:
    waiting: dict[str, Job] = {}
    for record in records:
        if isinstance(record, Reject | str):
            yield record
            continue
        line, raw, fields = record
        values = Values(fields)
        key = ""
        try:
            name, _, step = first_id(values.text("jobid"), values.text("jobidraw")).partition(".")
            key = f"{fields.get('cluster', '')}/{name}"
            if "[" in name:
                yield ARRAY_NOT_STARTED
            elif step:
                job = waiting.setdefault(key, Job(line, raw))
                job.steps[step] = _measured(values)
                job.out_of_memory |= _is_out_of_memory(values)
            elif key in waiting and waiting[key].row and waiting[key].text == raw:
                yield "repeated row skipped"
            else:
                row, new, waits_again = _job(name, values, options)
                if new:
                    yield f"unknown state {new[:60]}"
                if key in waiting and (waiting[key].row or waiting[key].rejected):
                    yield from _close(waiting.pop(key))
                job = waiting.setdefault(key, Job(line, raw))
                job.line, job.row, job.text = line, row, raw
                job.waits_again = waits_again
                job.out_of_memory |= _is_out_of_memory(values)
                leader = key.partition("+")[0]
                if leader != key and leader in waiting and not waiting[leader].steps:
                    yield "heterogeneous job, of which each component is a job, skipped"
                    del waiting[leader]
        except FieldError as error:
            yield Reject(line, str(error), raw)
            if key and not step:  # the steps that follow are its own
                if key in waiting and waiting[key].row:
                    yield from _close(waiting[key])
                waiting[key] = Job(line, raw, rejected=True)
        yield from values.notes
        if len(waiting) > OPEN_JOBS:
            yield from _close(waiting.pop(next(iter(waiting))))
    for job in waiting.values():
        yield from _close(job)


def _is_out_of_memory(values: Values) -> bool:
    """Whether a row's state or exit code says that its process was killed for its memory."""
    state_word, _ = state(values.fields.get("state", ""))
    return state_word == "out_of_memory" or values.fields.get("exitcode", "") == OUT_OF_MEMORY_EXIT


def _close(job: Job) -> Iterator[Item]:
    """The finished row of a job, its steps folded in."""
    if job.rejected:
        yield from ("step of a rejected job not used" for _ in job.steps)
        return
    if job.row is None:
        yield Reject(job.line, "a step whose job's own row is not near it", job.raw)
        return
    row = job.row
    if (row["status"] == "failed" or job.waits_again) and job.out_of_memory:
        row["status"] = "out_of_memory"
    if row["status"] not in ("waiting", "running") and job.steps:
        rows: Any = zip(*job.steps.values(), strict=True)
        steps: Any = Measured(*rows)
        row["peak_memory"] = _largest(row["peak_memory"], *steps.memory)
        row["cpu_time"] = _largest(row["cpu_time"], _sum(steps.cpu_time))
        row["read_bytes"] = _largest(row["read_bytes"], _sum(steps.bytes_read))
        row["written_bytes"] = _largest(row["written_bytes"], _sum(steps.bytes_written))
        row["gpu_time"] = _largest(row["gpu_time"], _sum(steps.gpu_time))
        row["peak_gpu_memory"] = _largest(row["peak_gpu_memory"], *steps.gpu_memory)
        row["energy"] = units.first_known(row["energy"], _largest(*steps.energy))
    yield job.line, row
    if job.waits_again:
        yield job.line, queued_again(row)


def _job(name: str, values: Values, options: ReadOptions) -> tuple[Row, str, bool]:
    """One job's own row, its state where Slurm has a new word for it, and if it was requeued.

    The run of a job that was queued again after it (REQUEUED) is over: it is given as preempted.
    """
    status, new = state(values.fields.get("state", ""))
    elapsed = _elapsed(values)
    printed = [values.moment(name) for name in ("submit", "start", "end")]
    submit, start, end = units.to_utc(printed, options.timezone, elapsed)
    waits_again = status == "waiting" and end > start
    if waits_again:
        status = "preempted"
    ended = status not in ("waiting", "running")
    cores = values.number("alloccpus", "ncpus")
    allocated = units.first_nonzero(cores)
    requested = units.first_nonzero(values.number("reqcpus"), allocated)
    used = _measured(values)
    requested_nodes, nodes = _nodes(values)
    gpus, gpu_type = _requested_gpus(values, requested_nodes)
    written = USERS_REQUEST.match(values.fields.get("admincomment", ""))
    users_memory, users_minutes = written.groups() if written else (None, None)
    cluster = values.text("cluster")
    # A job cancelled in the queue has no start, or (before Slurm 20) its end and no CPUs.
    began = status != "waiting" and start == start and not (elapsed == 0 and cores == 0)
    ran = began and ended
    row: Row = {
        "job_id": name,
        "task_id": re.split(r"[_+]", name)[0] if "_" in name or "+" in name else None,
        "source": options.source or cluster or "slurm",
        "user": values.text("user"),
        "group": values.text("group"),
        "project": values.text("account"),
        "job_name": values.text("jobname"),
        "queue": values.text("partition"),
        "site": cluster,
        "host": values.parse("nodelist", _host, None),
        "requested_walltime": units.first_known(
            float(users_minutes or nan) * 60,
            units.amount(values.parse("timelimitraw", _limit, nan)) * 60,
            values.parse("timelimit", _limit, nan),
        ),
        "requested_cores": units.amount(requested),
        "requested_memory": units.first_known(
            float(users_memory or nan) * MIB,
            _requested_memory(values, requested, requested_nodes),
        ),
        "requested_gpus": gpus,
        "gpu_type": gpu_type,
        "requested_nodes": requested_nodes,
        "qos": values.text("qos"),
        "reservation": values.text("reservation"),
        "constraint": values.text("constraints"),
        "priority": units.amount(values.number("priority")),
        "exclusive": 1.0 if EXCLUSIVE.search(values.fields.get("submitline", "")) else nan,
        "submitted_at": submit,
        "started_at": start if began else nan,
        "ended_at": end if ended else nan,
        "status": status,
        "cores": allocated if began else nan,
        "walltime": elapsed if ran else nan,
        "cpu_time": used.cpu_time if ran else nan,
        "peak_memory": used.memory if ran else nan,
        "read_bytes": used.bytes_read if ran else nan,
        "written_bytes": used.bytes_written if ran else nan,
        "nodes": nodes if began else nan,
        "energy": used.energy if ran else nan,
        "gpu_time": used.gpu_time if ran else nan,
        "peak_gpu_memory": used.gpu_memory if ran else nan,
    }
    return row, new, waits_again


def _measured(values: Values) -> Measured:
    tasks = units.first_nonzero(values.number("ntasks"), 1.0)
    used, written = _tres(values, "tresusageintot"), _tres(values, "tresusageouttot")
    cpu = units.first_known(
        values.duration("totalcpu"), values.duration("usercpu") + values.duration("systemcpu")
    )
    return Measured(
        units.first_nonzero(_over_tasks(values, used.get("mem", nan), "averss", "maxrss", tasks)),
        cpu,
        _over_tasks(values, used.get("fs/disk", nan), "avediskread", "maxdiskread", tasks),
        _over_tasks(values, written.get("fs/disk", nan), "avediskwrite", "maxdiskwrite", tasks),
        used.get("gres/gpuutil", nan) / 100 * _elapsed(values),
        used.get("gres/gpumem", nan),
        units.first_nonzero(
            units.amount(values.number("consumedenergyraw")),
            values.parse("consumedenergy", _joules, nan),
        ),
    )


def _elapsed(values: Values) -> float:
    return units.first_known(values.number("elapsedraw"), values.duration("elapsed"))


def _joules(text: str) -> float:
    """Joules of ``ConsumedEnergy``, such as 12.34K; NaN for no measurement."""
    match = JOULES.fullmatch(text.strip())
    if not match:
        return units.number(text)
    return units.amount(float(match[1])) * 1000.0 ** " KMGTP".index(match[2] or " ")


def _nodes(values: Values) -> tuple[float, float]:
    """The nodes requested, and those that a job has once it began."""
    listed = _tres(values, "alloctres").get("node", nan)
    allocated = units.first_nonzero(values.number("nnodes", "allocnodes"), listed)
    requested = units.first_nonzero(
        values.number("reqnodes"), _tres(values, "reqtres").get("node", nan), allocated
    )
    return units.amount(requested), units.amount(allocated)


def _requested_gpus(values: Values, nodes: float) -> tuple[float, str | None]:
    """The GPUs that were requested, and their type where one was.

    ReqTRES is of the whole job and names each type beside the sum; the older ReqGRES is a node's.
    Without either the number is that of AllocTRES, whose type may be more than was requested. A
    readable ReqTRES without GPUs is a request of none; a note says where one cannot be read.
    """
    tres, gres = values.fields.get("reqtres", "").strip(), values.fields.get("reqgres", "").strip()
    gpus, types = _gpus(tres)
    if gpus != gpus and (match := GRES.fullmatch(gres)):
        gpus, types = float(match[2] or 1) * nodes, match[1] or ""
    elif gpus != gpus and (GPU_REQUEST.search(tres) or GPU_REQUEST.search(gres)):
        values.notes.append("request of GPUs cannot be read: left out")
    elif gpus != gpus and TRES_LIST.fullmatch(tres) and "gpu" not in tres:
        gpus = 0.0
    if gpus != gpus and not tres:
        gpus, _ = _gpus(values.fields.get("alloctres", ""))
    return gpus, types or None


def _gpus(text: str) -> tuple[float, str]:
    """The number of GPUs in a list such as ``cpu=8,gres/gpu:a100=2,gres/gpu=2``, and their types.

    >>> _gpus("billing=8,cpu=8,gres/gpu:a100=2,gres/gpu=2,gres/gpumem=8G"), _gpus("cpu=8")
    ((2.0, 'a100'), (nan, ''))
    """
    counts = {
        match[1] or "": float(match[2])
        for pair in text.split(",")
        if (match := GPUS.fullmatch(pair.strip()))
    }
    if not counts:
        return nan, ""
    total = counts.pop("", None)
    return sum(counts.values()) if total is None else total, ",".join(sorted(counts))


def _over_tasks(values: Values, total: float, average: str, largest: str, tasks: float) -> float:
    """The sum over a step's tasks: as printed, or from the average, or from the largest task's.

    It is never less than the largest task's.
    """
    most, mean = values.size(largest), values.size(average)
    return _largest(units.first_known(total, mean * tasks if mean > 0 else nan, most * tasks), most)


def _requested_memory(values: Values, cores: float, nodes: float) -> float:
    """Bytes of the whole job from ``4Gc`` (a core), ``4Gn`` (a node) or ``4G`` (the job).

    The last form is that of Slurm since 21.08. 0 means all of a node's, whatever that is.
    """
    size, per = values.parse("reqmem", _memory_size, (nan, ""))
    times = {"c": cores, "n": nodes}.get(per, 1.0)
    return units.first_nonzero(size * times, _tres(values, "reqtres").get("mem", nan))


def _memory_size(text: str) -> tuple[float, str]:
    """Bytes, and whether they are a core's (c), a node's (n) or the job's; NaN for no limit."""
    text = text.strip()
    per = text[-1:] if text[-1:] in ("c", "n") else ""
    text = text.removesuffix(per)
    match = MEBIBYTES.fullmatch(text)
    if match and int(match[1]) >= PER_CPU_FLAGS[-1]:
        flag = next(flag for flag in PER_CPU_FLAGS if int(match[1]) >= flag)
        rest = int(match[1]) - flag
        # What is left of a sentinel (2^32 - 1, 2^32 - 2, 2^64 - 1 ...) is no size either.
        return (rest * MIB if rest < min(flag - 2, 2**31) else nan), "c"
    size = units.size(text)
    return (size if size < PER_CPU_FLAGS[-1] * MIB else nan), per


def _tres(values: Values, name: str) -> dict[str, float]:
    """The amounts in a list such as ``cpu=00:01:05,fs/disk=4096,gres/gpuutil=97,mem=12K``."""
    text = values.fields.get(name)
    if not text:
        return {}
    pairs = (pair.partition("=") for pair in text.split(",") if "=" in pair)
    amounts = Values({kind: size for kind, _, size in pairs if kind in TRES})
    sizes = {kind: amounts.parse(kind, TRES[kind], nan) for kind in amounts.fields}
    values.notes += [f"{name}: {note}" for note in amounts.notes]
    return sizes


def _limit(text: str) -> float:
    return nan if text.strip().lower() in ("unlimited", "partition_limit") else units.duration(text)


def _host(text: str) -> str | None:
    return None if text.strip().lower() == "none assigned" else units.words(text)


def _largest(*numbers: float) -> float:
    return max((number for number in numbers if number == number), default=nan)


def _sum(numbers: tuple[float, ...]) -> float:
    observed = [number for number in numbers if number == number]
    return sum(observed) if observed else nan


TRES = {
    "mem": lambda text: _memory_size(text)[0],
    "fs/disk": units.size,
    "node": units.number,
    "gres/gpumem": units.size,
    "gres/gpuutil": units.number,
}
"""What reads the amount of each kind of trackable resource."""

SLURM = Reader("slurm", recognises, read)
"""The reader to put in the list."""
