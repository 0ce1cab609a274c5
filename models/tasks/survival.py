"""Survival: how long things last when some of them still go on, by Kaplan and Meier and by a learned hazard.

What has ended by now is the short part of what began lately: who learns from it alone foresees ends too early. What still goes on
counts here as having lasted so long at least (Kaplan and Meier 1958; hazards by intervals as classes: Singer and Willett 1993).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled

STEPS = 300.0 * 2.0 ** np.arange(0, 14, 1.25)
"""Seconds at which survival is told to the model: five minutes to a month."""
BINS = 24
"""Intervals that the time left is told in; as quantiles of what lasted so long they were worse (LCG-2005: 6.83 h, these 6.70)."""
SHORTEST = 300.0
FEWEST = 15


@compiled
def count_intervals(
    begun: Array, ended: Array, now: float, first: int, died: Array, risked: Array, steps: Array
) -> None:
    """Add spells ``first`` and later (sorted by ``begun``, float64) to the ends and exposures by interval, as they stood at ``now``."""
    for spell in range(first, len(begun)):
        if begun[spell] >= now:
            break
        over = ended[spell] <= now
        lasted = (ended[spell] if over else now) - begun[spell]
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
    """Intervals by key: those of key k lie from ``first[k]`` to ``first[k + 1]`` in ``begun`` and ``ended`` (float64), by their beginning."""

    place: dict[Any, int]
    first: Array
    begun: Array
    ended: Array

    @staticmethod
    def of(keys: Array, begun: Array, ended: Array) -> Intervals:
        """Sort spells with any hashable ``keys`` (object[n]) by key and beginning."""
        place = {key: number for number, key in enumerate(dict.fromkeys(keys))}
        codes = np.fromiter((place[key] for key in keys), np.int64, len(keys))
        order = np.lexsort((begun, codes))
        first = np.concatenate([[0], np.cumsum(np.bincount(codes, minlength=len(place)))]).astype(
            np.int64
        )
        return Intervals(place, first, begun[order], ended[order])

    def before(self, key: Any, now: float, latest: int) -> tuple[Array, Array]:
        """Beginning and end of the ``latest`` spells of a key that began before ``now``."""
        number = self.place.get(key)
        if number is None:
            return self.begun[:0], self.ended[:0]
        low, high = self.first[number], self.first[number + 1]
        high = low + np.searchsorted(self.begun[low:high], now)
        low = max(low, high - latest)
        return self.begun[low:high], self.ended[low:high]

    def survivals(
        self, keys: list[list[Any]], which: Array, at: Array, latest: int, long: float
    ) -> Array:
        """What the ``latest`` spells of each key of ``keys[which[n]]`` say together at ``at[n]`` (float64[n, STEPS + 2]).

        The share that lasts longer than each of STEPS, NaN where there are none; then how many go on, and for over ``long`` seconds.
        """
        numbers = [[self.place[key] for key in own if key in self.place] for own in keys]
        bounds = np.concatenate([[0], np.cumsum([len(own) for own in numbers])]).astype(np.int64)
        flat = np.array([number for own in numbers for number in own], dtype=np.int64)
        return _survivals(
            self.first, self.begun, self.ended, flat, bounds, which, at, latest, long, STEPS
        )


@compiled
def _survivals(
    first: Array,
    begun: Array,
    ended: Array,
    keys: Array,
    bounds: Array,
    which: Array,
    at: Array,
    latest: int,
    long: float,
    steps: Array,
) -> Array:
    """``Intervals.survivals``: by Kaplan and Meier over the spells of all keys together."""
    count = len(steps)
    found = np.full((len(which), count + 2), np.nan)
    for row in range(len(which)):
        now, running, lasting = at[row], 0.0, 0.0
        died, risked = np.zeros(count), np.zeros(count)
        for place in range(bounds[which[row]], bounds[which[row] + 1]):
            low, high = first[keys[place]], first[keys[place] + 1]
            high = low + np.searchsorted(begun[low:high], now)
            low = max(low, high - latest)
            count_intervals(begun[low:high], ended[low:high], now, 0, died, risked, steps)
            for spell in range(low, high):
                if ended[spell] > now:
                    running += 1.0
                    lasting += now - begun[spell] > long
        if risked.max() > 0:
            share = 1.0
            for k in range(count):
                share *= 1.0 - died[k] / max(risked[k], 1.0)
                found[row, k] = share
        found[row, count], found[row, count + 1] = running, lasting
    return found


@dataclass(frozen=True)
class Curves:
    """n distributions of durations: ``reached`` float64[n, bins] is the share over by the ends of bins; ``edges`` float64[bins + 1], s."""

    edges: Array
    reached: Array

    def quantile(self, level: float | Array) -> Array:
        """The duration that ``level`` (a number or float64[n]) of each distribution does not exceed (float64[n])."""
        wanted = np.broadcast_to(np.asarray(level, dtype=np.float64), (len(self.reached),))
        rows, last = np.arange(len(self.reached)), self.reached.shape[1] - 1
        bins = np.minimum((self.reached < wanted[:, None]).sum(axis=1), last)
        below = np.where(bins > 0, self.reached[rows, bins - 1], 0.0)
        part = np.clip(
            (wanted - below) / np.maximum(self.reached[rows, bins] - below, 1e-9), 0.0, 1.0
        )
        return np.asarray(self.edges[bins] + part * (self.edges[bins + 1] - self.edges[bins]))

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
"""From rows of inputs, the last of which is the interval, to the probability of ending in it (float64[n])."""
Fit = Callable[[Array, Array], Hazard | None]


def fit_curves(
    inputs: Array, lasted: Array, over: Array, fit: Fit
) -> Callable[[Array], Curves] | None:
    """Learn how long things last from ``inputs`` (float32[n, m]), how long they ``lasted`` so far (s) and whether they are ``over``.

    ``fit`` learns probabilities from rows and labels. Returns a function from inputs to Curves; None where too little has ended.
    """
    if over.sum() < FEWEST:
        return None
    # The last is narrow: many things end at a limit, such as two days, and a median in it shall be a narrow answer.
    longest = max(float(lasted[over].max()), 2 * SHORTEST)
    edges = np.concatenate(
        [[0.0], np.geomspace(SHORTEST, longest * 0.97, BINS - 1), [longest * 1.03]]
    )
    bins = len(edges) - 1
    at = np.clip(np.searchsorted(edges, lasted, side="left") - 1, 0, bins - 1)
    intervals = np.where(
        over, at + 1, at
    )  # of what goes on only the intervals that it outlived whole
    rows = np.repeat(np.arange(len(lasted)), intervals)
    which = np.arange(len(rows)) - np.repeat(np.cumsum(intervals) - intervals, intervals)
    hazard = fit(
        np.column_stack([inputs[rows], which]).astype(np.float32),
        (over[rows] & (which == at[rows])).astype(np.int64),
    )
    if hazard is None:
        return None

    def curves(asked: Array) -> Curves:
        tiled = np.column_stack(
            [np.repeat(asked, bins, axis=0), np.tile(np.arange(bins), len(asked))]
        ).astype(np.float32)
        return Curves(
            edges, 1.0 - np.cumprod(1.0 - hazard(tiled).reshape(len(asked), bins), axis=1)
        )

    return curves
