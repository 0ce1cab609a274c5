"""Baselines: how schedulers and the literature predict today, each a few lines, all asked at submission.

Whoever claims to predict better must beat every row of ``BASELINES``. A baseline looks at jobs through ``AvailableHistory`` only, and
its answer is kept within the request and the target's grid by ``predict_baselines``.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.baselines.available_history import AvailableHistory, coalesce, read_history
from models.baselines.regressions import catboost, forest, ideal, ridge
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
    """A row of the table: its name, what it is, its predictions float64[n] and, where natural, its quantiles float64[n, QUANTILE_LEVELS].

    ``bound`` is what 95 of 100 outcomes are to stay below, of a baseline that foresees no more.
    """

    name: str
    meaning: str
    point: Callable[[AvailableHistory], Floats]
    quantiles: Callable[[AvailableHistory], Floats] | None = None
    bound: Callable[[AvailableHistory], Floats] | None = None


@dataclass(frozen=True)
class BaselinePredictions:
    """What one predictor said of n jobs: a best single value, and a 90 % range and ``QUANTILE_LEVELS`` quantiles where it gives them."""

    point: Floats
    low: Floats | None = None
    high: Floats | None = None
    quantiles: Floats | None = None


def _spread_of_ten(seen: AvailableHistory) -> Floats:
    known = [np.where(np.isnan(level.values[:, :1]), np.nan, level.values) for level in seen.levels]
    spreads = [row_quantiles(values, QUANTILE_LEVELS) for values in known]
    return np.column_stack(
        [
            coalesce(*(spread[:, column] for spread in spreads), seen.request, seen.fallback)
            for column in range(len(QUANTILE_LEVELS))
        ]
    )


BASELINES: tuple[Baseline, ...] = (
    Baseline("request", "what was asked for", lambda seen: seen.finest(last, ())),
    Baseline("last", "the template's last", lambda seen: seen.finest(last)),
    Baseline(
        "last-two",
        "mean of the user's last two (EASY++; Tsafrir 2007)",
        lambda seen: seen.finest(mean_of_two, seen.levels[-1:]),
    ),
    Baseline("template", "mean of the template's last two", lambda seen: seen.finest(mean_of_two)),
    Baseline("median-3", "median of the template's last 3", lambda seen: seen.finest(median_of(3))),
    Baseline(
        "median-10",
        "median of the template's last 10",
        lambda seen: seen.finest(median_of(10)),
        _spread_of_ten,
    ),
    Baseline(
        "ewma",
        "moving average of the template's logarithms",
        lambda seen: seen.finest(lambda level: level.average),
    ),
    Baseline(
        "group-median",
        "median of all the group has shown",
        lambda seen: coalesce(seen.group_quantiles[:, 0], seen.request, seen.fallback),
    ),
    Baseline(
        "group-p95",
        "95th percentile of the group (ATLAS P2PA)",
        lambda seen: coalesce(seen.group_quantiles[:, 1], seen.request, seen.fallback),
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
    "no prediction: plain CatBoost told the true CPU time (the ALICE poster's Model 0)",
    ideal,
)
"""How well run times could be known by who knew the CPU time: a ceiling that is no rival."""

CATBOOST = BASELINES[-1]

BASELINES_BY_SUBJECT: dict[str, tuple[Baseline, ...]] = {
    "job": BASELINES,
    "wait": (
        *(Baseline(name, meaning, point) for name, (meaning, point) in wait_baselines().items()),
        Baseline(
            "qbets",
            "binomial bound on the 95th percentile of the queue's waits (Brevik, Nurmi, Wolski 2006)",
            qbets,
            bound=qbets,
        ),
        replace(CATBOOST, meaning="plain CatBoost on history, request and the state of the queue"),
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
"""Rows that are no rivals: shown where they are asked for, or where a log tells what they need."""

HEURISTICS = tuple(baseline.name for baseline in BASELINES[:9])
"""The names of those that need no fitting: seconds for a long log."""


def predict_baselines(
    jobs: pd.DataFrame,
    target: Target,
    names: Sequence[str] | None = None,
    *,
    warm_up: float = 0.1,
    refit_every: float = 0.1,
    progress: Callable[[str, float], None] | None = None,
) -> dict[str, BaselinePredictions]:
    """What each baseline (default: all of BASELINES) says of every job at its submission; ``jobs`` in order of submission.

    The fitted ones are fitted anew on what had ended after each ``refit_every`` of the jobs from ``warm_up`` on; before that, and
    until enough has ended, they answer as ``template``.
    """
    refits = [int(len(jobs) * share) for share in np.arange(warm_up, 1, refit_every)]
    seen = read_history(jobs, target, refits, warm_up=max(int(len(jobs) * warm_up), 1))
    lowest = target.grid.lowest
    highest = np.maximum(coalesce(seen.request, np.full(len(jobs), np.inf)), lowest)
    answers = {}
    subject = target.subject.name
    chosen = [
        baseline
        for baseline in BASELINES_BY_SUBJECT[subject]
        if names is None or baseline.name in names
    ]
    chosen += [
        baseline
        for baseline in OPTIONAL_BASELINES[subject]
        if names is not None and baseline.name in names
    ]
    for place, baseline in enumerate(chosen):
        if progress is not None:
            progress(f"{target.name}: baseline {baseline.name}", place / len(chosen))
        point = np.clip(baseline.point(seen), lowest, highest)
        if baseline.bound is not None:
            answers[baseline.name] = BaselinePredictions(
                point, high=np.clip(baseline.bound(seen), lowest, highest)
            )
        elif baseline.quantiles is None:
            answers[baseline.name] = BaselinePredictions(point)
        else:
            quantiles = np.clip(baseline.quantiles(seen), lowest, highest[:, None])
            answers[baseline.name] = BaselinePredictions(
                point, quantiles[:, 0], quantiles[:, -1], quantiles
            )
    return answers
