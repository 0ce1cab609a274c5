"""A rehearsal: backtest a log under several policies of retraining and compare their benefit.

It calls what the flows call: the test of ``monitoring.decay.detection``, the training of
``models``, and the window and comparison of ``models.releases.candidate`` by which a version is
promoted. Registry, store and service are left out, so that a log of years takes minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers, Progress
from infra.dask_workers import Workers
from jobs.partitions import Partition, sizes_of
from models.baselines.available_history import AvailableHistory, read_history
from models.engine.outcomes import require_outcomes
from models.engine.training import TrainingError, find_target
from models.quantities.metrics import compare_errors, coverage, time_blocks
from models.quantities.targets import Target
from models.releases.candidate import MIN_EVALUATION_JOBS, evaluation_start, is_promotable
from models.releases.comparison import difference
from monitoring.decay import detection as decay
from monitoring.decay.delayed_labels import DelayedLabels, largest, make_delayed_labels
from monitoring.decay.detection import Alarm
from monitoring.rehearsal.retrained_models import (
    AnsweredRows,
    PlainCatBoost,
    RetrainedEngine,
    RetrainedModel,
    TrainedModel,
)

Policy = Literal["never", "schedule", "decay"]
POLICIES: tuple[Policy, ...] = get_args(Policy)
PREDICTORS = (RetrainedEngine.name, PlainCatBoost.name)
WARM_UP = 0.1
PERIODS = 10
"""Scheduled retrainings in a log, unless a period is given."""
COOLDOWN = 2.5
"""The least periods between two retrainings on decay, so that there are less than half as many."""
CLUSTERS = 5
"""The largest clusters of the warm-up that are tested by themselves."""


@dataclass(frozen=True)
class Retraining:
    """One retraining: when (microseconds), why, its comparison, and what it took (s)."""

    at: int
    why: str
    promoted: bool
    verdict: str
    seconds: float
    alarm: Alarm | None = None


@dataclass(frozen=True)
class PolicyRun:
    """A model's predictions under one policy for the jobs of a rehearsal, and its retrainings."""

    predictor: str
    policy: Policy
    point: Floats
    low: Floats
    high: Floats
    retrainings: tuple[Retraining, ...]


@dataclass(frozen=True)
class Rehearsal:
    """The runs of all models under all policies.

    Attributes:
        jobs: Jobs of the log.
        at: Submissions of the jobs after the warm-up with an outcome (microseconds).
        truth: Their outcomes.
        baseline: The best simple baseline of the warm-up.
        baseline_point: Its predictions.
        period: The period of the schedule (s).
        runs: A run a model and policy.
    """

    jobs: int
    at: Integers
    truth: Floats
    baseline: str
    baseline_point: Floats
    period: float
    runs: tuple[PolicyRun, ...]

    @property
    def rows(self) -> list[dict[str, Any]]:
        """A row a run: its errors, their ratio to never's, and its costs.

        ``mae_ratio`` has a 95 % interval by blocks of time.
        """
        block = time_blocks(pd.Series(pd.to_datetime(self.at, unit="us", utc=True)))
        errors = [np.abs(run.point - self.truth) for run in self.runs]
        never = {
            run.predictor: error
            for run, error in zip(self.runs, errors, strict=True)
            if run.policy == "never"
        }
        rows: list[dict[str, Any]] = []
        for run, error in zip(self.runs, errors, strict=True):
            _, ratio = compare_errors(error, never[run.predictor], block)
            rows.append(
                {
                    "predictor": run.predictor,
                    "policy": run.policy,
                    "jobs": len(self.truth),
                    "mae": float(error.mean()),
                    "median_ae": float(np.median(error)),
                    "coverage_90": coverage(self.truth, run.low, run.high),
                    "mae_ratio": ratio.value,
                    "mae_ratio_low": ratio.low,
                    "mae_ratio_high": ratio.high,
                    "trainings": len(run.retrainings),
                    "promotions": sum(retraining.promoted for retraining in run.retrainings),
                    "alarms": sum(r.alarm is not None for r in run.retrainings),
                    "training_seconds": sum(retraining.seconds for retraining in run.retrainings),
                }
            )
        return rows


def rehearse(
    jobs: pd.DataFrame,
    target: Target,
    *,
    warm_up: float = WARM_UP,
    period: float | None = None,
    predictors: Sequence[str] = PREDICTORS,
    progress: Progress | None = None,
) -> Rehearsal:
    """Backtest ``jobs`` under each of POLICIES.

    Args:
        jobs: A log.
        target: What is predicted.
        warm_up: The share of the jobs, by submission, that the first models are trained on.
        period: The period of the schedule (s), by default a tenth of the log's time; COOLDOWN
            times it is the least time between two retrainings on decay.
        predictors: Gridcast's engine, the plain CatBoost, or both.
        progress: Called with a text and the share that is done.

    Raises:
        TrainingError: Too few jobs have ended, or an argument is out of range.
    """
    if not 0 < warm_up < 1 or (period is not None and period <= 0):
        raise TrainingError(
            "warm_up must be a share between 0 and 1, and a period longer than nothing"
        )
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    history, first = read_history(jobs, target), int(len(jobs) * warm_up)
    log = _read(history, first)
    span = int(log.at[-1] - log.at[first])
    every = int(period * 1e6) if period else max(span // PERIODS, 1)
    scored = np.flatnonzero(np.isfinite(log.values[first:]))
    runs: list[PolicyRun] = []
    for name in predictors:
        model: RetrainedModel
        if name == PlainCatBoost.name:
            model = PlainCatBoost(history)
        else:
            model = RetrainedEngine(jobs, target, first, progress)
        for policy in POLICIES:
            if progress:
                share = len(runs) / (len(predictors) * len(POLICIES))
                progress(f"{name}, retrained: {policy}", share)
            run = run_policy(model, policy, log, every)
            columns = {column: getattr(run, column)[scored] for column in ("point", "low", "high")}
            runs.append(replace(run, **columns))
    rows = scored + first
    return Rehearsal(
        len(jobs),
        log.at[rows],
        log.values[rows],
        log.labels.baseline,
        log.labels.baseline_point[rows],
        every / 1e6,
        tuple(runs),
    )


@dataclass(frozen=True)
class RehearsalTask:
    """The rehearsal of one model on a log; see the arguments of ``rehearse``."""

    partition: Partition
    target: str
    warm_up: float
    period: float | None
    predictor: str


def run_rehearsal(task: RehearsalTask) -> Rehearsal:
    """Read the log and rehearse; raises InputError for a log without outcomes."""
    jobs = task.partition.read()
    require_outcomes(jobs, (task.target,), task.partition.name)
    return rehearse(
        jobs,
        find_target(task.target),
        warm_up=task.warm_up,
        period=task.period,
        predictors=(task.predictor,),
    )


def rehearse_each(
    logs: Sequence[Partition],
    target: str,
    warm_up: float,
    period: float | None,
    workers: Workers,
    progress: Progress | None = None,
) -> list[Rehearsal]:
    """Rehearse several logs by workers, each model of each log by itself.

    Args:
        logs: The logs, which the workers read.
        target: See ``rehearse``.
        warm_up: See ``rehearse``.
        period: See ``rehearse``.
        workers: Who rehearses.
        progress: Is called with the share done.
    """
    tasks = [
        RehearsalTask(log, target, warm_up, period, predictor)
        for log in logs
        for predictor in PREDICTORS
    ]
    sizes = [size for size in sizes_of(logs) for _ in PREDICTORS]
    done = iter(workers.map(run_rehearsal, tasks, sizes, progress))
    by_log = [[next(done) for _ in PREDICTORS] for _ in logs]
    return [replace(first, runs=(*first.runs, *second.runs)) for first, second in by_log]


@dataclass(frozen=True)
class _Log:
    """The part of a log that all runs share, a row a job in order of submission.

    Times are in microseconds; ``ends`` are those of all outcomes, in order; ``clusters`` are
    tested by themselves.
    """

    at: Integers
    available_at: Integers
    ends: Integers
    values: Floats
    first: int
    labels: DelayedLabels
    clusters: tuple[str, ...]


def _read(history: AvailableHistory, first: int) -> _Log:
    at, available_at, values = history.submitted_at, history.available_at, history.values
    ended = np.isfinite(values[:first]) & (available_at[:first] <= at[min(first, len(at) - 1)])
    if ended.sum() < MIN_EVALUATION_JOBS:
        raise TrainingError(
            f"only {ended.sum():,} jobs of the warm-up ended within it, and {MIN_EVALUATION_JOBS} "
            "are needed: give more jobs"
        )
    labels = make_delayed_labels(history, first)
    ends = np.sort(available_at[np.isfinite(values)])
    clusters = largest(labels.cluster[:first], CLUSTERS)
    return _Log(at, available_at, ends, values, first, labels, clusters)


def run_policy(model: RetrainedModel, policy: Policy, log: _Log, every: int) -> PolicyRun:
    """Replay a log under one policy: each promoted model answers from its promotion on.

    Args:
        model: What is retrained.
        policy: When it is.
        log: The log.
        every: The period of the schedule (microseconds).
    """
    now, end = int(log.at[log.first]), int(log.at[-1])
    champion, trained = model.train(now), now
    retrainings: list[Retraining] = []
    answered: list[AnsweredRows] = []
    row = log.first
    points = model.points(champion, np.arange(row, len(log.at)))
    raised = _alarms(log, row, points) if policy == "decay" else []
    while policy != "never" and (now := now + decay.PERIOD) <= end:
        alarm = None
        if policy == "decay":
            cooldown = int(COOLDOWN * every) if retrainings else 0
            alarm = _trigger(raised, log, now, trained, cooldown)
        if alarm is None and (policy == "decay" or now < trained + every):
            continue
        trained = now
        promoted, retraining = _retrain(model, champion, log, now, alarm)
        retrainings.append(retraining)
        if promoted is not None:
            until = int(np.searchsorted(log.at, now))
            answered.append(AnsweredRows(np.arange(row, until), champion, points[: until - row]))
            row, champion = until, promoted
            points = model.points(champion, np.arange(row, len(log.at)))
            raised = _alarms(log, row, points) if policy == "decay" else []
    answered.append(AnsweredRows(np.arange(row, len(log.at)), champion, points))
    low, high = model.ranges(answered)
    point = np.concatenate([stretch.points for stretch in answered])
    return PolicyRun(model.name, policy, point, low, high, tuple(retrainings))


def _alarms(log: _Log, row: int, points: Floats) -> list[Alarm]:
    """The alarms about predictions from ``row`` on; each depends only on what was scored before."""
    return decay.alarms(log.labels.score(np.arange(row, len(log.at)), points), log.clusters)


def _trigger(
    raised: Sequence[Alarm], log: _Log, now: int, trained: int, cooldown: int
) -> Alarm | None:
    before, ended = np.searchsorted(log.ends, [trained, now], side="right")
    return decay.training_trigger(raised, now, trained, int(ended - before), int(ended), cooldown)


def _retrain(
    model: RetrainedModel, champion: TrainedModel, log: _Log, now: int, alarm: Alarm | None
) -> tuple[TrainedModel | None, Retraining]:
    """Do what the flow ``retrain`` does: train on the earlier jobs, compare on the later ones.

    Returns:
        The model trained on all jobs, if the candidate was better, and the record of it.
    """
    why = str(alarm) if alarm else "on schedule"
    ended = np.flatnonzero((log.available_at <= now) & np.isfinite(log.values))
    since = evaluation_start(log.at[ended], champion.at)
    later = ended[log.at[ended] > since]
    if len(later) < MIN_EVALUATION_JOBS:
        verdict = f"nothing to compare by: only {len(later)} later jobs"
        return None, Retraining(now, why, False, verdict, 0.0, alarm)
    candidate = model.train(since, champion)
    candidate_points, champion_points = (
        pd.Series(model.points(trained, later)) for trained in (candidate, champion)
    )
    compared = difference(pd.Series(log.values[later]), candidate_points, champion_points)
    verdict = f"on {len(later):,} later jobs its mean absolute error is {compared}"
    if not is_promotable(compared):
        return None, Retraining(now, why, False, verdict, candidate.seconds, alarm)
    final = model.train(now, candidate)
    return final, Retraining(now, why, True, verdict, candidate.seconds + final.seconds, alarm)
