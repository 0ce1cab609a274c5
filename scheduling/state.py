"""What the replay's kernel holds: jobs, hosts and accounts as records, the queue, the running jobs, a few counts.

An account is whoever a core is booked on: a user, a group, a queue. Every job belongs to one account a level.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infra.aliases import Floats, Integers
from infra.compiled import compiled

Records = npt.NDArray[Any]

SUBMITTED, PREDICTED, QUEUED, RUNNING, ENDED, FREE, PENDING, LATE, FRESH, BROKEN = range(10)
"""Places in ``State.tally``: jobs submitted, predicted, waiting, running, ended; free cores; whether a scheduling pass is due;
the queue's entries that the last pass has not seen; whether waiting jobs were predicted anew since the last end; whether a
running job has outlived what the plan allowed it."""

JOB = np.dtype(
    [(name, np.float64) for name in ("submitted", "length", "request", "memory")]
    + [("cores", np.int64)]
    + [
        (name, np.float64)
        for name in (
            "rank",
            "fit",
            "finish",
            "started",
            "ended",
            "expected",
            "first_reservation",
            "reservation",
        )
    ]
    + [("corrections", np.int64), ("host", np.int64)]
)
"""A job, in order of submission; times in s, memory in bytes. Given: it runs for ``length`` and asked for ``request``. Predicted:
``rank`` orders the queue, ``fit`` says whether it ends before a reservation, ``finish`` how long it is thought to run once it
does. Found: ``expected`` is its end, corrected; ``first_reservation`` its first reservation, ``reservation`` the present one."""

EVENT = np.dtype([("time", np.float64), ("job", np.int64)])
HOST = np.dtype([("cores", np.int64), ("memory", np.float64)])
"""What is free on a host: cores, and memory in bytes."""
ACCOUNT = np.dtype(
    [
        ("cap", np.float64),
        ("share", np.float64),
        ("booked", np.float64),
        ("used", np.float64),
        ("at", np.float64),
    ]
)
"""An account: the most cores it may hold, its fair share, the cores it holds, the core-seconds it had used at a time in s."""


class Rules(NamedTuple):
    """The policy as the kernel reads it; ``bound`` is the wait in s beyond which a job is served by arrival, guarded by requests."""

    order: int
    backfill: int
    backfill_order: int
    corrector: int
    bound: float
    half_life: float
    refresh: bool


class State(NamedTuple):
    """Queue and machine at one moment.

    ``ends`` and ``dues`` list actual and expected ends of running jobs, latest first; ``ended`` all jobs that did, in that order.
    ``clock`` holds the time now and the next planned start, in s.
    """

    job: Records
    host: Records
    account: Records
    accounts_of: Integers
    queue: Integers
    ended: Integers
    ends: Records
    dues: Records
    clock: Floats
    tally: Integers


def new_state(jobs: Records, hosts: Records, accounts: Records, accounts_of: Integers) -> State:
    """The state before the first submission: all of ``hosts`` free, nothing booked on ``accounts`` (of each job: jobs × levels)."""
    rows = len(jobs)
    tally = np.zeros(10, dtype=np.int64)
    tally[FREE] = hosts["cores"].sum()
    return State(
        job=jobs.copy(),
        host=hosts.copy(),
        account=accounts.copy(),
        accounts_of=np.ascontiguousarray(accounts_of, dtype=np.int64),
        queue=np.zeros(rows, dtype=np.int64),
        ended=np.zeros(rows, dtype=np.int64),
        ends=np.zeros(rows, dtype=EVENT),
        dues=np.zeros(rows, dtype=EVENT),
        clock=np.array([0.0, np.inf]),
        tally=tally,
    )


@compiled
def _position(events: Records, count: int, time: float, job: int) -> int:
    """Where (time, job) lies or belongs among the first ``count`` events; at equal times the lower job comes later."""
    low, high = 0, count
    while low < high:
        middle = (low + high) // 2
        event = events[middle]
        if event.time > time or (event.time == time and event.job > job):
            low = middle + 1
        else:
            high = middle
    return low


@compiled
def _insert(events: Records, count: int, time: float, job: int) -> None:
    at = _position(events, count, time, job)
    for place in range(count, at, -1):
        events[place] = events[place - 1]
    events[at].time = time
    events[at].job = job


@compiled
def _remove(events: Records, count: int, time: float, job: int) -> None:
    for place in range(_position(events, count, time, job), count - 1):
        events[place] = events[place + 1]


@compiled
def usage(state: State, rules: Rules, number: int, now: float) -> float:
    """Core-seconds that account ``number`` has used by ``now``, those of a half-life ago counting half."""
    account = state.account[number]
    passed = now - account.at
    if np.isinf(rules.half_life):
        return account.used + account.booked * passed
    kept = 0.5 ** (passed / rules.half_life)
    return account.used * kept + account.booked * (1 - kept) * rules.half_life / np.log(2.0)


@compiled
def _book(state: State, rules: Rules, job: int, sign: int, now: float) -> None:
    cores = sign * state.job[job].cores
    for number in state.accounts_of[job]:
        state.account[number].used = usage(state, rules, number, now)
        state.account[number].at = now
        state.account[number].booked += cores
    host = state.job[job].host
    state.host[host].cores -= cores
    state.host[host].memory -= sign * state.job[job].memory
    state.tally[FREE] -= cores


@compiled
def start(state: State, rules: Rules, position: int, host: int) -> None:
    """Start the job at ``position`` of the queue on ``host`` now."""
    count, now = state.tally, state.clock[0]
    number = state.queue[position]
    for later in range(position + 1, count[QUEUED]):
        state.queue[later - 1] = state.queue[later]
    count[QUEUED] -= 1
    job = state.job[number]
    job.host = host
    job.started = now
    job.expected = now + job.finish
    _book(state, rules, number, 1, now)
    _insert(state.ends, count[RUNNING], now + job.length, number)
    _insert(state.dues, count[RUNNING], job.expected, number)
    count[RUNNING] += 1


@compiled
def end(state: State, rules: Rules) -> None:
    """End the running job whose end is next."""
    count = state.tally
    last = count[RUNNING] - 1
    number, now = state.ends[last].job, state.ends[last].time
    _remove(state.dues, count[RUNNING], state.job[number].expected, number)
    count[RUNNING] = last
    _book(state, rules, number, -1, now)
    state.job[number].ended = now
    state.ended[count[ENDED]] = number
    count[ENDED] += 1


@compiled
def correct(state: State, number: int, expected: float) -> None:
    """Move the expected end of running job ``number`` to ``expected``, a time in s."""
    running = state.tally[RUNNING]
    _remove(state.dues, running, state.job[number].expected, number)
    _insert(state.dues, running - 1, expected, number)
    state.job[number].expected = expected
    state.job[number].corrections += 1
