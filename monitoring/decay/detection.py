"""Decay: whether the champion does worse than it did, or than the best simple baseline. The only importer of river.

Each prediction is judged once, a fixed delay after its job's submission, beside a baseline's on the same job, by what is known by
then: the outcome, or that the job still runs and has outlived what was predicted. Recent errors would otherwise be those of short
jobs, since long ones end last. The judgements of one burst of like jobs are one observation, and a sequential test (ADWIN; Bifet
and Gavalda 2007) keeps the window of observations in which nothing changed.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from infra.aliases import Floats, Integers
from models.engine.prequential import MAX_TRAINING_ROWS as TRAINING_ROWS

Kind = Literal["rose", "worse", "moved"]

EVERYWHERE = "all"
DELTA, MOVED = 0.02, 0.2
"""The chances of being wrong that ADWIN is given about losses and about moves of the outcomes, each shared by all jobs and the clusters.

Its bound holds for any distribution, so false alarms are far fewer: docs/drift.md has how many, and what comes of these two.
"""
LOOK = 6 * 3600 * 1_000_000
"""Microseconds: observations are put together, and the test is asked, so often."""
DELAYS = 0.95
"""A job is judged when this share of the earlier jobs had ended, by the time since submission."""
LONGEST_DELAY = 3 * 86400 * 1_000_000
FEWEST = 30
"""Bursts that a window must hold before it is called worse than the baseline."""
LEAST = 0.01
"""A smaller rise, as a share of the largest loss, is worth nobody's time."""
LEAST_MOVE = 0.05
"""A smaller move of the outcomes is neither: of a factor of MOST this share, in logarithms."""
MOST = 10.0
"""Outcomes that differ from what like jobs took before by more than this factor count as this."""
ACTIVE_FOR = 7 * 86400 * 1_000_000
"""How long a move, which is noticed once, is spoken of as standing."""


@dataclass(frozen=True)
class ScoredPredictions:
    """Predictions judged, in order of ``at`` (int64, microseconds): ``excess`` is the loss less the baseline's (float64, −1 to 1).

    ``move`` is how far the outcome lies from what like jobs took before (see ``outcome_shifts``); ``burst`` (int64) says which jobs came
    together, ``cluster`` (object) whose jobs they are.
    """

    at: Integers
    excess: Floats
    move: Floats
    burst: Integers
    cluster: npt.NDArray[Any]

    def take(self, rows: Any) -> ScoredPredictions:
        """Some of them."""
        return ScoredPredictions(
            self.at[rows], self.excess[rows], self.move[rows], self.burst[rows], self.cluster[rows]
        )


@dataclass(frozen=True)
class Alarm:
    """That predictions became worse, in ``segment``: ``rose`` against what they were, or ``worse`` than the baseline's.

    ``before`` and ``now`` are mean excess losses, ``before`` 0 (the baseline's own) for ``worse``; for ``moved``, where the outcomes
    themselves left what they were at the training, mean moves. ``until`` is when it was over.
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
            return f"jobs{where} take {MOST ** (self.now - self.before):.2g} times what they took"
        return f"what predictions{where} lose beside the best simple baseline rose from {self.before:+.3f} to {self.now:+.3f}"


def label_delay(at: Integers, known: Integers) -> int:
    """How long after submission (microseconds) a prediction is judged, from when earlier jobs ended; ``known`` of those that did."""
    return int(min(np.quantile(known - at, DELAYS), LONGEST_DELAY)) if len(at) else LONGEST_DELAY


def losses(point: Floats, actual: Floats, ran: Floats, scale: float) -> Floats:
    """What each prediction lost, 0 to 1 (float64[n], NaN where nothing is known): half by its ratio, half by its distance in ``scale``.

    The halves are 1 − min(p/a, a/p) and |p − a|/scale, at most 1. Where ``actual`` is NaN the job still runs, for ``ran`` so far (NaN:
    it has not begun): it counts by how far it has outlived its prediction.
    """
    outcome = np.where(np.isnan(actual), np.fmax(ran, point), actual)
    outcome = np.where(np.isnan(actual) & np.isnan(ran), np.nan, outcome)
    low, high = np.minimum(point, outcome), np.maximum(point, outcome)
    ratio = 1 - np.divide(low, high, out=np.ones_like(high), where=high > 0)
    return np.asarray((ratio + np.minimum((high - low) / scale, 1)) / 2)


def outcome_shifts(actual: Floats, ran: Floats, before: Floats) -> Floats:
    """How far outcomes lie from what like jobs took ``before``: logarithms of the ratio to the base MOST, −1 to 1 (float64[n]).

    ``actual`` and ``ran`` as for ``losses``: a job that still runs has moved by how far it has outlived that, NaN where it has not begun.
    """
    outcome = np.where(
        np.isnan(actual), np.where(np.isnan(ran), np.nan, np.fmax(ran, before)), actual
    )
    return np.asarray(
        np.clip(np.log(np.maximum(outcome, 1) / np.maximum(before, 1)) / np.log(MOST), -1, 1)
    )


def alarms(
    judged: ScoredPredictions,
    clusters: Sequence[str] = (),
    delta: float = DELTA,
    moved: float = MOVED,
) -> list[Alarm]:
    """Every alarm of the sequential test, in order of time: over all jobs, and in each of ``clusters``."""
    parts = {EVERYWHERE: np.arange(len(judged.at))} | {
        name: np.flatnonzero(judged.cluster == name) for name in clusters
    }
    found: list[Alarm] = []
    for name, rows in parts.items():
        part, each = judged.take(rows), 2 * len(parts)
        found += _excesses(part, name, delta / each) + _moved(part, name, moved / each)
    return sorted(found, key=lambda alarm: (alarm.at, alarm.segment != EVERYWHERE))


def training_trigger(
    found: Sequence[Alarm], now: int, trained: int, new: int, known: int, cooldown: int
) -> Alarm | None:
    """The alarm by which a model should be trained anew at ``now`` (microseconds, as ``trained`` and ``cooldown``), if one does.

    What rose or moved is answered at once, and once. What is merely worse than the baseline, as it may have been from the first, can
    be cured by more jobs only: ``new``, that ended since the last training, of ``known`` in all, must fill half of what one looks at.
    """
    if now < trained + cooldown:
        return None
    renewed = 2 * new >= min(known, 2 * TRAINING_ROWS)
    for alarm in found:
        if renewed and alarm.is_active(now) if alarm.kind == "worse" else trained < alarm.at <= now:
            return alarm
    return None


def _excesses(judged: ScoredPredictions, segment: str, delta: float) -> list[Alarm]:
    from river.drift import ADWIN

    found: list[Alarm] = []
    rise: Alarm | None = None
    worse: Alarm | None = None
    latest: deque[float] = deque(maxlen=FEWEST)
    window = ADWIN(delta=delta, clock=1, grace_period=FEWEST)
    for at, excess in _observations(judged, judged.excess):
        latest.append(excess)
        before = _update(window, excess)
        now = 2 * window.estimation - 1
        if before is not None and now > before + LEAST and rise is None:
            rise = Alarm(at, "rose", segment, before, max(float(np.mean(latest)), now))
        elif rise and np.mean(latest) <= rise.before + (rise.now - rise.before) / 4:
            found.append(replace(rise, until=at))
            rise = None
        if window.width < FEWEST:
            continue
        # What river calls the variance is the sum of squares about the mean.
        is_worse = now - LEAST > 2 * _bound(window.variance / window.width, window.width, delta)
        if is_worse and worse is None:
            worse = Alarm(at, "worse", segment, 0.0, now)
        elif worse and not is_worse:
            found.append(replace(worse, until=at))
            worse = None
    return [*found, *(alarm for alarm in (rise, worse) if alarm)]


def _moved(judged: ScoredPredictions, segment: str, delta: float) -> list[Alarm]:
    from river.drift import ADWIN

    found: list[Alarm] = []
    latest: deque[float] = deque(maxlen=FEWEST)
    window = ADWIN(delta=delta, clock=1, grace_period=FEWEST)
    for at, move in _observations(judged, judged.move):
        latest.append(move)
        before = _update(window, move)
        if before is not None and abs(np.mean(latest) - before) > LEAST_MOVE:
            found.append(
                Alarm(at, "moved", segment, before, float(np.mean(latest)), at + ACTIVE_FOR)
            )
    return found


def _update(window: Any, value: float) -> float | None:
    """Tell the window a ``value`` (−1 to 1); the mean of what it forgot where it noticed a change."""
    total, width = window.total + (value + 1) / 2, window.width + 1
    window.update((value + 1) / 2)
    if not window.drift_detected or window.width >= width:
        return None
    return float(2 * (total - window.total) / (width - window.width) - 1)


def _observations(judged: ScoredPredictions, values: Floats) -> list[tuple[int, float]]:
    """The mean of ``values`` in each burst in each LOOK, told at the end of the LOOK, in order."""
    if not len(judged.at):
        return []
    look = judged.at // LOOK
    _, first, which = np.unique(
        np.column_stack([look, judged.burst]), axis=0, return_index=True, return_inverse=True
    )
    means = np.bincount(which.ravel(), values) / np.bincount(which.ravel())
    order = np.argsort(first, kind="stable")
    return [((int(look[first[place]]) + 1) * LOOK, float(means[place])) for place in order]


def _bound(variance: float, width: float, delta: float) -> float:
    """How far a mean of ``width`` observations of 0 to 1 may lie from the truth: ADWIN's own bound, against a mean that is given."""
    chance = np.log(2 * np.log(max(width, 3.0)) / delta)
    return float(np.sqrt(2 * max(variance, 0.0) * chance / width) + 2 * chance / (3 * width))
