"""Jobs as columns of codes and numbers, as the engine reads them, from a DataFrame or Arrow table.

A broker's ten thousand jobs name few users and sites; codes let each name be looked up once.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.schema import COLUMNS, OF_KIND

NOT_AVAILABLE = np.iinfo(np.int64).max
"""A time in microseconds that is unknown or has not come."""
_NO_TIME = np.iinfo(np.int64).min
"""A missing time in NumPy and Arrow."""


@dataclass(frozen=True)
class Coded:
    """A column of texts: ``codes`` (int[n], -1 for missing) index ``values``."""

    codes: Array
    values: Sequence[str]

    @staticmethod
    def missing(rows: int) -> Coded:
        """A column without any value."""
        return Coded(np.full(rows, -1), [])


@dataclass(frozen=True)
class CodedJobs:
    """n jobs by schema field.

    Texts are ``Coded``, numbers float64[n] with NaN, times int64[n] in microseconds since 1970 with
    NOT_AVAILABLE; ``job_id`` is an object[n] of text, since each job has its own.
    """

    columns: Mapping[str, Coded | Array]
    rows: int

    def __len__(self) -> int:
        return self.rows

    def __contains__(self, name: object) -> bool:
        return name in self.columns

    def __getitem__(self, name: str) -> Any:
        return self.columns[name]

    def take(self, rows: Array) -> CodedJobs:
        """The jobs of some rows (indices)."""
        columns: dict[str, Coded | Array] = {
            name: Coded(column.codes[rows], column.values)
            if isinstance(column, Coded)
            else column[rows]
            for name, column in self.columns.items()
        }
        return CodedJobs(columns, len(rows))


def in_microseconds(moment: datetime) -> int:
    """A moment in microseconds since 1970; one without a time zone is in UTC.

    >>> in_microseconds(pd.Timestamp("1970-01-01T00:00:01.5", tz="UTC"))
    1500000
    """
    stamp = pd.Timestamp(moment)
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
    # Timestamp.value is in nanoseconds, whatever the unit of the Timestamp.
    return int((stamp - pd.Timestamp(0, tz="UTC")) // pd.Timedelta(microseconds=1))


def encode_jobs(jobs: pd.DataFrame, names: Iterable[str]) -> CodedJobs:
    """The columns ``names`` of ``jobs`` that it has.

    >>> encode_jobs(pd.DataFrame({"user": ["ada", None, "ada"]}), ["user", "site"])["user"]
    Coded(codes=array([ 0, -1,  0]), values=['ada'])
    """
    return CodedJobs({name: encode_column(jobs[name]) for name in names if name in jobs}, len(jobs))


def encode_column(values: pd.Series[Any]) -> Coded | Array:
    """One column, by the kind of the job field of its name, else by its type."""
    is_foreign = values.name not in COLUMNS
    if values.name == "job_id":
        return values.to_numpy(dtype=object)
    if values.name in OF_KIND["number"] or (is_foreign and pd.api.types.is_numeric_dtype(values)):
        return values.to_numpy(dtype=np.float64, na_value=np.nan)
    if values.name in OF_KIND["time"] or (
        is_foreign and pd.api.types.is_datetime64_any_dtype(values)
    ):
        times = (
            values
            if isinstance(values.dtype, pd.DatetimeTZDtype)
            else pd.to_datetime(values, utc=True)
        )
        micros = times.dt.as_unit("us").to_numpy(dtype="datetime64[us]").view(np.int64)
        return np.where(micros == _NO_TIME, NOT_AVAILABLE, micros)
    codes, distinct = pd.factorize(values)
    return Coded(codes, [str(value) for value in distinct])
