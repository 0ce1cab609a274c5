"""A hash table from 64-bit keys to row numbers with linear probing, and the mixer of such keys.

A cell holds a row number of 4 bytes, and keys lie by row: a free cell costs little.
"""

from __future__ import annotations

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled, compiled_in_place


@compiled
def mix(values: Array) -> Array:
    """Finalise splitmix64 (Steele, Lea and Flood 2014) for one number or each of an array."""
    first = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    second = (first ^ (first >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return second ^ (second >> np.uint64(31))


@compiled_in_place
def find_position(row_key: Array, table_row: Array, key: np.uint64) -> np.int64:
    """Find where a key stands in the table, or the free position where it belongs.

    Args:
        row_key: The key of each row (uint64[rows]).
        table_row: int32[power of two], -1 where free; larger than the number of rows.
        key: The key to find.
    """
    mask = np.uint64(len(table_row) - 1)
    position = np.int64(key & mask)
    while table_row[position] >= 0 and row_key[table_row[position]] != key:
        position = (position + 1) & np.int64(mask)
    return position


@compiled_in_place
def find_row(row_key: Array, table_row: Array, key: np.uint64) -> np.int64:
    """Return the row of a key, or -1; arguments as for ``find_position``."""
    return np.int64(table_row[find_position(row_key, table_row, key)])


@compiled_in_place
def enter_rows(row_key: Array, rows: int, table_row: Array) -> None:
    """Enter the first ``rows`` rows into an empty table; arguments as for ``find_position``."""
    for row in range(rows):
        table_row[find_position(row_key, table_row, row_key[row])] = row
