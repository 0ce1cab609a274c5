"""Reader of the accounting records of PBS Professional, OpenPBS and Torque: ``date;type;job;key=value key=value ...``.

A job is what its ``E`` record (its end) says; records of other types (queued, started, deleted, ...) are counted and not used.
Times in an ``E`` record are seconds since 1970; the date before it is the server's local time and used only where ``end`` is not given.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import partial
from math import isnan, nan
from pathlib import Path

from jobs.readers import units
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.errors import FieldError
from jobs.readers.lines import head_lines, read_chunks
from jobs.readers.rows import Row, gather, jobs_of, value

Fields = dict[str, str]

RECORD = re.compile(
    r"(\d\d/\d\d/\d{4} \d\d:\d\d:\d\d(?:\.\d+)?);(\w);([^;]*);(.*)", re.ASCII | re.DOTALL
)
KEY = re.compile(r"(?:^|(?<=\s))([A-Za-z_][\w.]*)=", re.ASCII)
CHUNK_COUNT = re.compile(r"\d+", re.ASCII)

TIMED_OUT = (-29,)
OUT_OF_MEMORY = (-26, -27)
SIGNALLED = (256 + 15, 256 + 9, 128 + 15, 128 + 9)
"""Exit status of a job that a signal ended: 256 (or 128) plus SIGTERM or SIGKILL, sent by qdel or at a limit."""


def recognises(path: Path, head: bytes) -> bool:
    """Whether a third of the first lines are accounting records."""
    lines = [line for line in head_lines(head) if line.strip()][:50]
    good = sum(RECORD.match(line) is not None for line in lines)
    return good > 0 and good >= len(lines) / 3


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs that ended in an accounting file; the source is the server in the job's id, if none is given."""
    return gather(
        jobs_of(_records(path, options.batch_rows), partial(_job, options=options)),
        options.batch_rows,
    )


def _records(path: Path, size: int) -> Iterator[tuple[int, str, Fields] | Reject | str]:
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        for note, count in chunk.notes.items():
            yield from [note] * count
        for number, line in enumerate(chunk.lines, chunk.first):
            found = RECORD.fullmatch(line)
            if not found:
                if line.strip():
                    yield Reject(
                        number, "the line is no accounting record (date;type;job;message)", line
                    )
            elif found[2] != "E":
                yield f"record {found[2]} (not the end of a job) not used"
            else:
                yield number, line, {"date": found[1], "id": found[3], **_pairs(found[4])}


def _pairs(message: str) -> Fields:
    """The ``key=value`` pairs of a message; a value may be quoted, or hold spaces up to the next key."""
    pairs: Fields = {}
    key = KEY.search(message)
    while key:
        start = key.end()
        quote = message[start : start + 1]
        close = message.find(quote, start + 1) if quote in ('"', "'") else -1
        following = KEY.search(message, close + 1 if close > 0 else start)
        text = (
            message[start + 1 : close]
            if close > 0
            else message[start : following.start() if following else len(message)]
        )
        pairs.setdefault(key[1], text.strip())
        key = following
    return pairs


def _job(fields: Fields, options: ReadOptions) -> Row:
    """One ended job; kb, mb, gb are powers of 1024, a word (w) is 8 bytes."""
    read = partial(value, fields)
    name = fields["id"].strip()
    number, _, server = name.partition(".")
    if not number:
        raise FieldError("the record has no job id")
    requested = _requested_cores(fields)
    submitted = _known(*(read(key, units.timestamp, nan) for key in ("ctime", "qtime", "etime")))
    if isnan(submitted):
        raise FieldError("ctime is missing: when the job was submitted is not known")
    walltime = read("resources_used.walltime", units.duration, nan)
    limit = read("Resource_List.walltime", units.duration, nan)
    return {
        "job_id": name,
        "task_id": re.sub(r"\[\d+\]", "[]", name) if "[" in name else None,
        "source": options.source or server or "pbs",
        "user": read("user", units.words, None),
        "group": read("group", units.words, None),
        "project": read("account", units.words, None) or read("project", units.words, None),
        "job_name": read("jobname", units.words, None),
        "queue": read("queue", units.words, None),
        "host": read("exec_host", _hosts, None),
        "requested_walltime": limit,
        "requested_cores": requested,
        "requested_memory": _requested_memory(fields, requested),
        "submitted_at": submitted,
        "started_at": _known(read("start", units.timestamp, nan)),
        "ended_at": _known(read("end", units.timestamp, nan), _printed(fields, options.timezone)),
        "status": _status(read("Exit_status", units.number, nan), walltime, limit),
        "cores": _known(read("exec_host", _slots, nan), requested),
        "walltime": walltime,
        "cpu_time": read("resources_used.cput", units.duration, nan),
        "peak_memory": read("resources_used.mem", units.size, nan),
    }


def _printed(fields: Fields, timezone: str) -> float:
    moment = value(
        fields, "date", lambda text: units.calendar(text.split(".")[0], "%m/%d/%Y %H:%M:%S"), None
    )
    return units.to_utc([moment], timezone)[0]


def _requested_cores(fields: Fields) -> float:
    """Cores over all chunks: select, then nodes (Torque sets ncpus to 1 beside it), then procs or ncpus."""
    for key, each in (("select", "ncpus"), ("nodes", "ppn")):
        if f"Resource_List.{key}" in fields:
            return value(fields, f"Resource_List.{key}", partial(_total, each=each), nan)
    return _known(
        *(
            value(fields, f"Resource_List.{key}", units.number, nan)
            for key in ("procs", "ncpus", "mppwidth")
        )
    )


def _requested_memory(fields: Fields, cores: float) -> float:
    """Bytes of the whole job: mem, or pmem of each process, or mem of each chunk; virtual memory where only that was asked for."""
    size = partial(value, fields, parse=units.size, missing=nan)
    chunks = value(fields, "Resource_List.select", _memory_of_chunks, nan)
    asked = (size("Resource_List.mem"), size("Resource_List.pmem") * cores, chunks)
    return _known(*asked, size("Resource_List.vmem"), size("Resource_List.pvmem") * cores)


def _memory_of_chunks(text: str) -> float:
    return sum(count * units.size(parts["mem"]) for count, parts in _chunks(text) if "mem" in parts)


def _chunks(text: str) -> Iterator[tuple[int, Fields]]:
    """The chunks of ``2:ppn=4+1:ppn=2:bigmem`` or ``node1:ppn=4``: how many, and what each has."""
    for chunk in text.split("+") if text else []:
        first, *parts = chunk.split(":")
        named = [first, *parts] if "=" in first else parts
        yield (
            int(first) if CHUNK_COUNT.fullmatch(first) else 1,
            {key: amount for key, _, amount in (part.partition("=") for part in named)},
        )


def _total(text: str, each: str) -> float:
    try:
        return sum(count * float(parts.get(each, 1)) for count, parts in _chunks(text))
    except ValueError:
        raise ValueError(f"is not a list of chunks: {text[:60]}") from None


def _slots(text: str) -> float:
    """Cores in ``node1/0*4+node2/0-3+node3/1,5``: a slot is a number, a range, or ``index*count``."""
    total = 0.0
    for place in text.split("+"):
        for slot in place.partition("/")[2].split(","):
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
    return units.words(
        "+".join(dict.fromkeys(place.partition("/")[0] for place in text.split("+")))
    )


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
    return "cancelled" if code in SIGNALLED[:2] else "failed"


def _known(*numbers: float) -> float:
    """The first that is known: PBS writes 0 for what it does not have."""
    return next((number for number in numbers if not isnan(number) and number != 0), nan)


PBS = Reader("pbs", recognises, read)
"""The reader to put in the list."""
