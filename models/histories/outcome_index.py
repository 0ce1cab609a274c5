"""An index of ended jobs' outcomes by key, ordered by the time at which each became available.

What was available at a time is a binary search, so no later outcome can leak into a prediction.
Outcomes may arrive in any order and more than once; the index is the same as if all had arrived
once and in order. Arrays are blocks of one pool, which ``ensure_capacity`` enlarges.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled_in_place
from models.histories.hash_table import copy_keys, find_position, find_row

WINDOW = 64
"""A prediction reads this many of the latest outcomes of a key."""
CAP = 8192
"""This many of the latest outcomes of a key are kept."""
SLOTS, POOL = 0, 1
"""Positions in ``OutcomeIndex.used``."""
_FIRST_BLOCK = 4


class OutcomeIndex(NamedTuple):
    """A hash table from key to slot; a slot's outcomes are a block ordered by (time, id)."""

    table_key: Array  # uint64[power of two]
    table_slot: Array  # int32, -1 where free
    start: Array  # int64[slots], where the slot's block begins in the pool
    room: Array  # int32[slots], size of the block
    size: Array  # int32[slots], outcomes in the block; only the last CAP count
    total: Array  # int64[slots], outcomes ever
    available_at: Array  # int64[pool], microseconds
    outcome_id: Array  # uint32[pool], a hash of the job's identity
    log_bin_position: Array  # float32[pool]
    value: Array  # float64[pool], the outcome in the target's unit
    free: Array  # int64[32], first free block of each power of two, linked through available_at
    used: Array  # int64[2]: slots and pool entries in use


_BY_SLOT = ("start", "room", "size", "total")
POOL_FIELDS = ("available_at", "outcome_id", "log_bin_position", "value")
"""The fields with an entry for each outcome."""


def new_outcome_index(slots: int = 1024, pool: int = 1 << 16) -> OutcomeIndex:
    """Create an empty index."""
    return OutcomeIndex(
        table_key=np.zeros(2 * slots, np.uint64),
        table_slot=np.full(2 * slots, -1, np.int32),
        start=np.zeros(slots, np.int64),
        room=np.zeros(slots, np.int32),
        size=np.zeros(slots, np.int32),
        total=np.zeros(slots, np.int64),
        available_at=np.zeros(pool, np.int64),
        outcome_id=np.zeros(pool, np.uint32),
        log_bin_position=np.zeros(pool, np.float32),
        value=np.zeros(pool, np.float64),
        free=np.full(32, -1, np.int64),
        used=np.zeros(2, np.int64),
    )


def ensure_capacity(index: OutcomeIndex, levels: int) -> OutcomeIndex:
    """Return the same index with room for one more outcome under each of ``levels`` keys."""
    slots, pool = len(index.start), len(index.value)
    if index.used[SLOTS] + levels > slots:
        slots *= 2
        table_key, table_slot = np.zeros(2 * slots, np.uint64), np.full(2 * slots, -1, np.int32)
        copy_keys(index.table_key, index.table_slot, table_key, table_slot)
        index = index._replace(
            table_key=table_key, table_slot=table_slot, **_extended(index, _BY_SLOT, slots)
        )
    if index.used[POOL] + levels * 2 * CAP > pool:
        pool = int(pool * 1.5) + levels * 2 * CAP
        index = index._replace(**_extended(index, POOL_FIELDS, pool))
    return index


def _extended(index: OutcomeIndex, fields: tuple[str, ...], size: int) -> dict[str, Array]:
    extended = {}
    for name in fields:
        values = getattr(index, name)
        extended[name] = np.zeros(size, values.dtype)
        extended[name][: len(values)] = values
    return extended


@compiled_in_place
def has_capacity(index: OutcomeIndex, levels: int) -> bool:
    """Whether one more outcome fits under each of ``levels`` keys without enlarging the index."""
    fits = index.used[POOL] + levels * 2 * CAP <= len(index.value)
    return fits and index.used[SLOTS] + levels <= len(index.start)


@compiled_in_place
def find_slot(index: OutcomeIndex, key: np.uint64) -> np.int64:
    """Return the slot of a key, or -1 where it has no outcome."""
    return find_row(index.table_key, index.table_slot, key)


@compiled_in_place
def ensure_slot(index: OutcomeIndex, key: np.uint64) -> np.int64:
    """Return the slot of a key, created where it is missing."""
    position = find_position(index.table_key, index.table_slot, key)
    if index.table_slot[position] >= 0:
        return np.int64(index.table_slot[position])
    slot = index.used[SLOTS]
    index.used[SLOTS] += 1
    index.table_key[position] = key
    index.table_slot[position] = slot
    index.start[slot] = _take_block(index, _FIRST_BLOCK)
    index.room[slot] = _FIRST_BLOCK
    return slot


@compiled_in_place
def _power_of(room: int) -> int:
    power = 0
    while room > 1:
        room >>= 1
        power += 1
    return power


@compiled_in_place
def _take_block(index: OutcomeIndex, room: int) -> int:
    power = _power_of(room)
    block = index.free[power]
    if block >= 0:
        index.free[power] = index.available_at[block]
    else:
        block = index.used[POOL]
        index.used[POOL] += room
    return block


@compiled_in_place
def _copy_outcome(index: OutcomeIndex, source: int, target: int) -> None:
    index.available_at[target] = index.available_at[source]
    index.outcome_id[target] = index.outcome_id[source]
    index.log_bin_position[target] = index.log_bin_position[source]
    index.value[target] = index.value[source]


@compiled_in_place
def _grow(index: OutcomeIndex, slot: int) -> None:
    """Move a full slot to a block of twice the size, or drop its oldest outcomes at 2·CAP."""
    start, room, keep = index.start[slot], index.room[slot], index.size[slot]
    source, target = start, start
    if room >= 2 * CAP:
        source, keep = start + keep - CAP, CAP
    else:
        target = _take_block(index, 2 * room)
    for i in range(keep):
        _copy_outcome(index, source + i, target + i)
    if target != start:
        power = _power_of(room)
        index.available_at[start] = index.free[power]
        index.free[power] = start
        index.start[slot] = target
        index.room[slot] = 2 * room
    index.size[slot] = keep


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
    start, size = index.start[slot], index.size[slot]
    high = start + size
    if size == 0 or index.available_at[high - 1] <= at:
        return high
    low = start + max(0, size - CAP)
    while low < high:
        middle = (low + high) // 2
        if index.available_at[middle] <= at:
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
    return max(index.start[slot] + max(0, index.size[slot] - CAP), end - WINDOW)


@compiled_in_place
def sampling_stride(index: OutcomeIndex, slot: int, end: int) -> int:
    """Return the stride at which WINDOW outcomes before ``end`` span all that are kept.

    Args:
        index: The outcomes per key.
        slot: The key's slot.
        end: The pool position to stop at.
    """
    oldest = index.start[slot] + max(0, index.size[slot] - CAP)
    return max(1, (end - oldest) // WINDOW)


@compiled_in_place
def count_available(index: OutcomeIndex, slot: int, end: int) -> int:
    """Count all outcomes a slot ever had before the pool position ``end``.

    Args:
        index: The outcomes per key.
        slot: The key's slot.
        end: The pool position to stop at.
    """
    return index.total[slot] - (index.start[slot] + index.size[slot] - end)


@compiled_in_place
def has_outcome(index: OutcomeIndex, slot: int, available_at: int, outcome_id: np.uint32) -> bool:
    """Whether a slot has this outcome already; arguments as for ``insert``."""
    position = available_end(index, slot, available_at) - 1
    while position >= index.start[slot] and index.available_at[position] == available_at:
        if index.outcome_id[position] == outcome_id:
            return True
        position -= 1
    return False


@compiled_in_place
def insert(
    index: OutcomeIndex,
    slot: int,
    available_at: int,
    outcome_id: np.uint32,
    log_bin_position: np.float32,
    value: float,
) -> None:
    """Insert an outcome in order; one older than all that a full slot keeps is only counted.

    Args:
        index: The outcomes, with capacity for one more.
        slot: As from ``ensure_slot``.
        available_at: When the outcome became available, microseconds.
        outcome_id: A hash of the job's identity, which orders equal times.
        log_bin_position: The outcome on the grid's logarithmic axis, in bins.
        value: The outcome in the target's unit.
    """
    if index.size[slot] == index.room[slot]:
        _grow(index, slot)
    start, size = index.start[slot], index.size[slot]
    position = start + size
    oldest = start + max(0, size - CAP)
    while position > oldest and (
        index.available_at[position - 1] > available_at
        or (
            index.available_at[position - 1] == available_at
            and index.outcome_id[position - 1] > outcome_id
        )
    ):
        position -= 1
    index.total[slot] += 1
    if size >= CAP and position == oldest:
        return
    for i in range(start + size, position, -1):
        _copy_outcome(index, i - 1, i)
    index.available_at[position] = available_at
    index.outcome_id[position] = outcome_id
    index.log_bin_position[position] = log_bin_position
    index.value[position] = value
    index.size[slot] = size + 1
