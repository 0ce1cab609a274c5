"""Ranked: each key's outcomes by size, and compiled counters that find the k-th smallest of those that are known by now."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled


class Ranked(NamedTuple):
    """A key's ``sizes`` outcomes, sorted, begin at its ``first`` in ``values``; ``rank`` (from 1) is a row's among those of its key."""

    rank: Array  # int64[n], 0 for a row without an outcome
    first: Array  # int64[count]
    sizes: Array  # int64[count]
    values: Array  # float64[outcomes]


def rank_values(codes: Array, count: int, order: Array, values: Array) -> Ranked:
    """Rank the ``values`` (float64[n]) of the rows in ``order`` within their keys, ``codes`` (int64[n], below ``count``)."""
    by_value = order[np.lexsort((values[order], codes[order]))]
    sizes = np.bincount(codes[by_value], minlength=count)
    first = np.cumsum(sizes) - sizes
    rank = np.zeros(len(codes), np.int64)
    rank[by_value] = np.arange(len(by_value)) - first[codes[by_value]] + 1
    return Ranked(rank, first, sizes, values[by_value])


@compiled
def count_row(tree: Array, ranked: Ranked, key: int, row: int, more: int) -> None:
    """Count a row's outcome (``more`` 1) or no longer (-1) in ``tree`` (int64[outcomes]), a Fenwick tree for each key."""
    node = ranked.rank[row]
    while node <= ranked.sizes[key]:
        tree[ranked.first[key] + node - 1] += more
        node += node & -node


@compiled
def smallest(tree: Array, ranked: Ranked, key: int, wanted: int) -> float:
    """The ``wanted``-th smallest of a key's outcomes that are counted."""
    first, size, step, below = ranked.first[key], ranked.sizes[key], 1, 0
    while step * 2 <= size:
        step *= 2
    while step > 0:
        if below + step <= size and tree[first + below + step - 1] < wanted:
            below += step
            wanted -= tree[first + below - 1]
        step //= 2
    return np.float64(ranked.values[first + below])
