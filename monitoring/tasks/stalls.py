"""Planted stalls: precision, recall and delay of the detection of stalled tasks."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from models.engine.training import find_target
from models.tasks.backtest import prequential_walltimes
from models.tasks.ends import FEWEST_JOBS
from models.tasks.inputs import Queries, open_jobs
from models.tasks.sets import Tasks, group_tasks
from monitoring.tasks.states import (
    MIN_OPEN,
    Thresholds,
    last_end,
    silence_ratio,
    submitted,
    upper_walltime,
)

PERIOD = 600.0
"""Seconds between two checks of a task."""
PLANTED_SHARE = 0.25
FROZEN_SECONDS = 48 * 3600.0
MAX_JOBS = 16_000
"""The latest jobs of a log that are used: each check of a task queries each of its open jobs."""


@dataclass(frozen=True)
class StallDetection:
    """Agreement of the tasks called stalled with the planted stalls, and the delay of the calls."""

    tasks: int
    planted: int
    precision: float
    recall: float
    median_delay_hours: float


def score_stall_detection(
    jobs: pd.DataFrame, progress: Progress | None = None, seed: int = 1
) -> list[dict[str, Any]]:
    """Plant stalls in the latest MAX_JOBS of ``jobs`` and try to detect them.

    Args:
        jobs: A log.
        progress: Called with a text and the share that is done.
        seed: Chooses the tasks that stall.

    Returns:
        One row, or none where no stall can be planted.
    """
    ran = jobs[jobs["ended_at"].notna() & jobs["started_at"].notna()]
    ran = ran.sort_values("submitted_at", kind="stable").tail(MAX_JOBS)
    if ran.empty:
        return []
    if progress:
        progress("stalls: checking every task as it was every ten minutes", 0.95)
    frozen, planted = plant_stalls(ran, seed)
    if not planted:
        return []
    score = detect_stalls(frozen, planted)
    return [{"predictor": "stalls", **asdict(score)}] if score.planted else []


def plant_stalls(
    jobs: pd.DataFrame, seed: int = 1, share: float = PLANTED_SHARE
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Freeze some tasks: from a time on, none of their open jobs ends for FROZEN_SECONDS.

    Args:
        jobs: A log; only jobs that started and ended are used.
        seed: Chooses the tasks.
        share: The share of the tasks that stall.

    Returns:
        The changed jobs, and when each frozen task stalls (s since 1970) by its name.
    """
    tasks = group_tasks(jobs[jobs["ended_at"].notna() & jobs["started_at"].notna()])
    draw = np.random.default_rng(seed)
    frozen, since = tasks.jobs.copy(), {}
    stall_at = tasks.reached(0.3)
    last = np.maximum.reduceat(tasks.submitted, tasks.first[:-1])
    for task in np.flatnonzero((tasks.sizes >= 2 * MIN_OPEN) & (stall_at > last)):
        own = np.arange(tasks.first[task], tasks.first[task + 1])
        left = own[tasks.ended[own] > stall_at[task]]
        if len(left) >= MIN_OPEN and draw.random() < share:
            since[str(tasks.names[task])] = float(stall_at[task])
            waits = left[tasks.started[left] > stall_at[task]]
            delay = pd.to_timedelta(FROZEN_SECONDS, unit="s")
            frozen.loc[left, "ended_at"] += delay
            frozen.loc[waits, "started_at"] += delay
            frozen.loc[np.setdiff1d(left, waits), "walltime"] += FROZEN_SECONDS
    return frozen, since


def detect_stalls(
    jobs: pd.DataFrame,
    planted: dict[str, float],
    warm_up: float = 0.3,
    threshold: float = Thresholds().stalled,
) -> StallDetection:
    """Check every task each PERIOD seconds and compare the calls with the planted stalls.

    Args:
        jobs: A log with planted stalls.
        planted: When each task stalls (s since 1970), by name.
        warm_up: The share of the tasks that is not scored.
        threshold: The ``silence_ratio`` above which a task is called stalled.
    """
    tasks = group_tasks(jobs)
    rows = np.flatnonzero((tasks.sizes >= FEWEST_JOBS) & np.isfinite(tasks.finished))
    rows = rows[int(len(rows) * warm_up) :]
    called = first_stalled_at(tasks, rows, threshold)
    names = {int(row): str(tasks.names[row]) for row in rows}
    truth = {row: planted[name] for row, name in names.items() if name in planted}
    delays = [
        at - truth[row]
        for row, at in called.items()
        if row in truth and truth[row] <= at <= truth[row] + FROZEN_SECONDS
    ]
    return StallDetection(
        len(rows),
        len(truth),
        len(delays) / max(len(called), 1),
        len(delays) / max(len(truth), 1),
        float(np.median(delays) / 3600) if delays else float("nan"),
    )


def first_stalled_at(tasks: Tasks, rows: Array, threshold: float) -> dict[int, float]:
    """When each task is first called stalled (s since 1970); those that never are have no entry.

    Args:
        tasks: The tasks.
        rows: Those to check.
        threshold: The ``silence_ratio`` above which a task is called stalled.
    """
    checks = [np.arange(tasks.defined[row] + PERIOD, tasks.finished[row], PERIOD) for row in rows]
    task, at = np.repeat(rows, [len(times) for times in checks]), np.concatenate(checks)
    order = np.argsort(at, kind="stable")
    queries = Queries(task[order], at[order], np.zeros(len(task)))
    opened = submitted(tasks, queries, open_jobs(tasks, queries))
    if not len(opened.job):
        return {}
    # Predictions as of the last end in the task: a stall must not teach that jobs take long.
    ends = last_end(tasks, queries)
    mass, index = prequential_walltimes(tasks)(opened.job, ends[opened.query])
    longest = upper_walltime(mass, find_target("walltime").grid)[index]
    ratio = silence_ratio(tasks, queries, opened, longest, ends)
    first: dict[int, float] = {}
    for row in np.flatnonzero(ratio > threshold):
        first.setdefault(int(queries.task[row]), float(queries.at[row]))
    return first
