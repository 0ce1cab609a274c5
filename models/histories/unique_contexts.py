"""UniqueContexts: jobs of one call that the engine must answer alike, so that it answers each kind once.

Ten thousand jobs that a broker holds are a few hundred kinds: users submit the same thing many times.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
import numpy.typing as npt

from infra.aliases import Array
from infra.compiled import compiled
from jobs.coded_jobs import Coded, CodedJobs
from models.histories.features import Levels, hour_of_week

WORTH_A_PART = 140
"""UniqueContexts that take longer to answer, some milliseconds, than a thread takes to be woken."""
MOST_PARTS = 4


@dataclass(frozen=True)
class UniqueContexts:
    """Rows grouped by likeness: ``first_rows`` (int64[kinds]) is the first row of each kind, ``context_of_row`` (int64[n]) the kind of each row."""

    first_rows: npt.NDArray[np.int64]
    context_of_row: npt.NDArray[np.int64]


def find_unique_contexts(
    jobs: CodedJobs, names: Iterable[str], levels: Levels, at: Array
) -> UniqueContexts:
    """Group jobs that the engine must answer alike: those with the same values of all that it reads.

    ``at`` (int64[n]) is when each sees the history; ``names`` are the fields that are read beside the levels'; the hour of
    submission is read too.
    """
    columns = [at.view(np.uint64), hour_of_week(jobs["submitted_at"]).astype(np.uint64)]
    for name in sorted(levels.fields.union(names)):
        if name in jobs:
            column = jobs[name]
            columns.append(
                column.codes.astype(np.uint64)
                if isinstance(column, Coded)
                else column.view(np.uint64)
            )
    return group_rows(columns, len(jobs))


def group_rows(columns: Sequence[Array], rows: int) -> UniqueContexts:
    """Group rows by the values in all ``columns`` (uint64[rows] each), in order of appearance.

    >>> group_rows([np.array([7, 7, 5], np.uint64)], 3)
    UniqueContexts(first_rows=array([0, 2]), context_of_row=array([0, 0, 1]))
    """
    table = np.empty((rows, len(columns)), dtype=np.uint64)
    for place, values in enumerate(columns):
        table[:, place] = values
    first, which = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
    count = _tell_apart(table, _SECRET, first, which)
    return UniqueContexts(first[:count], which)


def map_in_parallel(work: Callable[[Array], dict[str, Array]], rows: Array) -> dict[str, Array]:
    """What ``work`` makes of ``rows``, arrays of as many values by name: in parts side by side where there are many.

    Compiled code and CatBoost run without the interpreter's lock, so two cores take little more than half of the time.
    """
    parts = max(min(_cores(), len(rows) // WORTH_A_PART), 1)
    if parts == 1:
        return work(rows)
    done = list(_helpers().map(work, np.array_split(rows, parts)))
    return {name: np.concatenate([part[name] for part in done]) for name in done[0]}


def _cores() -> int:
    return min(
        len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1,
        MOST_PARTS,
    )


@lru_cache(maxsize=1)
def _helpers() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(MOST_PARTS, "part")


_SECRET = np.uint64(secrets.randbits(64))
"""Without it a caller could choose values that all meet in one place of the table, and keep the process busy for minutes."""


@compiled
def _tell_apart(table: Array, secret: np.uint64, first: Array, which: Array) -> int:
    rows, columns = table.shape
    size = 16
    while size < 2 * rows:
        size *= 2
    slots = np.full(size, -1, np.int64)
    count = 0
    for row in range(rows):
        mixed = secret
        for c in range(columns):
            mixed = (mixed ^ table[row, c]) * np.uint64(0xBF58476D1CE4E5B9)
            mixed = mixed ^ (mixed >> np.uint64(29))
        place = np.int64(mixed & np.uint64(size - 1))
        while slots[place] >= 0:
            other, same = first[slots[place]], True
            for c in range(columns):
                same = same and table[other, c] == table[row, c]
            if same:
                break
            place = (place + 1) & (size - 1)
        if slots[place] < 0:
            slots[place] = count
            first[count] = row
            count += 1
        which[row] = slots[place]
    return count
