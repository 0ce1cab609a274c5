"""Stochastic values: durations as sets of equally probable points, combined quickly.

Schopf's three representations (normal, interval, histogram) become one: POINTS sorted values, so
that n durations are one array float64[n, POINTS]. Independent values are combined point by point in
the order of a lattice, which pairs every part of one with every part of another without drawing at
random (Korobov 1959).
"""

from __future__ import annotations

from itertools import cycle

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from models.quantities.distribution import Distribution

POINTS = 64
LEVELS = (np.arange(POINTS) + 0.5) / POINTS
"""The shares of probability below each point."""
_LATTICE = tuple(
    (factor * np.arange(POINTS) + shift) % POINTS
    for factor, shift in ((1, 0), (39, 29), (59, 29), (35, 7))
)
"""Orders of the points; values in any two of them correlate by less than .06."""


LEAST_CHANCE = 1e-4
"""Below this probability that none is done yet, who is first is settled."""


def normal(mean: Array, deviation: Array) -> Array:
    """Normal values cut at 0, since no duration is less (float64[n, POINTS]).

    >>> normal(np.array([10.0]), np.array([2.0])).mean().round(3)
    np.float64(10.0)
    """
    from scipy.special import ndtri

    scores = ndtri(LEVELS)
    # The points of a normal leave out its tails; its standard deviation is kept.
    scores = scores / np.sqrt((scores**2).mean())
    return np.maximum(np.asarray(mean)[:, None] + np.asarray(deviation)[:, None] * scores, 0.0)


def interval(low: Array, high: Array) -> Array:
    """Return values uniform between two ends (float64[n, POINTS])."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return low[:, None] + (high - low)[:, None] * LEVELS


def histogram(distribution: Distribution) -> Array:
    """Return the quantiles of a forecast (float64[n, POINTS])."""
    return distribution.quantiles(LEVELS)


def constant(values: Array) -> Array:
    """Return values that are certain (float64[n, POINTS])."""
    return np.repeat(np.asarray(values, dtype=np.float64)[:, None], POINTS, axis=1)


def total(*values: Array) -> Array:
    """Return the sum of independent values (float64[n, POINTS])."""
    summed = values[0].copy()
    for addend, order in zip(values[1:], _LATTICE[1:], strict=False):
        summed += addend[:, order]
    if len(values) > len(_LATTICE):
        return total(np.sort(summed, axis=1), *values[len(_LATTICE) :])
    return np.sort(summed, axis=1)


def maximum(*values: Array) -> Array:
    """Return the largest of independent values, as where all must end (float64[n, POINTS])."""
    largest = values[0]
    for other_values, order in zip(values[1:], cycle(_LATTICE[1:])):
        largest = np.sort(np.maximum(largest, other_values[:, order]), axis=1)
    return largest


def times(values: Array, factor: float | Array) -> Array:
    """Multiply by a constant that is not negative (a number or float64[n])."""
    return values * np.atleast_1d(np.asarray(factor, dtype=np.float64))[:, None]


def quantile(values: Array, level: float) -> Array:
    """Return the quantile at ``level``, linear between points (float64[n])."""
    position = np.clip(level * POINTS - 0.5, 0, POINTS - 1)
    below = int(position)
    above = min(below + 1, POINTS - 1)
    return np.asarray(values[:, below] + (position - below) * (values[:, above] - values[:, below]))


def reached(values: Array, limits: Array) -> Array:
    """Return the probability that each value is at most its limit (float64[n])."""
    return np.asarray((values <= np.asarray(limits, dtype=np.float64)[:, None]).mean(axis=1))


def first(values: Array, groups: Array) -> Array:
    """Return the probability that each value is the least of its group (float64[n]).

    Equal values share the first position.

    Args:
        values: float64[n, POINTS].
        groups: The group of each (int64[n]); rows of one group are neighbours.
    """
    chances = np.zeros(len(values))
    if not len(groups):
        return chances
    starts = np.flatnonzero(np.r_[True, groups[1:] != groups[:-1], True])
    _first(np.ascontiguousarray(values), starts, chances)
    totals = np.add.reduceat(chances, starts[:-1])
    return np.asarray(chances / np.repeat(totals, np.diff(starts)))


@compiled
def _first(values: Array, starts: Array, chances: Array) -> None:
    """Go up through the points of each group.

    A value is first by the product of the shares of the others that are still above it.
    """
    points = values.shape[1]
    for group in range(len(starts) - 1):
        begin, rows = starts[group], starts[group + 1] - starts[group]
        passed, steps = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        heads = values[begin : begin + rows, 0].copy()
        none_yet = 1.0  # the probability that no value lies below the current one
        over = False
        while not over:
            least, shares, after = heads.min(), 0.0, 1.0
            # All points of this value at once, since equal values share the first position.
            for row in range(rows):
                steps[row] = 0
                if heads[row] == least:
                    while (
                        passed[row] + steps[row] < points
                        and values[begin + row, passed[row] + steps[row]] == least
                    ):
                        steps[row] += 1
                    left = points - passed[row]
                    shares += steps[row] / left
                    after *= (left - steps[row]) / left
            after *= none_yet
            for row in range(rows):
                if steps[row] > 0:
                    share = steps[row] / (points - passed[row])
                    chances[begin + row] += (none_yet - after) * share / shares
                    passed[row] += steps[row]
                    ended = passed[row] == points
                    over = over or ended
                    heads[row] = np.inf if ended else values[begin + row, passed[row]]
            none_yet = after
            over = over or none_yet < LEAST_CHANCE
