"""Distributions: everything a caller may ask of a prediction, asked of one array of masses over one grid."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from infra.aliases import Array
from models.quantities.classes import Cuts
from models.quantities.masses import best_bins, moments, quantiles, reached_by, shares
from models.quantities.targets import Grid

DEVIATION = 2.0
"""What an error of one ``scale`` costs the best point, against a whole point of relative accuracy."""


@dataclass(frozen=True)
class Distribution:
    """n distributions over one grid: ``mass`` float[n, bins], rows summing to 1; ``limit`` float64[n], infinite for none."""

    grid: Grid
    mass: Array
    limit: Array

    def __len__(self) -> int:
        return len(self.mass)

    def take(self, rows: Array) -> Distribution:
        """The distributions of some rows."""
        return Distribution(self.grid, self.mass[rows], self.limit[rows])

    def _values(self) -> Array:
        """What each bin stands for in each row, never above the row's limit (float64[n or 1, bins])."""
        centres = self.grid.centres
        if not np.isfinite(self.limit).any():
            return centres[None, :]
        return np.minimum(centres[None, :], self.limit[:, None])

    def _reached(self) -> Array:
        """Mass up to and with each bin, exactly 1 from the last bin on that has any (float64[n, bins])."""
        reached = np.empty(self.mass.shape)
        reached_by(self.mass, reached)
        return reached

    def mean(self) -> Array:
        """Expected value of each row (float64[n]); where there is no limit the largest 2 % count as where they begin (winsorised)."""
        return self.moments()[:, 0]

    def standard_deviation(self) -> Array:
        """Standard deviation of each row (float64[n])."""
        return self.moments()[:, 1]

    def moments(self) -> Array:
        """Mean and standard deviation of each row (float64[n, 2])."""
        out = np.empty((len(self), 2))
        moments(self.mass, self.grid.centres, self.limit, out)
        return out

    def median(self) -> Array:
        """The middle of the bin that holds half of the mass below it or in it (float64[n])."""
        return self.quantile(0.5)

    def quantile(self, level: float | Array) -> Array:
        """Quantiles at ``level`` (a number or float64[n], 0 to 1): float64[n], within 0 and the limit, never crossing.

        The outcome is taken to lie anywhere in its bin, so a low quantile is a bin's lower edge and a high one its upper edge.
        In the last bin that holds any mass the upper end is the limit, where there is one: some systems stop jobs a moment late.
        """
        return self.quantiles(np.atleast_1d(np.asarray(level, dtype=np.float64))[:, None])[:, 0]

    def quantiles(self, levels: Array) -> Array:
        """Quantiles at several ``levels`` (float64[m] for all rows, or float64[n, m]): float64[n, m]."""
        wanted = np.ascontiguousarray(np.atleast_2d(levels), dtype=np.float64)
        out = np.empty((len(self), wanted.shape[1]))
        quantiles(self.mass, self.grid.centres, self.grid.edges, self.limit, wanted, out)
        return out

    def interval(self, coverage: float = 0.9) -> tuple[Array, Array]:
        """The central range that holds ``coverage`` of the mass: lower and upper ends, float64[n] each."""
        return self.quantile((1 - coverage) / 2), self.quantile((1 + coverage) / 2)

    def probability_over(self, values: Array) -> Array:
        """Probability that the outcome exceeds each of ``values`` (float64[n]); a bin that the value cuts counts in proportion."""
        mark = np.clip(
            self.grid.log_bin_positions(np.asarray(values, dtype=np.float64)), 0, self.grid.bins
        )
        bins = np.minimum(mark.astype(np.int64), self.grid.bins - 1)
        rows = np.arange(len(self))
        return np.clip(
            1.0 - self._reached()[rows, bins] + self.mass[rows, bins] * (bins + 1 - mark), 0.0, 1.0
        )

    def shares(self, cuts: Cuts) -> Array:
        """The probability of each class between ``cuts`` (float64[n, cuts + 1], rows summing to 1)."""
        out = np.empty((len(self), len(cuts) + 1))
        shares(self.mass, cuts.bins, cuts.parts, out)
        return out

    def remaining(self, spent: Array) -> Distribution:
        """The distributions of those that already used ``spent`` (float64[n]): what they will have used in the end, E[T | T > t] and all.

        A job that outlived all that was foreseen is taken to stay in the bin where it is.
        """
        bins = self.grid.bin(np.asarray(spent, dtype=np.float64))
        left = np.where(np.arange(self.grid.bins)[None, :] >= bins[:, None], self.mass, 0.0).astype(
            np.float64
        )
        rows = np.arange(len(self))
        left[rows, bins] += left.sum(axis=1) < 1e-9
        return Distribution(
            self.grid, left / left.sum(axis=1, keepdims=True), np.maximum(self.limit, spent)
        )

    def best_bin(self, scale: float | Array, deviation: float = DEVIATION) -> npt.NDArray[np.int64]:
        """The bin c that maximises E[min(c/a, a/c) − deviation·|c − a|/scale] over the outcomes a (int64[n]).

        Accuracy as APA and as MAE in one aim; prefix sums make it linear in the bins. ``scale`` is a number or float64[n]; where it
        is NaN only relative accuracy counts.
        """
        prices = np.ascontiguousarray(np.broadcast_to(price_of(scale, deviation), (len(self),)))
        out = np.empty(len(self), np.int64)
        best_bins(self.mass, self.grid.centres, self.limit, prices, out)
        return out

    def best_point(
        self, scale: float | Array, seen: Array | None = None, deviation: float = DEVIATION
    ) -> Array:
        """The best single value of each row (float64[n]): ``seen`` (the last value in that bin) where known, else the bin's middle."""
        return self.point_in(self.best_bin(scale, deviation), seen)

    def point_in(self, bins: Array, seen: Array | None = None) -> Array:
        """The value of each row (float64[n]) in its bin of ``bins``: ``seen`` where known, else the bin's middle."""
        return self.value_in(bins, np.arange(len(self)), seen)

    def value_in(self, bins: Array, rows: Array, seen: Array | None = None) -> Array:
        """``point_in`` for some ``rows``, any of them several times."""
        values = self.grid.centres[bins]
        if seen is not None:
            values = np.where(np.isnan(seen), values, seen)
        return np.minimum(values, self.limit[rows])

    def total(self, draws: int = 2000, seed: int = 0) -> Array:
        """Draws from the distribution of the sum over all rows, taken to be independent (float64[draws])."""
        generator = np.random.default_rng(seed)
        values, total = self._values(), np.zeros(draws)
        for row, reached in enumerate(self._reached()):
            picks = np.searchsorted(reached, generator.random(draws), side="right")
            total += values[row % len(values)][np.minimum(picks, self.grid.bins - 1)]
        return total

    def probability_integral(self, truths: Array) -> tuple[Array, Array]:
        """Mass below the bin of each truth, and up to and with it (float64[n] each); a truth above the limit counts at the limit."""
        bins = np.minimum(self.grid.bin(truths), self.top_bin())
        rows = np.arange(len(self))
        reached = self._reached()
        upper = reached[rows, bins]
        return np.maximum(upper - self.mass[rows, bins], 0.0), upper

    def top_bin(self) -> npt.NDArray[np.int64]:
        """The last bin of each row that holds any mass (int64[n])."""
        return self.grid.bins - 1 - np.argmax(self.mass[:, ::-1] > 0, axis=1)

    def continuous_ranked_probability(self, truths: Array) -> Array:
        """Continuous ranked probability score of each row in the target's unit (float64[n]; less is better; Gneiting, Raftery 2007)."""
        values = np.append(self.grid.centres, self.grid.edges[-1])
        steps = np.diff(values)
        below = (truths[:, None] <= self.grid.centres[None, :]).astype(np.float64)
        return ((self._reached() - below) ** 2 * steps).sum(axis=1)


def join(parts: Sequence[Distribution]) -> Distribution:
    """The rows of several distributions over one grid, one after the other."""
    return Distribution(
        parts[0].grid,
        np.concatenate([part.mass for part in parts]),
        np.concatenate([part.limit for part in parts]),
    )


def price_of(scale: float | Array, deviation: float = DEVIATION) -> Array:
    """What a unit of error costs (float64, the shape of ``scale``), see ``best_bin``."""
    scales = np.asarray(scale, dtype=np.float64)
    return np.where(scales > 0, deviation / np.where(scales > 0, scales, 1.0), 0.0)
