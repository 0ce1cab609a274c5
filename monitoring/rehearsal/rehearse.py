"""A rehearsal: live through a log under several policies of retraining, side by side, and see what each is worth.

It calls what the flows call: the test of ``monitoring.decay.detection``, the training of ``models``, the window and the comparison of
``models.releases.candidate`` by which a version is promoted. The registry, the store and the service are left out: a log of years is then
lived through in minutes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal, get_args

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers, Progress
from models.baselines.available_history import AvailableHistory, read_history
from models.engine.training import TrainingError
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
"""The schedule retrains so many times, unless a period is given: each tenth of the log's time."""
COOLDOWN = 2.5
"""Periods that pass between two trainings on decay, so that it takes less than half the schedule's."""
CLUSTERS = 5
"""So many of the largest clusters at the beginning are watched beside all jobs."""


@dataclass(frozen=True)
class Retraining:
    """One retraining: when (microseconds), why, whether it was promoted and by which sentence, and what it took (s)."""

    at: int
    why: str
    promoted: bool
    verdict: str
    seconds: float
    alarm: Alarm | None = None


@dataclass(frozen=True)
class PolicyRun:
    """What a learner's predictions were under one policy, job by job of ``Rehearsal.rows``, and how often it was retrained."""

    predictor: str
    policy: Policy
    point: Floats
    low: Floats
    high: Floats
    retrainings: tuple[Retraining, ...]


@dataclass(frozen=True)
class Rehearsal:
    """The lives of all learners under all policies; ``at`` (microseconds) and ``truth`` are those of the jobs after the warm-up.

    ``baseline`` names the best simple baseline of the warm-up, ``baseline_point`` is what it said; ``period`` is the schedule's (s).
    """

    jobs: int
    at: Integers
    truth: Floats
    baseline: str
    baseline_point: Floats
    period: float
    runs: tuple[PolicyRun, ...]

    @property
    def rows(self) -> list[dict[str, object]]:
        """A row a life: its errors, what retraining is worth over never (mae_ratio and its 95 % interval by blocks of time), its costs."""
        block = time_blocks(pd.Series(pd.to_datetime(self.at, unit="us", utc=True)))
        never = {
            life.predictor: np.abs(life.point - self.truth)
            for life in self.runs
            if life.policy == "never"
        }
        found: list[dict[str, object]] = []
        for life in self.runs:
            error = np.abs(life.point - self.truth)
            _, ratio = compare_errors(error, never[life.predictor], block)
            found.append(
                {
                    "predictor": life.predictor,
                    "policy": life.policy,
                    "jobs": len(self.truth),
                    "mae": float(error.mean()),
                    "median_ae": float(np.median(error)),
                    "coverage_90": coverage(self.truth, life.low, life.high),
                    "mae_ratio": ratio.value,
                    "mae_ratio_low": ratio.low,
                    "mae_ratio_high": ratio.high,
                    "trainings": len(life.retrainings),
                    "promotions": sum(attempt.promoted for attempt in life.retrainings),
                    "alarms": sum(attempt.alarm is not None for attempt in life.retrainings),
                    "training_seconds": sum(attempt.seconds for attempt in life.retrainings),
                }
            )
        return found


def rehearse(
    jobs: pd.DataFrame,
    target: Target,
    *,
    warm_up: float = WARM_UP,
    period: float | None = None,
    predictors: Sequence[str] = PREDICTORS,
    progress: Progress | None = None,
) -> Rehearsal:
    """Live through ``jobs`` under each of POLICIES with Gridcast's engine and with the plain CatBoost, or one of the two.

    ``warm_up`` is the share of the jobs by submission that the first models are trained on; ``period`` (s; default: a tenth of the
    log's time) is the schedule's, and COOLDOWN of it the least time between two trainings on decay. Raises TrainingError where too
    few jobs have ended.
    """
    if not 0 < warm_up < 1 or (period is not None and period <= 0):
        raise TrainingError(
            "warm_up must be a share between 0 and 1, and a period longer than nothing"
        )
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    seen, first = read_history(jobs, target), int(len(jobs) * warm_up)
    log = _read(seen, first)
    span = int(log.at[-1] - log.at[first])
    every = int(period * 1e6) if period else max(span // PERIODS, 1)
    runs: list[PolicyRun] = []
    for name in predictors:
        learner: RetrainedModel = (
            PlainCatBoost(seen)
            if name == PlainCatBoost.name
            else RetrainedEngine(jobs, target, first, progress)
        )
        for policy in POLICIES:
            if progress:
                progress(
                    f"{name}, retrained: {policy}", len(runs) / (len(predictors) * len(POLICIES))
                )
            runs.append(_live(learner, policy, log, every))
    counted = np.flatnonzero(np.isfinite(log.values[first:]))
    runs = [
        PolicyRun(
            one.predictor,
            one.policy,
            one.point[counted],
            one.low[counted],
            one.high[counted],
            one.retrainings,
        )
        for one in runs
    ]
    rows = counted + first
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
class _Log:
    """What every life of a log shares; times in microseconds, a row a job in order of submission, ``ends`` in order."""

    at: Integers
    known: Integers
    ends: Integers
    values: Floats
    first: int
    labels: DelayedLabels
    decay_report: tuple[str, ...]


def _read(seen: AvailableHistory, first: int) -> _Log:
    ended = np.isfinite(seen.values[:first]) & (
        seen.available_at[:first] <= seen.submitted_at[min(first, len(seen.submitted_at) - 1)]
    )
    if ended.sum() < MIN_EVALUATION_JOBS:
        raise TrainingError(
            f"only {ended.sum():,} jobs of the warm-up ended within it, and {MIN_EVALUATION_JOBS} are needed: give more jobs"
        )
    made = make_delayed_labels(seen, first)
    ends = np.sort(seen.available_at[np.isfinite(seen.values)])
    return _Log(
        seen.submitted_at,
        seen.available_at,
        ends,
        seen.values,
        first,
        made,
        largest(made.cluster[:first], CLUSTERS),
    )


def _live(learner: RetrainedModel, policy: Policy, log: _Log, every: int) -> PolicyRun:
    """One life: the first model answers from the end of the warm-up, and each promoted one from its promotion on."""
    now = int(log.at[log.first])
    serving = learner.train(now)
    retrainings: list[Retraining] = []
    stretches: list[AnsweredRows] = []
    trained, end = now, int(log.at[-1])
    row, answers = log.first, learner.points(serving, np.arange(log.first, len(log.at)))
    found = _alarms(log, row, answers) if policy == "decay" else []
    while policy != "never" and (now := now + decay.PERIOD) <= end:
        alarm = (
            _demanded(found, log, now, trained, int(COOLDOWN * every) if retrainings else 0)
            if policy == "decay"
            else None
        )
        if alarm is None and (policy == "decay" or now < trained + every):
            continue
        trained = now
        model, attempt = _attempt(
            learner, serving, log, now, str(alarm) if alarm else "on schedule", alarm
        )
        retrainings.append(attempt)
        if model is not None:
            until = int(np.searchsorted(log.at, now))
            stretches.append(AnsweredRows(np.arange(row, until), serving, answers[: until - row]))
            row, serving, answers = (
                until,
                model,
                learner.points(model, np.arange(until, len(log.at))),
            )
            found = _alarms(log, row, answers) if policy == "decay" else []
    stretches.append(AnsweredRows(np.arange(row, len(log.at)), serving, answers))
    low, high = learner.ranges(stretches)
    return PolicyRun(
        learner.name,
        policy,
        np.concatenate([stretch.points for stretch in stretches]),
        low,
        high,
        tuple(retrainings),
    )


def _alarms(log: _Log, row: int, answers: Floats) -> list[Alarm]:
    """The alarms about a model that gives ``answers`` from ``row`` on; each depends only on what was judged before it."""
    return decay.alarms(log.labels.score(np.arange(row, len(log.at)), answers), log.decay_report)


def _demanded(
    found: Sequence[Alarm], log: _Log, now: int, trained: int, cooldown: int
) -> Alarm | None:
    before, ended = np.searchsorted(log.ends, [trained, now], side="right")
    return decay.training_trigger(found, now, trained, int(ended - before), int(ended), cooldown)


def _attempt(
    learner: RetrainedModel,
    serving: TrainedModel,
    log: _Log,
    now: int,
    why: str,
    alarm: Alarm | None,
) -> tuple[TrainedModel | None, Retraining]:
    """Train on the earlier jobs, compare on the later ones, and where it is better train on all: what the flow ``retrain`` does."""
    ended = np.flatnonzero((log.known <= now) & np.isfinite(log.values))
    since = evaluation_start(log.at[ended], serving.at)
    later = ended[log.at[ended] > since]
    if len(later) < MIN_EVALUATION_JOBS:
        return None, Retraining(
            now, why, False, f"nothing to compare by: only {len(later)} later jobs", 0.0, alarm
        )
    candidate = learner.train(since, serving)
    mine, theirs = (pd.Series(learner.points(model, later)) for model in (candidate, serving))
    compared = difference(pd.Series(log.values[later]), mine, theirs)
    verdict = f"on {len(later):,} later jobs its mean absolute error is {compared}"
    if not is_promotable(compared):
        return None, Retraining(now, why, False, verdict, candidate.seconds, alarm)
    final = learner.train(now, candidate)
    return final, Retraining(now, why, True, verdict, candidate.seconds + final.seconds, alarm)
