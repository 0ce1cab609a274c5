"""From records to batches: what all readers that go record by record share."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from math import nan
from typing import Any, TypeAlias, TypeVar

import numpy as np
import pandas as pd

from jobs.readers import units
from jobs.readers.contract import Batch, Reject
from jobs.readers.errors import FieldError
from jobs.schema import JOB, Record

Row: TypeAlias = dict[str, Any]
"""Schema fields of one record: texts or None, numbers, times in seconds since 1970."""

Item: TypeAlias = "tuple[int, Row] | Reject | str"
"""A row with its line, a rejected line, or a note to be counted."""

T = TypeVar("T")


class SkipRecord(Exception):  # noqa: N818
    """A record is no job of its own; the message is the note to count."""


class Values:
    """Typed access to the fields of one record, which are named in lower case.

    An optional field that cannot be read is missing, and ``notes`` says so: it takes no outcome
    with it. What a record cannot be without is read by ``moment`` or ``required``, which raise
    FieldError.
    """

    def __init__(self, fields: Mapping[str, Any]) -> None:
        self.fields = fields
        self.notes: list[str] = []

    def parse(self, name: str, parser: Callable[[str], T], missing: T) -> T:
        """An optional field by a parser that raises ValueError; ``missing`` where it has none.

        Args:
            name: The field.
            parser: Reads its text.
            missing: The value without one.
        """
        try:
            return self._parsed(name, parser, missing)
        except FieldError:
            self.notes.append(f"{name} cannot be read: left out")
            return missing

    def required(self, name: str, parser: Callable[[str], T], missing: T) -> T:
        """A field by a parser that raises ValueError; raises FieldError naming the field.

        Args:
            name: The field.
            parser: Reads its text.
            missing: The value that is none.
        """
        return self._parsed(name, parser, missing)

    def _parsed(self, name: str, parser: Callable[[str], T], missing: T) -> T:
        value = self.fields.get(name.lower())
        if value is None or value == "" or isinstance(value, bool | dict | list):
            return missing
        try:
            return parser(str(value))
        except (ValueError, OverflowError) as error:
            raise FieldError(f"{name} {error}") from None

    def text(self, *names: str) -> str | None:
        """The first of these fields that has a text."""
        return next((text for name in names if (text := self.parse(name, units.words, None))), None)

    def number(self, *names: str) -> float:
        """The first of these fields that has a number."""
        return units.first_known(*(self.parse(name, units.number, nan) for name in names))

    def positive(self, *names: str) -> float:
        """The first of these fields that has a number above 0, which many write for "unknown"."""
        numbers = (self.number(name) for name in names)
        return next((number for number in numbers if number > 0), nan)

    def size(self, name: str) -> float:
        """A size in bytes."""
        return self.parse(name, units.size, nan)

    def duration(self, name: str) -> float:
        """A duration in seconds; 2^31 - 1 s (596523:14:07) and the like are none."""
        return units.amount(self.parse(name, units.duration, nan))

    def moment(self, name: str) -> units.Moment:
        """A time as printed (see ``units.calendar``); raises FieldError where it cannot be read."""
        return self.required(name, units.calendar, None)

    def timestamp(self, *names: str) -> float:
        """The first of these times that is not 0, in seconds since 1970, without a zone in UTC."""
        times = (self.required(name, units.timestamp, nan) for name in names)
        return units.first_nonzero(*times)


def parse_rows(
    records: Iterable[tuple[int, str, Mapping[str, Any]] | Reject | str],
    parse: Callable[[Values], Row],
) -> Iterator[Item]:
    """Turn records, each with its line and raw text, into rows, rejects and notes."""
    for record in records:
        if isinstance(record, Reject | str):
            yield record
            continue
        line, raw, fields = record
        values = Values(fields)
        try:
            yield line, parse(values)
        except FieldError as error:
            yield Reject(line, str(error), raw)
        except SkipRecord as skipped:
            yield str(skipped)
        yield from values.notes


def gather(items: Iterable[Item], batch_rows: int, record: Record = JOB) -> Iterator[Batch]:
    """Collect items into batches of at most ``batch_rows`` rows, with their rejects and notes.

    Args:
        items: Rows, rejects and notes.
        batch_rows: Rows of a batch.
        record: The kind of record.
    """
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
        if name in (*record.of_kind["text"], *record.of_kind["labels"]):
            columns[name] = pd.Series(values, dtype=object)
        elif name in record.of_kind["time"]:
            columns[name] = units.times(np.array(values, dtype=float))
        else:
            columns[name] = pd.Series(np.array(values, dtype=float))
    return pd.DataFrame(columns)


def queued_again(run: Row) -> Row:
    """The report of a job that waits again since ``run``, an ended run of it."""
    return (
        run | dict.fromkeys(JOB.outcomes) | {"submitted_at": run["ended_at"], "status": "waiting"}
    )


def first_id(*names: str | None) -> str:
    """The first name that is not empty; raises FieldError where there is none."""
    for name in names:
        if name:
            return name
    raise FieldError("the record has no job id")
