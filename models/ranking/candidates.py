"""Candidates: where a job could run, or from where a copy could come, as columns, a row a candidate."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import Coded, CodedJobs, encode_jobs
from jobs.schema import JOB, QUERY_FIELDS, Field, conform
from models.histories.unique_contexts import group_rows

CANDIDATE_FIELDS = (
    Field("input_at", "text", "site or endpoint where its input lies"),
    Field("output_at", "text", "site or endpoint where its output is wanted"),
    Field("output_bytes", "number", "size of its output", "bytes"),
    Field("deadline", "number", "by when the job must be done, from now", "s"),
)
CANDIDATE_COLUMNS = tuple(field.name for field in CANDIDATE_FIELDS)
"""What a candidate says beside the fields of its job. The site is where both transfers begin or end."""
_TEXTS = frozenset(
    {*JOB.of_kind["text"], *(field.name for field in CANDIDATE_FIELDS if field.kind == "text")}
)


@dataclass(frozen=True)
class Candidates:
    """Candidates by ``columns``, fields of jobs and those of CANDIDATE_COLUMNS as far as told; ``job`` says whose each is, rows in any order."""

    job: Coded
    columns: CodedJobs

    def __len__(self) -> int:
        return len(self.columns)

    @staticmethod
    def of(frame: pd.DataFrame) -> Candidates:
        """Candidates from a row each with ``job_id``, fields of jobs and those of CANDIDATE_COLUMNS."""
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
        """A column; one that nobody told is missing in every row."""
        if name in self.columns:
            return self.columns[name]
        return Coded.missing(len(self)) if name in _TEXTS else np.full(len(self), np.nan)

    def take(self, rows: Array) -> Candidates:
        """Some of the candidates (indices)."""
        return Candidates(Coded(self.job.codes[rows], self.job.values), self.columns.take(rows))

    def distinct(self) -> tuple[Candidates, Array]:
        """The candidates of the first of all jobs that are alike in all but their name, those of a job together, numbered from 0; and
        for each job in order of appearance which of them it is like (int64[jobs])."""
        told = [
            column.codes if isinstance(column, Coded) else column
            for column in self.columns.columns.values()
        ]
        columns = [
            column.astype(np.int64).view(np.uint64)
            if column.dtype != np.float64
            else column.view(np.uint64)
            for column in told
        ]
        kinds = group_rows(columns, len(self)).context_of_row
        starts = np.flatnonzero(np.r_[True, np.diff(self.job.codes) != 0])
        raw, ends, seen = (
            kinds.tobytes(),
            [*(8 * starts[1:]).tolist(), 8 * len(self)],
            dict[bytes, int](),
        )
        like = np.array(
            [
                seen.setdefault(raw[start:end], len(seen))
                for start, end in zip([0, *ends[:-1]], ends, strict=True)
            ]
        )
        firsts = np.unique(like, return_index=True)[1]
        sizes = np.diff(np.r_[starts, len(self)])
        rows = index_ranges(starts[firsts], sizes[firsts])
        return Candidates(
            Coded(np.repeat(np.arange(len(firsts)), sizes[firsts]), self.job.values),
            self.columns.take(rows),
        ), like


def index_ranges(starts: Array, sizes: Array) -> Array:
    """The indices from each of ``starts`` on, as many as ``sizes`` says, one after the other (int64).

    >>> index_ranges(np.array([5, 0]), np.array([2, 3])).tolist()
    [5, 6, 0, 1, 2]
    """
    before = np.cumsum(sizes) - sizes
    return np.asarray(np.arange(sizes.sum()) + np.repeat(starts - before, sizes))


def join_texts(one: Coded, other: Coded, between: str = ">") -> Coded:
    """The text of both columns with ``between``, missing where either is.

    >>> join_texts(Coded(np.array([0, -1]), ["a"]), Coded(np.array([1, 0]), ["b", "c"]))
    Coded(codes=array([ 0, -1]), values=['a>c'])
    """
    width = max(len(other.values), 1)
    mixed = np.where((one.codes < 0) | (other.codes < 0), -1, one.codes * width + other.codes)
    kinds, codes = np.unique(mixed, return_inverse=True)
    missing = int((kinds < 0).sum())  # the first of them, if any
    texts = [
        between.join((one.values[kind // width], other.values[kind % width]))
        for kind in kinds[missing:]
    ]
    return Coded(codes - missing, texts)


def equal_texts(one: Coded, other: Coded) -> Array:
    """Where both columns hold the same text (bool[n]); what is missing is the same as nothing."""
    places = {text: place for place, text in enumerate(other.values)}
    table = np.array([places.get(text, -2) for text in one.values] + [-2])
    return np.asarray(table[one.codes] == other.codes)
