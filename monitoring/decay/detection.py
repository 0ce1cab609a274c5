"""Decay detection: has the champion become worse than it was, or than the best simple baseline?

The only importer of river. Each prediction is scored once, a fixed delay after its job's
submission, beside a baseline's for the same job, by what is known then: the outcome, or that the
job still runs and has outlived the prediction. Recent errors would otherwise be those of short
jobs, since long ones end last. The scores of one burst of similar jobs are one observation, and a
sequential test (ADWIN; Bifet and Gavalda 2007) keeps the window in which nothing changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np

from infra.aliases import Array, Floats, Integers
from models.engine.log_rows import MAX_TRAINING_ROWS

Kind = Literal["rose", "worse", "moved"]

EVERYWHERE = "all"
LOSS_DELTA, SHIFT_DELTA = 0.02, 0.2
"""ADWIN's false-alarm probabilities for losses and for shifts of the outcomes, each shared by all
jobs and the clusters. Its bound holds for any distribution, so false alarms are far fewer
(docs/benchmarks/drift.md)."""
PERIOD = 6 * 3600 * 1_000_000
"""Microseconds over which the scores of a burst are averaged, and between two tests."""
ENDED_SHARE = 0.95
"""A prediction is scored when this share of the earlier jobs had ended, since submission."""
LONGEST_DELAY = 3 * 86400 * 1_000_000
MIN_BURSTS = 30
"""Bursts in a window before it can be called worse than the baseline."""
MIN_RISE = 0.01
"""A smaller rise, as a share of the largest loss, does not matter."""
MIN_SHIFT = 0.05
"""A smaller shift of the outcomes does not either: this share of log(MAX_RATIO)."""
MAX_RATIO = 10.0
"""Larger ratios of an outcome to that of earlier similar jobs count as this."""
ACTIVE_FOR = 7 * 86400 * 1_000_000
"""Microseconds for which a shift, which is detected once, stays active."""


@dataclass(frozen=True)
class ScoredPredictions:
    """Scored predictions, in order of ``at``.

    Attributes:
        at: When each was scored (int64, microseconds).
        excess: Its loss less the baseline's (float64, -1 to 1).
        shift: How far the outcome lies from earlier ones, see ``outcome_shifts`` (float64).
        burst: Which jobs came together (int64).
        cluster: Whose jobs they are (object).
    """

    at: Integers
    excess: Floats
    shift: Floats
    burst: Integers
    cluster: Array

    def take(self, rows: Any) -> ScoredPredictions:
        """Some of them."""
        return ScoredPredictions(
            self.at[rows], self.excess[rows], self.shift[rows], self.burst[rows], self.cluster[rows]
        )


@dataclass(frozen=True)
class Alarm:
    """Predictions became worse in ``segment``.

    ``rose``: their loss rose, ``worse``: it exceeds the baseline's, ``moved``: the outcomes
    themselves shifted. ``before`` and ``now`` are mean excess losses (``before`` 0 for ``worse``)
    or mean shifts; ``until`` is when it was over (microseconds).
    """

    at: int
    kind: Kind
    segment: str
    before: float
    now: float
    until: int | None = None

    def is_active(self, now: int) -> bool:
        """Whether it had begun and not ended by ``now``."""
        return self.at <= now and (self.until is None or now < self.until)

    def __str__(self) -> str:
        where = "" if self.segment == EVERYWHERE else f" for {self.segment}"
        if self.kind == "worse":
            return f"predictions{where} lose {self.now:+.3f} beside the best simple baseline"
        if self.kind == "moved":
            factor = MAX_RATIO ** (self.now - self.before)
            return f"jobs{where} take {factor:.2g} times what they took"
        return (
            f"what predictions{where} lose beside the best simple baseline rose from "
            f"{self.before:+.3f} to {self.now:+.3f}"
        )


def label_delay(submitted_at: Integers, available_at: Integers) -> int:
    """How long after submission a prediction is scored (microseconds), from earlier ended jobs."""
    if not len(submitted_at):
        return LONGEST_DELAY
    return int(min(np.quantile(available_at - submitted_at, ENDED_SHARE), LONGEST_DELAY))


def losses(point: Floats, actual: Floats, elapsed: Floats, scale: float) -> Floats:
    """The loss of each prediction: half by its ratio to the outcome, half by its distance.

    The halves are 1 - min(p/a, a/p) and |p - a|/scale, at most 1. A job that still runs counts by
    how far it has outlived its prediction.

    Args:
        point: Predictions.
        actual: Outcomes, NaN for jobs that still run.
        elapsed: How long those have run, NaN where they have not begun.
        scale: The distance that counts fully.

    Returns:
        Losses from 0 to 1, NaN where nothing is known (float64[n]).
    """
    outcome = np.where(np.isnan(actual), np.fmax(elapsed, point), actual)
    outcome = np.where(np.isnan(actual) & np.isnan(elapsed), np.nan, outcome)
    low, high = np.minimum(point, outcome), np.maximum(point, outcome)
    ratio = 1 - np.divide(low, high, out=np.ones_like(high), where=high > 0)
    return np.asarray((ratio + np.minimum((high - low) / scale, 1)) / 2)


def outcome_shifts(actual: Floats, elapsed: Floats, before: Floats) -> Floats:
    """How far outcomes lie from those of earlier similar jobs.

    Args:
        actual: Outcomes, NaN for jobs that still run.
        elapsed: How long those have run, NaN where they have not begun.
        before: The typical outcome of similar jobs before.

    Returns:
        Logarithms of the ratio to the base MAX_RATIO, -1 to 1 (float64[n]); NaN if not begun.
    """
    so_far = np.where(np.isnan(elapsed), np.nan, np.fmax(elapsed, before))
    outcome = np.where(np.isnan(actual), so_far, actual)
    ratio = np.maximum(outcome, 1) / np.maximum(before, 1)
    return np.asarray(np.clip(np.log(ratio) / np.log(MAX_RATIO), -1, 1))


def alarms(
    scored: ScoredPredictions,
    clusters: Sequence[str] = (),
    loss_delta: float = LOSS_DELTA,
    shift_delta: float = SHIFT_DELTA,
) -> list[Alarm]:
    """Run the sequential test over all jobs and in each of ``clusters``.

    Args:
        scored: The predictions.
        clusters: Clusters to test by themselves.
        loss_delta: ADWIN's delta for losses.
        shift_delta: ADWIN's delta for shifts.

    Returns:
        Every alarm, in order of time.
    """
    segments = {EVERYWHERE: np.arange(len(scored.at))}
    segments |= {name: np.flatnonzero(scored.cluster == name) for name in clusters}
    raised: list[Alarm] = []
    tests = 2 * len(segments)
    for name, rows in segments.items():
        own = scored.take(rows)
        raised += _loss_alarms(own, name, loss_delta / tests)
        raised += _shift_alarms(own, name, shift_delta / tests)
    return sorted(raised, key=lambda alarm: (alarm.at, alarm.segment != EVERYWHERE))


def training_trigger(
    raised: Sequence[Alarm], now: int, trained: int, new: int, ended: int, cooldown: int
) -> Alarm | None:
    """The alarm for which a model should be trained at ``now``, if there is one.

    A rise or a shift is answered at once, and once. A model that is merely worse than the
    baseline, perhaps from the first, needs more jobs: the new ones must be half of the rows that
    a training uses.

    Args:
        raised: The alarms.
        now: The present (microseconds).
        trained: The last training (microseconds).
        new: Jobs that ended since then.
        ended: All jobs that ended.
        cooldown: The least time between two trainings (microseconds).
    """
    if now < trained + cooldown:
        return None
    renewed = 2 * new >= min(ended, 2 * MAX_TRAINING_ROWS)
    for alarm in raised:
        if renewed and alarm.is_active(now) if alarm.kind == "worse" else trained < alarm.at <= now:
            return alarm
    return None


def _loss_alarms(scored: ScoredPredictions, segment: str, delta: float) -> list[Alarm]:
    from river.drift import ADWIN

    raised: list[Alarm] = []
    rise: Alarm | None = None
    worse: Alarm | None = None
    latest: deque[float] = deque(maxlen=MIN_BURSTS)
    window = ADWIN(delta=delta, clock=1, grace_period=MIN_BURSTS)
    for at, excess in _observations(scored, scored.excess):
        latest.append(excess)
        before = _update(window, excess)
        now = 2 * window.estimation - 1
        if before is not None and now > before + MIN_RISE and rise is None:
            rise = Alarm(at, "rose", segment, before, max(float(np.mean(latest)), now))
        elif rise and np.mean(latest) <= rise.before + (rise.now - rise.before) / 4:
            raised.append(replace(rise, until=at))
            rise = None
        if window.width < MIN_BURSTS:
            continue
        # What river calls the variance is the sum of squares about the mean.
        bound = _bound(window.variance / window.width, window.width, delta)
        is_worse = now - MIN_RISE > 2 * bound
        if is_worse and worse is None:
            worse = Alarm(at, "worse", segment, 0.0, now)
        elif worse and not is_worse:
            raised.append(replace(worse, until=at))
            worse = None
    return [*raised, *(alarm for alarm in (rise, worse) if alarm)]


def _shift_alarms(scored: ScoredPredictions, segment: str, delta: float) -> list[Alarm]:
    from river.drift import ADWIN

    raised: list[Alarm] = []
    latest: deque[float] = deque(maxlen=MIN_BURSTS)
    window = ADWIN(delta=delta, clock=1, grace_period=MIN_BURSTS)
    for at, shift in _observations(scored, scored.shift):
        latest.append(shift)
        before, now = _update(window, shift), float(np.mean(latest))
        if before is not None and abs(now - before) > MIN_SHIFT:
            raised.append(Alarm(at, "moved", segment, before, now, at + ACTIVE_FOR))
    return raised


def _update(window: Any, value: float) -> float | None:
    """Add a ``value`` (-1 to 1) to the window.

    Returns:
        The mean of what the window dropped, if it detected a change.
    """
    total, width = window.total + (value + 1) / 2, window.width + 1
    window.update((value + 1) / 2)
    if not window.drift_detected or window.width >= width:
        return None
    return float(2 * (total - window.total) / (width - window.width) - 1)


def _observations(scored: ScoredPredictions, values: Floats) -> list[tuple[int, float]]:
    """The mean of ``values`` in each burst and PERIOD, at the end of the PERIOD, in order."""
    if not len(scored.at):
        return []
    period = scored.at // PERIOD
    pairs = np.column_stack([period, scored.burst])
    _, first, index = np.unique(pairs, axis=0, return_index=True, return_inverse=True)
    means = np.bincount(index.ravel(), values) / np.bincount(index.ravel())
    order = np.argsort(first, kind="stable")
    return [((int(period[first[pair]]) + 1) * PERIOD, float(means[pair])) for pair in order]


def _bound(variance: float, width: float, delta: float) -> float:
    """ADWIN's bound on the error of a mean of ``width`` observations of 0 to 1."""
    chance = np.log(2 * np.log(max(width, 3.0)) / delta)
    return float(np.sqrt(2 * max(variance, 0.0) * chance / width) + 2 * chance / (3 * width))
