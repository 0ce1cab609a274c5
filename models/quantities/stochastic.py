"""Stochastic values: what is known of a duration as a set of values with their probabilities, combined quickly.

Schopf's three representations (normal, interval, histogram) become one: POINTS equally probable values, sorted, so that n values are one
array float64[n, POINTS]. Independent values are combined point by point in the order of a lattice, which pairs every part of one
with every part of another without drawing anything at random (Korobov 1959).
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
"""Orders of the points; the correlation of normal or exponential values in any two of them is under .06."""


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
    """Values of which only the ends are known, all between taken to be as likely (float64[n, POINTS])."""
    low, high = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    return low[:, None] + (high - low)[:, None] * LEVELS


def histogram(found: Distribution) -> Array:
    """Values as a forecast has them (float64[n, POINTS])."""
    return found.quantiles(LEVELS)


def constant(values: Array) -> Array:
    """Values that are certain (float64[n, POINTS])."""
    return np.repeat(np.asarray(values, dtype=np.float64)[:, None], POINTS, axis=1)


def total(*parts: Array) -> Array:
    """The sum of up to four independent values (float64[n, POINTS])."""
    summed = parts[0].copy()
    for part, order in zip(parts[1:], _LATTICE[1:], strict=False):
        summed += part[:, order]
    if len(parts) > len(_LATTICE):
        return total(np.sort(summed, axis=1), *parts[len(_LATTICE) :])
    return np.sort(summed, axis=1)


def maximum(*parts: Array) -> Array:
    """The largest of independent values, as where all must be done: a delay in one is a delay in all (float64[n, POINTS])."""
    largest = parts[0]
    for part, order in zip(parts[1:], cycle(_LATTICE[1:])):
        largest = np.sort(np.maximum(largest, part[:, order]), axis=1)
    return largest


def times(values: Array, factor: float | Array) -> Array:
    """The product by a constant that is not negative (a number or float64[n])."""
    return values * np.atleast_1d(np.asarray(factor, dtype=np.float64))[:, None]


def quantile(values: Array, level: float) -> Array:
    """The quantile at ``level``, linear between points (float64[n])."""
    place = np.clip(level * POINTS - 0.5, 0, POINTS - 1)
    below = int(place)
    above = min(below + 1, POINTS - 1)
    return np.asarray(values[:, below] + (place - below) * (values[:, above] - values[:, below]))


def reached(values: Array, limits: Array) -> Array:
    """The probability that each value is at most its limit (float64[n])."""
    return np.asarray((values <= np.asarray(limits, dtype=np.float64)[:, None]).mean(axis=1))


def first(values: Array, groups: Array) -> Array:
    """The probability that each value is the least of its group (float64[n]); rows of one group stand together.

    What is equal shares the first place.
    """
    starts = (
        np.flatnonzero(np.r_[True, groups[1:] != groups[:-1], True])
        if len(groups)
        else np.zeros(1, np.int64)
    )
    chances = np.zeros(len(values))
    _first(np.ascontiguousarray(values), starts, chances)
    return (
        chances / np.repeat(np.add.reduceat(chances, starts[:-1]), np.diff(starts))
        if len(groups)
        else chances
    )


@compiled
def _first(values: Array, starts: Array, chances: Array) -> None:
    """Go up through the points of each group: one is first by the product of the shares of the others that are still above it."""
    points = values.shape[1]
    for group in range(len(starts) - 1):
        begin, rows = starts[group], starts[group + 1] - starts[group]
        place, steps = np.zeros(rows, np.int64), np.zeros(rows, np.int64)
        heads = values[begin : begin + rows, 0].copy()
        none_yet = 1.0  # the probability that none has come up to here
        over = False
        while not over:
            least, shares, after = heads.min(), 0.0, 1.0
            # All points of this value at once: what comes together shares the chance of being first.
            for row in range(rows):
                steps[row] = 0
                if heads[row] == least:
                    while (
                        place[row] + steps[row] < points
                        and values[begin + row, place[row] + steps[row]] == least
                    ):
                        steps[row] += 1
                    left = points - place[row]
                    shares += steps[row] / left
                    after *= (left - steps[row]) / left
            after *= none_yet
            for row in range(rows):
                if steps[row] > 0:
                    chances[begin + row] += (
                        (none_yet - after) * (steps[row] / (points - place[row])) / shares
                    )
                    place[row] += steps[row]
                    over = over or place[row] == points
                    heads[row] = np.inf if place[row] == points else values[begin + row, place[row]]
            none_yet = after
            over = over or none_yet < LEAST_CHANCE
