"""Queue order and EASY backfilling: one scheduling pass with no reservation, or with one."""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled
from scheduling.orders import ARRIVAL, FAIR_SHARE, urgency
from scheduling.state import Rules, State, start, usage

NONE, EASY, CONSERVATIVE = range(3)

NO_RESERVATION = (-1, 0, 0.0)
"""No reservation. A reservation is a host and what is spare on it: (index, cores, bytes)."""


@compiled
def within_quota(state: State, number: int) -> bool:
    """Whether each of the job's accounts may have that many more cores."""
    for account in state.accounts_of[number]:
        if state.account[account].booked + state.job[number].cores > state.account[account].cap:
            return False
    return True


@compiled
def best_host(state: State, number: int, reserved: tuple[int, int, float]) -> int:
    """The fullest host on which the job fits now; -1 if there is none.

    On the ``reserved`` host it must fit into what is spare there.

    Args:
        state: The state of the replay.
        number: The job's number.
        reserved: Host, cores and memory that the reservation leaves spare.
    """
    job = state.job[number]
    best, least = -1, np.iinfo(np.int64).max
    for host in range(len(state.host)):
        free, memory = state.host[host].cores, state.host[host].memory
        if host == reserved[0]:
            free, memory = min(free, reserved[1]), min(memory, reserved[2])
        if job.cores <= free and free < least and job.memory <= memory:
            best, least = host, free
    return best


@compiled
def _urgency(state: State, rules: Rules, order: int, number: int) -> float:
    """Sort key of a waiting job by ``order`` now, lowest first."""
    job, now = state.job[number], state.status[0].now
    used = running = 0.0
    if order >= FAIR_SHARE:
        owner = state.accounts_of[number, 0]
        used = usage(state, rules, owner, now) / state.account[owner].share
        running = state.account[owner].booked / state.account[owner].cap
    return urgency(order, now - job.submitted, job.rank, job.cores, used, running)


@compiled
def _first(state: State, rules: Rules) -> int:
    """Position of the job to serve next; -1 if there is none.

    The oldest overdue job, else the most urgent one within its quota.
    """
    status = state.status[0]
    best, least = -1, np.inf
    for position in range(status.queued):
        number = state.queue[position]
        # The queue is in order of submission, so the first overdue job is the oldest.
        if rules.order == ARRIVAL or status.now - state.job[number].submitted > rules.bound:
            if within_quota(state, number):
                return position
            continue
        urgent = _urgency(state, rules, rules.order, number)
        if (urgent < least or best < 0) and within_quota(state, number):
            best, least = position, urgent
    return best


@compiled
def _reservation(state: State, head: int, by_request: bool) -> tuple[float, tuple[int, int, float]]:
    """When the head of the queue fits by the expected ends of running jobs (or by their requests).

    Returns the time (s), the host and what is spare on it then.
    """
    running = state.status[0].running
    order = np.arange(running - 1, -1, -1)
    times = state.dues[:running]["time"].copy()
    if by_request:
        for due in range(running):
            job = state.job[state.dues[due].job]
            times[due] = max(job.started + job.request, times[due])
        order = np.argsort(times)
    cores, memory = state.host["cores"].copy(), state.host["memory"].copy()
    head_job = state.job[head]
    shadow, chosen = np.inf, -1
    for due in order:
        if times[due] > shadow:
            break
        job = state.job[state.dues[due].job]
        cores[job.host] += job.cores
        memory[job.host] += job.memory
        fits = cores[job.host] >= head_job.cores and memory[job.host] >= head_job.memory
        if chosen < 0 and fits:
            shadow, chosen = times[due], job.host
    if chosen < 0:
        return np.inf, (-1, 0, 0.0)
    return shadow, (chosen, cores[chosen] - head_job.cores, memory[chosen] - head_job.memory)


@compiled
def _candidate(
    state: State,
    rules: Rules,
    head: int,
    shadow: float,
    reserved: tuple[int, int, float],
    by_request: bool,
    since: int,
) -> tuple[int, int]:
    """Position and host of the first job by the backfill order that does not delay the reservation.

    Only positions from ``since`` on are considered; (-1, -1) if there is no such job.
    """
    now, free = state.status[0].now, state.status[0].free_cores
    best, chosen, least = -1, -1, np.inf
    for position in range(since, state.status[0].queued):
        number = state.queue[position]
        job = state.job[number]
        if job.cores > free or number == head:
            continue
        urgent = 0.0
        if rules.backfill_order != ARRIVAL:
            urgent = _urgency(state, rules, rules.backfill_order, number)
            if urgent >= least and best >= 0:
                continue
        length = job.request if by_request else job.fit
        host = best_host(state, number, (-1, 0, 0.0) if now + length <= shadow else reserved)
        if host < 0 or not within_quota(state, number):
            continue
        if rules.backfill_order == ARRIVAL:
            return position, host
        best, chosen, least = position, host, urgent
    return best, chosen


@compiled
def start_in_order(state: State, rules: Rules) -> int:
    """Start jobs in order while they fit.

    Returns the position of the first that does not fit; -1 if no job is left waiting for room.
    """
    status = state.status[0]
    while status.queued > 0:
        position = _first(state, rules)
        host = best_host(state, state.queue[position], NO_RESERVATION) if position >= 0 else -1
        if host < 0:
            return position
        start(state, rules, position, host)
        status.reconsider = status.queued
    return -1


@compiled
def backfill(state: State, rules: Rules, position: int) -> None:
    """Reserve for the job at ``position`` of the queue, and start others that do not delay it.

    The reservation of an overdue job is computed from requests instead of predictions. In order of
    arrival, after submissions alone, only the newly submitted jobs are considered: for the others
    nothing has changed but the time.

    Args:
        state: The state of the replay.
        rules: The rules of the policy.
        position: The position in the queue.
    """
    status = state.status[0]
    now = status.now
    since = status.queued - status.reconsider if rules.order == ARRIVAL else 0
    head = state.queue[position]
    by_request = now - state.job[head].submitted > rules.bound
    shadow, reserved = _reservation(state, head, by_request)
    if np.isnan(state.job[head].first_reservation):
        state.job[head].first_reservation = shadow
    while status.free_cores > 0:
        position, host = _candidate(state, rules, head, shadow, reserved, by_request, since)
        if position < 0:
            return
        job = state.job[state.queue[position]]
        if host == reserved[0] and now + (job.request if by_request else job.fit) > shadow:
            reserved = (host, reserved[1] - job.cores, reserved[2] - job.memory)
        start(state, rules, position, host)
        if rules.backfill_order == ARRIVAL:
            since = position
