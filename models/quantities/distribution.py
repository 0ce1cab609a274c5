"""Distributions of outcomes: rows of masses over one grid, and their statistics."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from infra.aliases import Array, Integers
from models.quantities.classes import Cuts
from models.quantities.masses import (
    best_bins,
    cumulate,
    moments,
    partial_moments,
    quantiles,
    shares,
)
from models.quantities.targets import Grid

DEVIATION = 2.0
"""What an error of one ``scale`` costs the best point, against a whole point of accuracy."""


@dataclass(frozen=True)
class Distribution:
    """n distributions over one grid.

    Attributes:
        grid: The grid.
        mass: float[n, bins], rows sum to 1.
        limit: Upper bounds of the outcomes (float64[n], infinite for none).
    """

    grid: Grid
    mass: Array
    limit: Array

    def __len__(self) -> int:
        return len(self.mass)

    def take(self, rows: Array) -> Distribution:
        """Return the distributions of some rows."""
        return Distribution(self.grid, self.mass[rows], self.limit[rows])

    def _values(self) -> Array:
        """Return what each bin stands for, at most the limit (float64[n or 1, bins])."""
        centres = self.grid.centres
        if not np.isfinite(self.limit).any():
            return centres[None, :]
        return np.minimum(centres[None, :], self.limit[:, None])

    def _cumulated(self) -> Array:
        """Return the mass up to and with each bin, exactly 1 at the end (float64[n, bins])."""
        cumulated = np.empty(self.mass.shape)
        cumulate(self.mass, cumulated)
        return cumulated

    def mean(self) -> Array:
        """Return expected values (float64[n]).

        Without a limit the largest 2 % are winsorised: they count as the value where they begin.
        """
        return self.moments()[:, 0]

    def standard_deviation(self) -> Array:
        """Return standard deviations (float64[n])."""
        return self.moments()[:, 1]

    def moments(self) -> Array:
        """Return means and standard deviations (float64[n, 2])."""
        out = np.empty((len(self), 2))
        moments(self.mass, self.grid.centres, self.limit, out)
        return out

    def median(self) -> Array:
        """Return the middle of the bin that reaches half of the mass (float64[n])."""
        return self.quantile(0.5)

    def quantile(self, level: float | Array) -> Array:
        """Return quantiles within 0 and the limit (float64[n]), which never cross.

        An outcome is taken to lie anywhere in its bin, so a low quantile is a bin's lower edge and
        a high one its upper edge. In the last bin with mass the upper end is the limit, where there
        is one: some systems stop jobs late.

        Args:
            level: A number or float64[n], 0 to 1.
        """
        return self.quantiles(np.atleast_1d(np.asarray(level, dtype=np.float64))[:, None])[:, 0]

    def quantiles(self, levels: Array) -> Array:
        """Return quantiles (float64[n, m]) at ``levels`` (float64[m] or float64[n, m])."""
        levels = np.ascontiguousarray(np.atleast_2d(levels), dtype=np.float64)
        out = np.empty((len(self), levels.shape[1]))
        quantiles(self.mass, self.grid.centres, self.grid.edges, self.limit, levels, out)
        return out

    def interval(self, coverage: float = 0.9) -> tuple[Array, Array]:
        """Return the ends of the central range that holds ``coverage`` of the mass."""
        return self.quantile((1 - coverage) / 2), self.quantile((1 + coverage) / 2)

    def probability_over(self, values: Array) -> Array:
        """Return the probability of an outcome above each of ``values`` (float64[n]).

        A bin that the value cuts counts in proportion.
        """
        positions = self.grid.bin_positions(np.asarray(values, dtype=np.float64))
        positions = np.clip(positions, 0, self.grid.bins)
        bins, rows = (
            np.minimum(positions.astype(np.int64), self.grid.bins - 1),
            np.arange(len(self)),
        )
        above = 1.0 - self._cumulated()[rows, bins]
        return np.clip(above + self.mass[rows, bins] * (bins + 1 - positions), 0.0, 1.0)

    def partial_moments(self, bounds: Array, rows: Array) -> tuple[Array, Array]:
        """Return P(T ≤ bound) and E[T; T ≤ bound] of some rows (float64[n] each).

        A bound of at least the row's limit has all of its mass below it.

        Args:
            bounds: float64[n].
            rows: The row of each bound, which may repeat (int64[n]).
        """
        limit, out = self.limit[rows], np.empty((len(rows), 2))
        positions = np.clip(self.grid.bin_positions(bounds), 0, self.grid.bins)
        positions = np.where(bounds >= limit, float(self.grid.bins), positions)
        partial_moments(self.mass, rows, positions, self.grid.centres, limit, out)
        return out[:, 0], out[:, 1]

    def shares(self, cuts: Cuts) -> Array:
        """Return the probability of each class between ``cuts`` (float64[n, cuts + 1])."""
        out = np.empty((len(self), len(cuts) + 1))
        shares(self.mass, cuts.bins, cuts.parts, out)
        return out

    def remaining(self, spent: Array) -> Distribution:
        """Return the distributions of totals given that ``spent`` (float64[n]) is exceeded.

        A job beyond all mass of its distribution is taken to stay in the bin where it is.
        """
        bins = self.grid.bin(np.asarray(spent, dtype=np.float64))
        later = np.arange(self.grid.bins)[None, :] >= bins[:, None]
        mass = np.where(later, self.mass, 0.0).astype(np.float64)
        mass[np.arange(len(self)), bins] += mass.sum(axis=1) < 1e-9
        return Distribution(
            self.grid, mass / mass.sum(axis=1, keepdims=True), np.maximum(self.limit, spent)
        )

    def best_bin(
        self, scale: float | Array, deviation: float = DEVIATION, level: float | Array = 0.5
    ) -> Integers:
        """Find the bin c that maximises E[min(c/a, a/c) − deviation·|c − a|/scale] (int64[n]).

        This weighs relative accuracy (APA) and absolute error (MAE) together.

        Args:
            scale: A large error, a number or float64[n]; where NaN only accuracy counts.
            deviation: The cost of such an error.
            level: What is too low costs 2·level, what is too high 2·(1 − level) as much; a number
                or float64[n].
        """
        levels = np.broadcast_to(np.asarray(level, dtype=np.float64), (len(self),))
        return self.best_bins(scale, levels[:, None], deviation)[:, 0]

    def best_bins(
        self, scale: float | Array, levels: Array, deviation: float = DEVIATION
    ) -> Integers:
        """Find the best bins at several levels (int64[n, m]).

        Args:
            scale: As for ``best_bin``.
            levels: float64[m], or float64[n, m].
            deviation: As for ``best_bin``.
        """
        prices = np.ascontiguousarray(np.broadcast_to(price_of(scale, deviation), (len(self),)))
        levels = np.ascontiguousarray(np.atleast_2d(levels))
        out = np.empty((len(self), levels.shape[1]), np.int64)
        best_bins(self.mass, self.grid.centres, self.limit, prices, levels, out)
        return out

    def best_point(
        self, scale: float | Array, seen: Array | None = None, deviation: float = DEVIATION
    ) -> Array:
        """Return the best single value of each row (float64[n]); see ``best_bin``, ``point_in``.

        Args:
            scale: The error scale of each row.
            seen: What is available at the query.
            deviation: The cost of an error of one ``scale``.
        """
        return self.point_in(self.best_bin(scale, deviation), seen)

    def point_in(self, bins: Array, seen: Array | None = None) -> Array:
        """Return the value of each row (float64[n]) in its bin of ``bins``.

        Args:
            bins: int64[n].
            seen: The last outcome in that bin (float64[n]), NaN for the bin's middle.
        """
        return self.value_in(bins, np.arange(len(self)), seen)

    def value_in(self, bins: Array, rows: Array, seen: Array | None = None) -> Array:
        """Return ``point_in`` for some ``rows``, which may repeat.

        Args:
            bins: A bin for each of the rows.
            rows: The rows, which may repeat.
            seen: What is available at the query.
        """
        values = self.grid.centres[bins]
        if seen is not None:
            values = np.where(np.isnan(seen), values, seen)
        return np.minimum(values, self.limit[rows])

    def total(self, draws: int = 2000, seed: int = 0) -> Array:
        """Draw from the sum over all rows, taken to be independent (float64[draws])."""
        generator = np.random.default_rng(seed)
        values, total = self._values(), np.zeros(draws)
        for row, cumulated in enumerate(self._cumulated()):
            bins = np.searchsorted(cumulated, generator.random(draws), side="right")
            total += values[row % len(values)][np.minimum(bins, self.grid.bins - 1)]
        return total

    def probability_integral(self, truths: Array) -> tuple[Array, Array]:
        """Return the mass below the bin of each truth, and up to and with it (float64[n] each).

        A truth above the limit counts at the limit.
        """
        bins, rows = np.minimum(self.grid.bin(truths), self.top_bin()), np.arange(len(self))
        upto = self._cumulated()[rows, bins]
        return np.maximum(upto - self.mass[rows, bins], 0.0), upto

    def top_bin(self) -> Integers:
        """Return the last bin of each row that holds mass (int64[n])."""
        return self.grid.bins - 1 - np.argmax(self.mass[:, ::-1] > 0, axis=1)

    def continuous_ranked_probability(self, truths: Array) -> Array:
        """Return the continuous ranked probability score in the target's unit (float64[n]).

        Less is better (Gneiting and Raftery 2007).
        """
        values = np.append(self.grid.centres, self.grid.edges[-1])
        steps = np.diff(values)
        below = (truths[:, None] <= self.grid.centres[None, :]).astype(np.float64)
        return ((self._cumulated() - below) ** 2 * steps).sum(axis=1)


def join(distributions: Sequence[Distribution]) -> Distribution:
    """Concatenate the rows of distributions over one grid."""
    return Distribution(
        distributions[0].grid,
        np.concatenate([distribution.mass for distribution in distributions]),
        np.concatenate([distribution.limit for distribution in distributions]),
    )


def price_of(scale: float | Array, deviation: float = DEVIATION) -> Array:
    """Return the cost of a unit of error (float64, the shape of ``scale``); see ``best_bin``."""
    scales = np.asarray(scale, dtype=np.float64)
    return np.where(scales > 0, deviation / np.where(scales > 0, scales, 1.0), 0.0)
