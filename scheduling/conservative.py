"""Conservative backfilling: every waiting job holds a reservation, and a newcomer may delay none of them.

The plan is a profile: from ``times[i]`` on ``free[i]`` cores are free. When a job ends early each reservation is moved forward
in its turn, the others held, so none ever moves back (Mu'alem and Feitelson 2001). Only when a job outlives its prediction is
the plan made anew.
"""

from __future__ import annotations

import numpy as np

from infra.aliases import Floats, Integers
from infra.compiled import compiled
from scheduling.backfill import ANYWHERE, place, within_quota
from scheduling.state import (
    BROKEN,
    FREE,
    LATE,
    QUEUED,
    RUNNING,
    Rules,
    State,
    start,
)


@compiled
def _cut(times: Floats, free: Integers, steps: int, time: float) -> tuple[int, int]:
    """Make ``time`` a step of the profile; returns which step it is and how many there are now."""
    at = int(np.searchsorted(times[:steps], time))
    if at < steps and times[at] == time:
        return at, steps
    for step in range(steps, at, -1):
        times[step], free[step] = times[step - 1], free[step - 1]
    times[at], free[at] = time, free[at - 1]
    return at, steps + 1


@compiled
def occupy(
    times: Floats, free: Integers, steps: int, begin: float, length: float, cores: int
) -> int:
    """Take ``cores`` (give them back if negative) from ``begin`` for ``length`` s; returns the number of steps."""
    first, steps = _cut(times, free, steps, begin)
    last, steps = _cut(times, free, steps, begin + length)
    for step in range(first, last):
        free[step] -= cores
    return steps


@compiled
def earliest(times: Floats, free: Integers, steps: int, length: float, cores: int) -> float:
    """The first time from which ``cores`` are free for ``length`` s; infinite if that is never."""
    begin = times[0]
    for step in range(steps):
        if free[step] < cores:
            begin = times[step + 1] if step + 1 < steps else np.inf
        elif step + 1 == steps or times[step + 1] >= begin + length:
            return begin
    return begin


@compiled
def _hold(state: State, times: Floats, free: Integers, steps: int, number: int, sign: int) -> int:
    job = state.job[number]
    return occupy(times, free, steps, job.reservation, job.fit, sign * job.cores)


@compiled
def plan(state: State) -> None:
    """Bring every waiting job's reservation as far forward as it goes, in order of submission."""
    count, now = state.tally, state.clock[0]
    queued, running = count[QUEUED], count[RUNNING]
    times, free = (
        np.empty(2 * (queued + running) + 4),
        np.empty(2 * (queued + running) + 4, dtype=np.int64),
    )
    times[0], free[0], steps = now, count[FREE], 1
    for due in range(running):
        at, steps = _cut(times, free, steps, state.dues[due].time)
        free[at:steps] += state.job[state.dues[due].job].cores
    waiting = state.queue[:queued]
    for number in waiting:
        job = state.job[number]
        if count[BROKEN]:
            job.reservation = np.nan
        if not np.isnan(job.reservation):
            steps = _hold(state, times, free, steps, number, 1)
    count[BROKEN] = 0
    # After submissions alone nobody who holds a reservation can move.
    for number in waiting[queued - count[LATE] :]:
        job = state.job[number]
        if not np.isnan(job.reservation):
            steps = _hold(state, times, free, steps, number, -1)
        job.reservation = earliest(times, free, steps, job.fit, job.cores)
        if np.isnan(job.first_reservation):
            job.first_reservation = job.reservation
        steps = _hold(state, times, free, steps, number, 1)


@compiled
def start_as_planned(state: State, rules: Rules) -> None:
    """Plan, start every job whose reservation is now, and note when the next one is."""
    plan(state)
    position = 0
    state.clock[1] = np.inf
    while position < state.tally[QUEUED]:
        number = state.queue[position]
        reservation = state.job[number].reservation
        due = reservation <= state.clock[0] and within_quota(state, number)
        host = place(state, number, ANYWHERE) if due else -1
        if host >= 0:
            start(state, rules, position, host)
            continue
        if reservation > state.clock[0]:
            state.clock[1] = min(state.clock[1], reservation)
        position += 1
