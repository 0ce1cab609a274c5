"""Metrics: how far predictions were from outcomes, each by its definition in the literature.

Arrays are float64[n] in the target's unit. Ratios and logarithms take nothing below ``one``, the least value that counts (a
second, a page of memory), so that a job of no length does not divide by zero.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats
from models.baselines.catalogue import SHARES, Answers

WEEK, HALF_DAY, MONTH = 7 * 86400.0, 43200.0, 31 * 86400.0
RESAMPLES = 2000


def errors(actual: Floats, point: Floats, one: float = 1.0) -> dict[str, float | None]:
    """The errors of single values: mae, median_ae, rmse, r2, r2_log, mape, median_ape, apa and the share under-predicted, under.

    ``apa`` is the average prediction accuracy, the mean of min(p, a)/max(p, a) (Tsafrir, Etsion and Feitelson 2007).

    >>> found = errors(np.array([10.0, 20.0]), np.array([20.0, 20.0]))
    >>> found["mae"], found["apa"], found["mape"], found["under"]
    (5.0, 0.75, 0.5, 0.0)
    """
    error = point - actual
    predicted, real = np.maximum(point, one), np.maximum(actual, one)
    return {
        "mae": float(np.abs(error).mean()),
        "median_ae": float(np.median(np.abs(error))),
        "rmse": float(np.sqrt((error**2).mean())),
        "r2": _explained(actual, point),
        "r2_log": _explained(np.log(real), np.log(predicted)),
        "mape": float((np.abs(error) / real).mean()),
        "median_ape": float(np.median(np.abs(error) / real)),
        "apa": float((np.minimum(predicted, real) / np.maximum(predicted, real)).mean()),
        "under": float((error < 0).mean()),
    }


def _explained(actual: Floats, predicted: Floats) -> float | None:
    spread = float(((actual - actual.mean()) ** 2).sum())
    return 1 - float(((actual - predicted) ** 2).sum()) / spread if spread > 0 else None


def pinball(actual: Floats, quantiles: Floats, shares: Sequence[float] = SHARES) -> float:
    """The mean pinball (quantile) loss over jobs and quantiles; ``quantiles`` n × shares, or n × 1 for a single value.

    >>> pinball(np.array([10.0]), np.array([[8.0]]), [0.5])
    1.0
    """
    loss = 0.0
    for place, share in enumerate(shares):
        short = actual - quantiles[:, place if quantiles.shape[1] > 1 else 0]
        loss += float(np.maximum(share * short, (share - 1) * short).mean())
    return loss / len(shares)


def spreads(actual: Floats, answers: Answers, one: float = 1.0) -> dict[str, float | None]:
    """The errors of distributions: pinball, crps, crps_log (in octaves), coverage_90 and width_90 (mean), None without a range.

    ``upper_95`` is the mean of the upper ends, below which 95 of 100 outcomes are to stay, ``upper_95_holds`` the share that does.

    The CRPS is twice the mean pinball loss; that of a single value is its absolute error (Gneiting and Raftery 2007).
    """
    asked = answers.point[:, None] if answers.quantiles is None else answers.quantiles
    loss = pinball(actual, asked)
    octaves = pinball(np.log2(np.maximum(actual, one)), np.log2(np.maximum(asked, one)))
    found: dict[str, float | None] = {"pinball": loss, "crps": 2 * loss, "crps_log": 2 * octaves}
    kept = None if answers.high is None else float((actual <= answers.high).mean())
    found |= {
        "upper_95": None if answers.high is None else float(answers.high.mean()),
        "upper_95_holds": kept,
    }
    if answers.low is None or answers.high is None:
        return found | {"coverage_90": None, "width_90": None}
    within = (answers.low <= actual) & (actual <= answers.high)
    return found | {
        "coverage_90": float(within.mean()),
        "width_90": float((answers.high - answers.low).mean()),
    }


def log_score(mass: Floats) -> float:
    """The mean of −ln of the mass in the bin that the outcome fell into; less is better."""
    return float(-np.log(np.maximum(mass, 1e-9)).mean())


def deciles(below: Floats, upto: Floats) -> list[float]:
    """The share of outcomes in each tenth of their own distributions: .1 each where those are calibrated.

    An outcome's bin reaches from ``below`` to ``upto`` and counts in each tenth in proportion (Czado, Gneiting and Held 2009).

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


def blocks(at: pd.Series[Any]) -> npt.NDArray[np.int64]:
    """The block of time each job was submitted in: a week, or half a day on logs under a month (int64[n])."""
    seconds = (at - at.min()).dt.total_seconds().to_numpy()
    return np.asarray(
        seconds // (WEEK if seconds.max(initial=0) >= MONTH else HALF_DAY), dtype=np.int64
    )


def against(
    mine: Floats, theirs: Floats, block: npt.NDArray[np.int64], seed: int = 0
) -> tuple[Interval, Interval]:
    """The difference of two mean absolute errors, mine less theirs, and their ratio, with intervals by a bootstrap of whole blocks.

    ``mine`` and ``theirs`` are the absolute errors of the same jobs. Jobs of one block are drawn together: their errors are alike,
    and an interval over single jobs would be far too narrow (Künsch 1989).
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
    return np.divide(sums[:, 0], sums[:, 1], out=np.ones(len(sums)), where=sums[:, 1] > 0)


def _interval(sums: Floats, draws: Floats, figure: Any) -> Interval:
    low, high = np.quantile(figure(draws), [0.025, 0.975])
    return Interval(float(figure(sums.sum(axis=0, keepdims=True))[0]), float(low), float(high))
