"""Features: the keys of a job's histories, and the numbers that the refiner reads.

Which levels a log gets follows from its subject's rule and the fields that its records report.
"Job" stands for a record of any subject. Keys are 64-bit hashes of the values themselves, the same
in every process, so a live service needs no table of categories.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from datetime import datetime
from functools import lru_cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Array, Floats, Integers
from infra.compiled import compiled
from infra.errors import InputError
from jobs.coded_jobs import NOT_AVAILABLE as NOT_AVAILABLE
from jobs.coded_jobs import Coded, CodedJobs, encode_column, encode_jobs, in_microseconds
from models.histories.hash_table import mix
from models.histories.labels import LABELS, add_label_columns, is_label, with_label_columns
from models.quantities.subjects import JOBS, SUBJECTS, Subject

Keys = npt.NDArray[np.uint64]

MAX_DISTINCT = 0.5
"""A field with more distinct values than this share of the jobs names jobs, not kinds of job."""
CATEGORY_BITS = 24
"""Bits of the hash that stands for a text among the refiner's inputs: what a float32 can hold."""
_SAMPLE = 50_000
_MIN_OCTAVES, _QUANTILE_BINS = 3, 12
"""A numeric label of so wide a range has bins of half an octave, another so many quantiles."""
_MISSING = np.uint64(0x9E3779B97F4A7C15)


class FeatureError(InputError):
    """Jobs or levels cannot be used; the message is one sentence."""


@dataclass(frozen=True)
class Level:
    """One kind of history: of jobs with equal ``fields``; a ``relative`` one holds value/limit."""

    fields: tuple[str, ...]
    relative: bool = False

    @property
    def name(self) -> str:
        """A short name for cards and tables, such as ``user+requested_cores``."""
        return ("+".join(self.fields) or "all") + (" over limit" if self.relative else "")


@dataclass(frozen=True)
class Levels:
    """The kinds of history of a log, fine to coarse.

    Attributes:
        levels: The levels.
        owner: The position of the level that says whose a job is.
        numbers: Numeric fields that the refiner reads.
        subject: The kind of record.
        categories: Fields of text that the refiner reads.
        cuts: The bounds of the bins of numeric labels; keys hold the bin.
    """

    levels: tuple[Level, ...]
    owner: int
    numbers: tuple[str, ...] = ()
    subject: str = JOBS.name
    categories: tuple[str, ...] = ()
    cuts: Mapping[str, tuple[float, ...]] = field(default_factory=dict)

    @property
    def columns(self) -> frozenset[str]:
        """The fields and single labels of jobs that are read."""
        keys = (name for level in self.levels for name in level.fields)
        return frozenset({*self.numbers, *self.categories, *keys})

    @property
    def fields(self) -> frozenset[str]:
        """The fields of jobs that are read, LABELS for any label."""
        return frozenset(LABELS if is_label(name) else name for name in self.columns)

    @property
    def inputs(self) -> tuple[str, ...]:
        """The fields and single labels that the refiner reads, in the order of its inputs."""
        return (*self.numbers, *self.categories)

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)

    @staticmethod
    def from_json(text: dict[str, Any]) -> Levels:
        """Invert ``to_json``; raises FeatureError when an entry is missing."""
        try:
            levels = tuple(
                Level(tuple(level["fields"]), bool(level["relative"])) for level in text["levels"]
            )
            subject = SUBJECTS[text.get("subject", JOBS.name)]
            return Levels(
                levels,
                int(text["owner"]),
                tuple(text["numbers"]),
                subject.name,
                tuple(text.get("categories", ())),
                {name: tuple(cuts) for name, cuts in text.get("cuts", {}).items()},
            )
        except (KeyError, TypeError, ValueError) as error:
            raise FeatureError(f"the levels cannot be read: {error!r}") from None


@dataclass(frozen=True)
class Contexts:
    """What the engine knows of n jobs at prediction.

    Attributes:
        keys: uint64[n, levels], 0 where the job does not report a field of the level.
        at: When each job is predicted, at its submission or later (int64[n], microseconds).
        available_at: When its outcome became available (int64[n], NOT_AVAILABLE for not yet).
        ids: A hash of each job's identity (uint32[n]).
        numbers: float32[n, features], NaN for unknown; the last are ``categories`` of ``Levels``,
            as numbers that stand for texts.
        sources: A hash of each job's source (uint64[n]), 0 for unreported.
    """

    keys: Keys
    at: Integers
    available_at: Integers
    ids: npt.NDArray[np.uint32]
    numbers: npt.NDArray[np.float32]
    sources: Keys

    def predicted_at(self, at: datetime) -> Contexts:
        """Return the same jobs predicted at another time, but never before their submission."""
        return replace(self, at=np.maximum(self.at, in_microseconds(at)))

    def take(self, rows: Array) -> Contexts:
        """Return the contexts of some rows (indices or a mask)."""
        return Contexts(*(getattr(self, item.name)[rows] for item in dataclasses.fields(self)))

    def __len__(self) -> int:
        return len(self.at)


def optional_fields(jobs: pd.DataFrame, subject: Subject = JOBS) -> tuple[str, ...]:
    """Return the optional fields and labels of jobs that tell kinds of job apart, by name."""
    sample = with_label_columns(_sample(jobs), subject)
    names = (*subject.optional, *sorted(filter(is_label, sample.columns)))
    return tuple(name for name in names if name in sample and _tells_kinds(sample[name], subject))


def choose_levels(
    jobs: pd.DataFrame, subject: Subject = JOBS, optional: Sequence[str] = ()
) -> Levels:
    """Choose the levels of a log from the fields that its jobs report, by their subject's rule.

    A level that splits the jobs exactly as another is left out: a missing or constant field costs
    nothing.

    Args:
        jobs: The jobs.
        subject: Their kind.
        optional: The optional fields and labels that are used.
    """
    sample = _sample(jobs)
    if optional:
        sample = with_label_columns(sample, subject)
        optional = [name for name in optional if _is_reported(sample, name)]
        subject = subject.with_optional(optional)
    texts = tuple(name for name in optional if isinstance(encode_column(sample[name]), Coded))
    cuts = {name: _cuts(sample[name]) for name in optional if is_label(name) and name not in texts}
    hashes = {
        name: _hash_values(encode_column(sample[name]), name in subject.sizes, cuts.get(name))
        for name in subject.keys
        if name in sample and _tells_kinds(sample[name], subject)
    }
    candidates = {
        candidate: tuple(name for name in ("source", *candidate) if name in hashes)
        if candidate
        else ()
        for candidate in subject.candidates
    }
    by_split: dict[bytes, tuple[str, ...]] = {}
    groups: dict[tuple[str, ...], int] = {}
    for fields in candidates.values():
        codes, distinct = pd.factorize(_combine((hashes[name] for name in fields), len(sample), 0))
        split = hashlib.blake2b(codes.astype(np.int64).tobytes(), digest_size=16).digest()
        # Of two equal splits the later, coarser candidate names the level.
        by_split[split], groups[fields] = fields, len(distinct) if fields else 0
    # Ties keep the order of the candidates, so that processes agree.
    names = sorted(dict.fromkeys(by_split.values()), key=lambda fields: -groups[fields])
    owner = next(
        (
            names.index(fields)
            for name in subject.owners
            for fields in names
            if fields in ((name,), ("source", name))
        ),
        len(names) - 1,
    )
    measured = any(_is_reported(sample, name) for name in subject.measured_against)
    rated = (candidates[candidate] for candidate in subject.rated)
    relative = dict.fromkeys(
        Level(fields, relative=True)
        for fields in (names[owner], (), *rated)
        if measured and fields in names
    )
    numbers = (
        *(name for name in subject.numbers if _is_reported(sample, name)),
        *(name for name in optional if name not in texts),
    )
    return Levels((*map(Level, names), *relative), owner, numbers, subject.name, texts, cuts)


def _sample(jobs: pd.DataFrame) -> pd.DataFrame:
    return jobs if len(jobs) <= _SAMPLE else jobs.iloc[:: len(jobs) // _SAMPLE + 1]


def _cuts(values: pd.Series[Any]) -> tuple[float, ...]:
    """Return the bounds of bins of a number: half octaves of a wide range, else quantiles."""
    numbers = values.dropna().to_numpy(np.float64)
    low, high = numbers.min(), numbers.max()
    if low > 0 and high >= low * 2.0**_MIN_OCTAVES:
        steps = np.arange(np.floor(2 * np.log2(low)) + 1, np.ceil(2 * np.log2(high)))
        return tuple((2.0 ** (steps / 2)).tolist())
    bounds = np.quantile(numbers, np.arange(1, _QUANTILE_BINS) / _QUANTILE_BINS, method="higher")
    return tuple(np.unique(bounds[bounds > low]).tolist())


def _is_reported(sample: pd.DataFrame, name: str) -> bool:
    return name in sample and bool(sample[name].notna().any())


def _tells_kinds(values: pd.Series[Any], subject: Subject) -> bool:
    """Whether a field has several values, counting missing as one, but does not name each job."""
    reported, distinct = int(values.notna().sum()), values.nunique()
    varies = distinct > 1 or (distinct == 1 and reported < len(values))
    binned = values.name in subject.sizes or (
        is_label(str(values.name)) and pd.api.types.is_numeric_dtype(values)
    )
    return varies and (binned or distinct <= max(MAX_DISTINCT * reported, 20))


def encode(jobs: pd.DataFrame | CodedJobs, levels: Levels, match_missing: bool = False) -> Contexts:
    """Turn jobs into arrays.

    Args:
        jobs: The jobs.
        levels: The levels of their histories.
        match_missing: Whether jobs that do not report a field count as equal in it. If not, such a
            job has no history at the field's levels.

    Raises:
        FeatureError: The jobs have no submission times.
    """
    if "submitted_at" not in jobs:
        raise FeatureError("the jobs have no column submitted_at")
    subject = SUBJECTS[levels.subject]
    if isinstance(jobs, pd.DataFrame):
        columns = {*levels.fields, *levels.columns, *subject.identity, subject.outcome_time}
        jobs = encode_jobs(jobs, columns | {"source", "submitted_at"})
    jobs = add_label_columns(jobs, levels.columns, levels.numbers)
    rows = len(jobs)
    hashes = {
        name: _hash_values(jobs[name], name in subject.sizes, levels.cuts.get(name))
        if name in jobs
        else np.full(rows, _MISSING)
        for name in {"source", *(name for level in levels.levels for name in level.fields)}
    }
    keys = np.empty((rows, len(levels.levels)), dtype=np.uint64)
    for position, level in enumerate(levels.levels):
        salt = _hash_text("|".join((level.name, str(position))))
        keys[:, position] = _combine((hashes[name] for name in level.fields), rows, salt)
        for name in level.fields if not match_missing else ():
            keys[hashes[name] == _MISSING, position] = 0
    at, available_at = jobs["submitted_at"], np.full(rows, NOT_AVAILABLE)
    if subject.outcome_time in jobs:
        ended_at = jobs[subject.outcome_time]
        # The outcome of a job of no length is available only after the instant of submission.
        available_at = np.where(
            ended_at == NOT_AVAILABLE, NOT_AVAILABLE, np.maximum(ended_at, at + 1)
        )
    return Contexts(
        keys,
        at,
        available_at,
        identities(jobs, subject.identity),
        _numbers(jobs, levels, at),
        np.where(hashes["source"] == _MISSING, np.uint64(0), hashes["source"]),
    )


def identities(
    jobs: CodedJobs, identity: tuple[str, ...] = JOBS.identity
) -> npt.NDArray[np.uint32]:
    """Hash what names each job (uint32[n]); 0 for all where the last of ``identity`` is missing."""
    ids = np.zeros(len(jobs), dtype=np.uint64)
    if identity[-1] in jobs:
        names = (_hash_names(jobs[name]) for name in identity if name in jobs)
        ids = _combine(names, len(jobs), salt=1)
    return (ids >> np.uint64(32)).astype(np.uint32)


def hour_of_week(at: Integers) -> Integers:
    """Hours since Monday began, UTC (int64[n], 0 to 167), of microseconds since 1970."""
    return np.asarray((at // 3_600_000_000 + 72) % 168)  # 1970 began on a Thursday


def _numbers(jobs: CodedJobs, levels: Levels, at: Integers) -> npt.NDArray[np.float32]:
    hours = hour_of_week(at)
    columns = [hours % 24, hours // 24]
    plain = SUBJECTS[levels.subject].optional
    for name in levels.numbers:
        values = jobs[name] if name in jobs else np.full(len(jobs), np.nan)
        is_plain = name in plain or is_label(name)
        columns.append(values if is_plain else np.log2(np.maximum(values, 1.0)))
    for name in levels.categories:
        texts = _hash_values(jobs[name]) if name in jobs else np.full(len(jobs), _MISSING)
        columns.append((texts >> np.uint64(64 - CATEGORY_BITS)).astype(np.int64))
    return np.column_stack(columns).astype(np.float32)


@lru_cache(maxsize=1 << 16)
def _hash_text(text: str) -> int:
    return int.from_bytes(hashlib.blake2b(text.encode(), digest_size=8).digest(), "little")


def _hash_values(
    values: Coded | Floats, by_size: bool = False, cuts: tuple[float, ...] | None = None
) -> Keys:
    """Hash each value (uint64[n]); texts are hashed once.

    Args:
        values: The values.
        by_size: Whether the size class (half an octave) of a number is hashed.
        cuts: The bounds of bins, where the bin of a number is hashed.
    """
    if isinstance(values, Coded):
        table = np.array(
            [_hash_text(text) for text in values.values] + [int(_MISSING)], dtype=np.uint64
        )
        return np.asarray(table[values.codes])  # the code of a missing value is -1
    numbers = values + 0.0  # turns -0.0 into 0.0
    if by_size:
        with np.errstate(divide="ignore", invalid="ignore"):
            numbers = np.floor(2 * np.log2(np.where(numbers > 0, numbers, np.nan)))
    elif cuts is not None:
        bins = np.searchsorted(np.array(cuts), numbers, side="right")
        numbers = np.where(np.isnan(numbers), np.nan, bins)
    return np.where(np.isnan(numbers), _MISSING, mix(numbers.view(np.uint64)))


def _hash_names(values: Coded | Array) -> Keys:
    """Hash each text (uint64[n]); orders the jobs that ended at one instant."""
    if isinstance(values, Coded):
        table = _hash_names(np.array([*values.values, np.nan], dtype=object))
        return np.asarray(table[values.codes])
    return np.asarray(pd.util.hash_array(values, categorize=False), dtype=np.uint64)


def _combine(hashes: Iterable[Keys], rows: int, salt: int) -> Keys:
    combined = np.full(rows, np.uint64(salt))
    for values in hashes:
        _combine_into(combined, values)
    return mix(combined)


@compiled
def _combine_into(combined: Keys, values: Keys) -> None:
    for row in range(len(combined)):
        combined[row] = mix((combined[row] * np.uint64(0x100000001B3)) ^ values[row])
