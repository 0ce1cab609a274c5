"""Features: the keys under which a job's history is kept, and the numbers that the refiner reads.

Which keys a log gets follows from its subject's rule and the fields that the log really has. "Job" stands for a record of any subject
(see ``subjects``). Keys are 64-bit hashes of the values
themselves, the same in every process, so that a live service needs no table of categories.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.compiled import compiled
from infra.errors import InputError
from jobs.coded_jobs import NOT_AVAILABLE as NOT_AVAILABLE
from jobs.coded_jobs import Coded, CodedJobs, encode_column, encode_jobs, in_microseconds
from models.quantities.subjects import JOBS, SUBJECTS, Subject

Keys = npt.NDArray[np.uint64]

MOST_DISTINCT = 0.5
"""A field with more distinct values than this share of the jobs names each job, not a kind of job."""


class FeatureError(InputError):
    """Jobs or levels cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Level:
    """One kind of history: that of the jobs with the same ``fields``; ``relative`` histories hold the value over its limit."""

    fields: tuple[str, ...]
    relative: bool = False

    @property
    def name(self) -> str:
        """A short name for cards and tables, such as ``user+requested_cores``."""
        return ("+".join(self.fields) or "all") + (" over limit" if self.relative else "")


@dataclass(frozen=True)
class Levels:
    """The kinds of history that a log gets, fine to coarse; ``owner`` is the place of the one that tells who the job belongs to."""

    levels: tuple[Level, ...]
    owner: int
    numbers: tuple[str, ...] = ()
    subject: str = JOBS.name

    @property
    def fields(self) -> frozenset[str]:
        """The fields of jobs that are read."""
        return frozenset({*self.numbers, *(name for level in self.levels for name in level.fields)})

    def to_json(self) -> dict[str, Any]:
        """As plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(text: dict[str, Any]) -> Levels:
        """The opposite of ``to_json``; raises FeatureError when a part is missing."""
        try:
            levels = tuple(
                Level(tuple(level["fields"]), bool(level["relative"])) for level in text["levels"]
            )
            subject = SUBJECTS[text.get("subject", JOBS.name)]
            return Levels(levels, int(text["owner"]), tuple(text["numbers"]), subject.name)
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureError(f"the levels cannot be read: {error!r}") from None


@dataclass(frozen=True)
class Contexts:
    """What the engine knows of n jobs when they are submitted, and when their outcome became known.

    ``keys`` uint64[n, levels]; ``at`` and ``available_at`` int64[n] in microseconds since 1970: submitted, outcome known (NOT_AVAILABLE where it
    is not); ``ids`` uint32[n], the same for the same job; ``numbers``
    float32[n, features] with NaN for unknown.
    """

    keys: Keys
    at: npt.NDArray[np.int64]
    available_at: npt.NDArray[np.int64]
    ids: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.float32]

    def asked(self, at: datetime) -> Contexts:
        """The same jobs as asked about at another time, but never before their submission."""
        return replace(self, at=np.maximum(self.at, in_microseconds(at)))

    def take(self, rows: npt.NDArray[Any]) -> Contexts:
        """The contexts of some rows (indices or a mask)."""
        return Contexts(
            self.keys[rows],
            self.at[rows],
            self.available_at[rows],
            self.ids[rows],
            self.numbers[rows],
        )

    def __len__(self) -> int:
        return len(self.at)


def choose_levels(jobs: pd.DataFrame, subject: Subject = JOBS) -> Levels:
    """Choose the levels for a log from the fields that its jobs really have, by the rule of their subject.

    A level that splits the jobs exactly as a level already chosen is left out, so a missing or constant field costs nothing.
    """
    sample = jobs if len(jobs) <= 50_000 else jobs.iloc[:: len(jobs) // 50_000 + 1]
    kinds = [name for name in subject.keys if name in sample and _is_kind(sample[name], subject)]
    hashes = {name: _hashes(encode_column(sample[name]), name in subject.sizes) for name in kinds}
    chosen: dict[bytes, tuple[str, ...]] = {}
    told = {
        candidate: tuple(name for name in ("source", *candidate) if name in hashes)
        if candidate
        else ()
        for candidate in subject.candidates
    }
    for fields in told.values():
        # The coarsest of two equal splits names itself by fewer fields.
        chosen[_split(fields, hashes, len(sample))] = fields
    # Levels that split equally finely keep the order of the candidates: a set's order would differ from process to process.
    levels = [
        Level(fields)
        for fields in sorted(
            dict.fromkeys(chosen.values()), key=lambda fields: _rank(fields, hashes)
        )
    ]
    names = [level.fields for level in levels]
    owner = next((names.index(f) for f in _owners(names, subject)), len(levels) - 1)
    numbers = tuple(name for name in subject.numbers if _is_told(sample, name))
    measured = any(_is_told(sample, name) for name in subject.measured_against)
    rated = (
        names[owner],
        (),
        *(told[candidate] for candidate in subject.rated if told[candidate] in names),
    )
    relative = dict.fromkeys(Level(fields, relative=True) for fields in rated) if measured else ()
    return Levels((*levels, *relative), owner, numbers, subject.name)


def _is_told(sample: pd.DataFrame, name: str) -> bool:
    return name in sample and bool(sample[name].notna().any())


def _owners(names: list[tuple[str, ...]], subject: Subject) -> Iterator[tuple[str, ...]]:
    for owner in subject.owners:
        yield from (fields for fields in names if fields in ((owner,), ("source", owner)))


def _is_kind(values: pd.Series[Any], subject: Subject) -> bool:
    known, distinct = int(values.notna().sum()), values.nunique()
    varies = distinct > 1 or (distinct == 1 and known < len(values))
    return varies and (values.name in subject.sizes or distinct <= max(MOST_DISTINCT * known, 20))


def _split(fields: tuple[str, ...], hashes: dict[str, Keys], rows: int) -> bytes:
    """A fingerprint of how ``fields`` split the jobs: equal for two sets of fields that split them alike."""
    codes, _ = pd.factorize(_combine((hashes[name] for name in fields), rows, salt=0))
    return hashlib.blake2b(codes.astype(np.int64).tobytes(), digest_size=16).digest()


def _rank(fields: tuple[str, ...], hashes: dict[str, Keys]) -> float:
    rows = len(next(iter(hashes.values()))) if hashes else 0
    return (
        -float(len(np.unique(_combine((hashes[name] for name in fields), rows, salt=0))))
        if fields
        else 0.0
    )


def encode(jobs: pd.DataFrame | CodedJobs, levels: Levels) -> Contexts:
    """Turn jobs into the arrays that the engine works on; raises FeatureError when a column that it needs is missing."""
    if "submitted_at" not in jobs:
        raise FeatureError("the jobs have no column submitted_at")
    subject = SUBJECTS[levels.subject]
    if isinstance(jobs, pd.DataFrame):
        jobs = encode_jobs(
            jobs, {*levels.fields, *subject.identity, "submitted_at", subject.outcome_time}
        )
    rows = len(jobs)
    hashes = {
        name: _hashes(jobs[name], name in subject.sizes)
        if name in jobs
        else np.full(rows, _MISSING)
        for name in _read(levels)
    }
    keys = np.empty((rows, len(levels.levels)), dtype=np.uint64)
    for place, level in enumerate(levels.levels):
        keys[:, place] = _combine(
            (hashes[name] for name in level.fields),
            rows,
            salt=_hash_text("|".join((level.name, str(place)))),
        )
    at = jobs["submitted_at"]
    known = (
        jobs[subject.outcome_time] if subject.outcome_time in jobs else np.full(rows, NOT_AVAILABLE)
    )
    # A job of no length ended when it was submitted: its outcome is news only after that instant.
    known = np.where(known == NOT_AVAILABLE, NOT_AVAILABLE, np.maximum(known, at + 1))
    return Contexts(keys, at, known, identities(jobs, subject.identity), _numbers(jobs, levels, at))


def _read(levels: Levels) -> set[str]:
    return {name for level in levels.levels for name in level.fields}


def identities(
    jobs: CodedJobs, identity: tuple[str, ...] = JOBS.identity
) -> npt.NDArray[np.uint32]:
    """A hash of what names each job (uint32[n]), 0 for all where the last of ``identity`` is not told."""
    ids = np.zeros(len(jobs), dtype=np.uint64)
    if identity[-1] in jobs:
        ids = _combine((_each(jobs[name]) for name in identity if name in jobs), len(jobs), salt=1)
    return (ids >> np.uint64(32)).astype(np.uint32)


def hour_of_week(at: npt.NDArray[np.int64]) -> npt.NDArray[np.int64]:
    """Hours since Monday began, UTC (int64[n], 0 to 167), of microseconds since 1970."""
    return np.asarray((at // 3_600_000_000 + 72) % 168)  # 1970 began on a Thursday


def _numbers(jobs: CodedJobs, levels: Levels, at: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    hours = hour_of_week(at)
    columns = [hours % 24, hours // 24]
    with np.errstate(divide="ignore", invalid="ignore"):
        for name in levels.numbers:
            columns.append(
                np.log2(np.maximum(jobs[name] if name in jobs else np.full(len(jobs), np.nan), 1.0))
            )
    return np.column_stack(columns).astype(np.float32)


_MISSING = np.uint64(0x9E3779B97F4A7C15)


@lru_cache(maxsize=1 << 16)
def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _hashes(values: Coded | npt.NDArray[np.float64], by_size: bool) -> Keys:
    """A 64-bit hash of each value; of texts only the distinct values are hashed."""
    if isinstance(values, Coded):
        table = np.array(
            [_hash_text(text) for text in values.values] + [int(_MISSING)], dtype=np.uint64
        )
        return np.asarray(table[values.codes])  # a missing value's code is -1
    numbers = values + 0.0  # which makes 0.0 of -0.0
    if by_size:
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.floor(2 * np.log2(np.where(numbers > 0, numbers, np.nan)))
    return np.where(np.isnan(numbers), _MISSING, _mix(numbers.view(np.uint64)))


def _each(values: Coded | npt.NDArray[Any]) -> Keys:
    """A 64-bit hash of each text, by which jobs are ordered that ended at one instant."""
    if isinstance(values, Coded):
        return np.asarray(_each(np.array([*values.values, np.nan], dtype=object))[values.codes])
    return np.asarray(pd.util.hash_array(values, categorize=False), dtype=np.uint64)


def _combine(hashes: Iterable[Keys], rows: int, salt: int) -> Keys:
    total = np.full(rows, np.uint64(salt))
    for values in hashes:
        _take_in(total, values)
    return _mix(total)


@compiled
def _take_in(total: Keys, values: Keys) -> None:
    """``total = _mix(total * prime ^ values)`` without room for what lies between."""
    for row in range(len(total)):
        total[row] = _mix((total[row] * np.uint64(0x100000001B3)) ^ values[row])


@compiled
def _mix(values: Keys) -> Keys:
    """The finaliser of splitmix64 (Steele, Lea, Flood 2014), of a number or of each of an array."""
    once = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    twice = (once ^ (once >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return twice ^ (twice >> np.uint64(31))
