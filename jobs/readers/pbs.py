"""Reader of the accounting records of PBS Professional, OpenPBS and Torque.

A record is ``date;type;job;key=value key=value ...``. A job is what its ``E`` record (its end)
says. An ``R`` record (rerun) with the run's start and end is a run after which the job waits again.
Records of other types (queued, started, deleted, ...) are counted and not used, and so is the
record of an array itself (``4[].server``), which ran nowhere. Times in an ``E`` record are seconds
since 1970; the date before it is the server's local time and used only without ``end``.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from functools import partial
from math import isnan, nan
from pathlib import Path

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.errors import FieldError
from jobs.readers.lines import head_lines, read_chunks
from jobs.readers.rows import Row, SkipRecord, Values, gather, parse_rows, queued_again

Fields = dict[str, str]

RECORD = re.compile(
    r"(\d\d/\d\d/\d{4} \d\d:\d\d:\d\d(?:\.\d+)?);(\w);([^;]*);(.*)", re.ASCII | re.DOTALL
)
KEY = re.compile(r"(?<!\S)([A-Za-z_][\w.]*+)=", re.ASCII)
CHUNK_COUNT = re.compile(r"\d+", re.ASCII)

GPU_TYPES = ("gpu_type", "gpu_model", "accelerator_model")
EXCLUSIVE = frozenset({"excl", "exclhost", "singlejob"})
KILOWATT_HOUR = 3.6e6  # J
RERUN, WAITS_AGAIN = "R", "waits again"
KILLED = ("timeout", "out_of_memory")
TIMED_OUT = (-29,)
OUT_OF_MEMORY = (-26, -27)
SIGNALLED = (256 + 15, 256 + 9)
"""Exit status of a job that SIGTERM or SIGKILL ended, sent by qdel or at a limit."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether a third of the first lines are accounting records."""
    lines = [line for line in head_lines(head) if line.strip()][:50]
    good = sum(RECORD.match(line) is not None for line in lines)
    return good > 0 and good >= len(lines) / 3


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs that ended in an accounting file.

    The source is the server in the job's id, if none is given.
    """
    records = _records(path, options.batch_rows)
    return gather(parse_rows(records, partial(_job, options=options)), options.batch_rows)


def _records(path: Path, size: int) -> Iterator[tuple[int, str, Fields] | Reject | str]:
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        yield from chunk.notes.elements()
        for number, line in enumerate(chunk.lines, chunk.first):
            match = RECORD.fullmatch(line)
            if not match:
                if line.strip():
                    yield Reject(
                        number, "the line is no accounting record (date;type;job;message)", line
                    )
                continue
            pairs = _pairs(match[4])
            fields = {"date": match[1], "id": match[3], "type": match[2], **pairs}
            if match[2] == RERUN and {"start", "end"} <= pairs.keys():
                yield number, line, fields
                yield number, line, fields | {"type": WAITS_AGAIN}
            elif match[2] == "E":
                yield number, line, fields
            else:
                yield f"record {match[2]} (not the end of a job) not used"


def _pairs(message: str) -> Fields:
    """The ``key=value`` pairs of a message, by lower-case key; the first of a key counts.

    A value may be quoted, or hold spaces up to the next key.
    """
    pairs: Fields = {}
    last = {quote: message.rfind(quote) for quote in "\"'"}
    key = KEY.search(message)
    while key:
        start = key.end()
        quote = message[start : start + 1]
        # A quote that nothing closes is looked for only once.
        close = message.find(quote, start + 1) if last.get(quote, -1) > start else -1
        following = KEY.search(message, close + 1 if close > 0 else start)
        text = (
            message[start + 1 : close]
            if close > 0
            else message[start : following.start() if following else len(message)]
        )
        pairs.setdefault(key[1].lower(), text.strip())
        key = following
    return pairs


def _job(values: Values, options: ReadOptions) -> Row:
    """One ended run; kb, mb, gb are powers of 1024, a word (w) is 8 bytes."""
    name = values.fields["id"].strip()
    number, _, server = name.partition(".")
    if not number:
        raise FieldError("the record has no job id")
    if number.endswith("[]"):
        raise SkipRecord("record of an array, whose jobs have their own, not used")
    requested = _requested_cores(values)
    submitted = values.timestamp("ctime", "qtime", "etime")
    if isnan(submitted):
        raise FieldError("ctime is missing: when the job was submitted is not known")
    walltime = values.duration("resources_used.walltime")
    limit = values.duration("Resource_List.walltime")
    status = _status(values.required("Exit_status", units.number, nan), walltime, limit)
    hosts = values.parse("exec_host", _hosts, None)
    rerun = values.fields["type"] in (RERUN, WAITS_AGAIN)
    row = {
        "job_id": name,
        "task_id": re.sub(r"\[\d+\]", "[]", name) if "[" in name else None,
        "source": options.source or server or "pbs",
        "user": values.text("user"),
        "group": values.text("group"),
        "project": values.text("account", "project"),
        "job_name": values.text("jobname"),
        "queue": values.text("queue"),
        "host": hosts,
        "requested_walltime": limit,
        "requested_cores": requested,
        "requested_memory": _requested_memory(values, requested),
        "requested_gpus": _requested_gpus(values),
        "gpu_type": _gpu_type(values),
        "requested_nodes": values.positive("Resource_List.nodect"),
        "qos": values.text("Resource_List.qos", "qos"),
        "reservation": values.text("resvname", "resvID"),
        "constraint": _constraint(values),
        "exclusive": _exclusive(values),
        "submitted_at": submitted,
        "started_at": values.timestamp("start"),
        "ended_at": units.first_nonzero(
            values.timestamp("end"), _printed(values, options.timezone)
        ),
        "status": "preempted" if rerun and status not in KILLED else status,
        "cores": units.first_nonzero(
            _cray_cores(values), values.parse("exec_host", _slots, nan), requested
        ),
        "walltime": walltime,
        "cpu_time": values.duration("resources_used.cput"),
        "peak_memory": units.first_nonzero(values.size("resources_used.mem")),
        # The host of a Cray's record is the login node.
        "nodes": hosts.count("+") + 1.0 if hosts and not _cray_cores(values) > 0 else nan,
        "energy": values.number("resources_used.energy") * KILOWATT_HOUR,
    }
    return queued_again(row) if values.fields["type"] == WAITS_AGAIN else row


def _printed(values: Values, timezone: str) -> float:
    def moment(text: str) -> units.Moment:
        return units.calendar(text.split(".")[0], "%m/%d/%Y %H:%M:%S")

    return units.to_utc([values.required("date", moment, None)], timezone)[0]


def _cray_cores(values: Values) -> float:
    """Cores of a Cray's compute nodes: width (processing elements) × depth (cores of each).

    The hosts and ncpus of such a record are those of the login node that started it.
    """
    return values.positive("Resource_List.mppwidth") * units.first_nonzero(
        values.number("Resource_List.mppdepth"), 1.0
    )


def _requested_cores(values: Values) -> float:
    """Cores over all chunks: select, then nodes (Torque sets ncpus to 1 beside it), then procs."""
    if (cray := _cray_cores(values)) > 0:
        return cray
    return units.first_known(
        _of_chunks(values, {"select": "ncpus", "nodes": "ppn"}, 1.0),
        units.first_nonzero(
            values.number("Resource_List.procs"), values.number("Resource_List.ncpus")
        ),
    )


def _of_chunks(values: Values, resources: Mapping[str, str], missing: float) -> float:
    """The sum of a resource over the chunks of the first of these lists that a record has.

    Args:
        values: The record.
        resources: The resource's name in ``select`` and in ``nodes``.
        missing: The amount of a chunk that does not name it.
    """
    sums = (
        values.parse(f"Resource_List.{key}", partial(_total, resource=name, missing=missing), nan)
        for key, name in resources.items()
    )
    return units.first_known(*sums)


def _requested_gpus(values: Values) -> float:
    """GPUs over all chunks, else the server's sum of them (``ngpus``)."""
    return units.first_known(
        units.first_nonzero(_of_chunks(values, {"select": "ngpus", "nodes": "gpus"}, 0.0)),
        values.number("Resource_List.ngpus"),
    )


def _gpu_type(values: Values) -> str | None:
    """The model of GPU under the names that sites give to it, of the job or its first chunk."""
    chunks = [parts for _, parts in _chunks(values.fields.get("resource_list.select", ""))]
    listed = next((parts[name] for parts in chunks for name in GPU_TYPES if name in parts), None)
    return listed or values.text(*(f"Resource_List.{name}" for name in GPU_TYPES))


def _constraint(values: Values) -> str | None:
    """The properties of nodes that a list such as ``2:ppn=4:bigmem:ib`` of Torque asks for."""
    text = values.fields.get("resource_list.nodes", "")
    names = {name for _, parts in _chunks(text) for name, amount in parts.items() if not amount}
    return "&".join(sorted(names - {""})) or values.text("Resource_List.feature")


def _exclusive(values: Values) -> float:
    """Whether the job has its hosts for itself, where it says so."""
    words = set((values.text("Resource_List.place") or "").split(":"))
    words.add(values.text("Resource_List.naccesspolicy") or "")
    return 1.0 if words & EXCLUSIVE else 0.0 if "shared" in words else nan


def _requested_memory(values: Values, cores: float) -> float:
    """Bytes of the whole job: mem, or pmem of each process, or mem of each chunk.

    Virtual memory stands in where only that was asked for.
    """
    mem, pmem, vmem, pvmem = (
        values.size(f"Resource_List.{name}") for name in ("mem", "pmem", "vmem", "pvmem")
    )
    chunks = values.parse("Resource_List.select", _memory_of_chunks, nan)
    return units.first_nonzero(mem, pmem * cores, chunks, vmem, pvmem * cores)


def _memory_of_chunks(text: str) -> float:
    return sum(count * units.size(parts["mem"]) for count, parts in _chunks(text) if "mem" in parts)


def _chunks(text: str) -> Iterator[tuple[int, Fields]]:
    """The chunks of ``2:ppn=4+1:ppn=2:bigmem`` or ``node1:ppn=4``: how many, and what each has."""
    for chunk in text.split("+") if text else []:
        first, *parts = chunk.split(":")
        named = [first, *parts] if "=" in first else parts
        yield (
            int(first) if CHUNK_COUNT.fullmatch(first) else 1,
            {key: amount for key, _, amount in (pair.partition("=") for pair in named)},
        )


def _total(text: str, resource: str, missing: float) -> float:
    try:
        return sum(count * float(parts.get(resource, missing)) for count, parts in _chunks(text))
    except ValueError:
        raise ValueError(f"is not a list of chunks: {text[:60]}") from None


def _slots(text: str) -> float:
    """Cores in ``node1/0*4+node2/0-3+node3/1,5``: slots are indices, ranges or ``index*count``."""
    total = 0.0
    for host in text.split("+"):
        for slot in host.partition("/")[2].split(","):
            low, _, high = slot.partition("-")
            times = slot.partition("*")[2]
            total += (
                units.number(times)
                if times
                else units.number(high) - units.number(low) + 1
                if high
                else 1
            )
    return total


def _hosts(text: str) -> str | None:
    """The hosts of ``exec_host``, each once, joined by ``+``."""
    return units.words("+".join(dict.fromkeys(host.partition("/")[0] for host in text.split("+"))))


def _status(code: float, walltime: float, limit: float) -> str | None:
    """What the exit status says, with the limit as evidence of why a job was ended."""
    if isnan(code):
        return None
    if code == 0:
        return "completed"
    if code in TIMED_OUT or (limit > 0 and walltime >= units.AT_THE_LIMIT * limit):
        return "timeout"
    if code in OUT_OF_MEMORY:
        return "out_of_memory"
    return "cancelled" if code in SIGNALLED else "failed"


PBS = Reader("pbs", recognises, read)
"""The reader to put in the list."""
