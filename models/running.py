"""Running jobs: since when which jobs of a key are running, so that those that have not ended count as having lasted so long.

A key's block holds its latest WATCHED starts; blocks of keys with nothing running are used again, so memory follows the running jobs.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled
from models.history import Lists

Array = npt.NDArray[Any]

WATCHED = 32
"""How many running jobs of a key are looked at."""
_SCANNED = 256
"""How many outcomes after a moment are searched for jobs that were running then."""


class Running(NamedTuple):
    """A block of running jobs for each slot that has any."""

    block: Array  # int32[slots], -1 none
    since: Array  # int64[blocks, WATCHED], start in microseconds
    until: Array  # int64[blocks, WATCHED], when it must have been stopped at its limit
    ident: Array  # uint32[blocks, WATCHED]
    filled: Array  # int32[blocks], jobs in the block; the next free block where unused
    used: Array  # int64[2]: blocks ever taken, first free block or -1


def new_running(slots: int, blocks: int = 64) -> Running:
    """Nothing runs."""
    return Running(
        np.full(slots, -1, np.int32), np.zeros((blocks, WATCHED), np.int64), np.zeros((blocks, WATCHED), np.int64),
        np.zeros((blocks, WATCHED), np.uint32), np.zeros(blocks, np.int32), np.array([0, -1], np.int64),
    )  # fmt: skip


def widen(running: Running, slots: int, levels: int) -> Running:
    """The same with room for ``slots`` slots and a start in ``levels`` more of them."""
    grown = {}
    if len(running.block) < slots:
        block = np.full(slots, -1, np.int32)
        block[: len(running.block)] = running.block
        grown["block"] = block
    if running.used[0] + levels > len(running.filled):
        for name in ("since", "until", "ident", "filled"):
            old = getattr(running, name)
            grown[name] = np.concatenate([old, np.zeros_like(old), np.zeros((levels, *old.shape[1:]), old.dtype)])
    return running._replace(**grown)


@compiled
def start(running: Running, slot: int, since: int, until: int, ident: np.uint32) -> None:
    """Note that a job started; a full block forgets the one that started first."""
    block = running.block[slot]
    if block < 0:
        block = running.used[1]
        if block >= 0:
            running.used[1] = running.filled[block]
        else:
            block = running.used[0]
            running.used[0] += 1
        running.block[slot] = block
        running.filled[block] = 0
    count = running.filled[block]
    for i in range(count):
        if running.ident[block, i] == ident:
            return
    place = count
    if count == WATCHED:
        place = 0
        for i in range(1, count):
            if running.since[block, i] < running.since[block, place]:
                place = i
        if running.since[block, place] > since:
            return
    else:
        running.filled[block] = count + 1
    running.since[block, place] = since
    running.until[block, place] = until
    running.ident[block, place] = ident


@compiled
def stop(running: Running, slot: int, ident: np.uint32) -> None:
    """Note that a job runs no longer, if it was noted as running."""
    block = running.block[slot]
    if block < 0:
        return
    for i in range(running.filled[block]):
        if running.ident[block, i] == ident:
            last = running.filled[block] - 1
            running.since[block, i] = running.since[block, last]
            running.until[block, i] = running.until[block, last]
            running.ident[block, i] = running.ident[block, last]
            running.filled[block] = last
            break
    if running.filled[block] == 0:
        running.filled[block] = running.used[1]
        running.used[1] = block
        running.block[slot] = -1


@compiled
def elapsed(running: Running, lists: Lists, slot: int, end: int, at: int, own: np.uint32, out: Array) -> int:
    """How long (seconds, into ``out``) the jobs of a slot had been running at ``at``, the job ``own`` left out; returns how many.

    ``end`` is the place of the first outcome that became known after ``at``: some of those that follow were running then.
    """
    count = 0
    block = running.block[slot]
    if block >= 0:
        for i in range(running.filled[block]):
            if running.since[block, i] < at < running.until[block, i] and running.ident[block, i] != own and count < len(out):
                out[count] = (at - running.since[block, i]) * 1e-6
                count += 1
    stop_at = lists.start[slot] + lists.count[slot]
    for place in range(end, min(stop_at, end + _SCANNED)):
        spent = (at - lists.known[place]) * 1e-6 + lists.value[place]
        if spent > 0.0 and count < len(out):
            out[count] = spent
            count += 1
    return count
