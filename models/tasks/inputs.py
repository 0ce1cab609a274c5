"""Inputs of the task models: predicted walltimes of its jobs, recent durations, progress.

Every query has an instant and uses only what had been submitted and had ended by then, plus the
task's description, which is complete from its definition on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from infra.compiled import compiled
from models.engine.log_rows import LogRows
from models.engine.prequential import (
    TargetReplay,
)
from models.engine.target_predictor import TargetPredictor, batches
from models.histories.features import NOT_AVAILABLE
from models.quantities.targets import Grid
from models.tasks.sets import Tasks, microseconds
from models.tasks.survival import STEPS, Intervals

WALLTIME_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
LATEST_JOBS, LATEST_TASKS = 3000, 30
LONG = 12 * 3600.0
FACTS_OF_TASK = ("lasted", "open", "jobs", "age")
NAMES = (
    "jobs", "sites", "progress", "elapsed", "by_rate",
    *(f"{kind}_{level:g}" for kind in ("apart", "together") for level in WALLTIME_LEVELS),
    *(f"{whose}_{step:.0f}" for whose in ("tasks", "jobs", "jobs_there") for step in STEPS),
    *(f"{fact}_{age}" for age in ("last", "last_but_one") for fact in FACTS_OF_TASK),
    "running", "running_long", "running_there", "running_long_there",
)  # fmt: skip
"""The inputs of the models of tasks, in order; times in seconds."""


@dataclass(frozen=True)
class Queries:
    """Queries about tasks.

    ``task`` int64[n]; ``at`` float64[n], s since 1970; ``progress`` float64[n], share ended.
    """

    task: Array
    at: Array
    progress: Array

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: Array) -> Queries:
        """Some of the queries."""
        return Queries(self.task[rows], self.at[rows], self.progress[rows])


@dataclass(frozen=True)
class OpenJobs:
    """The open jobs of queries: ``query`` and ``job`` int64[m], ``spent`` float64[m], s run."""

    query: Array
    job: Array
    spent: Array


def open_jobs(tasks: Tasks, queries: Queries) -> OpenJobs:
    """The jobs of each query's task that have not ended; at the definition all of them."""
    sizes = tasks.sizes[queries.task]
    query = np.repeat(np.arange(len(queries)), sizes)
    job = (
        np.arange(len(query))
        - np.repeat(np.cumsum(sizes) - sizes, sizes)
        + tasks.first[queries.task][query]
    )
    at = queries.at[query]
    is_open = tasks.ended[job] > at
    query, job, at = query[is_open], job[is_open], at[is_open]
    return OpenJobs(query, job, np.maximum(at - tasks.started[job], 0.0))


WalltimePredictor = Callable[[Array, Array], tuple[Array, Array]]
"""From jobs (int64[m]) and instants (float64[m], s) to distinct walltime masses (float[d, bins])
and the row of each job among them (int64[m])."""


def prequential_predictor(predictor: TargetPredictor, log: LogRows) -> WalltimePredictor:
    """A ``WalltimePredictor`` by a prequential replay of ``log``; it can be called once.

    Args:
        predictor: Of walltimes, without histories.
        log: The jobs.
    """

    def predict(job: Array, at: Array) -> tuple[Array, Array]:
        keys = pd.DataFrame(log.contexts.keys[job]).assign(at=at)
        query_of_job = keys.groupby(list(keys.columns), sort=False).ngroup().to_numpy()
        first = np.unique(query_of_job, return_index=True)[1]
        order = np.argsort(at[first], kind="stable")
        queries = replace(
            log.contexts.take(job[first[order]]),
            at=microseconds(at[first[order]]),
            available_at=np.full(len(order), NOT_AVAILABLE),
        )
        replay = TargetReplay(predictor, log.with_queries(queries))
        rows = len(log) + np.arange(len(order))
        mass = np.concatenate([replay.masses(batch)[0].mass for batch in batches(rows)])
        return mass, np.argsort(order, kind="stable")[query_of_job]

    return predict


@compiled
def _finished(
    reached: Array,
    distribution: Array,
    query: Array,
    spent: Array,
    edges: Array,
    scale: Array,
    apart: Array,
    together: Array,
) -> None:
    """Probability that all jobs of a query are done by ``edges`` s from now.

    ``apart`` for independent jobs, ``together`` for fully correlated ones; both start at 1.
    """
    lowest, steps = scale
    bins = reached.shape[1]
    for row in range(len(distribution)):
        curve = reached[distribution[row]]
        before = 0.0
        if spent[row] > 0:
            position = min(steps * np.log2(max(spent[row] / lowest, 1.0)), bins - 1e-6)
            low = int(position)
            start = curve[low - 1] if low > 0 else 0.0
            before = start + (curve[low] - start) * (position - low)
        target = query[row]
        for k in range(len(edges)):
            if together[target, k] == 0.0:
                continue  # impossible for one job, so for all
            position = min(steps * np.log2(max((spent[row] + edges[k]) / lowest, 1.0)), bins - 1e-6)
            low = int(position)
            start = curve[low - 1] if low > 0 else 0.0
            share = start + (curve[low] - start) * (position - low)
            # A job that outlived its whole distribution may end at any moment.
            share = (
                min(max((share - before) / (1.0 - before), 0.0), 1.0)
                if before < 1.0 - 1e-9
                else 1.0
            )
            apart[target, k] *= share
            together[target, k] = min(together[target, k], share)
            if share > 1.0 - 1e-12:
                break  # certain from here on


def walltime_ends(
    jobs: OpenJobs, count: int, predict: WalltimePredictor, at: Array, grid: Grid
) -> Array:
    """Time until all open jobs of each query are done, by their predicted walltimes.

    First for independent jobs, then for fully correlated ones. The truth lies between and is
    learned; waits and later submissions are not included.

    Args:
        jobs: The open jobs.
        count: Number of queries.
        predict: Predictor of walltimes.
        at: Instants of the queries, s since 1970.
        grid: The grid of walltimes.

    Returns:
        float64[count, 2 · WALLTIME_LEVELS], s from the query's instant.
    """
    mass, distribution = predict(jobs.job, at[jobs.query])
    reached = np.cumsum(mass, axis=1, dtype=np.float64)
    reached /= reached[:, -1:]
    edges = grid.edges[1:]
    apart, together = np.ones((count, grid.bins)), np.ones((count, grid.bins))
    _finished(
        reached,
        distribution,
        jobs.query,
        jobs.spent,
        edges,
        np.array([grid.lowest, grid.steps]),
        apart,
        together,
    )
    return np.column_stack(
        [
            edges[np.minimum((share < level).sum(axis=1), grid.bins - 1)]
            for share in (apart, together)
            for level in WALLTIME_LEVELS
        ]
    )


def inputs(
    tasks: Tasks,
    queries: Queries,
    predict: WalltimePredictor,
    grid: Grid,
    progress: Progress | None = None,
) -> Array:
    """Compute the inputs of the task models for each query.

    Args:
        tasks: The tasks.
        queries: The queries.
        predict: Predictor of walltimes.
        grid: The grid of walltimes.
        progress: Called as inputs are computed.

    Returns:
        float32[n, NAMES], NaN for unknown.
    """
    jobs = open_jobs(tasks, queries)
    if progress:
        progress("tasks: predicting the walltimes of their jobs", 0.1)
    ends = walltime_ends(jobs, len(queries), predict, queries.at, grid)
    if progress:
        progress("tasks: recent durations", 0.5)
    elapsed = queries.at - tasks.defined[queries.task]
    by_rate = (
        elapsed * (1 - queries.progress) / np.where(queries.progress > 0, queries.progress, np.nan)
    )
    sizes = tasks.sizes[queries.task]
    sites = np.array(
        [len(set(tasks.site[a:b])) for a, b in zip(tasks.first, tasks.first[1:], strict=False)],
        dtype=np.float64,
    )
    own = np.column_stack([sizes, sites[queries.task], queries.progress, elapsed, by_rate])
    return np.column_stack([own, ends, _recent_durations(tasks, queries)]).astype(np.float32)


def _recent_durations(tasks: Tasks, queries: Queries) -> Array:
    """Recent durations of the owner's tasks, jobs, and jobs at the task's sites."""
    users = tasks.users[tasks.task]
    owned = Intervals.of(tasks.users, tasks.defined, tasks.finished)
    by_user = Intervals.of(users, tasks.submitted, tasks.ended)
    by_user_and_site = Intervals.of(_pairs(users, tasks.site), tasks.submitted, tasks.ended)
    width = dict(zip(zip(tasks.users, tasks.defined, strict=True), tasks.sizes, strict=True))
    user_sites = [
        list(dict.fromkeys((user, site) for site in tasks.site[a:b]))
        for user, a, b in zip(tasks.users, tasks.first, tasks.first[1:], strict=False)
    ]
    own_keys = [[user] for user in tasks.users]
    last = np.empty((len(queries), 8))
    for row, (task, at) in enumerate(zip(queries.task, queries.at, strict=True)):
        user = tasks.users[task]
        # Before its definition: a task is not its own predecessor.
        begun, ended = owned.before(user, min(at, tasks.defined[task]), LATEST_TASKS)
        last[row] = [
            fact
            for age in (1, 2)
            for fact in (
                (
                    min(ended[-age], at) - begun[-age],
                    ended[-age] > at,
                    width[user, begun[-age]],
                    at - begun[-age],
                )
                if len(begun) >= age
                else (np.nan,) * 4
            )
        ]
    instants = (queries.task, queries.at)
    survivals = (
        owned.survivals(own_keys, *instants, LATEST_TASKS, LONG),
        by_user.survivals(own_keys, *instants, LATEST_JOBS, LONG),
        by_user_and_site.survivals(user_sites, *instants, LATEST_JOBS, LONG),
    )
    steps = len(STEPS)
    return np.column_stack(
        [
            *(shares[:, :steps] for shares in survivals),
            last,
            *(shares[:, steps:] for shares in survivals[1:]),
        ]
    )


def _pairs(users: Any, sites: Any) -> Array:
    pairs = np.empty(len(sites), dtype=object)
    pairs[:] = list(zip(users, sites, strict=True))
    return pairs
