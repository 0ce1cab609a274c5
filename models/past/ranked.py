"""Order statistics of each key's available outcomes, by Fenwick trees (compiled)."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled


class Ranked(NamedTuple):
    """Each key's outcomes, sorted: ``sizes`` of them from ``first`` on in ``values``.

    ``rank`` is the rank of each row's outcome within its key, from 1.
    """

    rank: Array  # int64[n], 0 for a row without an outcome
    first: Array  # int64[count]
    sizes: Array  # int64[count]
    values: Array  # float64[outcomes]


def rank_values(codes: Array, count: int, order: Array, values: Array) -> Ranked:
    """Rank the outcomes of the rows in ``order`` within their keys.

    Args:
        codes: Key of each row, int64[n] below ``count``.
        count: Number of keys.
        order: Rows with an outcome.
        values: Outcomes, float64[n].
    """
    by_value = order[np.lexsort((values[order], codes[order]))]
    sizes = np.bincount(codes[by_value], minlength=count)
    first = np.cumsum(sizes) - sizes
    rank = np.zeros(len(codes), np.int64)
    rank[by_value] = np.arange(len(by_value)) - first[codes[by_value]] + 1
    return Ranked(rank, first, sizes, values[by_value])


@compiled
def count_row(tree: Array, ranked: Ranked, key: int, row: int, more: int) -> None:
    """Add a row's outcome to (``more`` 1) or remove it from (-1) its key's Fenwick tree.

    Args:
        tree: int64[outcomes], the trees of all keys one after another.
        ranked: Outcomes by key.
        key: The key.
        row: The row.
        more: 1 or -1.
    """
    node = ranked.rank[row]
    while node <= ranked.sizes[key]:
        tree[ranked.first[key] + node - 1] += more
        node += node & -node


@compiled
def smallest(tree: Array, ranked: Ranked, key: int, wanted: int) -> float:
    """Find the ``wanted``-th smallest (from 1) of the outcomes of ``key`` counted in ``tree``.

    Args:
        tree: The Fenwick trees.
        ranked: Outcomes by key.
        key: The key.
        wanted: Rank, from 1.
    """
    first, size, step, below = ranked.first[key], ranked.sizes[key], 1, 0
    while step * 2 <= size:
        step *= 2
    while step > 0:
        if below + step <= size and tree[first + below + step - 1] < wanted:
            below += step
            wanted -= tree[first + below - 1]
        step //= 2
    return np.float64(ranked.values[first + below])
