"""Baselines: the predictors of schedulers and of the literature, at submission.

A baseline sees jobs through ``AvailableHistory`` only; ``predict_baselines`` clips its predictions
to the request and the target's grid.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.baselines.available_history import AvailableHistory, coalesce, read_history
from models.baselines.regressions import catboost, forest, ideal, ridge, wait_catboost
from models.baselines.transfers import transfer_baselines
from models.baselines.waits import qbets, wait_baselines
from models.past.recent import (
    last,
    mean_of_two,
    median_of,
    row_quantiles,
)
from models.quantities.metrics import QUANTILE_LEVELS
from models.quantities.targets import Target


@dataclass(frozen=True)
class Baseline:
    """A baseline: its name, what it is, and functions of the history.

    ``point`` gives predictions, float64[n]; ``quantiles``, where it has them,
    float64[n, QUANTILE_LEVELS]; ``bound`` an upper bound for 95 of 100 outcomes, where it has that.
    """

    name: str
    meaning: str
    point: Callable[[AvailableHistory], Floats]
    quantiles: Callable[[AvailableHistory], Floats] | None = None
    bound: Callable[[AvailableHistory], Floats] | None = None


@dataclass(frozen=True)
class BaselinePredictions:
    """Predictions of n jobs: single values, and where there are any 90 % ranges and quantiles."""

    point: Floats
    low: Floats | None = None
    high: Floats | None = None
    quantiles: Floats | None = None


def _spread_of_ten(history: AvailableHistory) -> Floats:
    values = (
        np.where(np.isnan(level.values[:, :1]), np.nan, level.values) for level in history.levels
    )
    spreads = [row_quantiles(latest, QUANTILE_LEVELS) for latest in values]
    return np.column_stack(
        [
            coalesce(*(spread[:, column] for spread in spreads), history.request, history.fallback)
            for column in range(len(QUANTILE_LEVELS))
        ]
    )


BASELINES: tuple[Baseline, ...] = (
    Baseline("request", "the request", lambda history: history.finest(last, ())),
    Baseline("last", "the template's last", lambda history: history.finest(last)),
    Baseline(
        "last-two",
        "mean of the user's last two (EASY++; Tsafrir 2007)",
        lambda history: history.finest(mean_of_two, history.levels[-1:]),
    ),
    Baseline(
        "template", "mean of the template's last two", lambda history: history.finest(mean_of_two)
    ),
    Baseline(
        "median-3", "median of the template's last 3", lambda history: history.finest(median_of(3))
    ),
    Baseline(
        "median-10",
        "median of the template's last 10",
        lambda history: history.finest(median_of(10)),
        _spread_of_ten,
    ),
    Baseline(
        "ewma",
        "moving average of the template's logarithms",
        lambda history: history.finest(lambda level: level.average),
    ),
    Baseline(
        "group-median",
        "median of all outcomes of the group",
        lambda history: coalesce(history.group_quantiles[:, 0], history.request, history.fallback),
    ),
    Baseline(
        "group-p95",
        "95th percentile of the group (ATLAS P2PA)",
        lambda history: coalesce(history.group_quantiles[:, 1], history.request, history.fallback),
    ),
    Baseline("ridge", "ridge regression on history and request", ridge),
    Baseline("forest", "random forest on history and request (ALICE, P2PA)", forest),
    Baseline(
        "catboost",
        "plain CatBoost on history and request, absolute error of the logarithm",
        catboost,
    ),
)

IDEAL = Baseline(
    "gridcast-ideal",
    "no prediction: plain CatBoost with the true CPU time (the ALICE poster's Model 0)",
    ideal,
)
"""The error that is left when the CPU time is known: a bound, no baseline."""

CATBOOST = BASELINES[-1]

BASELINES_BY_SUBJECT: dict[str, tuple[Baseline, ...]] = {
    "job": BASELINES,
    "wait": (
        *(Baseline(name, meaning, point) for name, (meaning, point) in wait_baselines().items()),
        Baseline(
            "qbets",
            "binomial bound on the 95th percentile of the queue's waits "
            "(Brevik, Nurmi, Wolski 2006)",
            qbets,
            bound=qbets,
        ),
        Baseline(
            "catboost",
            "plain CatBoost on Gridcast's inputs, absolute error of the logarithm",
            wait_catboost,
        ),
    ),
    "transfer": (
        *(
            Baseline(name, meaning, point)
            for name, (meaning, point) in transfer_baselines().items()
        ),
        replace(CATBOOST, meaning="plain CatBoost on history, size and load"),
    ),
}
"""The baselines of each subject."""
OPTIONAL_BASELINES: dict[str, tuple[Baseline, ...]] = {"job": (IDEAL,), "wait": (), "transfer": ()}
"""Rows that are no baselines: evaluated where they are named, or where a log has what they need."""

HEURISTICS = tuple(baseline.name for baseline in BASELINES[:9])
"""The names of the baselines without fitting: seconds for a long log."""


def predict_baselines(
    jobs: pd.DataFrame,
    target: Target,
    names: Sequence[str] | None = None,
    *,
    warm_up: float = 0.1,
    refit_every: float = 0.1,
    inputs: pd.DataFrame | None = None,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, BaselinePredictions]:
    """Predict every job at its submission by each baseline.

    Regressions are fitted again after each ``refit_every`` of the jobs; before the first fit they
    predict as ``template``.

    Args:
        jobs: Jobs in order of submission.
        target: What is predicted.
        names: The baselines; default: all of the subject.
        warm_up: The share of the jobs before the first fit.
        refit_every: The share of the jobs between two fits.
        inputs: Of a regression of waits, where they were computed before.
        progress: Is called with the baseline and the share done.
    """
    refits = [int(len(jobs) * share) for share in np.arange(warm_up, 1, refit_every)]
    history = read_history(
        jobs, target, refits, warm_up=max(int(len(jobs) * warm_up), 1), inputs=inputs
    )
    lowest = target.grid.lowest
    highest = np.maximum(coalesce(history.request, np.full(len(jobs), np.inf)), lowest)
    predictions = {}
    subject = target.subject.name
    usual, optional = BASELINES_BY_SUBJECT[subject], OPTIONAL_BASELINES[subject]
    chosen = [baseline for baseline in usual if names is None or baseline.name in names]
    chosen += [baseline for baseline in optional if names is not None and baseline.name in names]
    for index, baseline in enumerate(chosen):
        if progress is not None:
            progress(f"{target.name}: baseline {baseline.name}", index / len(chosen))
        point = np.clip(baseline.point(history), lowest, highest)
        high = None
        if baseline.bound is not None:
            high = np.clip(baseline.bound(history), lowest, highest)
        if baseline.quantiles is None:
            predictions[baseline.name] = BaselinePredictions(point, high=high)
        else:
            quantiles = np.clip(baseline.quantiles(history), lowest, highest[:, None])
            predictions[baseline.name] = BaselinePredictions(
                point, quantiles[:, 0], quantiles[:, -1], quantiles
            )
    return predictions
