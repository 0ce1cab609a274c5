"""Bounds: the binomial bound on a quantile of recent outcomes, the way QBETS foresees how long a job waits at most.

Brevik, Nurmi and Wolski 2006: of n waits, the k-th smallest is above the quantile with the confidence asked for, where k follows from the
binomial distribution; where several in a row break the bound, times have changed and all but the latest waits are forgotten.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from infra.aliases import Array, Floats, Integers
from infra.compiled import compiled
from models.past.ranked import Ranked, count_row, rank_values, smallest
from models.past.recent import (
    order_of_news,
)

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
    keys: npt.NDArray[Any],
    at: Integers,
    known: Integers,
    values: Floats,
    share: float = 0.95,
    confidence: float = 0.95,
) -> Floats:
    """The bound of each row's key on its quantile ``share``, by what was known ``at`` its time (float64[n], NaN for too few)."""
    _, codes = np.unique(keys, return_inverse=True)
    order = order_of_news(known, values)
    ranked = rank_values(codes, int(codes.max(initial=-1)) + 1, order, values)
    which = ranks(share, confidence, int(ranked.sizes.max(initial=0)))
    news = order[np.argsort(codes[order], kind="stable")]
    return _bounds(codes, at, known, values, order, news, ranked, which, fewest(share, confidence))


@compiled
def _bounds(
    codes: Array,
    at: Array,
    known: Array,
    values: Array,
    order: Array,
    news: Array,
    ranked: Ranked,
    which: Array,
    least: int,
) -> Array:
    tree, keys = np.zeros(len(ranked.values), np.int64), len(ranked.sizes)
    told, oldest, misses = (
        np.zeros(keys, np.int64),
        np.zeros(keys, np.int64),
        np.zeros(keys, np.int64),
    )
    bounds = np.full(len(codes), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and known[order[position]] <= at[row]:
            done = order[position]
            position += 1
            key = codes[done]
            count_row(tree, ranked, key, done, 1)
            told[key] += 1
            misses[key] = misses[key] + 1 if values[done] > bounds[done] else 0
            if misses[key] >= MISSES_IN_A_ROW and told[key] - oldest[key] > least:
                while told[key] - oldest[key] > least:
                    gone = news[ranked.first[key] + oldest[key]]
                    count_row(tree, ranked, key, gone, -1)
                    oldest[key] += 1
                misses[key] = 0
        key = codes[row]
        held = told[key] - oldest[key]
        if held >= least and which[held] <= held:
            bounds[row] = smallest(tree, ranked, key, which[held])
    return bounds
