"""The yardstick: when and beside what every prediction of a log is judged, the same in a rehearsal and live."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats, Integers
from models.baselines.available_history import AvailableHistory, template_levels
from models.baselines.catalogue import HEURISTICS, predict_baselines
from models.histories.features import NOT_AVAILABLE
from models.refiner.clusters import most_informative_field
from monitoring.decay import detection as decay
from monitoring.decay.detection import ScoredPredictions
from monitoring.drift.windows import bursts_of

FEWEST_ALIKE = 5
"""Ended jobs of a template that tell what its jobs take."""


@dataclass(frozen=True)
class DelayedLabels:
    """A row a job, in order of submission; times in microseconds.

    ``simple`` is what the best simple ``baseline`` said; it ``lost`` so much when judged at ``judged``, by ``actual`` or, where that was
    not known yet, by how long the job ``ran``. ``move`` is how far the outcome lies from what like jobs had taken
    before; ``burst`` says which jobs came together, ``cluster`` whose they are.
    """

    baseline: str
    simple: Floats
    judged: Integers
    actual: Floats
    ran: Floats
    scale: float
    lost: Floats
    move: Floats
    burst: Integers
    cluster: npt.NDArray[Any]

    def judge(self, rows: Integers, point: Floats, until: int | None = None) -> ScoredPredictions:
        """What predictions ``point`` for ``rows`` lost beside the baseline's, as far as that was told by ``until``."""
        excess = (
            decay.losses(point, self.actual[rows], self.ran[rows], self.scale) - self.lost[rows]
        )
        use = np.flatnonzero(
            np.isfinite(excess)
            & np.isfinite(self.move[rows])
            & (until is None or self.judged[rows] <= until)
        )
        kept = rows[use]
        return ScoredPredictions(
            self.judged[kept], excess[use], self.move[kept], self.burst[kept], self.cluster[kept]
        )


def make_delayed_labels(seen: AvailableHistory, first: int) -> DelayedLabels:
    """The yardstick of the jobs of ``seen``, taken from what those before row ``first`` had shown by then."""
    jobs, target, at, known, values = (
        seen.jobs,
        seen.target,
        seen.submitted_at,
        seen.available_at,
        seen.values,
    )
    told = (known != NOT_AVAILABLE) & np.isfinite(values)
    ended = np.flatnonzero(told[:first] & (known[:first] <= at[min(first, len(at) - 1)]))
    judged = at + decay.label_delay(at[ended], known[ended])
    actual = np.where(told & (known <= judged), values, np.nan)
    scale = max(
        float(np.quantile(values[ended], decay.DELAYS)) if len(ended) else 0.0, target.grid.lowest
    )
    began = (
        jobs["started_at"]
        .astype("int64")
        .where(jobs["started_at"].notna())
        .to_numpy(dtype=np.float64, na_value=np.nan)
    )
    runs = (began < judged) & (known > judged) & (target.unit == "s")
    ran = np.where(runs, (judged - began) / 1e6, np.nan)
    simple = {
        name: answer.point for name, answer in predict_baselines(jobs, target, HEURISTICS).items()
    }
    lost = {name: decay.losses(point, actual, ran, scale) for name, point in simple.items()}
    best = (
        min(lost, key=lambda name: float(np.nanmean(lost[name][ended])))
        if len(ended)
        else HEURISTICS[0]
    )
    move = decay.outcome_shifts(actual, ran, _typical(jobs, values, ended))
    burst = bursts_of(jobs.iloc[:0], jobs)[1]
    return DelayedLabels(
        best, simple[best], judged, actual, ran, scale, lost[best], move, burst, clusters_of(jobs)
    )


def _typical(jobs: pd.DataFrame, values: Floats, ended: Integers) -> Floats:
    """The median outcome of the ``ended`` jobs of each job's template, or of the finest coarser one that they tell of (float64[n])."""
    outcomes = pd.Series(values)
    found = np.full(len(jobs), np.median(values[ended]) if len(ended) else np.nan)
    for level in reversed(template_levels(jobs.iloc[ended])):
        codes = pd.Series(jobs.groupby(list(level), dropna=False, sort=False).ngroup().to_numpy())
        told = outcomes.iloc[ended].groupby(codes.iloc[ended]).agg(["median", "size"])
        median = codes.map(told["median"].where(told["size"] >= FEWEST_ALIKE)).to_numpy(dtype=float)
        found = np.where(np.isnan(median), found, median)
    return found


def clusters_of(jobs: pd.DataFrame) -> npt.NDArray[Any]:
    """Whose each job is: ``group x``, or by another field, whichever the log tells (object[n])."""
    field = most_informative_field(jobs)
    return (
        (f"{field} " + jobs[field].astype(object).fillna("(none)").astype(str))
        .astype(object)
        .to_numpy()
    )


def largest(clusters: npt.NDArray[Any], most: int) -> tuple[str, ...]:
    """The names of the ``most`` largest, none where there is only one."""
    names = pd.Series(clusters, dtype=object).value_counts().index[:most]
    return tuple(map(str, names)) if len(names) > 1 else ()
