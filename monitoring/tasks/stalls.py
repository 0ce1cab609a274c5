"""Planted stalls: how surely, how soon and how often in vain stalled tasks are found, on tasks whose truth is known."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from models.engine.training import (
    find_target,
)
from models.tasks.backtest import prequential_walltimes
from models.tasks.ends import FEWEST_JOBS
from models.tasks.inputs import Queries, open_jobs
from models.tasks.sets import Tasks, group_tasks
from monitoring.tasks.states import (
    FEWEST_OPEN,
    Thresholds,
    last_end,
    silence_ratio,
    submitted,
    upper_walltime,
)

LOOK = 600.0
"""Seconds between two looks at a task."""
PLANTED = 0.25
FROZEN = 48 * 3600.0
MOST_JOBS = 16_000
"""The latest jobs of a log that are looked at: every ten minutes of every task is a question about each of its open jobs."""


@dataclass(frozen=True)
class StallDetection:
    """What was found: ``precision`` and ``recall`` of tasks called stalled, the ``median_delay_hours`` until the first call."""

    tasks: int
    planted: int
    precision: float
    recall: float
    median_delay_hours: float


def score_stall_detection(
    jobs: pd.DataFrame, progress: Progress | None = None, seed: int = 1
) -> list[dict[str, Any]]:
    """Plant stalls in the latest MOST_JOBS of ``jobs`` and look for them: one row, or none where none can be planted."""
    told = (
        jobs[jobs["ended_at"].notna() & jobs["started_at"].notna()]
        .sort_values("submitted_at", kind="stable")
        .tail(MOST_JOBS)
    )
    if told.empty:
        return []
    if progress:
        progress("stalls: looking at every task as it was every ten minutes", 0.95)
    frozen, planted = plant_stalls(told, seed)
    found = detect_stalls(frozen, planted) if planted else None
    return [{"predictor": "stalls", **asdict(found)}] if found is not None and found.planted else []


def plant_stalls(
    jobs: pd.DataFrame, seed: int = 1, share: float = PLANTED
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Freeze ``share`` of the tasks: from an instant on, none of their open jobs ends for FROZEN seconds. Returns the instants by task."""
    tasks = group_tasks(jobs[jobs["ended_at"].notna() & jobs["started_at"].notna()])
    draw = np.random.default_rng(seed)
    frozen, since = tasks.jobs.copy(), {}
    half = tasks.reached(0.3)
    last = np.maximum.reduceat(tasks.submitted, tasks.first[:-1])
    for task in np.flatnonzero((tasks.sizes >= 2 * FEWEST_OPEN) & (half > last)):
        own = np.arange(tasks.first[task], tasks.first[task + 1])
        left = own[tasks.ended[own] > half[task]]
        if len(left) >= FEWEST_OPEN and draw.random() < share:
            since[str(tasks.names[task])] = float(half[task])
            waits = left[tasks.started[left] > half[task]]
            later = pd.to_timedelta(FROZEN, unit="s")
            frozen.loc[left, "ended_at"] += later
            frozen.loc[waits, "started_at"] += later
            runs = np.setdiff1d(left, waits)
            frozen.loc[runs, "walltime"] += FROZEN
    return frozen, since


def detect_stalls(
    jobs: pd.DataFrame,
    planted: dict[str, float],
    warm_up: float = 0.3,
    threshold: float = Thresholds().stalled,
) -> StallDetection:
    """Look at every task each LOOK seconds as it was then, and compare what is called stalled with what was ``planted``."""
    tasks = group_tasks(jobs)
    rows = np.flatnonzero((tasks.sizes >= FEWEST_JOBS) & np.isfinite(tasks.finished))
    rows = rows[int(len(rows) * warm_up) :]
    called = first_stalled_at(tasks, rows, threshold)
    truth = {
        int(row): planted[str(tasks.names[row])] for row in rows if str(tasks.names[row]) in planted
    }
    found = {
        row: at - truth[row]
        for row, at in called.items()
        if row in truth and truth[row] <= at <= truth[row] + FROZEN
    }
    return StallDetection(
        len(rows), len(truth), len(found) / max(len(called), 1), len(found) / max(len(truth), 1),
        float(np.median(list(found.values())) / 3600) if found else float("nan"),
    )  # fmt: skip


def first_stalled_at(tasks: Tasks, rows: Array, threshold: float) -> dict[int, float]:
    """When each of tasks ``rows`` is first called stalled (seconds since 1970); tasks that never are have no entry."""
    looks = [np.arange(tasks.defined[row] + LOOK, tasks.finished[row], LOOK) for row in rows]
    task, at = np.repeat(rows, [len(times) for times in looks]), np.concatenate(looks)
    order = np.argsort(at, kind="stable")
    questions = Queries(task[order], at[order], np.zeros(len(task)))
    opened = submitted(tasks, questions, open_jobs(tasks, questions))
    if not len(opened.job):
        return {}
    # By what was known when a job of the task last ended: a stall must not teach that jobs take long.
    ends = last_end(tasks, questions)
    mass, which = prequential_walltimes(tasks)(opened.job, ends[opened.question])
    stalled = (
        silence_ratio(
            tasks,
            questions,
            opened,
            upper_walltime(mass, find_target("walltime").grid)[which],
            ends,
        )
        > threshold
    )
    first: dict[int, float] = {}
    for row in np.flatnonzero(stalled):
        first.setdefault(int(questions.task[row]), float(questions.at[row]))
    return first
