"""Metrics of predictions against outcomes, and the block bootstrap that compares two predictors.

Arrays are float64[n] in the target's unit. Ratios and logarithms clip values at ``lowest``, the
least value that counts (a second, a page of memory), so that a job of no length does not divide by
zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Flags, Floats, Integers
from models.quantities.targets import Grid

WEEK, HALF_DAY, MONTH = 7 * 86400.0, 43200.0, 31 * 86400.0
RESAMPLES = 2000
MAX_RATIO = 1e6
"""The ratio of two errors where the other predictor made none."""
QUANTILE_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))
"""The levels of the quantiles that every evaluation asks for: .05, .10, … .95."""


def lowest_counted(grid: Grid) -> float:
    """Return the least value that ratios and logarithms count: one unit, or the grid's start."""
    return max(1.0, grid.lowest)


def point_errors(
    actual: Floats, point: Floats, lowest: float = 1.0, weights: Floats | None = None
) -> dict[str, float | None]:
    """Compute the errors of point predictions.

    Args:
        actual: Outcomes.
        point: Predictions of the same jobs.
        lowest: The least value that ratios and logarithms count.
        weights: For how many jobs each prediction stands, 1 unless given; r2 takes no weights.

    Returns:
        mae, median_ae, rmse, r2, r2_log, mape, median_ape, apa and under (share predicted too
        low). ``apa`` is the average prediction accuracy, the mean of min(p, a)/max(p, a)
        (Tsafrir, Etsion and Feitelson 2007).

    >>> metrics = point_errors(np.array([10.0, 20.0]), np.array([20.0, 20.0]))
    >>> metrics["mae"], metrics["apa"], metrics["mape"], metrics["under"]
    (5.0, 0.75, 0.5, 0.0)
    """
    error = point - actual
    predicted, real = np.maximum(point, lowest), np.maximum(actual, lowest)
    return {
        "mae": weighted_mean(np.abs(error), weights),
        "median_ae": weighted_median(np.abs(error), weights),
        "rmse": float(np.sqrt(weighted_mean(error**2, weights))),
        "r2": _explained_variance(actual, point),
        "r2_log": _explained_variance(np.log(real), np.log(predicted)),
        "mape": weighted_mean(np.abs(error) / real, weights),
        "median_ape": weighted_median(np.abs(error) / real, weights),
        "apa": weighted_mean(np.minimum(predicted, real) / np.maximum(predicted, real), weights),
        "under": weighted_mean(error < 0, weights),
    }


def _explained_variance(actual: Floats, predicted: Floats) -> float | None:
    variance = float(((actual - actual.mean()) ** 2).sum())
    return 1 - float(((actual - predicted) ** 2).sum()) / variance if variance > 0 else None


def weighted_mean(values: Floats | Flags, weights: Floats | None = None) -> float:
    """The mean of ``values``, by ``weights`` if any."""
    return float(np.average(values, weights=weights))


def weighted_median(values: Floats, weights: Floats | None = None) -> float:
    """The median of ``values``; by unequal ``weights`` the least value that half of them reach."""
    if weights is None or (weights == weights[0]).all():
        return float(np.median(values))
    order = np.argsort(values)
    reached = np.cumsum(weights[order])
    return float(values[order[np.searchsorted(reached, reached[-1] / 2)]])


def coverage(actual: Floats, low: Floats, high: Floats, weights: Floats | None = None) -> float:
    """Compute the share of outcomes within their ranges.

    Args:
        actual: Outcomes.
        low: Lower ends, included.
        high: Upper ends, included.
        weights: For how many jobs each stands, 1 unless given.
    """
    return weighted_mean((low <= actual) & (actual <= high), weights)


def pinball(actual: Floats, quantiles: Floats, levels: Sequence[float] = QUANTILE_LEVELS) -> float:
    """Compute the mean pinball (quantile) loss over jobs and levels.

    Args:
        actual: Outcomes.
        quantiles: float64[n, levels], or float64[n, 1] for a point prediction.
        levels: The level of each column.

    >>> pinball(np.array([10.0]), np.array([[8.0]]), [0.5])
    1.0
    """
    loss = 0.0
    for column, level in enumerate(levels):
        short = actual - quantiles[:, column if quantiles.shape[1] > 1 else 0]
        loss += float(np.maximum(level * short, (level - 1) * short).mean())
    return loss / len(levels)


def distribution_errors(
    actual: Floats,
    quantiles: Floats,
    low: Floats | None = None,
    high: Floats | None = None,
    lowest: float = 1.0,
) -> dict[str, float | None]:
    """Compute the errors of predicted distributions.

    Args:
        actual: Outcomes.
        quantiles: float64[n, QUANTILE_LEVELS], or float64[n, 1] for a point prediction.
        low: Lower ends of the 90 % ranges, where there are any.
        high: Upper ends of the 90 % ranges, or upper bounds that 95 of 100 outcomes stay below.
        lowest: The least value that logarithms count.

    Returns:
        pinball, crps and crps_log (in octaves), upper_95 (mean upper end) and upper_95_holds (share
        of outcomes not above it), coverage_90 and width_90 (mean); None without a range. The CRPS
        is twice the mean pinball loss; that of a point is its absolute error (Gneiting and Raftery
        2007).
    """
    loss = pinball(actual, quantiles)
    octaves = pinball(np.log2(np.maximum(actual, lowest)), np.log2(np.maximum(quantiles, lowest)))
    ranged = low is not None and high is not None
    return {
        "pinball": loss,
        "crps": 2 * loss,
        "crps_log": 2 * octaves,
        "upper_95": None if high is None else float(high.mean()),
        "upper_95_holds": None if high is None else float((actual <= high).mean()),
        "coverage_90": coverage(actual, low, high) if ranged else None,  # type: ignore[arg-type]
        "width_90": float((high - low).mean()) if ranged else None,  # type: ignore[operator]
    }


def wait_shares(actual: Floats, point: Floats) -> dict[str, float | None]:
    """Compute how often predicted waits are near enough.

    Args:
        actual: Waits, s.
        point: Predictions of the same jobs, s.

    Returns:
        within_2_7, the share with 1/e ≤ predicted/actual ≤ e, both counted as a second at least;
        within_10_minutes, the share of waits over a minute that are missed by ten at most.

    >>> wait_shares(np.array([0.0, 100.0, 5000.0]), np.array([2.0, 250.0, 4000.0]))
    {'within_2_7': 1.0, 'within_10_minutes': 0.5}
    """
    ratio = np.log(np.maximum(point, 1.0) / np.maximum(actual, 1.0))
    long = actual > 60.0
    near = np.abs(point - actual)[long] <= 600.0
    return {
        "within_2_7": float((np.abs(ratio) <= 1.0).mean()),
        "within_10_minutes": float(near.mean()) if long.any() else None,
    }


def log_score(mass: Floats) -> float:
    """The mean of −ln of the mass in the bin that the outcome fell into; less is better."""
    return float(-np.log(np.maximum(mass, 1e-9)).mean())


def deciles(below: Floats, upto: Floats) -> list[float]:
    """The share of outcomes in each tenth of their own distributions: .1 each where calibrated.

    An outcome's bin reaches from ``below`` to ``upto`` and counts in each tenth in proportion
    (Czado, Gneiting and Held 2009).

    >>> deciles(np.array([0.0, 0.5]), np.array([0.2, 0.6]))
    [0.25, 0.25, 0.0, 0.0, 0.0, 0.5, 0.0, 0.0, 0.0, 0.0]
    """
    width = np.maximum(upto - below, 1e-9)
    edges = np.linspace(0, 1, 11)
    reached = [np.clip((edge - below) / width, 0, 1).mean() for edge in edges[1:-1]]
    return [round(float(share), 12) for share in np.diff([0.0, *reached, 1.0])]


@dataclass(frozen=True)
class Interval:
    """A value and the ends of its 95 % interval."""

    value: float
    low: float
    high: float


def time_blocks(at: pd.Series[Any]) -> Integers:
    """Return the week of each submission, or the half day on logs under a month (int64[n])."""
    seconds = (at - at.min()).dt.total_seconds().to_numpy()
    return np.asarray(
        seconds // (WEEK if seconds.max(initial=0) >= MONTH else HALF_DAY), dtype=np.int64
    )


def equal_blocks(count: int, blocks: int) -> Integers:
    """The block of each of ``count`` jobs in order, cut into ``blocks`` runs of equal length."""
    return np.arange(count) * min(blocks, count) // max(count, 1)


def compare_errors(
    mine: Floats, theirs: Floats, block: Integers, seed: int = 0
) -> tuple[Interval, Interval]:
    """Compare two mean absolute errors by a bootstrap of whole blocks of jobs.

    Jobs of one block are drawn together: their errors are alike, and an interval over single jobs
    would be far too narrow (Künsch 1989).

    Args:
        mine: Absolute errors of one predictor.
        theirs: Absolute errors of another of the same jobs.
        block: The block of each job (see ``time_blocks`` and ``equal_blocks``).
        seed: Seed of the resampling.

    Returns:
        The difference of the means, mine less theirs, and their ratio (1 where both are 0).
    """
    _, codes = np.unique(block, return_inverse=True)
    sums = np.column_stack(
        [np.bincount(codes, weights) for weights in (mine, theirs, np.ones(len(mine)))]
    ).astype(np.float64)
    draws = (
        np.random.default_rng(seed).multinomial(
            len(sums), np.full(len(sums), 1 / len(sums)), size=RESAMPLES
        )
        @ sums
    )
    return _interval(sums, draws, lambda s: (s[:, 0] - s[:, 1]) / s[:, 2]), _interval(
        sums, draws, _ratio
    )


def _ratio(sums: Floats) -> Floats:
    mine, theirs = sums[:, 0], sums[:, 1]
    ratio = np.divide(mine, theirs, out=np.full(len(sums), MAX_RATIO), where=theirs > 0)
    return np.where((theirs <= 0) & (mine <= 0), 1.0, np.minimum(ratio, MAX_RATIO))


def _interval(sums: Floats, draws: Floats, statistic: Any) -> Interval:
    low, high = np.quantile(statistic(draws), [0.025, 0.975])
    return Interval(float(statistic(sums.sum(axis=0, keepdims=True))[0]), float(low), float(high))
