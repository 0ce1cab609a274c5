"""Unique contexts: queries of one call with equal inputs, which the engine answers only once.

Ten thousand waiting jobs have a few hundred unique contexts: users submit the same job many times.
"""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import cache

import numpy as np

from infra.aliases import Array, Integers
from infra.compiled import compiled
from jobs.coded_jobs import Coded, CodedJobs
from models.histories.features import Levels, hour_of_week
from models.histories.hash_table import find_position, mix
from models.histories.labels import LABELS

MIN_BATCH = 140
"""Contexts whose answers take longer, some milliseconds, than it takes to wake a thread."""
MAX_THREADS = 4


@dataclass(frozen=True)
class UniqueContexts:
    """Rows grouped by equality.

    Attributes:
        first_rows: The first row of each context (int64[contexts]).
        context_of_row: The context of each row (int64[n]).
    """

    first_rows: Integers
    context_of_row: Integers


def find_unique_contexts(
    jobs: CodedJobs, names: Iterable[str], levels: Levels, at: Array
) -> UniqueContexts:
    """Group jobs whose answers are equal by construction: all that the engine reads is equal.

    Args:
        jobs: The queries; the hour of submission is among what is read.
        names: Fields that are read beside those of the levels. Labels must have their own columns.
        levels: The levels of the histories.
        at: Time of each prediction, microseconds (int64[n]).
    """
    columns = [at.view(np.uint64), hour_of_week(jobs["submitted_at"]).astype(np.uint64)]
    for name in sorted(levels.columns.union(names, ("source",)) - {LABELS}):
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
    table = np.empty((len(columns), rows), dtype=np.uint64)
    for column, values in enumerate(columns):
        table[column] = values
    first_rows, context_of_row = np.empty(rows, dtype=np.int64), np.empty(rows, dtype=np.int64)
    secret = _SECRET
    while (count := _group_rows(table, secret, first_rows, context_of_row)) < 0:
        secret = np.uint64(secrets.randbits(64))  # two different rows had one key
    return UniqueContexts(first_rows[:count], context_of_row)


def map_in_parallel(work: Callable[[Array], dict[str, Array]], rows: Array) -> dict[str, Array]:
    """Apply ``work``, which returns arrays of as many values by name, to ``rows`` in threads.

    Compiled code and CatBoost release the interpreter's lock, so two cores take little more than
    half of the time.
    """
    batches = max(min(_cores(), len(rows) // MIN_BATCH), 1)
    if batches == 1:
        return work(rows)
    results = list(_pool("predict").map(work, np.array_split(rows, batches)))
    return {name: np.concatenate([result[name] for result in results]) for name in results[0]}


def run_together(*works: Callable[[], None]) -> None:
    """Run ``works`` at the same time, each in a thread; raises what the first of them raises."""
    futures = [_pool("stages").submit(work) for work in works[1:]]
    try:
        works[0]()
    finally:
        wait(futures)
    for future in futures:
        future.result()


def _cores() -> int:
    has_affinity = hasattr(os, "sched_getaffinity")
    cores = len(os.sched_getaffinity(0)) if has_affinity else os.cpu_count() or 1
    return min(cores, MAX_THREADS)


@cache
def _pool(name: str) -> ThreadPoolExecutor:
    # Stages wait for their parallel parts: in one pool they would wait for each other.
    return ThreadPoolExecutor(MAX_THREADS, name)


_SECRET = np.uint64(secrets.randbits(64))
"""Keeps callers from choosing values that all collide, which would take minutes to group."""


@compiled
def _group_rows(table: Array, secret: np.uint64, first_rows: Array, context_of_row: Array) -> int:
    """Group rows by a key of all their values; returns -1 where different rows have one key."""
    columns, rows = table.shape
    size = 16
    while size < 2 * rows:
        size *= 2
    keys, row_key = np.full(rows, secret, np.uint64), np.zeros(rows, np.uint64)
    table_row, count = np.full(size, -1, np.int32), 0
    for c in range(columns):
        for row in range(rows):
            keys[row] = mix(keys[row] ^ table[c, row])
    for row in range(rows):
        position = find_position(row_key, table_row, keys[row])
        if table_row[position] < 0:
            row_key[count], table_row[position], first_rows[count] = keys[row], count, row
            count += 1
        context_of_row[row] = table_row[position]
    for c in range(columns):
        for row in range(rows):
            if table[c, row] != table[c, first_rows[context_of_row[row]]]:
                return -1
    return count
