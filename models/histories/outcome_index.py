"""History: what the jobs that have ended did, kept for each key in the order in which it became known.

"History as it stood at time t" is a binary search: no later outcome can be seen, so the law of time is a property of the data.
An outcome that comes late is put in its place, one that is repeated is left out, and the state is as if all had come in order.
The arrays live in one pool of blocks so that compiled code can grow them; a full pool is enlarged from outside.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled

WINDOW = 64
"""How many of the latest outcomes of a key are looked at."""
CAP = 8192
"""How many of the latest outcomes of a key are kept."""
_FIRST_BLOCK = 4


class OutcomeIndex(NamedTuple):
    """A hash table from key to slot, and for each slot a block of the pool with its outcomes in order of (known, id)."""

    table_key: Array  # uint64[power of two]
    table_slot: Array  # int32, -1 where free
    start: Array  # int64[slots], where the slot's block begins in the pool
    room: Array  # int32[slots], size of the block
    count: Array  # type: ignore[assignment]  # int32[slots], outcomes in the block; only the last CAP count
    total: Array  # int64[slots], outcomes ever
    available_at: Array  # int64[pool], when the outcome became known, microseconds
    outcome_id: Array  # uint32[pool], whose outcome it is
    log_bin_position: Array  # float32[pool], place on the grid's axis
    value: Array  # float64[pool], the outcome itself
    free: Array  # int64[32], first free block of each power of two, linked through known; -1 none
    used: Array  # int64[2]: slots in use, pool in use


def new_outcome_index(slots: int = 1024, pool: int = 1 << 16) -> OutcomeIndex:
    """Empty lists."""
    return OutcomeIndex(
        np.zeros(2 * slots, np.uint64), np.full(2 * slots, -1, np.int32), np.zeros(slots, np.int64), np.zeros(slots, np.int32),
        np.zeros(slots, np.int32), np.zeros(slots, np.int64), np.zeros(pool, np.int64), np.zeros(pool, np.uint32),
        np.zeros(pool, np.float32), np.zeros(pool, np.float64), np.full(32, -1, np.int64), np.zeros(2, np.int64),
    )  # fmt: skip


def ensure_capacity(lists: OutcomeIndex, levels: int) -> OutcomeIndex:
    """The same lists with room for at least one more outcome in ``levels`` keys, usually for many."""
    slots, pool = len(lists.start), len(lists.available_at)
    if lists.used[0] + levels > slots:
        bigger = 2 * slots
        table_key, table_slot = np.zeros(2 * bigger, np.uint64), np.full(2 * bigger, -1, np.int32)
        _rehash(lists.table_key, lists.table_slot, table_key, table_slot)
        grown = {
            name: _extend(getattr(lists, name), bigger)
            for name in ("start", "room", "count", "total")
        }
        lists = lists._replace(table_key=table_key, table_slot=table_slot, **grown)
    if lists.used[1] + levels * 2 * CAP > pool:
        bigger = int(pool * 1.5) + levels * 2 * CAP
        lists = lists._replace(
            **{
                name: _extend(getattr(lists, name), bigger)
                for name in ("available_at", "outcome_id", "log_bin_position", "value")
            }
        )
    return lists


def _extend(values: Array, size: int) -> Array:
    longer = np.zeros(size, values.dtype)
    longer[: len(values)] = values
    return longer


@compiled
def has_capacity(lists: OutcomeIndex, levels: int) -> bool:
    """Whether one more outcome fits in ``levels`` keys without enlarging the lists."""
    return lists.used[0] + levels <= len(lists.start) and lists.used[1] + levels * 2 * CAP <= len(
        lists.available_at
    )


@compiled
def _rehash(old_key: Array, old_slot: Array, table_key: Array, table_slot: Array) -> None:
    mask = np.uint64(len(table_key) - 1)
    for i in range(len(old_key)):
        if old_slot[i] >= 0:
            place = np.int64(old_key[i] & mask)
            while table_slot[place] >= 0:
                place = (place + 1) & np.int64(mask)
            table_key[place] = old_key[i]
            table_slot[place] = old_slot[i]


@compiled
def find_slot(lists: OutcomeIndex, key: np.uint64) -> np.int64:
    """The slot of a key, or -1 when nothing was ever known of it."""
    mask = np.uint64(len(lists.table_key) - 1)
    place = np.int64(key & mask)
    while lists.table_slot[place] >= 0:
        if lists.table_key[place] == key:
            return np.int64(lists.table_slot[place])
        place = (place + 1) & np.int64(mask)
    return np.int64(-1)


@compiled
def ensure_slot(lists: OutcomeIndex, key: np.uint64) -> np.int64:
    """The slot of a key, made if it was not there."""
    mask = np.uint64(len(lists.table_key) - 1)
    place = np.int64(key & mask)
    while lists.table_slot[place] >= 0:
        if lists.table_key[place] == key:
            return np.int64(lists.table_slot[place])
        place = (place + 1) & np.int64(mask)
    slot = lists.used[0]
    lists.used[0] += 1
    lists.table_key[place] = key
    lists.table_slot[place] = slot
    lists.start[slot] = _take_block(lists, _FIRST_BLOCK)
    lists.room[slot] = _FIRST_BLOCK
    return slot


@compiled
def _class_of(room: int) -> int:
    size = 0
    while room > 1:
        room >>= 1
        size += 1
    return size


@compiled
def _take_block(lists: OutcomeIndex, room: int) -> int:
    size = _class_of(room)
    block = lists.free[size]
    if block >= 0:
        lists.free[size] = lists.available_at[block]
    else:
        block = lists.used[1]
        lists.used[1] += room
    return block


@compiled
def _grow(lists: OutcomeIndex, slot: int) -> None:
    """Give a full list a block of twice the size, or drop its oldest outcomes once it holds twice what is kept."""
    start, count, room = lists.start[slot], lists.count[slot], lists.room[slot]
    kept, target = count, start
    if room >= 2 * CAP:
        kept = CAP
    else:
        target = _take_block(lists, 2 * room)
    for i in range(kept):
        source = start + count - kept + i
        lists.available_at[target + i] = lists.available_at[source]
        lists.outcome_id[target + i] = lists.outcome_id[source]
        lists.log_bin_position[target + i] = lists.log_bin_position[source]
        lists.value[target + i] = lists.value[source]
    if target != start:
        size = _class_of(room)
        lists.available_at[start] = lists.free[size]
        lists.free[size] = start
        lists.start[slot] = target
        lists.room[slot] = 2 * room
    lists.count[slot] = kept


@compiled
def available_end(lists: OutcomeIndex, slot: int, at: int) -> int:
    """The place in the pool after the last outcome of a slot that was known at ``at``; not before the oldest that is kept."""
    start, count = lists.start[slot], lists.count[slot]
    high = start + count
    if count == 0 or lists.available_at[high - 1] <= at:
        return high
    low = start + max(0, count - CAP)
    while low < high:
        middle = (low + high) // 2
        if lists.available_at[middle] <= at:
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def first_in_window(lists: OutcomeIndex, slot: int, end: int) -> int:
    """The place in the pool of the oldest of the last WINDOW outcomes before ``end``."""
    return max(lists.start[slot] + max(0, lists.count[slot] - CAP), end - WINDOW)


@compiled
def count_available(lists: OutcomeIndex, slot: int, end: int) -> int:
    """How many outcomes of a slot were ever known by the place ``end``."""
    return lists.total[slot] - (lists.start[slot] + lists.count[slot] - end)


@compiled
def has_outcome(lists: OutcomeIndex, slot: int, known: int, ident: np.uint32) -> bool:
    """Whether a slot has this job's outcome already."""
    place = available_end(lists, slot, known) - 1
    while place >= lists.start[slot] and lists.available_at[place] == known:
        if lists.outcome_id[place] == ident:
            return True
        place -= 1
    return False


@compiled
def insert(
    lists: OutcomeIndex, slot: int, known: int, ident: np.uint32, mark: np.float32, value: float
) -> None:
    """Put an outcome in its place; one older than all that a full list keeps is only counted."""
    if lists.count[slot] == lists.room[slot]:
        _grow(lists, slot)
    start, count = lists.start[slot], lists.count[slot]
    place = start + count
    oldest = start + max(0, count - CAP)
    while place > oldest and (
        lists.available_at[place - 1] > known
        or (lists.available_at[place - 1] == known and lists.outcome_id[place - 1] > ident)
    ):
        place -= 1
    lists.total[slot] += 1
    if count >= CAP and place == oldest:
        return
    for i in range(start + count, place, -1):
        lists.available_at[i] = lists.available_at[i - 1]
        lists.outcome_id[i] = lists.outcome_id[i - 1]
        lists.log_bin_position[i] = lists.log_bin_position[i - 1]
        lists.value[i] = lists.value[i - 1]
    lists.available_at[place] = known
    lists.outcome_id[place] = ident
    lists.log_bin_position[place] = mark
    lists.value[place] = value
    lists.count[slot] = count + 1
