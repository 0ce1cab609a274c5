"""An index of ended jobs' outcomes by key, ordered by the time at which each became available.

What was available at a time is a binary search, so no later outcome can leak into a prediction.
Outcomes may arrive in any order and more than once; the index is the same as if all had arrived
once and in order. A job's outcome is stored once; each of its keys refers to it by 4 bytes, beside
4 for its position on the grid's axis, which predictions read in sequence.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled_in_place
from models.histories.hash_table import enter_rows, find_position, find_row

WINDOW = 64
"""A prediction reads this many of the latest outcomes of a key."""
CAP = 8192
"""This many of the latest outcomes of a key are kept."""
MAX_ROOM = CAP + CAP // 8
"""The size of the largest block: the oldest outcomes beyond CAP are dropped when it is full."""
SLOTS, POOL, ROWS, FREE_ROW = range(4)
"""Positions in ``OutcomeIndex.used``."""
SLOT = np.dtype(
    [
        ("key", np.uint64),
        ("start", np.uint32),  # where the block begins in the pool
        ("total", np.uint32),  # outcomes ever
        ("size", np.uint16),  # outcomes in the block; only the last CAP count
        ("room", np.uint16),  # size of the block: 1, 2, 3, 4, 6, 8, 12, ... 6144, MAX_ROOM
    ]
)
_TABLE_LOAD, _MIN_GROWTH = 0.75, 1024
_LARGE = 1 << 22
"""Larger arrays take a tenth of a second to copy, and predictions wait: they grow less often."""
_MAX_LEVELS = 254
"""References to a row are counted in a byte: of so many levels and a new owner's first outcome."""


class OutcomeIndex(NamedTuple):
    """A hash table from key to slot; a slot's outcomes are a block ordered by (time, id).

    The pool holds the blocks; a row is the outcome of a job, and has as many references as blocks.
    """

    table_slot: Array  # int32[power of two], -1 where free
    slots: Array  # SLOT[slots]
    outcome_row: Array  # uint32[pool]
    log_bin_position: Array  # float32[pool], at relative levels minus that of the limit
    available_at: Array  # int64[rows], microseconds; of a free row the next free row + 1
    value: Array  # float64[rows], the outcome in the target's unit
    outcome_id: Array  # uint32[rows], a hash of the job's identity
    references: Array  # uint8[rows]
    free: Array  # int64[32], first free block + 1 of each size, linked through outcome_row
    used: Array  # int64[4]: slots, pool entries and rows in use, the first free row + 1


CAPACITY = {
    "slots": SLOTS,
    "outcome_row": POOL,
    "log_bin_position": POOL,
    "available_at": ROWS,
    "value": ROWS,
    "outcome_id": ROWS,
    "references": ROWS,
}
"""The fields with unused room at the end, and the position in ``used`` that tells where it is."""


def new_outcome_index(slots: int = 1024, pool: int = 1 << 16) -> OutcomeIndex:
    """Create an empty index."""
    return OutcomeIndex(
        table_slot=np.full(2 * slots, -1, np.int32),
        slots=np.zeros(slots, SLOT),
        outcome_row=np.zeros(pool, np.uint32),
        log_bin_position=np.zeros(pool, np.float32),
        available_at=np.zeros(slots, np.int64),
        value=np.zeros(slots, np.float64),
        outcome_id=np.zeros(slots, np.uint32),
        references=np.zeros(slots, np.uint8),
        free=np.zeros(32, np.int64),
        used=np.zeros(4, np.int64),
    )


def ensure_capacity(index: OutcomeIndex, levels: int) -> OutcomeIndex:
    """Return the same index with more room; call it until ``has_capacity``.

    Slots and rows are enlarged where an outcome of ``levels`` keys would not fit, else the pool.
    """
    if levels > _MAX_LEVELS:
        raise ValueError(f"an outcome has {levels} keys, but at most {_MAX_LEVELS} are counted")
    needed = {SLOTS: levels, ROWS: 1, POOL: levels * MAX_ROOM}
    rows = {kind: len(getattr(index, name)) for name, kind in CAPACITY.items()}
    lacking = [kind for kind in needed if index.used[kind] + needed[kind] > rows[kind]]
    for name, kind in CAPACITY.items():
        if kind in lacking[:1]:
            values, used = getattr(index, name), int(index.used[kind])
            growth = used // 32 if used < _LARGE else used // 8
            growth = max(growth, MAX_ROOM if kind == POOL else _MIN_GROWTH)
            extended = np.zeros(len(values) + growth, values.dtype)
            extended[:used] = values[:used]
            index = index._replace(**{name: extended})
    if len(index.slots) > _TABLE_LOAD * len(index.table_slot):
        size = len(index.table_slot)
        while len(index.slots) > _TABLE_LOAD * size:
            size *= 2
        table_slot = np.full(size, -1, np.int32)
        enter_rows(index.slots["key"], index.used[SLOTS], table_slot)
        index = index._replace(table_slot=table_slot)
    return index


def stored_sizes(index: OutcomeIndex) -> dict[str, tuple[int, int]]:
    """Return, of the fields with unused room, the rows in use and those to have when it is stored.

    So much room is left that an index that continues from it is not enlarged at once.
    """
    sizes = {}
    for name, kind in CAPACITY.items():
        used, rows = int(index.used[kind]), len(getattr(index, name))
        if kind != SLOTS or used * 9 // 8 <= _TABLE_LOAD * len(index.table_slot):
            rows = max(rows, used * 9 // 8)
        sizes[name] = used, rows
    return sizes


@compiled_in_place
def find_slot(index: OutcomeIndex, key: np.uint64) -> np.int64:
    """Return the slot of a key, or -1 where it has no outcome."""
    return find_row(index.slots["key"], index.table_slot, key)


@compiled_in_place
def has_capacity(index: OutcomeIndex, keys: Array) -> bool:
    """Whether one more outcome fits under each of some keys, and one more, as the index is."""
    levels, free = len(keys) + 1, len(index.outcome_row) - index.used[POOL]
    if index.used[SLOTS] + levels > len(index.slots) or index.used[ROWS] >= len(index.value):
        return False
    if free >= levels * MAX_ROOM:
        return True
    needed = MAX_ROOM
    for level in range(len(keys)):
        slot = find_slot(index, keys[level])
        if slot < 0:
            needed += 1
        elif index.slots["size"][slot] == index.slots["room"][slot]:
            needed += _next_room(np.int64(index.slots["room"][slot]))
    return free >= needed


@compiled_in_place
def _next_room(room: int) -> int:
    """Return the size of the block that takes the place of a full one."""
    larger = max(room + room // 2, 2) if room & (room - 1) == 0 else room // 3 * 4
    return larger if larger < CAP else MAX_ROOM


@compiled_in_place
def ensure_slot(index: OutcomeIndex, key: np.uint64) -> np.int64:
    """Return the slot of a key, created where it is missing."""
    position = find_position(index.slots["key"], index.table_slot, key)
    if index.table_slot[position] >= 0:
        return np.int64(index.table_slot[position])
    slot = index.used[SLOTS]
    index.used[SLOTS] += 1
    index.table_slot[position] = slot
    index.slots["key"][slot] = key
    index.slots["start"][slot] = _take_block(index, 1)
    index.slots["room"][slot] = 1
    return slot


@compiled_in_place
def first_position(index: OutcomeIndex, slot: int) -> np.int64:
    """Return the pool position of a slot's oldest outcome that is kept."""
    size = np.int64(index.slots["size"][slot])
    return np.int64(index.slots["start"][slot]) + max(np.int64(0), size - CAP)


@compiled_in_place
def end_position(index: OutcomeIndex, slot: int) -> np.int64:
    """Return the pool position after a slot's newest outcome."""
    return np.int64(index.slots["start"][slot]) + np.int64(index.slots["size"][slot])


@compiled_in_place
def count_outcomes(index: OutcomeIndex, slot: int) -> np.int64:
    """Count all outcomes that a slot ever had."""
    return np.int64(index.slots["total"][slot])


@compiled_in_place
def available_at(index: OutcomeIndex, position: int) -> np.int64:
    """Return when the outcome at a pool position became available, microseconds."""
    return np.int64(index.available_at[index.outcome_row[position]])


@compiled_in_place
def value_at(index: OutcomeIndex, position: int) -> float:
    """Return the outcome at a pool position in the target's unit."""
    return index.value[index.outcome_row[position]]


@compiled_in_place
def compare_outcome(index: OutcomeIndex, position: int, at: int, outcome_id: np.uint32) -> int:
    """Return 1, 0 or -1 where an outcome comes after, is, or comes before another.

    Args:
        index: The outcomes.
        position: The pool position of the first outcome.
        at: When the second became available, microseconds.
        outcome_id: The second's hash of its job's identity.
    """
    row = index.outcome_row[position]
    if index.available_at[row] != at:
        return 1 if index.available_at[row] > at else -1
    if index.outcome_id[row] != outcome_id:
        return 1 if index.outcome_id[row] > outcome_id else -1
    return 0


@compiled_in_place
def _size_class(size: int) -> int:
    """Return the position in ``free`` of the largest blocks that are not larger than a size."""
    power = 0
    while size >> (power + 1) > 0:
        power += 1
    return 2 * power + (1 if 2 * size >= 3 << power else 0)


@compiled_in_place
def _block_size(size_class: int) -> int:
    """Return the size of the blocks at a position in ``free``: 1, 2, 3, 4, 6, 8, …"""
    return (2 + size_class % 2 << size_class // 2) // 2


@compiled_in_place
def _take_block(index: OutcomeIndex, room: int) -> int:
    """Return the start of a block: the smallest free one that is large enough, or a new one."""
    for size_class in range(_size_class(room), len(index.free)):
        block = index.free[size_class] - 1
        if block >= 0:
            index.free[size_class] = np.int64(index.outcome_row[block])
            _free_blocks(index, block + room, _block_size(size_class) - room)
            return block
    index.used[POOL] += room
    return index.used[POOL] - room


@compiled_in_place
def _free_blocks(index: OutcomeIndex, start: int, size: int) -> None:
    """Let a part of the pool be used again, as one block or several."""
    while size > 0:
        size_class = _size_class(size)
        index.outcome_row[start] = index.free[size_class]
        index.free[size_class] = start + 1
        block_size = _block_size(size_class)
        start, size = start + block_size, size - block_size


@compiled_in_place
def _grow(index: OutcomeIndex, slot: int) -> None:
    """Move a full slot to a larger block, or drop its oldest outcomes at MAX_ROOM."""
    start, room = np.int64(index.slots["start"][slot]), np.int64(index.slots["room"][slot])
    source, target, keep = start, start, room
    if room >= MAX_ROOM:
        source, keep = start + room - CAP, np.int64(CAP)
        for position in range(start, source):
            row = np.int64(index.outcome_row[position])
            index.references[row] -= np.uint8(1)
            free_unreferenced(index, row)
        index.slots["size"][slot] = CAP
    else:
        larger = _next_room(room)
        target = _take_block(index, larger)
        index.slots["start"][slot], index.slots["room"][slot] = target, larger
    for i in range(keep):
        index.outcome_row[target + i] = index.outcome_row[source + i]
        index.log_bin_position[target + i] = index.log_bin_position[source + i]
    if target != start:
        _free_blocks(index, start, room)


@compiled_in_place
def available_end(index: OutcomeIndex, slot: int, at: int) -> int:
    """Return the pool position after the slot's last outcome that was available ``at`` a time.

    Args:
        index: The outcomes.
        slot: As from ``find_slot``.
        at: Microseconds since 1970.

    Returns:
        A position not before the oldest outcome that is kept.
    """
    low, high = first_position(index, slot), end_position(index, slot)
    if low == high or available_at(index, high - 1) <= at:
        return high
    while low < high:
        middle = (low + high) // 2
        if available_at(index, middle) <= at:
            low = middle + 1
        else:
            high = middle
    return low


@compiled_in_place
def first_in_window(index: OutcomeIndex, slot: int, end: int) -> int:
    """Return the pool position of the oldest of the slot's last WINDOW outcomes before ``end``.

    Args:
        index: The outcomes per key.
        slot: The key's slot.
        end: The pool position to stop at.
    """
    return max(first_position(index, slot), end - WINDOW)


@compiled_in_place
def sampling_stride(index: OutcomeIndex, slot: int, end: int) -> int:
    """Return the stride at which WINDOW outcomes before ``end`` span all that are kept.

    Args:
        index: The outcomes per key.
        slot: The key's slot.
        end: The pool position to stop at.
    """
    return max(np.int64(1), (end - first_position(index, slot)) // WINDOW)


@compiled_in_place
def count_available(index: OutcomeIndex, slot: int, end: int) -> int:
    """Count all outcomes a slot ever had before the pool position ``end``.

    Args:
        index: The outcomes per key.
        slot: The key's slot.
        end: The pool position to stop at.
    """
    return count_outcomes(index, slot) - (end_position(index, slot) - end)


@compiled_in_place
def has_outcome(index: OutcomeIndex, slot: int, at: int, outcome_id: np.uint32) -> bool:
    """Whether a slot has this outcome already.

    Args:
        index: The outcomes.
        slot: As from ``find_slot``.
        at: When the outcome became available, microseconds.
        outcome_id: A hash of the job's identity.
    """
    position, first = available_end(index, slot, at) - 1, first_position(index, slot)
    while position >= first and available_at(index, position) == at:
        if compare_outcome(index, position, at, outcome_id) == 0:
            return True
        position -= 1
    return False


@compiled_in_place
def add_row(index: OutcomeIndex, at: int, outcome_id: np.uint32, value: float) -> np.int64:
    """Store a job's outcome, to which no key refers yet, and return its row.

    Args:
        index: The outcomes, with capacity for one more.
        at: When the outcome became available, microseconds.
        outcome_id: A hash of the job's identity, which orders equal times.
        value: The outcome in the target's unit.
    """
    row = index.used[FREE_ROW] - 1
    if row >= 0:
        index.used[FREE_ROW] = index.available_at[row]
    else:
        row = index.used[ROWS]
        index.used[ROWS] += 1
    index.available_at[row], index.outcome_id[row], index.value[row] = at, outcome_id, value
    index.references[row] = 0
    return row


@compiled_in_place
def free_unreferenced(index: OutcomeIndex, row: int) -> None:
    """Let a row be used again if no key refers to it."""
    if index.references[row] == 0:
        index.available_at[row] = index.used[FREE_ROW]
        index.used[FREE_ROW] = row + 1


@compiled_in_place
def insert(index: OutcomeIndex, slot: int, row: int, log_bin_position: np.float32) -> None:
    """Insert an outcome in order; one older than all that a full slot keeps is only counted.

    Args:
        index: The outcomes, with capacity for one more.
        slot: As from ``ensure_slot``.
        row: As from ``add_row``.
        log_bin_position: The outcome on the grid's logarithmic axis, in bins.
    """
    if index.slots["size"][slot] == index.slots["room"][slot]:
        _grow(index, slot)
    at, outcome_id = index.available_at[row], index.outcome_id[row]
    oldest, end = first_position(index, slot), end_position(index, slot)
    position = end
    while position > oldest and compare_outcome(index, position - 1, at, outcome_id) > 0:
        position -= 1
    index.slots["total"][slot] += np.uint32(1)
    if end - oldest == CAP and position == oldest:
        return
    for i in range(end, position, -1):
        index.outcome_row[i] = index.outcome_row[i - 1]
        index.log_bin_position[i] = index.log_bin_position[i - 1]
    index.outcome_row[position], index.log_bin_position[position] = row, log_bin_position
    index.references[row] += np.uint8(1)
    index.slots["size"][slot] += np.uint16(1)


@compiled_in_place
def count_ended(index: OutcomeIndex, keys: Array, at: Array, out: Array) -> None:
    """Count the outcomes that each key had at a time.

    Args:
        index: The outcomes.
        keys: uint64[n, levels].
        at: Microseconds (int64[n]).
        out: Receives the counts (int64[n, levels]).
    """
    for row in range(len(at)):
        for level in range(keys.shape[1]):
            slot = find_slot(index, keys[row, level])
            out[row, level] = (
                count_available(index, slot, available_end(index, slot, at[row]))
                if slot >= 0
                else 0
            )
