"""QBETS: the binomial bound on a quantile of recent queue waits.

Brevik, Nurmi and Wolski 2006: of n waits, the k-th smallest exceeds the quantile with a given
confidence, where k follows from the binomial distribution. When several waits in a row exceed the
bound, the queue has changed and all but the latest waits are discarded.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from infra.aliases import Array, Floats, Integers
from infra.compiled import compiled
from models.past.ranked import Ranked, count_row, rank_values, smallest
from models.past.recent import order_by_availability

MISSES_IN_A_ROW = 3
"""Consecutive misses that cut the history: rare at 95 % unless the queue has changed."""


def min_outcomes(share: float, confidence: float) -> int:
    """The number of outcomes whose largest bounds the quantile at that confidence.

    >>> min_outcomes(0.95, 0.95)
    59
    """
    return int(np.ceil(np.log(1 - confidence) / np.log(share)))


def ranks(share: float, confidence: float, most: int) -> Integers:
    """Order statistics that bound the quantile, for n = 0 to ``most`` outcomes.

    Args:
        share: The quantile, 0 to 1.
        confidence: Probability that the bound holds, 0 to 1.
        most: The largest n.

    Returns:
        int64[most + 1]; n + 1 where n outcomes are too few.
    """
    from scipy.stats import binom

    counts = np.arange(most + 1)
    return np.minimum(binom.ppf(confidence, counts, share).astype(np.int64) + 1, counts + 1)


def binomial_bounds(
    keys: npt.NDArray[Any],
    at: Integers,
    available_at: Integers,
    values: Floats,
    share: float = 0.95,
    confidence: float = 0.95,
) -> Floats:
    """The bound on each row's key's quantile, from the outcomes available at its time.

    Args:
        keys: Key of each row.
        at: Submission of each row, ascending.
        available_at: When each row's outcome became available, in the unit of ``at``.
        values: Outcomes, NaN where missing.
        share: The quantile, 0 to 1.
        confidence: Probability that the bound holds, 0 to 1.

    Returns:
        float64[n], NaN where a key has too few outcomes.
    """
    _, codes = np.unique(keys, return_inverse=True)
    order = order_by_availability(available_at, values)
    ranked = rank_values(codes, int(codes.max(initial=-1)) + 1, order, values)
    rank_by_count = ranks(share, confidence, int(ranked.sizes.max(initial=0)))
    by_key = order[np.argsort(codes[order], kind="stable")]
    return _bounds(
        codes,
        at,
        available_at,
        values,
        order,
        by_key,
        ranked,
        rank_by_count,
        min_outcomes(share, confidence),
    )


@compiled
def _bounds(
    codes: Array,
    at: Array,
    available_at: Array,
    values: Array,
    order: Array,
    by_key: Array,
    ranked: Ranked,
    rank_by_count: Array,
    min_count: int,
) -> Array:
    tree, keys = np.zeros(len(ranked.values), np.int64), len(ranked.sizes)
    arrived, oldest, misses = (
        np.zeros(keys, np.int64),
        np.zeros(keys, np.int64),
        np.zeros(keys, np.int64),
    )
    bounds = np.full(len(codes), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and available_at[order[position]] <= at[row]:
            outcome = order[position]
            position += 1
            key = codes[outcome]
            count_row(tree, ranked, key, outcome, 1)
            arrived[key] += 1
            misses[key] = misses[key] + 1 if values[outcome] > bounds[outcome] else 0
            if misses[key] >= MISSES_IN_A_ROW and arrived[key] - oldest[key] > min_count:
                while arrived[key] - oldest[key] > min_count:
                    dropped = by_key[ranked.first[key] + oldest[key]]
                    count_row(tree, ranked, key, dropped, -1)
                    oldest[key] += 1
                misses[key] = 0
        key = codes[row]
        in_window = arrived[key] - oldest[key]
        if in_window >= min_count and rank_by_count[in_window] <= in_window:
            bounds[row] = smallest(tree, ranked, key, rank_by_count[in_window])
    return bounds
