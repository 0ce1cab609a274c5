"""Surroundings: what else waited, ran or moved in a record's places, told of every record at its submission, or of any place now.

Both ways start from the same ``Events``, so that what was learned from a log and what is asked of a live grid mean the same.
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
from models.past.load import begun_lately, under_way
from models.past.recent import NEWEST, order_of_news, recent

MICRO = 1e6


@dataclass(frozen=True)
class Interval:
    """From when to when each record waits, runs or moves (s, NaN: not yet), its amount, and what a second takes off that (float64[n]).

    ``names`` are what the number of those under way, their amount, the amount left, their mean age and their speed in all are
    called, None for not told.
    """

    names: tuple[str | None, str | None, str | None, str | None, str | None]
    begin: Array
    end: Array
    amount: Array
    speed: Array


@dataclass(frozen=True)
class Events:
    """What records do, in order of submission ``at`` (s): their spells, and ``values`` known from ``known`` on (microseconds as ``asked``).

    ``last`` and ``usual`` are what the latest value and the moving average are called (None: not told), ``lately`` (s) how long one
    counts as just begun.
    """

    at: Array
    asked: Array
    known: Array
    values: Array
    spells: tuple[Interval, ...]
    lately: float
    last: str | None
    usual: str

    @cached_property
    def _news(self) -> Array:
        return order_of_news(self.known, self.values)

    def observed_at_submission(self, keys: Array) -> dict[str, Array]:
        """What each record saw of those with its key (int64[n]) at its submission: float64[n] by name."""
        found: dict[str, Array] = {}
        for spell in self.spells:
            columns = under_way(keys, self.at, spell.begin, spell.end, spell.amount, spell.speed).T
            found |= {
                name: column for name, column in zip(spell.names, columns, strict=True) if name
            }
        past = recent(keys, self.asked, self.known, self.values, 1)
        found["begun"] = begun_lately(keys, self.at, self.lately)
        return (
            found
            | ({self.last: past.values[:, 0]} if self.last else {})
            | {self.usual: past.average}
        )

    def observed_now(self, keys: Array, count: int, now: int) -> dict[str, Array]:
        """What a record submitted at ``now`` (microseconds) would see of each of ``count`` keys: float64[count] by name."""
        moment, found = now / MICRO, dict[str, Array]()
        for spell in self.spells:
            columns = np.zeros((5, count))
            _under_way_now(keys, spell.begin, spell.end, spell.amount, spell.speed, moment, columns)
            found |= {
                name: column for name, column in zip(spell.names, columns, strict=True) if name
            }
        lately = (self.at < moment) & (self.at >= moment - self.lately)
        found["begun"] = np.bincount(keys[lately], minlength=count).astype(np.float64)
        latest = np.full((2, count), np.nan)
        _latest(keys, self.known, self.values, self._news, now, NEWEST, latest)
        return found | ({self.last: latest[0]} if self.last else {}) | {self.usual: latest[1]}


@compiled
def _under_way_now(
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
    keys: Array, known: Array, values: Array, news: Array, now: int, newest: float, out: Array
) -> None:
    """The last value of each key and the moving average of their logarithms, as ``recent`` has them."""
    for place in range(len(news)):
        row = news[place]
        if known[row] > now:
            break
        key, log = keys[row], np.log(max(values[row], 1.0))
        out[1, key] = log if np.isnan(out[1, key]) else out[1, key] + newest * (log - out[1, key])
        out[0, key] = values[row]
    out[1] = np.exp(out[1])


@dataclass(frozen=True)
class FieldCombinations:
    """The distinct combinations of some text fields among records: ``codes`` (int64[n]) is each record's; others are looked up."""

    fields: tuple[str, ...]
    values: tuple[dict[str, int], ...]
    distinct: Array
    codes: Array

    @staticmethod
    def of(records: CodedJobs, fields: Sequence[str]) -> FieldCombinations:
        """The places of ``records``, which have these ``fields``; a missing value is one of its own."""
        values = tuple(
            {text: place for place, text in enumerate(records[name].values)} for name in fields
        )
        mixed = _mixed([records[name].codes for name in fields], values, len(records))
        return FieldCombinations(tuple(fields), values, *np.unique(mixed, return_inverse=True))

    def __len__(self) -> int:
        return len(self.distinct) + 1

    def find(self, asked: CodedJobs) -> Array:
        """The code of each of ``asked`` (int64[n]), the last one, which no record has, for what is new here."""
        columns = []
        for name, known in zip(self.fields, self.values, strict=True):
            column: Coded = asked[name]
            table = np.array(
                [known.get(text, len(known)) for text in column.values] + [-1], np.int64
            )
            columns.append(table[column.codes])
        mixed = _mixed(columns, self.values, len(asked))
        place = np.minimum(np.searchsorted(self.distinct, mixed), max(len(self.distinct) - 1, 0))
        return (
            np.where(self.distinct[place] == mixed, place, len(self.distinct))
            if len(self.distinct)
            else place
        )


def _mixed(columns: Sequence[Array], values: Sequence[dict[str, int]], rows: int) -> Array:
    mixed = np.zeros(rows, np.int64)
    for column, known in zip(columns, values, strict=True):
        mixed = mixed * (len(known) + 2) + column + 1
    return mixed


def with_surroundings(
    records: pd.DataFrame, events: Events, places: dict[str, Array]
) -> pd.DataFrame:
    """``records`` with a column for each of ``places`` (the keys of its rows, by name) and each thing told of it."""
    columns = {
        f"{place}_{kind}": values
        for place, keys in places.items()
        for kind, values in events.observed_at_submission(keys).items()
    }
    return records.assign(**columns)


@dataclass(frozen=True)
class CurrentSurroundings:
    """Records and their events, ready to tell what one who comes now would see of its places."""

    events: Events
    places: dict[str, FieldCombinations]

    @staticmethod
    def of(
        records: CodedJobs, events: Events, fields: dict[str, tuple[str, ...]]
    ) -> CurrentSurroundings:
        """Of ``records`` and what they do; ``fields`` tell the places of each kind apart."""
        return CurrentSurroundings(
            events, {place: FieldCombinations.of(records, group) for place, group in fields.items()}
        )

    def observe(self, asked: CodedJobs, now: int) -> CodedJobs:
        """``asked`` with what each would see if it came ``now`` (microseconds)."""
        columns = dict(asked.columns)
        for name, place in self.places.items():
            codes = place.find(asked)
            found = self.events.observed_now(place.codes, len(place), now)
            columns |= {f"{name}_{kind}": values[codes] for kind, values in found.items()}
        return CodedJobs(columns, len(asked))
