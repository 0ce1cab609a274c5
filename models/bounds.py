"""Bounds: the binomial bound on a quantile of recent outcomes, the way QBETS foresees how long a job waits at most.

Brevik, Nurmi and Wolski 2006: of n waits, the k-th smallest is above the quantile with the confidence asked for, where k follows from the
binomial distribution; where several in a row break the bound, times have changed and all but the latest waits are forgotten.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled
from models.recent import Floats, Integers, order_of_news

Array = npt.NDArray[Any]

MISSES_IN_A_ROW = 3
"""Misses after which the history is cut: rare at 95 % unless times have changed."""


def fewest(share: float, confidence: float) -> int:
    """The fewest outcomes whose largest bounds the quantile with that confidence (59 for .95 and .95).

    >>> fewest(0.95, 0.95)
    59
    """
    return int(np.ceil(np.log(1 - confidence) / np.log(share)))


def ranks(share: float, confidence: float, most: int) -> Integers:
    """Which smallest of n = 0 to ``most`` outcomes bounds the quantile (int64[most + 1]; n + 1 where there are too few)."""
    from scipy.stats import binom

    counts = np.arange(most + 1)
    return np.minimum(binom.ppf(confidence, counts, share).astype(np.int64) + 1, counts + 1)


def binomial_bounds(
    keys: npt.NDArray[Any], at: Integers, known: Integers, values: Floats, share: float = 0.95, confidence: float = 0.95
) -> Floats:
    """The bound of each row's key on its quantile ``share``, by what was known ``at`` its time (float64[n], NaN for too few)."""
    _, codes = np.unique(keys, return_inverse=True)
    order = order_of_news(known, values)
    by_value = order[np.lexsort((values[order], codes[order]))]
    sizes = np.bincount(codes[by_value], minlength=int(codes.max(initial=-1)) + 1)
    first = np.cumsum(sizes) - sizes
    rank = np.zeros(len(codes), np.int64)
    rank[by_value] = np.arange(len(by_value)) - first[codes[by_value]] + 1
    which = ranks(share, confidence, int(sizes.max(initial=0)))
    news = order[np.argsort(codes[order], kind="stable")]
    return _bounds(codes, at, known, values, order, news, rank, first, sizes, values[by_value], which, fewest(share, confidence))


@compiled
def _add(tree: Array, first: int, size: int, rank: int, more: int) -> None:
    node = rank
    while node <= size:
        tree[first + node - 1] += more
        node += node & -node


@compiled
def _smallest(tree: Array, first: int, size: int, wanted: int) -> int:
    """The place among a key's sorted values of the ``wanted``-th smallest of those that are counted."""
    step = 1
    while step * 2 <= size:
        step *= 2
    below = 0
    while step > 0:
        if below + step <= size and tree[first + below + step - 1] < wanted:
            below += step
            wanted -= tree[first + below - 1]
        step //= 2
    return below


@compiled
def _bounds(
    codes: Array, at: Array, known: Array, values: Array, order: Array, news: Array, rank: Array, first: Array, sizes: Array,
    ranked: Array, which: Array, least: int,
) -> Array:  # fmt: skip
    tree = np.zeros(len(ranked), np.int64)
    told, oldest, misses = np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64), np.zeros(len(sizes), np.int64)
    bounds = np.full(len(codes), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and known[order[position]] <= at[row]:
            done = order[position]
            position += 1
            key = codes[done]
            _add(tree, first[key], sizes[key], rank[done], 1)
            told[key] += 1
            misses[key] = misses[key] + 1 if values[done] > bounds[done] else 0
            if misses[key] >= MISSES_IN_A_ROW and told[key] - oldest[key] > least:
                while told[key] - oldest[key] > least:
                    gone = news[first[key] + oldest[key]]
                    _add(tree, first[key], sizes[key], rank[gone], -1)
                    oldest[key] += 1
                misses[key] = 0
        key = codes[row]
        held = told[key] - oldest[key]
        if held >= least and which[held] <= held:
            bounds[row] = ranked[first[key] + _smallest(tree, first[key], sizes[key], which[held])]
    return bounds
