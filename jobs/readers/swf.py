"""Reader of the Standard Workload Format 2.2 of the Parallel Workloads Archive.

The format (www.cs.huji.ac.il/labs/parallel/workload/swf.html) is a header of ``;`` comments, then
eighteen numbers a line; -1 is unknown. Batches without a bad line go through pandas' C parser.
"""

from __future__ import annotations

import io
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import compress
from pathlib import Path

import numpy as np
import pandas as pd

from jobs.readers.contract import Batch, Reader, ReadOptions, Reject, stem
from jobs.readers.lines import Chunk, head_lines, read_chunks
from jobs.readers.units import AT_THE_LIMIT, LATEST, NOMINAL_START, SENTINELS, times

FIELDS = (
    "job number",
    "submit time",
    "wait time",
    "run time",
    "number of allocated processors",
    "average CPU time used",
    "used memory",
    "requested number of processors",
    "requested time",
    "requested memory",
    "status",
    "user ID",
    "group ID",
    "executable number",
    "queue number",
    "partition number",
    "preceding job number",
    "think time",
)
STATUS = {0: "failed", 1: "completed", 2: "preempted", 3: "completed", 4: "failed", 5: "cancelled"}

EARLIEST_CLOCK = 315_532_800.0

ESSENTIAL = frozenset({0, 1, 2, 3, 10})
"""Fields (by index) without which a line is no job: number, times and status."""
NUMBER = re.compile(r"[+-]?(\d++(\.\d*)?|\.\d+)([eE][+-]?\d+)?", re.ASCII)
HEADER_LINE = re.compile(r";\s*([A-Za-z]\w*)\s*:(?!//)\s*(.*)")


@dataclass(frozen=True)
class SwfHeader:
    """The header's facts on the machine; ``unix_start`` is in seconds since 1970.

    ``raw`` holds every label with its text.
    """

    computer: str | None
    installation: str | None
    unix_start: float | None
    max_procs: int | None
    max_nodes: int | None
    partitions: dict[int, str]
    queues: dict[int, str]
    raw: dict[str, str]


def read_header(path: Path) -> SwfHeader:
    """Read the comments before the first job; without any, all is None or empty.

    Raises ReadError where the file cannot be read.
    """
    raw: dict[str, str] = {}
    names: dict[str, dict[int, str]] = {"Partition": {}, "Queue": {}}
    label = ""
    for line in _header_lines(path):
        match = HEADER_LINE.match(line)
        if match:
            label, text = match[1], match[2].strip()
            numbered = re.match(r"(\d{1,9})\s+(\S.*)", text)
            if label in names and numbered:
                names[label].setdefault(int(numbered[1]), numbered[2])
        else:
            text = line.lstrip("; \t").rstrip()
        if label and text:
            raw[label] = f"{raw[label]}\n{text}" if label in raw else text
    return SwfHeader(
        computer=raw.get("Computer"),
        installation=raw.get("Installation"),
        unix_start=_first_number(raw.get("UnixStartTime")),
        max_procs=_read_count(raw.get("MaxProcs")),
        max_nodes=_read_count(raw.get("MaxNodes")),
        partitions=names["Partition"],
        queues=names["Queue"],
        raw=raw,
    )


def _header_lines(path: Path) -> Iterator[str]:
    for chunk in read_chunks(path, 256):
        for line in chunk.lines:
            if line.strip() and not line.lstrip().startswith(";"):
                return
            yield line.lstrip()


def _first_number(text: str | None) -> float | None:
    match = re.match(r"-?\d{1,15}(\.\d+)?", text or "")
    return float(match[0]) if match else None


def _read_count(text: str | None) -> int | None:
    number = _first_number(text)
    return int(number) if number is not None and number >= 0 else None


def recognises(path: Path, head: bytes) -> bool:
    """Whether the first lines are ``;`` comments of SWF, or rows of eighteen numbers."""
    lines = [line.strip() for line in head_lines(head) if line.strip()]
    rows = [line.split() for line in lines if not line.startswith(";")][:50]
    good = sum(
        len(row) == len(FIELDS) and all(NUMBER.fullmatch(text) for text in row) for row in rows
    )
    labels = re.search(
        r"(?m)^;\s*(UnixStartTime|MaxJobs|MaxProcs|MaxNodes|Computer|Version)\s*:", "\n".join(lines)
    )
    return (good > 0 and good >= len(rows) / 3) or bool(labels)


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs of an SWF file.

    One without UnixStartTime counts from 2000-01-01 UTC, and a note says so.
    """
    header = read_header(path)
    source = options.source or stem(path)
    start = (
        header.unix_start
        if header.unix_start is not None and header.unix_start >= EARLIEST_CLOCK
        else None
    )
    summary = -1.0
    for chunk in read_chunks(path, options.batch_rows):
        table, numbers, rejects = _table(chunk)
        notes = Counter(chunk.notes)
        if start is None and len(table):
            start = 0.0 if table[0, 1] >= EARLIEST_CLOCK else NOMINAL_START
            if start:
                notes["no UnixStartTime in the header: times counted from 2000-01-01 UTC"] += 1
        keep, summary = _without_partials(table, summary)
        if not keep.all():
            notes["partial execution of a job skipped: its summary row is read"] += int(
                (~keep).sum()
            )
        table, numbers = table[keep], numbers[keep]
        possible = np.abs(table[:, 1] + (start or 0.0)) <= LATEST
        for i in np.flatnonzero(~possible):
            text = chunk.lines[numbers[i] - chunk.first]
            rejects.append(
                Reject(int(numbers[i]), f"submit time is out of range: {table[i, 1]:g} s", text)
            )
        jobs = _jobs(table[possible], header, start or 0.0, notes)
        rejects.sort(key=lambda reject: reject.line)
        yield Batch(jobs.assign(source=source), numbers[possible], rejects, notes)


def _table(chunk: Chunk) -> tuple[np.ndarray, np.ndarray, list[Reject]]:
    """The chunk's rows as an array (rows, 18), their line numbers, and the rejects."""
    is_row = [bool(text := line.strip()) and text[0] != ";" for line in chunk.lines]
    lines = list(compress(chunk.lines, is_row))
    numbers = chunk.first + np.flatnonzero(is_row)
    table = _parse_together(lines)
    if table is not None:
        return table, numbers, list(chunk.rejects)
    rows: list[list[float]] = []
    good: list[int] = []
    rejects = list(chunk.rejects)
    for number, line in zip(numbers.tolist(), lines, strict=True):
        texts = line.split()
        reason = _fault(texts)
        if reason:
            rejects.append(Reject(number, reason, line))
        else:
            numbers_read = [float(text) if NUMBER.fullmatch(text) else -1.0 for text in texts]
            for name, text in zip(FIELDS, texts, strict=True):
                if not NUMBER.fullmatch(text):
                    chunk.notes[f"{name} cannot be read: left out"] += 1
            rows.append(numbers_read)
            good.append(number)
    return (
        np.array(rows, dtype=float).reshape(-1, len(FIELDS)),
        np.array(good, dtype=np.int64),
        rejects,
    )


def _parse_together(lines: list[str]) -> np.ndarray | None:
    """Rows of eighteen finite numbers by pandas' C parser, or None where any line is not such."""
    width = len(FIELDS)
    if not lines:
        return np.empty((0, width))
    if len(lines[0].split()) != width:
        return None  # pandas takes the width of the first line for granted
    try:
        # A nineteenth column shows lines that are too long; lines that are too short leave NaN.
        frame = pd.read_csv(
            io.StringIO("\n".join(lines)),
            sep=r"\s+",
            header=None,
            names=list(range(width + 1)),
            index_col=False,
            dtype=np.float64,
            engine="c",
            quoting=3,
            keep_default_na=False,
            na_values=[""],
            float_precision="high",
        )
    except (ValueError, OverflowError):  # pandas' ParserError is a ValueError
        return None
    table = frame.to_numpy()
    if (
        len(table) != len(lines)
        or not np.isnan(table[:, width]).all()
        or not np.isfinite(table[:, :width]).all()
    ):
        return None
    if (table[:, 0] % 1 != 0).any():
        return None
    return table[:, :width]


def _fault(texts: list[str]) -> str:
    """Why these texts are not a row, or an empty string."""
    if len(texts) != len(FIELDS):
        return f"the line has {len(texts)} fields, not {len(FIELDS)}"
    for position in sorted(ESSENTIAL):
        if not NUMBER.fullmatch(texts[position]):
            name = FIELDS[position]
            return f"field {position + 1} ({name}) is not a number: {texts[position][:60]}"
    number = float(texts[0])
    return (
        ""
        if number % 1 == 0 and number < 2**53
        else f"field 1 ({FIELDS[0]}) is not a whole number: {texts[0][:60]}"
    )


def _without_partials(table: np.ndarray, summary: float) -> tuple[np.ndarray, float]:
    """Mask of the rows to keep, and the last summary row's job.

    Partial executions (status 2 to 4) follow their job's summary row.
    """
    job, partial = table[:, 0], np.isin(table[:, 10], (2, 3, 4))
    if not partial.any():
        return ~partial, float(job[-1]) if len(job) else summary
    latest = pd.Series(np.where(partial, np.nan, job)).ffill().fillna(summary).to_numpy()
    return ~(partial & (latest == job)), float(latest[-1])


def _jobs(table: np.ndarray, header: SwfHeader, start: float, notes: Counter[str]) -> pd.DataFrame:
    """Turn rows of eighteen numbers into job records: seconds, bytes of the whole job, UTC."""
    values = np.where(table == -1, np.nan, table)
    amounts = values[:, 4:10]
    amounts[np.isin(amounts, list(SENTINELS))] = np.nan
    wait, run = values[:, 2], values[:, 3]
    # A job cancelled in the queue has no processors: 0 is no number of allocated cores.
    cores = np.where(values[:, 4] == 0, np.nan, values[:, 4])
    requested = np.where(np.isnan(values[:, 7]) | (values[:, 7] == 0), cores, values[:, 7])
    status = _status(table[:, 10], run, values[:, 8])
    submitted = values[:, 1] + start
    # The wait of a job that never ran is the time until it was cancelled.
    never_ran = np.isnan(run) & (status == "cancelled")
    ended = submitted + np.where(never_ran, wait, np.where(np.isnan(wait), 0.0, wait) + run)
    with np.errstate(over="ignore"):  # what overflows is out of range, and left out
        memory, cpu_time = values[:, 6] * 1024 * cores, values[:, 5] * cores
        requested_memory = values[:, 9] * 1024 * requested
    unmeasured = memory == 0
    if unmeasured.any():
        notes["used memory of 0 kB taken as not measured"] += int(unmeasured.sum())
    return pd.DataFrame(
        {
            "job_id": _text(table[:, 0]),
            "user": _text(table[:, 11]),
            "group": _text(table[:, 12]),
            "program": _text(table[:, 13]),
            "queue": _text(table[:, 14], header.queues),
            "site": _text(table[:, 15], header.partitions),
            "requested_walltime": values[:, 8],
            "requested_cores": requested,
            "requested_memory": requested_memory,
            "submitted_at": times(submitted),
            "started_at": times(np.where(np.isnan(run), np.nan, submitted + wait)),
            "ended_at": times(ended),
            "status": status,
            "cores": cores,
            "walltime": run,
            "cpu_time": cpu_time,
            "peak_memory": np.where(unmeasured, np.nan, memory),
        }
    )


def _status(codes: np.ndarray, run: np.ndarray, request: np.ndarray) -> np.ndarray:
    """Words for SWF's codes; a job that did not complete and reached its request is a timeout."""
    words = np.full(len(codes), None, dtype=object)
    for code, word in STATUS.items():
        words[codes == code] = word
    words[~np.isin(codes, (-1, *STATUS))] = "unknown"
    words[(words != "completed") & (request > 0) & (run >= AT_THE_LIMIT * request)] = "timeout"
    return words


def _text(numbers: np.ndarray, names: dict[int, str] | None = None) -> pd.Series:
    """Whole numbers as text, by name where the header has one; unknown ones (-1) as None."""
    values, places = np.unique(numbers, return_inverse=True)
    words = [
        None if value == -1 else str(int(value)) if value.is_integer() else repr(value)
        for value in values.tolist()
    ]
    if names:
        words = [
            names.get(int(word), word) if word and word.isdecimal() else word for word in words
        ]
    return pd.Series(np.array([*words, None], dtype=object)[:-1][places], dtype=object)


SWF = Reader("swf", recognises, read, (".swf",))
"""The reader to put in the list."""
