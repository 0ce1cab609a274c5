"""From records, one at a time, to batches: what every reader that goes row by row shares."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from jobs.readers.contract import Batch, Reject
from jobs.readers.errors import FieldError
from jobs.readers.units import times
from jobs.schema import JOB, Record

Row: TypeAlias = dict[str, Any]
"""Schema fields of one job (or transfer): texts or None, numbers, and times in seconds since 1970; what is not in it is missing."""

Item: TypeAlias = "tuple[int, Row] | Reject | str"
"""What a reader finds on its way: a job with its line, a rejected line, or a note to be counted."""

T = TypeVar("T")


def value(record: Mapping[str, str], name: str, parse: Callable[[str], T], missing: T) -> T:
    """Parse one field of a record, or give ``missing`` where the record has none; raises FieldError naming it."""
    text = record.get(name)
    if not text:
        return missing
    try:
        return parse(text)
    except (ValueError, OverflowError) as error:
        raise FieldError(f"{name} {error}") from None


def jobs_of(
    records: Iterable[tuple[int, str, T] | Reject | str], parse: Callable[[T], Row]
) -> Iterator[Item]:
    """Turn records, each with its line number and raw text, into rows; one that cannot be parsed becomes a reject."""
    for record in records:
        if isinstance(record, Reject | str):
            yield record
            continue
        line, raw, content = record
        try:
            yield line, parse(content)
        except FieldError as error:
            yield Reject(line, str(error), raw)


def gather(items: Iterable[Item], batch_rows: int, record: Record = JOB) -> Iterator[Batch]:
    """Collect items into batches of at most ``batch_rows`` rows, with the rejects and notes met on the way."""
    lines: list[int] = []
    rows: list[Row] = []
    rejects: list[Reject] = []
    notes: Counter[str] = Counter()
    for item in items:
        if isinstance(item, str):
            notes[item] += 1
        elif isinstance(item, Reject):
            rejects.append(item)
        else:
            lines.append(item[0])
            rows.append(item[1])
        if len(rows) >= batch_rows or len(rejects) >= batch_rows:
            yield _batch(rows, lines, rejects, notes, record)
            lines, rows, rejects, notes = [], [], [], Counter()
    if rows or rejects or notes:
        yield _batch(rows, lines, rejects, notes, record)


def _batch(
    rows: list[Row], lines: list[int], rejects: list[Reject], notes: Counter[str], record: Record
) -> Batch:
    return Batch(
        frame(rows, record),
        np.array(lines, dtype=np.int64),
        sorted(rejects, key=lambda reject: reject.line),
        notes,
        record,
    )


def frame(rows: list[Row], record: Record = JOB) -> pd.DataFrame:
    """The rows as a DataFrame of the fields that any of them has, in the schema's types."""
    names = {name: None for row in rows for name in row}
    columns: dict[str, pd.Series] = {}
    for name in names:
        values = [row.get(name) for row in rows]
        if name in record.of_kind["text"]:
            columns[name] = pd.Series(values, dtype=object)
        elif name in record.of_kind["time"]:
            columns[name] = times(np.array(values, dtype=float))
        else:
            columns[name] = pd.Series(np.array(values, dtype=float))
    return pd.DataFrame(columns)


def whole_id(*parts: str | None) -> str:
    """The first part that is known; raises FieldError where none is."""
    for part in parts:
        if part:
            return part
    raise FieldError("the record has no job id")
