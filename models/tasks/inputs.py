"""What is known of a task at an instant: what its jobs promise, how its owner's jobs and tasks lasted lately, how far it is.

Everything here is asked at an instant, and looks only at what had been submitted and had ended by then: of the task itself its
description, which is whole from its definition on, and what its own jobs did so far.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from infra.compiled import compiled
from models.engine.prequential import LogRows, TargetReplay
from models.engine.target_predictor import TargetPredictor, batches
from models.histories.features import NOT_AVAILABLE
from models.quantities.targets import Grid
from models.tasks.sets import Tasks, microseconds
from models.tasks.survival import STEPS, Intervals

WALLTIME_LEVELS = (0.05, 0.25, 0.5, 0.75, 0.95)
LATEST_JOBS, LATEST_TASKS = 3000, 30
LONG = 12 * 3600.0
NAMES = (
    "jobs", "sites", "progress", "elapsed", "by_rate",
    *(f"{kind}_{level:g}" for kind in ("apart", "together") for level in WALLTIME_LEVELS),
    *(f"{whose}_{step:.0f}" for whose in ("tasks", "jobs", "jobs_there") for step in STEPS),
    *(f"{fact}_{age}" for age in ("last", "last_but_one") for fact in ("lasted", "open", "jobs", "age")),
    "running", "running_long", "running_there", "running_long_there",
)  # fmt: skip
"""The inputs of the models of tasks, in order; times in seconds."""


@dataclass(frozen=True)
class Queries:
    """Queries about tasks: ``task`` int64[n], ``at`` float64[n] in seconds since 1970; ``progress`` float64[n] is the share ended."""

    task: Array
    at: Array
    progress: Array

    def __len__(self) -> int:
        return len(self.task)

    def take(self, rows: Array) -> Queries:
        """Some of the questions."""
        return Queries(self.task[rows], self.at[rows], self.progress[rows])


@dataclass(frozen=True)
class OpenJobs:
    """The jobs that questions are about: those that had not ended; ``question``, ``job`` int64[m], ``spent`` float64[m] s so far."""

    question: Array
    job: Array
    spent: Array


def open_jobs(tasks: Tasks, questions: Queries) -> OpenJobs:
    """The jobs of each question's task that had not ended at its instant; at the definition all of them, whenever they were submitted."""
    sizes = tasks.sizes[questions.task]
    question = np.repeat(np.arange(len(questions)), sizes)
    job = (
        np.arange(len(question))
        - np.repeat(np.cumsum(sizes) - sizes, sizes)
        + tasks.first[questions.task][question]
    )
    at = questions.at[question]
    left = tasks.ended[job] > at
    question, job, at = question[left], job[left], at[left]
    return OpenJobs(question, job, np.maximum(at - tasks.started[job], 0.0))


WalltimePredictor = Callable[[Array, Array], tuple[Array, Array]]
"""From jobs (int64[m]) and instants (float64[m], s) to the masses of their walltimes (float[kinds, bins]) and whose is whose (int64[m])."""


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
    which: Array,
    question: Array,
    spent: Array,
    edges: Array,
    scale: Array,
    apart: Array,
    together: Array,
) -> None:
    """How likely all jobs of a question are done by ``edges`` s from now: if independent, and if alike (both 1 before)."""
    lowest, steps = scale
    bins = reached.shape[1]
    for row in range(len(which)):
        curve = reached[which[row]]
        before = 0.0
        if spent[row] > 0:
            mark = min(steps * np.log2(max(spent[row] / lowest, 1.0)), bins - 1e-6)
            low = int(mark)
            start = curve[low - 1] if low > 0 else 0.0
            before = start + (curve[low] - start) * (mark - low)
        asked = question[row]
        for k in range(len(edges)):
            if together[asked, k] == 0.0:
                continue  # what is impossible for one job is so for all
            mark = min(steps * np.log2(max((spent[row] + edges[k]) / lowest, 1.0)), bins - 1e-6)
            low = int(mark)
            start = curve[low - 1] if low > 0 else 0.0
            share = start + (curve[low] - start) * (mark - low)
            # Who outlived all that was foreseen may end at any moment.
            share = (
                min(max((share - before) / (1.0 - before), 0.0), 1.0)
                if before < 1.0 - 1e-9
                else 1.0
            )
            apart[asked, k] *= share
            together[asked, k] = min(together[asked, k], share)
            if share > 1.0 - 1e-12:
                break  # and certain from here on


def walltime_ends(
    jobs: OpenJobs, count: int, ask: WalltimePredictor, at: Array, grid: Grid
) -> Array:
    """When all open jobs of each question will be done, by their predicted walltimes: float64[count, 2 · WALLTIME_LEVELS], s from now.

    First as if they were independent, then as if all were as late as their own distribution lets the latest be. The truth lies
    between and is learned; waits and submissions still to come are not in it.
    """
    mass, which = ask(jobs.job, at[jobs.question])
    reached = np.cumsum(mass, axis=1, dtype=np.float64)
    reached /= reached[:, -1:]
    edges = grid.edges[1:]
    apart, together = np.ones((count, grid.bins)), np.ones((count, grid.bins))
    _finished(
        reached,
        which,
        jobs.question,
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
    questions: Queries,
    ask: WalltimePredictor,
    grid: Grid,
    progress: Progress | None = None,
) -> Array:
    """What the models of tasks are shown of each question (float32[n, NAMES], NaN for unknown)."""
    jobs = open_jobs(tasks, questions)
    if progress:
        progress("tasks: asking for the walltimes of their jobs", 0.1)
    ends = walltime_ends(jobs, len(questions), ask, questions.at, grid)
    if progress:
        progress("tasks: looking at what lasted how long", 0.5)
    elapsed = questions.at - tasks.defined[questions.task]
    by_rate = (
        elapsed
        * (1 - questions.progress)
        / np.where(questions.progress > 0, questions.progress, np.nan)
    )
    sizes = tasks.sizes[questions.task]
    sites = np.array(
        [len(set(tasks.site[a:b])) for a, b in zip(tasks.first, tasks.first[1:], strict=False)],
        dtype=np.float64,
    )
    own = np.column_stack([sizes, sites[questions.task], questions.progress, elapsed, by_rate])
    return np.column_stack([own, ends, _lately(tasks, questions)]).astype(np.float32)


def _lately(tasks: Tasks, questions: Queries) -> Array:
    """How the owner's tasks and jobs, and those jobs at the task's sites, lasted lately, each question by what was known then."""
    users = tasks.users[tasks.task]
    owned = Intervals.of(tasks.users, tasks.defined, tasks.finished)
    by_user = Intervals.of(users, tasks.submitted, tasks.ended)
    there = Intervals.of(_pairs(users, tasks.site), tasks.submitted, tasks.ended)
    width = dict(zip(zip(tasks.users, tasks.defined, strict=True), tasks.sizes, strict=True))
    places = [
        list(dict.fromkeys((user, site) for site in tasks.site[a:b]))
        for user, a, b in zip(tasks.users, tasks.first, tasks.first[1:], strict=False)
    ]
    mine = [[user] for user in tasks.users]
    last = np.empty((len(questions), 8))
    for row, (task, at) in enumerate(zip(questions.task, questions.at, strict=True)):
        user = tasks.users[task]
        # Before its definition: a task is not its own predecessor, nor are its jobs, whatever the instant.
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
    asked = (questions.task, questions.at)
    survivals = (
        owned.survivals(mine, *asked, LATEST_TASKS, LONG), by_user.survivals(mine, *asked, LATEST_JOBS, LONG),
        there.survivals(places, *asked, LATEST_JOBS, LONG),
    )  # fmt: skip
    steps = len(STEPS)
    return np.column_stack(
        [
            *(found[:, :steps] for found in survivals),
            last,
            *(found[:, steps:] for found in survivals[1:]),
        ]
    )


def _pairs(users: Any, sites: Any) -> Array:
    pairs = np.empty(len(sites), dtype=object)
    pairs[:] = list(zip(users, sites, strict=True))
    return pairs
