"""Stalls of tasks: the learned detector, and its backtest on planted stalls.

A stall that is planted: when three of ten jobs of a task of at least eight had ended, its open jobs
neither start nor end for two days, while everything else goes on as recorded.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from models.tasks.ends import FEWEST_JOBS
from models.tasks.job_curves import JobCurves, JobPredictor
from models.tasks.sets import Tasks, group_tasks
from models.tasks.silence import (
    FEWEST_SILENCES,
    INPUTS,
    MIN_OPEN,
    Hazard,
    Steps,
    evidence,
    fit_silences,
    inputs_of,
    silences,
)

PLANTED_SHARE = 0.25
FROZEN_SECONDS = 48 * 3600.0
MAX_JOBS = 250_000
"""The latest jobs of a log that are used."""
LEARNED_SHARE = 0.5
"""The share of the tasks that the detector of a backtest is learned from; none is planted there."""
FOLDS = 4
LEVELS = np.arange(2.0, 15.01, 0.25)
"""Levels of evidence among which that of an alarm is chosen."""
MIN_SILENT = 2 * 3600.0
"""Seconds of silence before a task is called stalled, however improbable they are."""
USUAL_LEVEL = 7.0
"""The level where no stall can be planted: once in a thousand silences."""
LEVEL_TOLERANCE = 0.01
"""Levels so much worse than the best count as good as it; the mean of all these is taken."""
QUIET = np.log(0.25)
"""Logarithm of the usual rate of starts and ends below which the machine counts as quiet."""
DAY = 86400.0


@dataclass(frozen=True)
class Alarm:
    """A task called stalled: its row, since when it is silent, and when (s since 1970)."""

    task: int
    begun: float
    at: float


@dataclass(frozen=True)
class StallDetector:
    """Calls a silent task stalled where the evidence exceeds a level.

    ``hazard`` is None until enough silences have ended; ``predictor`` predicts its jobs.
    """

    hazard: Hazard | None = None
    level: float = USUAL_LEVEL
    predictor: JobPredictor | None = None

    def ratios(self, tasks: Tasks, rows: Array, now: float) -> Array | None:
        """The evidence as a multiple of the level, of tasks as of ``now`` (float64[rows]).

        Args:
            tasks: All tasks, as of ``now``.
            rows: Those to look at.
            now: The present (s since 1970).

        Returns:
            0 without a silence that counts; None where nothing has been learned.
        """
        if self.hazard is None or self.predictor is None:
            return None
        tasks = with_waits_of_cancelled(tasks)
        ratio = np.zeros(len(tasks))
        steps = silences(tasks, rows, now, open_only=True)
        if len(steps):
            inputs = inputs_of(tasks, steps, self.predictor.now(tasks, now))
            long = steps.stop - steps.begun >= MIN_SILENT
            ratio[steps.task] = long * evidence(self.hazard, inputs, steps) / self.level
        return ratio[rows]


@dataclass(frozen=True)
class StallDetection:
    """Agreement of the tasks called stalled with the planted stalls, and the delay of the calls."""

    tasks: int
    planted: int
    precision: float
    recall: float
    median_delay_hours: float
    false_alarms: int
    false_alarms_per_1000_task_days: float
    level: float


def score_stall_detection(
    jobs: pd.DataFrame, progress: Progress | None = None, seed: int = 1
) -> list[dict[str, Any]]:
    """Plant stalls in the later half of a log, and try to detect them by what the first tells.

    Args:
        jobs: A log.
        progress: Called with a text and the share that is done.
        seed: Chooses the tasks that stall.

    Returns:
        One row, and a row a cause of false alarms; none where no stall can be planted.
    """
    ran = jobs[jobs["ended_at"].notna() & jobs["started_at"].notna()]
    ran = ran.sort_values("submitted_at", kind="stable").tail(MAX_JOBS)
    if ran.empty:
        return []
    if progress:
        progress("stalls: how long tasks are silent", 0.95)
    clean = group_tasks(ran)
    wide = np.flatnonzero(clean.sizes >= FEWEST_JOBS)
    if not len(wide):
        return []
    middle = int(wide[int(len(wide) * LEARNED_SHARE)])
    frozen, planted = plant_stalls(clean.jobs, seed, after=float(clean.defined[middle]))
    if not planted:
        return []
    tasks = group_tasks(frozen)
    curves = JobPredictor().replay(tasks)
    detector = fit_detector(tasks, curves, float(clean.defined[middle]), seed)
    detection, causes = detect_stalls(tasks, wide[wide >= middle], curves, detector, planted)
    row = {"predictor": "stalls", **asdict(detection)}
    return [row, *({"predictor": "false alarms", **cause} for cause in causes)]


def plant_stalls(
    jobs: pd.DataFrame,
    seed: int = 1,
    share: float = PLANTED_SHARE,
    after: float = -np.inf,
    until: float = np.inf,
) -> tuple[pd.DataFrame, dict[str, float]]:
    """Freeze some tasks: from a time on, none of their open jobs ends for FROZEN_SECONDS.

    Args:
        jobs: A log; only tasks whose jobs all started and ended are frozen.
        seed: Chooses the tasks.
        share: The share of the tasks that stall.
        after: Only tasks that were defined then or later (s since 1970).
        until: Only stalls that are over by then, or by the last submission (s since 1970).

    Returns:
        The changed jobs, and when each frozen task stalls (s since 1970) by its name.
    """
    tasks = group_tasks(jobs)
    draw = np.random.default_rng(seed)
    frozen, since = tasks.jobs.copy(), {}
    stall_at = tasks.reached(0.3)
    last = np.maximum.reduceat(tasks.submitted, tasks.first[:-1])
    started = np.minimum.reduceat(tasks.jobs["started_at"].notna().to_numpy(), tasks.first[:-1])
    can_stall = (tasks.sizes >= 2 * MIN_OPEN) & (stall_at > last) & (tasks.defined >= after)
    can_stall &= started & np.isfinite(tasks.finished)
    can_stall &= stall_at + FROZEN_SECONDS <= min(until, tasks.submitted.max())
    for task in np.flatnonzero(can_stall):
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


def fit_detector(tasks: Tasks, curves: JobCurves, until: float, seed: int = 1) -> StallDetector:
    """Learn the hazard of silences from what was known at a time, and choose the level of alarms.

    The level is that at which the worse of precision and recall is best if PLANTED_SHARE of these
    tasks stalled, each fold of tasks being judged by a hazard learned from the others.

    Args:
        tasks: The tasks.
        curves: Predictions of their jobs.
        until: That time (s since 1970).
        seed: Of the random numbers of planting.
    """
    rows = np.flatnonzero((tasks.sizes >= FEWEST_JOBS) & (tasks.defined < until))
    steps = silences(tasks, rows, until)
    inputs = inputs_of(tasks, steps, curves)
    hazard = _fit(inputs, steps)
    if hazard is None:
        return StallDetector()
    frozen_jobs, planted = plant_stalls(tasks.jobs, seed, share=1.0, until=until)
    if not planted:
        return StallDetector(hazard)
    frozen = group_tasks(frozen_jobs)
    since = _rows_of(frozen, planted)
    frozen_steps = silences(frozen, np.array(sorted(since)), until)
    frozen_inputs = inputs_of(frozen, frozen_steps, curves)
    clean, planted_evidence = np.zeros(len(steps)), np.zeros(len(frozen_steps))
    for fold in np.array_split(rows, FOLDS):
        learned = np.flatnonzero(~np.isin(steps.task, fold))
        by_fold = _fit(inputs[learned], steps.take(learned)) or hazard
        for judged, own_steps, own_inputs in (
            (clean, steps, inputs),
            (planted_evidence, frozen_steps, frozen_inputs),
        ):
            own = np.flatnonzero(np.isin(own_steps.task, fold))
            judged[own] = evidence(by_fold, own_inputs[own], own_steps.take(own))
    worse = np.empty(len(LEVELS))
    for index, level in enumerate(LEVELS):
        false = len(first_alarms(steps, clean, level))
        _, recall, delays, _ = _agreement(
            first_alarms(frozen_steps, planted_evidence, level), since
        )
        right = PLANTED_SHARE * len(delays)
        worse[index] = min(recall, right / max(right + false, 1e-9))
    best = np.flatnonzero(worse >= worse.max() - LEVEL_TOLERANCE)
    return StallDetector(hazard, float(LEVELS[best].mean()))


def _fit(inputs: Array, steps: Steps) -> Hazard | None:
    hazard = fit_silences(inputs, steps)
    return hazard and without_quiet_times(hazard)


def without_quiet_times(hazard: Hazard) -> Hazard:
    """A hazard that is 0 while hardly any job of others starts or ends: in a maintenance.

    A site's first maintenance is in no log that the hazard could be learned from.
    """

    def in_other_times(rows: Array) -> Array:
        return np.where(_is_quiet(rows), 0.0, hazard(rows))

    return in_other_times


def _is_quiet(inputs: Array) -> Array:
    rates = [INPUTS.index("starts_by_usual"), INPUTS.index("ends_by_usual")]
    return (inputs[:, rates] < QUIET).all(axis=1)


def first_alarms(steps: Steps, judged: Array, level: float) -> list[Alarm]:
    """When the evidence of each silence first exceeds a level, before an event ends it.

    Args:
        steps: Steps of silences.
        judged: The evidence at the end of each (float64[n]).
        level: The level.
    """
    silence = np.cumsum(steps.is_first)
    long = steps.stop - steps.begun >= MIN_SILENT
    rows = np.flatnonzero((judged > level) & ~steps.over & long)
    rows = rows[np.unique(silence[rows], return_index=True)[1]]
    columns = (steps.task[rows].tolist(), steps.begun[rows].tolist(), steps.stop[rows].tolist())
    return [Alarm(*values) for values in zip(*columns, strict=True)]


def _rows_of(tasks: Tasks, planted: dict[str, float]) -> dict[int, float]:
    return {row: planted[name] for row, name in enumerate(tasks.names) if name in planted}


def _agreement(
    alarms: Iterable[Alarm], since: dict[int, float]
) -> tuple[float, float, list[float], list[Alarm]]:
    """Precision, recall, the delay of each stall that was found (s), and the false alarms."""
    delays: dict[int, float] = {}
    false = []
    for alarm in alarms:
        delay = alarm.at - since.get(alarm.task, np.inf)
        if 0 <= delay <= FROZEN_SECONDS and alarm.task not in delays:
            delays[alarm.task] = delay
        else:
            false.append(alarm)
    right = len(delays)
    precision, recall = right / max(right + len(false), 1), right / max(len(since), 1)
    return precision, recall, list(delays.values()), false


def detect_stalls(
    tasks: Tasks,
    rows: Array,
    curves: JobCurves,
    detector: StallDetector,
    planted: dict[str, float],
) -> tuple[StallDetection, list[dict[str, Any]]]:
    """Compare the tasks called stalled with the planted stalls until the last submission.

    Args:
        tasks: Tasks with planted stalls.
        rows: Those to check.
        curves: Predictions of their jobs.
        detector: What calls them stalled.
        planted: When each task stalls (s since 1970), by name.

    Returns:
        The agreement, and how many of the false alarms have which ``cause``.
    """
    until = float(tasks.submitted.max())
    since = {row: at for row, at in _rows_of(tasks, planted).items() if row in set(rows.tolist())}
    steps = silences(tasks, rows, until)
    inputs = inputs_of(tasks, steps, curves)
    alarms: list[Alarm] = []
    if detector.hazard is not None:
        judged = evidence(detector.hazard, inputs, steps)
        alarms = first_alarms(steps, judged, detector.level)
    precision, recall, delays, false = _agreement(alarms, since)
    begin = float(tasks.defined[rows[0]])
    several = tasks.sizes > 1
    open_time = np.minimum(tasks.finished, until) - np.maximum(tasks.defined, begin)
    task_days = float(np.maximum(open_time[several], 0.0).sum()) / DAY
    detection = StallDetection(
        len(rows),
        len(since),
        precision,
        recall,
        float(np.median(delays) / 3600) if delays else float("nan"),
        len(false),
        1000 * len(false) / max(task_days, 1e-9),
        detector.level,
    )
    return detection, _causes(false, steps, inputs, since)


def _causes(
    false: list[Alarm], steps: Steps, inputs: Array, since: dict[int, float]
) -> list[dict[str, Any]]:
    """Count false alarms by what the task did at the time: the first of these that applies."""
    at_alarm = {
        (task, stop): index
        for index, (task, stop) in enumerate(zip(steps.task, steps.stop, strict=True))
    }
    counts: dict[str, int] = {}
    for alarm in false:
        row = at_alarm[alarm.task, alarm.at]
        values = dict(zip(INPUTS, inputs[row], strict=True))
        if alarm.at > since.get(alarm.task, np.inf):
            cause = "the task had a planted stall earlier"
        elif _is_quiet(inputs[row : row + 1])[0]:
            cause = "hardly any job of others started or ended"
        elif values["running"] == 0:
            cause = "all open jobs waited"
        elif values["overdue"] > 0:
            cause = "jobs outlasted their request"
        else:
            cause = "jobs ran within their request, or had none"
        counts[cause] = counts.get(cause, 0) + 1
    return [{"cause": cause, "false_alarms": count} for cause, count in counts.items()]


def fit_live_detector(tasks: Tasks, now: float) -> StallDetector:
    """Learn the detector of the live watch from tasks as of ``now`` (s since 1970)."""
    tasks, predictor = with_waits_of_cancelled(tasks), JobPredictor()
    wide = np.flatnonzero(tasks.sizes >= FEWEST_JOBS)
    if silences(tasks, wide, now).over.sum() < FEWEST_SILENCES:
        return StallDetector()
    return replace(fit_detector(tasks, predictor.replay(tasks), now), predictor=predictor)


def with_waits_of_cancelled(tasks: Tasks) -> Tasks:
    """Let jobs that ended without a start wait until their end, as they seemed to before it."""
    never_started = tasks.jobs["started_at"].isna().to_numpy() & np.isfinite(tasks.ended)
    return replace(tasks, started=np.where(never_started, tasks.ended, tasks.started))
