"""Survival analysis of durations with running ones censored: Kaplan-Meier and a learned hazard.

Of recent intervals the short ones have ended first: a model of ended ones alone predicts ends too
early. A running interval counts as having lasted at least so long (Kaplan and Meier 1958; hazards
by intervals as classes: Singer and Willett 1993).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled

STEPS = 300.0 * 2.0 ** np.arange(0, 14, 1.25)
"""Seconds at which survival is an input of the model: five minutes to a month."""
BINS = 24
"""Intervals of the remaining time, equal on the logarithm; quantiles of durations were worse
(LCG-2005: 6.83 h against 6.70)."""
SHORTEST = 300.0
FEWEST = 15


@compiled
def count_intervals(
    begun: Array, ended: Array, now: float, first: int, died: Array, risked: Array, steps: Array
) -> None:
    """Add intervals to the ends and exposures by step, as of ``now``.

    Args:
        begun: Beginnings, sorted, s.
        ended: Ends, s.
        now: The instant, s; later beginnings are ignored.
        first: The first interval to add.
        died: float64[steps], ends within each step; changed.
        risked: float64[steps], exposures of each step; changed.
        steps: Upper ends of the steps, s.
    """
    for interval in range(first, len(begun)):
        if begun[interval] >= now:
            break
        over = ended[interval] <= now
        lasted = (ended[interval] if over else now) - begun[interval]
        low = 0.0
        for k in range(len(steps)):
            if lasted > steps[k]:
                risked[k] += 1.0
                low = steps[k]
            else:
                if over:
                    died[k] += 1.0
                    risked[k] += 1.0
                elif lasted > low:
                    risked[k] += 0.5
                break


@dataclass(frozen=True)
class Intervals:
    """Intervals by key, in order of their beginning.

    Those of key k are ``first[k]`` up to ``first[k + 1]`` in ``begun`` and ``ended`` (float64, s).
    """

    code_of: dict[Any, int]
    first: Array
    begun: Array
    ended: Array

    @staticmethod
    def of(keys: Array, begun: Array, ended: Array) -> Intervals:
        """Sort intervals by key and beginning.

        Args:
            keys: Hashable keys, object[n].
            begun: Beginnings, s.
            ended: Ends, s, infinite for running.
        """
        code_of = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        codes = np.fromiter((code_of[key] for key in keys), np.int64, len(keys))
        order = np.lexsort((begun, codes))
        first = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(code_of)))]).astype(
            np.int64
        )
        return Intervals(code_of, first, begun[order], ended[order])

    def before(self, key: Any, now: float, latest: int) -> tuple[Array, Array]:
        """Beginnings and ends of the latest intervals of a key that began before ``now``.

        Args:
            key: The key.
            now: The instant, s.
            latest: Number of intervals at most.
        """
        number = self.code_of.get(key)
        if number is None:
            return self.begun[:0], self.ended[:0]
        low, high = self.first[number], self.first[number + 1]
        high = low + np.searchsorted(self.begun[low:high], now)
        low = max(low, high - latest)
        return self.begun[low:high], self.ended[low:high]

    def survivals(
        self, keys: list[list[Any]], key_set: Array, at: Array, latest: int, long: float
    ) -> Array:
        """Kaplan-Meier survival over the latest intervals of several keys together.

        Args:
            keys: Sets of keys.
            key_set: The set of each query, int64[n].
            at: Instants of the queries, s.
            latest: Number of intervals of a key at most.
            long: Seconds from which a running interval counts as long.

        Returns:
            float64[n, STEPS + 2]: the share that lasts longer than each of STEPS (NaN without any
            interval), the number running, and the number running for longer than ``long``.
        """
        numbers = [[self.code_of[key] for key in own if key in self.code_of] for own in keys]
        bounds = np.concatenate([[0], np.cumsum([len(own) for own in numbers])]).astype(np.int64)
        flat = np.array([number for own in numbers for number in own], dtype=np.int64)
        return _survivals(
            self.first, self.begun, self.ended, flat, bounds, key_set, at, latest, long, STEPS
        )


@compiled
def _survivals(
    first: Array,
    begun: Array,
    ended: Array,
    keys: Array,
    bounds: Array,
    key_set: Array,
    at: Array,
    latest: int,
    long: float,
    steps: Array,
) -> Array:
    """The compiled part of ``Intervals.survivals``."""
    count = len(steps)
    out = np.full((len(key_set), count + 2), np.nan)
    for row in range(len(key_set)):
        now, running, lasting = at[row], 0.0, 0.0
        died, risked = np.zeros(count), np.zeros(count)
        for index in range(bounds[key_set[row]], bounds[key_set[row] + 1]):
            low, high = first[keys[index]], first[keys[index] + 1]
            high = low + np.searchsorted(begun[low:high], now)
            low = max(low, high - latest)
            count_intervals(begun[low:high], ended[low:high], now, 0, died, risked, steps)
            for interval in range(low, high):
                if ended[interval] > now:
                    running += 1.0
                    lasting += now - begun[interval] > long
        if risked.max() > 0:
            share = 1.0
            for k in range(count):
                share *= 1.0 - died[k] / max(risked[k], 1.0)
                out[row, k] = share
        out[row, count], out[row, count + 1] = running, lasting
    return out


@dataclass(frozen=True)
class Curves:
    """n distributions of durations.

    ``reached`` float64[n, bins] is the share over by the end of each bin; ``edges``
    float64[bins + 1], s.
    """

    edges: Array
    reached: Array

    def quantile(self, level: float | Array) -> Array:
        """Quantile of each distribution at ``level``, a number or float64[n] (float64[n], s)."""
        wanted = np.broadcast_to(np.asarray(level, dtype=np.float64), (len(self.reached),))
        rows, last = np.arange(len(self.reached)), self.reached.shape[1] - 1
        bins = np.minimum((self.reached < wanted[:, None]).sum(axis=1), last)
        below = np.where(bins > 0, self.reached[rows, bins - 1], 0.0)
        within = np.clip(
            (wanted - below) / np.maximum(self.reached[rows, bins] - below, 1e-9), 0.0, 1.0
        )
        return np.asarray(self.edges[bins] + within * (self.edges[bins + 1] - self.edges[bins]))

    def share_by(self, durations: Array) -> Array:
        """The share of each distribution that has ended by its duration (float64[n])."""
        padded = np.column_stack([np.zeros(len(self.reached)), self.reached])
        return np.array(
            [np.interp(x, self.edges, row) for x, row in zip(durations, padded, strict=True)]
        )

    def take(self, rows: Array) -> Curves:
        """The distributions of some rows."""
        return Curves(self.edges, self.reached[rows])


Hazard = Callable[[Array], Array]
"""From rows of inputs, the last column of which is the interval, to the probability of ending in
it (float64[n])."""
Fit = Callable[[Array, Array], Hazard | None]


def fit_curves(
    inputs: Array, lasted: Array, over: Array, fit: Fit
) -> Callable[[Array], Curves] | None:
    """Fit distributions of durations.

    Args:
        inputs: float32[n, m].
        lasted: Durations so far, s.
        over: Whether each has ended.
        fit: Fits a classifier of rows and labels.

    Returns:
        A function from inputs to Curves; None where too few have ended.
    """
    if over.sum() < FEWEST:
        return None
    # The last bin is narrow: many durations end at a limit such as two days.
    longest = max(float(lasted[over].max()), 2 * SHORTEST)
    edges = np.concatenate(
        [[0.0], np.geomspace(SHORTEST, longest * 0.97, BINS - 1), [longest * 1.03]]
    )
    bins = len(edges) - 1
    at = np.clip(np.searchsorted(edges, lasted, side="left") - 1, 0, bins - 1)
    # Of a running one only the intervals that it outlived completely.
    intervals = np.where(over, at + 1, at)
    rows = np.repeat(np.arange(len(lasted)), intervals)
    interval = np.arange(len(rows)) - np.repeat(np.cumsum(intervals) - intervals, intervals)
    hazard = fit(
        np.column_stack([inputs[rows], interval]).astype(np.float32),
        (over[rows] & (interval == at[rows])).astype(np.int64),
    )
    if hazard is None:
        return None

    def curves(query_inputs: Array) -> Curves:
        tiled = np.column_stack(
            [np.repeat(query_inputs, bins, axis=0), np.tile(np.arange(bins), len(query_inputs))]
        ).astype(np.float32)
        return Curves(
            edges, 1.0 - np.cumprod(1.0 - hazard(tiled).reshape(len(query_inputs), bins), axis=1)
        )

    return curves
