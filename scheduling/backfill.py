"""One scheduling pass without reservations or with one: who starts now, and who may slip in front of the first that cannot."""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled
from scheduling.orders import ARRIVAL, FAIR_SHARE, urgency
from scheduling.state import FREE, LATE, QUEUED, RUNNING, Rules, State, start, usage

NONE, EASY, CONSERVATIVE = range(3)

ANYWHERE = (-1, 0, 0.0)
"""No host is kept for anyone. What is kept is a host and what is spare on it: (number, cores, bytes)."""


@compiled
def within_quota(state: State, number: int) -> bool:
    """Whether each of the job's accounts may have that many more cores."""
    for account in state.accounts_of[number]:
        if state.account[account].booked + state.job[number].cores > state.account[account].cap:
            return False
    return True


@compiled
def place(state: State, number: int, kept: tuple[int, int, float]) -> int:
    """The fullest host that holds the job now, on the ``kept`` host only within what is spare; -1 if none does."""
    job = state.job[number]
    best, least = -1, np.iinfo(np.int64).max
    for host in range(len(state.host)):
        free, memory = state.host[host].cores, state.host[host].memory
        if host == kept[0]:
            free, memory = min(free, kept[1]), min(memory, kept[2])
        if job.cores <= free and free < least and job.memory <= memory:
            best, least = host, free
    return best


@compiled
def _urgency(state: State, rules: Rules, order: int, number: int) -> float:
    """How urgent a waiting job is now by ``order``, lowest first."""
    job, now = state.job[number], state.clock[0]
    used = running = 0.0
    if order >= FAIR_SHARE:
        owner = state.accounts_of[number, 0]
        used = usage(state, rules, owner, now) / state.account[owner].share
        running = state.account[owner].booked / state.account[owner].cap
    return urgency(order, now - job.submitted, job.rank, job.cores, used, running)


@compiled
def _first(state: State, rules: Rules) -> int:
    """Position of the job to serve next: the oldest overdue job, else the most urgent within its quota; -1 if there is none."""
    best, least = -1, np.inf
    for position in range(state.tally[QUEUED]):
        number = state.queue[position]
        # The queue lies in order of submission, so the first overdue job is the oldest.
        if rules.order == ARRIVAL or state.clock[0] - state.job[number].submitted > rules.bound:
            if within_quota(state, number):
                return position
            continue
        urgent = _urgency(state, rules, rules.order, number)
        if (urgent < least or best < 0) and within_quota(state, number):
            best, least = position, urgent
    return best


@compiled
def _reservation(state: State, head: int, by_request: bool) -> tuple[float, tuple[int, int, float]]:
    """When the head fits by the expected ends (or requests) of running jobs, on which host, and what is spare there then."""
    running = state.tally[RUNNING]
    order = np.arange(running - 1, -1, -1)
    times = state.dues[:running]["time"].copy()
    if by_request:
        for due in range(running):
            job = state.job[state.dues[due].job]
            times[due] = max(job.started + job.request, times[due])
        order = np.argsort(times)
    cores, memory = state.host["cores"].copy(), state.host["memory"].copy()
    wanted = state.job[head]
    shadow, chosen = np.inf, -1
    for due in order:
        if times[due] > shadow:
            break
        job = state.job[state.dues[due].job]
        cores[job.host] += job.cores
        memory[job.host] += job.memory
        if chosen < 0 and cores[job.host] >= wanted.cores and memory[job.host] >= wanted.memory:
            shadow, chosen = times[due], job.host
    if chosen < 0:
        return np.inf, (-1, 0, 0.0)
    return shadow, (chosen, cores[chosen] - wanted.cores, memory[chosen] - wanted.memory)


@compiled
def _candidate(
    state: State,
    rules: Rules,
    head: int,
    shadow: float,
    kept: tuple[int, int, float],
    by_request: bool,
    since: int,
) -> tuple[int, int]:
    """Position, from ``since`` on, and host of the first job by the backfill order that leaves the reservation alone; -1 if none."""
    now, free = state.clock[0], state.tally[FREE]
    best, chosen, least = -1, -1, np.inf
    for position in range(since, state.tally[QUEUED]):
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
        host = place(state, number, (-1, 0, 0.0) if now + length <= shadow else kept)
        if host < 0 or not within_quota(state, number):
            continue
        if rules.backfill_order == ARRIVAL:
            return position, host
        best, chosen, least = position, host, urgent
    return best, chosen


@compiled
def start_in_order(state: State, rules: Rules) -> int:
    """Start jobs in order while they fit; returns the position of the first that does not, -1 if there is none to wait for."""
    count = state.tally
    while count[QUEUED] > 0:
        position = _first(state, rules)
        host = place(state, state.queue[position], ANYWHERE) if position >= 0 else -1
        if host < 0:
            return position
        start(state, rules, position, host)
        count[LATE] = count[QUEUED]
    return -1


@compiled
def backfill(state: State, rules: Rules, position: int) -> None:
    """Reserve for the job at ``position`` of the queue and start others that leave its reservation alone.

    An overdue head is guarded by requests instead of predictions. After submissions alone under the order of arrival, only the
    ``LATE`` newcomers are looked at: for the others nothing has changed but the time.
    """
    count, now = state.tally, state.clock[0]
    since = count[QUEUED] - count[LATE] if rules.order == ARRIVAL else 0
    head = state.queue[position]
    by_request = now - state.job[head].submitted > rules.bound
    shadow, kept = _reservation(state, head, by_request)
    if np.isnan(state.job[head].first_reservation):
        state.job[head].first_reservation = shadow
    while count[FREE] > 0:
        position, host = _candidate(state, rules, head, shadow, kept, by_request, since)
        if position < 0:
            return
        job = state.job[state.queue[position]]
        if host == kept[0] and now + (job.request if by_request else job.fit) > shadow:
            kept = (host, kept[1] - job.cores, kept[2] - job.memory)
        start(state, rules, position, host)
        if rules.backfill_order == ARRIVAL:
            since = position
