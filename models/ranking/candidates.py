"""Candidates: sites where a job could run, or replicas of its input, as columns of a row each."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags
from jobs.coded_jobs import Coded, CodedJobs, encode_jobs
from jobs.schema import JOB, QUERY_FIELDS, Field, conform
from models.histories.unique_contexts import group_rows

CANDIDATE_FIELDS = (
    Field("input_at", "text", "site or endpoint where its input lies", outcome=False),
    Field("output_at", "text", "site or endpoint where its output is wanted", outcome=False),
    Field("output_bytes", "number", "size of its output", "bytes", outcome=False),
    Field("deadline", "number", "by when the job must be done, from now", "s", outcome=False),
)
CANDIDATE_COLUMNS = tuple(field.name for field in CANDIDATE_FIELDS)
"""Fields of a candidate beside those of its job. Both transfers begin or end at the site."""
_TEXTS = frozenset(
    {
        *JOB.of_kind["text"],
        *JOB.of_kind["labels"],
        *(field.name for field in CANDIDATE_FIELDS if field.kind == "text"),
    }
)


@dataclass(frozen=True)
class Candidates:
    """Candidates in any order: ``columns`` are fields of jobs and candidates, ``job`` the name."""

    job: Coded
    columns: CodedJobs

    def __len__(self) -> int:
        return len(self.columns)

    @staticmethod
    def from_frame(frame: pd.DataFrame) -> Candidates:
        """Candidates from rows with ``job_id``, fields of jobs and those of CANDIDATE_COLUMNS."""
        groups, names = pd.factorize(frame["job_id"])
        jobs = conform(frame, JOB)[[name for name in QUERY_FIELDS if name in frame]]
        for field in CANDIDATE_FIELDS:
            if field.name in frame:
                values = frame[field.name]
                jobs[field.name] = (
                    pd.to_numeric(values, errors="coerce").astype(float)
                    if field.kind == "number"
                    else values
                )
        return Candidates(
            Coded(groups.astype(np.int64), [str(name) for name in names]),
            encode_jobs(jobs, jobs.columns.drop("job_id")),
        )

    def __getitem__(self, name: str) -> Any:
        """A column; one that is absent has missing values in every row."""
        if name in self.columns:
            return self.columns[name]
        return Coded.missing(len(self)) if name in _TEXTS else np.full(len(self), np.nan)

    def take(self, rows: Array) -> Candidates:
        """Some of the candidates (indices)."""
        return Candidates(Coded(self.job.codes[rows], self.job.values), self.columns.take(rows))

    def unique_jobs(self) -> tuple[Candidates, Array]:
        """The candidates of the first of all jobs that differ only in their name.

        Rows of one job must be together.

        Returns:
            The candidates, with jobs numbered from 0, and for each job in order of appearance the
            number of the one that it equals (int64[jobs]).
        """
        columns = []
        for column in self.columns.columns.values():
            values = column.codes if isinstance(column, Coded) else column
            values = values if values.dtype == np.float64 else values.astype(np.int64)
            columns.append(values.view(np.uint64))
        context_of_row = group_rows(columns, len(self)).context_of_row
        begins = np.flatnonzero(np.r_[True, np.diff(self.job.codes) != 0])
        sizes = np.diff(np.r_[begins, len(self)])
        number_of: dict[bytes, int] = {}
        unique_of_job = np.array(
            [
                number_of.setdefault(context_of_row[begin : begin + size].tobytes(), len(number_of))
                for begin, size in zip(begins.tolist(), sizes.tolist(), strict=True)
            ]
        )
        firsts = np.unique(unique_of_job, return_index=True)[1]
        rows = index_ranges(begins[firsts], sizes[firsts])
        numbers = np.repeat(np.arange(len(firsts)), sizes[firsts])
        unique = Candidates(Coded(numbers, self.job.values), self.columns.take(rows))
        return unique, unique_of_job


def index_ranges(starts: Array, sizes: Array) -> Array:
    """The indices from each of ``starts`` on, as many as ``sizes`` says, concatenated (int64).

    >>> index_ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(sizes.sum()) + np.repeat(starts - before, sizes))


def join_texts(left: Coded, right: Coded, separator: str = ">") -> Coded:
    """The texts of both columns joined by ``separator``, missing where either is.

    Args:
        left: The texts in front.
        right: The texts behind.
        separator: The text between them.

    >>> join_texts(Coded(np.array([0, -1]), ["a"]), Coded(np.array([1, 0]), ["b", "c"]))
    Coded(codes=array([ 0, -1]), values=['a>c'])
    """
    width = max(len(right.values), 1)
    mixed = np.where((left.codes < 0) | (right.codes < 0), -1, left.codes * width + right.codes)
    unique, codes = np.unique(mixed, return_inverse=True)
    missing = int((unique < 0).sum())  # 1 where there is a missing one: it is the first
    texts = [
        separator.join((left.values[code // width], right.values[code % width]))
        for code in unique[missing:]
    ]
    return Coded(codes - missing, texts)


def equal_texts(left: Coded, right: Coded) -> Flags:
    """Where both columns hold the same text (bool[n]); missing values equal nothing."""
    code_of = {text: code for code, text in enumerate(right.values)}
    table = np.array([code_of.get(text, -2) for text in left.values] + [-2])
    return np.asarray(table[left.codes] == right.codes)
