"""Calibrated ranges of ends: levels corrected by the PIT of the outcomes available by then."""

from __future__ import annotations

import numpy as np

from infra.aliases import Array, Progress
from models.histories.calibration import DECAY, STEPS, Calibration
from models.tasks.ends import PROGRESS_LEVELS, PastQueries, TaskModel, fit, from_walltimes
from models.tasks.inputs import Queries
from models.tasks.sets import microseconds
from models.tasks.survival import Curves

LEVELS = (0.05, 0.5, 0.95)
PRIOR = 30.0
"""Weight of the uniform prior of the calibration, in outcomes; tasks are few."""
FITS = 5
"""Number of refits of the backtest that calibrates a model."""


def backtest_ranges(
    past: PastQueries,
    defined: Array,
    warm_up: float,
    refit_every: float,
    progress: Progress | None = None,
) -> Array:
    """Backtest the remaining time at each query, by models fitted on what was available before.

    Args:
        past: Queries in order of time, with outcomes.
        defined: Definitions of the tasks, ascending, s since 1970.
        warm_up: Share of the definitions before the first fit.
        refit_every: Share of the definitions between two fits.
        progress: Called after each fit.

    Returns:
        float64[n, LEVELS], s.
    """
    curves, pit = _predictions(past, defined, warm_up, refit_every, progress)
    levels, left = _calibrated_levels(past, pit), from_walltimes(past.inputs, LEVELS)
    for rows, curve in curves:
        left[rows] = _quantiles(curve, levels[rows])
    return left


def fit_calibrated(past: PastQueries, now: float) -> TaskModel:
    """Fit on the queries and outcomes available at ``now``, and calibrate the ranges."""
    available = past.available_by(now)
    queries, shares = available.queries, np.array(PROGRESS_LEVELS)
    defined = np.sort(queries.at[queries.progress == 0])
    pit = (
        _predictions(available, defined, 1 / FITS, 1 / FITS)[1]
        if len(defined) >= FITS
        else np.full(len(queries), np.nan)
    )
    # Queries of now, whose outcomes are not available.
    current = Queries(np.full(len(shares), -1), np.full(len(shares), now), shares)
    all_queries = Queries(
        *(
            np.concatenate([getattr(batch, name) for batch in (queries, current)])
            for name in ("task", "at", "progress")
        )
    )
    unknown = np.full(len(shares), np.inf)
    extended = PastQueries(
        all_queries, available.inputs, np.concatenate([available.finished, unknown])
    )
    all_pit = np.concatenate([pit, np.full(len(shares), np.nan)])
    trims = _calibrated_levels(extended, all_pit)[-len(shares) :]
    fitted = fit(available, now)
    return TaskModel(
        fitted.defined,
        fitted.in_progress,
        np.column_stack([np.zeros(len(shares)), trims, np.ones(len(shares))]),
    )


def time_left(model: TaskModel, inputs: Array, wanted: tuple[float, ...] | Array) -> Array:
    """Calibrated quantiles of the remaining time.

    Args:
        model: The fitted model.
        inputs: float32[n, NAMES].
        wanted: Levels, 0 to 1.

    Returns:
        float64[n, wanted], s, not crossing.
    """
    wanted = np.asarray(wanted)
    left = from_walltimes(inputs, wanted)
    by_share = np.array([np.interp(wanted, (0.0, *LEVELS, 1.0), trim) for trim in model.trims])
    for rows, curve in model.curves(inputs):
        share = np.searchsorted(PROGRESS_LEVELS, inputs[rows, 2], side="right") - 1
        left[rows] = _quantiles(curve, by_share[share])
    return np.sort(left, axis=1)


def _quantiles(curves: Curves, levels: Array) -> Array:
    """Quantiles at ``levels`` (float64[n, m]) of n distributions."""
    return np.column_stack([curves.quantile(column) for column in levels.T])


def _predictions(
    past: PastQueries,
    defined: Array,
    warm_up: float,
    refit_every: float,
    progress: Progress | None = None,
) -> tuple[list[tuple[Array, Curves]], Array]:
    """Predictions of earlier fits with their rows, and the PIT of each outcome (float64[n])."""
    queries, count = past.queries, len(defined)
    fits = [
        defined[row] for row in range(int(count * warm_up), count, max(int(count * refit_every), 1))
    ]
    pit = np.full(len(queries), np.nan)
    bounds = np.searchsorted(queries.at, [*fits, np.inf])
    curves: list[tuple[Array, Curves]] = []
    for number, now in enumerate(fits):
        rows = np.arange(bounds[number], bounds[number + 1])
        for selected, curve in fit(past, now).curves(past.inputs[rows]):
            chosen = rows[selected]
            curves.append((chosen, curve))
            pit[chosen] = curve.share_by(past.finished[chosen] - queries.at[chosen])
        if progress:
            progress("tasks: backtesting", 0.6 + 0.4 * (number + 1) / len(fits))
    return curves, pit


def _calibrated_levels(past: PastQueries, pit: Array) -> Array:
    """Raw levels of the calibrated LEVELS, by the PIT of outcomes available at each query.

    float64[n, LEVELS].
    """
    levels = np.tile(np.array(LEVELS), (len(pit), 1))
    at, available_at = microseconds(past.queries.at), microseconds(past.finished)
    for share in PROGRESS_LEVELS:
        rows = np.flatnonzero(past.queries.progress == share)
        order = rows[np.argsort(available_at[rows], kind="stable")]
        prior = np.full((1, len(DECAY), STEPS), PRIOR / STEPS)
        learned = Calibration(upto=prior.copy(), below=prior)
        levels[rows] = learned.replay(pit, pit, order, 0, available_at, at[rows], np.array(LEVELS))[
            0
        ]
    return levels
