"""Conservative backfilling: every waiting job holds a reservation that no later job may delay.

Each host has a profile of what is free on it from now on. When a job ends early, reservations are
brought forward one after the other while all others are held, so none is ever delayed (Mu'alem and
Feitelson 2001). Only when a running job exceeds its prediction is the plan made anew.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Floats, Integers
from infra.compiled import compiled
from scheduling.backfill import within_quota
from scheduling.state import Rules, State, start


class Profiles(NamedTuple):
    """What is free on each host over time: from ``times[h, i]`` until ``times[h, i + 1]`` (s) host
    ``h`` has ``cores[h, i]`` cores and ``memory[h, i]`` bytes; ``steps[h]`` entries are in use."""

    times: Floats
    cores: Integers
    memory: Floats
    steps: Integers


@compiled
def new_profiles(hosts: int, capacity: int) -> Profiles:
    """Profiles of ``hosts`` hosts with room for ``capacity`` steps each, none of them in use."""
    return Profiles(
        np.zeros((hosts, capacity)),
        np.zeros((hosts, capacity), dtype=np.int64),
        np.zeros((hosts, capacity)),
        np.zeros(hosts, dtype=np.int64),
    )


@compiled
def with_room(profiles: Profiles, host: int, steps: int) -> Profiles:
    """The profiles, copied into wider arrays where ``host`` lacks room for ``steps`` more steps.

    Args:
        profiles: The free resources over time.
        host: The host's number.
        steps: How many more steps are needed.
    """
    used = profiles.steps[host]
    hosts, capacity = profiles.times.shape
    if used + steps <= capacity:
        return profiles
    wider = new_profiles(hosts, 2 * (used + steps))
    wider.times[:, :capacity] = profiles.times
    wider.cores[:, :capacity] = profiles.cores
    wider.memory[:, :capacity] = profiles.memory
    wider.steps[:] = profiles.steps
    return wider


@compiled
def _split(profiles: Profiles, host: int, time: float) -> int:
    """Make ``time``, not before the first step, a step of the host's profile; returns its index."""
    times, cores, memory, steps = profiles
    count = steps[host]
    index = int(np.searchsorted(times[host, :count], time))
    if index < count and times[host, index] == time:
        return index
    for step in range(count, index, -1):
        times[host, step] = times[host, step - 1]
        cores[host, step] = cores[host, step - 1]
        memory[host, step] = memory[host, step - 1]
    times[host, index] = time
    cores[host, index] = cores[host, index - 1]
    memory[host, index] = memory[host, index - 1]
    steps[host] = count + 1
    return index


@compiled
def occupy(
    profiles: Profiles, host: int, begin: float, end: float, cores: int, memory: float
) -> Profiles:
    """Take ``cores`` and ``memory`` of a host from ``begin`` until ``end``; negative amounts are
    given back. Returns the profiles, which may have been copied.

    Args:
        profiles: The free resources over time.
        host: The host's number.
        begin: Begin, in s.
        end: End, in s.
        cores: Cores.
        memory: Memory, in bytes.
    """
    profiles = with_room(profiles, host, 2)
    first = _split(profiles, host, begin)
    last = _split(profiles, host, end)
    for step in range(first, last):
        profiles.cores[host, step] -= cores
        profiles.memory[host, step] -= memory
    return profiles


@compiled
def earliest(profiles: Profiles, host: int, length: float, cores: int, memory: float) -> float:
    """The first time from which ``cores`` and ``memory`` are free on a host for ``length`` s;
    infinite if that is never.

    Args:
        profiles: The free resources over time.
        host: The host's number.
        length: How long, in s.
        cores: Cores.
        memory: Memory, in bytes.
    """
    times, steps = profiles.times, profiles.steps[host]
    begin = times[host, 0]
    for step in range(steps):
        last = step + 1 == steps
        if profiles.cores[host, step] < cores or profiles.memory[host, step] < memory:
            begin = np.inf if last else times[host, step + 1]
        elif last or times[host, step + 1] >= begin + length:
            return begin
    return begin


@compiled
def _hold(state: State, profiles: Profiles, number: int, sign: int) -> Profiles:
    """Take (``sign`` 1) or give back (-1) what is left of a job's reservation from now on."""
    job = state.job[number]
    begin, end = max(job.reservation, state.status[0].now), job.reservation + job.fit
    if end <= begin:
        return profiles
    return occupy(profiles, job.reserved_host, begin, end, sign * job.cores, sign * job.memory)


@compiled
def _free_over_time(state: State) -> Profiles:
    """The profiles without any reservation: what is free now, and what running jobs give back."""
    running, hosts = state.status[0].running, len(state.host)
    profiles = new_profiles(hosts, (running + 2 * state.status[0].queued) // hosts + 4)
    profiles.times[:, 0] = state.status[0].now
    profiles.cores[:, 0] = state.host["cores"]
    profiles.memory[:, 0] = state.host["memory"]
    profiles.steps[:] = 1
    for due in range(running):
        job = state.job[state.dues[due].job]
        profiles = with_room(profiles, job.host, 1)
        first = _split(profiles, job.host, state.dues[due].time)
        for step in range(first, profiles.steps[job.host]):
            profiles.cores[job.host, step] += job.cores
            profiles.memory[job.host, step] += job.memory
    return profiles


@compiled
def plan(state: State) -> None:
    """Bring each waiting job's reservation as far forward as it goes, in order of submission."""
    status = state.status[0]
    profiles = _free_over_time(state)
    waiting = state.queue[: status.queued]
    for number in waiting:
        if status.plan_broken:
            state.job[number].reservation = np.nan
        elif not np.isnan(state.job[number].reservation):
            profiles = _hold(state, profiles, number, 1)
    status.plan_broken = 0
    # After submissions alone no job that holds a reservation can move.
    for number in waiting[status.queued - status.reconsider :]:
        job = state.job[number]
        if not np.isnan(job.reservation):
            profiles = _hold(state, profiles, number, -1)
        job.reservation = np.inf
        for host in range(len(state.host)):
            begin = earliest(profiles, host, job.fit, job.cores, job.memory)
            if begin < job.reservation:
                job.reservation, job.reserved_host = begin, host
        if np.isnan(job.first_reservation):
            job.first_reservation = job.reservation
        profiles = _hold(state, profiles, number, 1)


@compiled
def start_as_planned(state: State, rules: Rules) -> None:
    """Plan, start every job whose reservation is now, and note when the next one is."""
    plan(state)
    position = 0
    state.status[0].next_planned = np.inf
    while position < state.status[0].queued:
        number = state.queue[position]
        job = state.job[number]
        if job.reservation > state.status[0].now:
            state.status[0].next_planned = min(state.status[0].next_planned, job.reservation)
        else:
            host = state.host[job.reserved_host]
            fits = job.cores <= host.cores and job.memory <= host.memory
            if fits and within_quota(state, number):
                start(state, rules, position, job.reserved_host)
                continue
        position += 1
