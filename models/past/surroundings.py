"""Surroundings: the other records waiting, running or moving at a record's site, queue or link.

They are computed for every record at its submission, or for any key now. Both start from the same
``Events``, so that training on a log and querying a live grid use the same definitions.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.compiled import compiled
from jobs.coded_jobs import Coded, CodedJobs
from models.past.load import in_progress, started_recently
from models.past.recent import NEWEST, order_by_availability, recent

MICRO = 1e6


@dataclass(frozen=True)
class Interval:
    """When each record waits, runs or moves, with its amount and speed (float64[n]).

    ``begin`` and ``end`` are seconds, NaN for not yet; ``speed`` is the amount done a second.
    ``names`` are the columns for number in progress, amount, remaining amount, mean age and total
    speed, None for a column that is left out.
    """

    names: tuple[str | None, str | None, str | None, str | None, str | None]
    begin: Array
    end: Array
    amount: Array
    speed: Array


@dataclass(frozen=True)
class Events:
    """Events of records in order of submission: their intervals, and outcomes with their times.

    ``at`` is the submission in s, ``submitted`` the same in µs; ``values`` became available at
    ``available_at`` (µs). ``last`` and ``usual`` are the columns of the latest value and of the
    moving average (None: left out); a record counts as recent for ``recent_span`` seconds.
    """

    at: Array
    submitted: Array
    available_at: Array
    values: Array
    intervals: tuple[Interval, ...]
    recent_span: float
    last: str | None
    usual: str

    @cached_property
    def _by_availability(self) -> Array:
        return order_by_availability(self.available_at, self.values)

    def observed_at_submission(self, keys: Array) -> dict[str, Array]:
        """Surroundings of each record at its submission, among the records with its key.

        Args:
            keys: int64[n].

        Returns:
            float64[n] by column name.
        """
        columns_by_name: dict[str, Array] = {}
        for interval in self.intervals:
            columns = in_progress(
                keys, self.at, interval.begin, interval.end, interval.amount, interval.speed
            ).T
            columns_by_name |= _named(interval, columns)
        past = recent(keys, self.submitted, self.available_at, self.values, 1)
        columns_by_name["begun"] = started_recently(keys, self.at, self.recent_span)
        if self.last:
            columns_by_name[self.last] = past.values[:, 0]
        return columns_by_name | {self.usual: past.average}

    def observed_now(self, keys: Array, count: int, now: int) -> dict[str, Array]:
        """Surroundings of a record submitted now, for each key.

        Args:
            keys: Key of each recorded event, int64[n].
            count: Number of keys.
            now: Microseconds since 1970.

        Returns:
            float64[count] by column name.
        """
        moment, columns_by_name = now / MICRO, dict[str, Array]()
        for interval in self.intervals:
            columns = np.zeros((5, count))
            _in_progress_now(
                keys, interval.begin, interval.end, interval.amount, interval.speed, moment, columns
            )
            columns_by_name |= _named(interval, columns)
        lately = (self.at < moment) & (self.at >= moment - self.recent_span)
        columns_by_name["begun"] = np.bincount(keys[lately], minlength=count).astype(np.float64)
        latest = np.full((2, count), np.nan)
        _latest(keys, self.available_at, self.values, self._by_availability, now, NEWEST, latest)
        if self.last:
            columns_by_name[self.last] = latest[0]
        return columns_by_name | {self.usual: latest[1]}


def _named(interval: Interval, columns: Array) -> dict[str, Array]:
    return {name: column for name, column in zip(interval.names, columns, strict=True) if name}


@compiled
def _in_progress_now(
    keys: Array, begin: Array, end: Array, amount: Array, speed: Array, now: float, out: Array
) -> None:
    for row in range(len(keys)):
        if begin[row] < now and not end[row] <= now:
            key = keys[row]
            out[0, key] += 1
            out[1, key] += amount[row]
            out[2, key] += max(0.0, amount[row] - speed[row] * (now - begin[row]))
            out[3, key] += now - begin[row]
            out[4, key] += speed[row]
    for key in range(out.shape[1]):
        out[3, key] /= out[0, key]


@compiled
def _latest(
    keys: Array,
    available_at: Array,
    values: Array,
    by_availability: Array,
    now: int,
    newest: float,
    out: Array,
) -> None:
    """The last value of each key and the moving average of the logarithms, as in ``recent``."""
    for row in by_availability:
        if available_at[row] > now:
            break
        key, log = keys[row], np.log(max(values[row], 1.0))
        out[1, key] = log if np.isnan(out[1, key]) else out[1, key] + newest * (log - out[1, key])
        out[0, key] = values[row]
    out[1] = np.exp(out[1])


@dataclass(frozen=True)
class FieldCombinations:
    """The distinct combinations of some text fields among records, and each record's code."""

    fields: tuple[str, ...]
    values: tuple[dict[str, int], ...]
    distinct: Array
    codes: Array

    @staticmethod
    def of(records: CodedJobs, fields: Sequence[str]) -> FieldCombinations:
        """The combinations among ``records``; a missing value is a value of its own."""
        values = tuple(
            {text: code for code, text in enumerate(records[name].values)} for name in fields
        )
        mixed = _mixed([records[name].codes for name in fields], values, len(records))
        return FieldCombinations(tuple(fields), values, *np.unique(mixed, return_inverse=True))

    def __len__(self) -> int:
        return len(self.distinct) + 1

    def find(self, queries: CodedJobs) -> Array:
        """The code of each query (int64[n]); the last code, of no record, for a new combination."""
        columns = []
        for name, codes in zip(self.fields, self.values, strict=True):
            column: Coded = queries[name]
            table = np.array(
                [codes.get(text, len(codes)) for text in column.values] + [-1], np.int64
            )
            columns.append(table[column.codes])
        mixed = _mixed(columns, self.values, len(queries))
        code = np.minimum(np.searchsorted(self.distinct, mixed), max(len(self.distinct) - 1, 0))
        if not len(self.distinct):
            return code
        return np.where(self.distinct[code] == mixed, code, len(self.distinct))


def _mixed(columns: Sequence[Array], values: Sequence[dict[str, int]], rows: int) -> Array:
    mixed = np.zeros(rows, np.int64)
    for column, codes in zip(columns, values, strict=True):
        mixed = mixed * (len(codes) + 2) + column + 1
    return mixed


def with_surroundings(
    records: pd.DataFrame, events: Events, keys_by_scope: dict[str, Array]
) -> pd.DataFrame:
    """Add a column for each scope (site, queue, link …) and each of its quantities.

    Args:
        records: The records, in order of submission.
        events: Their events.
        keys_by_scope: Keys of the rows, int64[n], by name of the scope.
    """
    columns = {
        f"{scope}_{kind}": values
        for scope, keys in keys_by_scope.items()
        for kind, values in events.observed_at_submission(keys).items()
    }
    return records.assign(**columns)


@dataclass(frozen=True)
class CurrentSurroundings:
    """Records and their events, for the surroundings of a record that is submitted now."""

    events: Events
    scopes: dict[str, FieldCombinations]

    @staticmethod
    def of(
        records: CodedJobs, events: Events, fields: dict[str, tuple[str, ...]]
    ) -> CurrentSurroundings:
        """Build from records and their events.

        Args:
            records: The records.
            events: Their events.
            fields: The fields that identify each scope, by its name.
        """
        return CurrentSurroundings(
            events, {scope: FieldCombinations.of(records, group) for scope, group in fields.items()}
        )

    def observe(self, queries: CodedJobs, now: int) -> CodedJobs:
        """Add to each query its surroundings if it were submitted at ``now`` (µs)."""
        columns = dict(queries.columns)
        for name, scope in self.scopes.items():
            codes = scope.find(queries)
            observed = self.events.observed_now(scope.codes, len(scope), now)
            columns |= {f"{name}_{kind}": values[codes] for kind, values in observed.items()}
        return CodedJobs(columns, len(queries))
