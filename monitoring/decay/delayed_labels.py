"""Delayed labels: when and against which baseline each prediction is scored, live and rehearsed."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats, Integers
from models.baselines.available_history import AvailableHistory, template_levels
from models.baselines.catalogue import HEURISTICS, predict_baselines
from models.histories.features import NOT_AVAILABLE
from models.refiner.clusters import most_informative_field
from monitoring.decay import detection as decay
from monitoring.decay.detection import ScoredPredictions
from monitoring.drift.windows import bursts_of

MIN_SIMILAR = 5
"""Ended jobs of a template from which its typical outcome is taken."""


@dataclass(frozen=True)
class DelayedLabels:
    """A row a job, in order of submission; times in microseconds.

    Attributes:
        baseline: The best simple baseline.
        baseline_point: Its predictions.
        scored_at: When the prediction of each job is scored.
        actual: The outcome as known by then, NaN for jobs that still ran.
        elapsed: How long those had run (s), NaN where they had not begun.
        scale: The distance that counts as a full loss.
        baseline_loss: The loss of the baseline's predictions.
        shift: How far the outcome lies from that of earlier similar jobs.
        burst: Which jobs came together.
        cluster: Whose they are.
    """

    baseline: str
    baseline_point: Floats
    scored_at: Integers
    actual: Floats
    elapsed: Floats
    scale: float
    baseline_loss: Floats
    shift: Floats
    burst: Integers
    cluster: Array

    def score(self, rows: Integers, point: Floats, until: int | None = None) -> ScoredPredictions:
        """Score predictions against the baseline's, as far as they can be by ``until``.

        Args:
            rows: The jobs that were predicted.
            point: The predictions.
            until: The present (microseconds), None for the end of time.
        """
        loss = decay.losses(point, self.actual[rows], self.elapsed[rows], self.scale)
        excess = loss - self.baseline_loss[rows]
        usable = np.isfinite(excess) & np.isfinite(self.shift[rows])
        if until is not None:
            usable &= self.scored_at[rows] <= until
        own = rows[usable]
        return ScoredPredictions(
            self.scored_at[own], excess[usable], self.shift[own], self.burst[own], self.cluster[own]
        )


def make_delayed_labels(history: AvailableHistory, first: int) -> DelayedLabels:
    """Label the jobs of ``history`` by what those before row ``first`` had shown by then."""
    jobs, target, values = history.jobs, history.target, history.values
    at, available_at = history.submitted_at, history.available_at
    observed = (available_at != NOT_AVAILABLE) & np.isfinite(values)
    start = at[min(first, len(at) - 1)]
    ended = np.flatnonzero(observed[:first] & (available_at[:first] <= start))
    scored_at = at + decay.label_delay(at[ended], available_at[ended])
    actual = np.where(observed & (available_at <= scored_at), values, np.nan)
    spread = float(np.quantile(values[ended], decay.ENDED_SHARE)) if len(ended) else 0.0
    scale = max(spread, target.grid.lowest)
    started = jobs["started_at"].astype("int64").where(jobs["started_at"].notna())
    began = started.to_numpy(dtype=np.float64, na_value=np.nan)
    runs = (began < scored_at) & (available_at > scored_at) & (target.unit == "s")
    elapsed = np.where(runs, (scored_at - began) / 1e6, np.nan)
    points = {
        name: answer.point for name, answer in predict_baselines(jobs, target, HEURISTICS).items()
    }
    losses = {name: decay.losses(point, actual, elapsed, scale) for name, point in points.items()}
    best = HEURISTICS[0]
    if len(ended):
        best = min(losses, key=lambda name: float(np.nanmean(losses[name][ended])))
    return DelayedLabels(
        best,
        points[best],
        scored_at,
        actual,
        elapsed,
        scale,
        losses[best],
        decay.outcome_shifts(actual, elapsed, _typical(jobs, values, ended)),
        bursts_of(jobs.iloc[:0], jobs)[1],
        clusters_of(jobs),
    )


def _typical(jobs: pd.DataFrame, values: Floats, ended: Integers) -> Floats:
    """The median outcome of the ``ended`` jobs of each job's template (float64[n]).

    Of a template with fewer than MIN_SIMILAR, that of the next coarser one.
    """
    outcomes = pd.Series(values)
    typical = np.full(len(jobs), np.median(values[ended]) if len(ended) else np.nan)
    for level in reversed(template_levels(jobs.iloc[ended])):
        codes = pd.Series(jobs.groupby(list(level), dropna=False, sort=False).ngroup().to_numpy())
        by_template = outcomes.iloc[ended].groupby(codes.iloc[ended]).agg(["median", "size"])
        medians = by_template["median"].where(by_template["size"] >= MIN_SIMILAR)
        median = codes.map(medians).to_numpy(dtype=float)
        typical = np.where(np.isnan(median), typical, median)
    return typical


def clusters_of(jobs: pd.DataFrame) -> Array:
    """Whose each job is: ``group x``, or by the most informative other field (object[n])."""
    field = most_informative_field(jobs)
    values = jobs[field].astype(object).fillna("(none)").astype(str)
    return (f"{field} " + values).astype(object).to_numpy()


def largest(clusters: Array, count: int) -> tuple[str, ...]:
    """The names of the ``count`` largest clusters, none where there is only one."""
    names = pd.Series(clusters, dtype=object).value_counts().index[:count]
    return tuple(map(str, names)) if len(names) > 1 else ()
