"""State of a replay's kernel: jobs, hosts and accounts as records, the queue, the running jobs.

An account is what cores are booked on: a user, a group or a queue. Every job belongs to one account
of each level.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infra.aliases import Integers
from infra.compiled import compiled

Records = npt.NDArray[Any]

JOB = np.dtype(
    [(name, np.float64) for name in ("submitted", "length", "request", "memory")]
    + [("cores", np.int64)]
    + [(name, np.float64) for name in ("rank", "fit", "finish")]
    + [(name, np.float64) for name in ("started", "ended", "expected")]
    + [(name, np.float64) for name in ("first_reservation", "reservation")]
    + [(name, np.int64) for name in ("corrections", "host", "reserved_host")]
)
"""A job, in order of submission; times in s, memory in bytes.

Inputs: it runs for ``length`` and requested ``request``. Predictions: ``rank`` orders the queue,
``fit`` decides whether it ends before a reservation, ``finish`` is its predicted run time once it
runs. Results: ``expected`` is its predicted end, corrected; ``first_reservation`` the first start
that was reserved for it, ``reservation`` the present one, on host ``reserved_host``."""

EVENT = np.dtype([("time", np.float64), ("job", np.int64)])
HOST = np.dtype([("cores", np.int64), ("memory", np.float64)])
"""What is free on a host: cores, and memory in bytes."""
ACCOUNT = np.dtype([(name, np.float64) for name in ("cap", "share", "booked", "used", "used_at")])
"""An account: the most cores it may hold, its fair share, the cores it holds, and the core-seconds
it had used by the time ``used_at`` (s)."""
STATUS = np.dtype(
    [(name, np.float64) for name in ("now", "next_planned")]
    + [(name, np.int64) for name in ("submitted", "predicted", "queued", "running", "ended")]
    + [(name, np.int64) for name in ("free_cores", "pass_due", "reconsider")]
    + [(name, np.int64) for name in ("refreshed", "plan_broken")]
)
"""The time now and the next planned start (s), and counts of jobs and free cores.

``pass_due``: a scheduling pass is due. ``reconsider``: how many of the queue's last entries the
next pass must look at. ``refreshed``: the waiting jobs were predicted again since the last end.
``plan_broken``: a running job has exceeded the time that the plan allowed it."""


class Rules(NamedTuple):
    """A policy as the kernel reads it.

    Beyond a wait of ``bound`` s a job is served in order of arrival, reserved for by requests.
    """

    order: int
    backfill: int
    backfill_order: int
    corrector: int
    bound: float
    half_life: float
    refresh: bool


class State(NamedTuple):
    """Queue and machine at one moment.

    ``ends`` and ``dues`` list actual and expected ends of running jobs, latest first; ``ended`` the
    jobs that have ended, in that order; ``status`` is one record of STATUS.
    """

    job: Records
    host: Records
    account: Records
    accounts_of: Integers
    queue: Integers
    ended: Integers
    ends: Records
    dues: Records
    status: Records


def new_state(jobs: Records, hosts: Records, accounts: Records, accounts_of: Integers) -> State:
    """The state before the first submission, with all hosts free.

    Args:
        jobs: Records of JOB, in order of submission.
        hosts: Records of HOST.
        accounts: Records of ACCOUNT, nothing booked on them.
        accounts_of: The indices of each job's accounts, int64[jobs, levels].
    """
    rows = len(jobs)
    status = np.zeros(1, dtype=STATUS)
    status["next_planned"], status["free_cores"] = np.inf, hosts["cores"].sum()
    return State(
        job=jobs.copy(),
        host=hosts.copy(),
        account=accounts.copy(),
        accounts_of=np.ascontiguousarray(accounts_of, dtype=np.int64),
        queue=np.zeros(rows, dtype=np.int64),
        ended=np.zeros(rows, dtype=np.int64),
        ends=np.zeros(rows, dtype=EVENT),
        dues=np.zeros(rows, dtype=EVENT),
        status=status,
    )


@compiled
def _position(events: Records, count: int, time: float, job: int) -> int:
    """Index of (time, job) among ``count`` events; of equal times the lower job is last."""
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
    position = _position(events, count, time, job)
    for later in range(count, position, -1):
        events[later] = events[later - 1]
    events[position].time = time
    events[position].job = job


@compiled
def _remove(events: Records, count: int, time: float, job: int) -> None:
    for later in range(_position(events, count, time, job), count - 1):
        events[later] = events[later + 1]


@compiled
def usage(state: State, rules: Rules, number: int, now: float) -> float:
    """Core-seconds used by account ``number`` by ``now``; those of a half-life ago count half.

    Args:
        state: The state of the replay.
        rules: The rules of the policy.
        number: The account's number.
        now: The present, in s.
    """
    account = state.account[number]
    passed = now - account.used_at
    if np.isinf(rules.half_life):
        return account.used + account.booked * passed
    decay = 0.5 ** (passed / rules.half_life)
    return account.used * decay + account.booked * (1 - decay) * rules.half_life / np.log(2.0)


@compiled
def _book(state: State, rules: Rules, job: int, sign: int, now: float) -> None:
    cores = sign * state.job[job].cores
    for number in state.accounts_of[job]:
        state.account[number].used = usage(state, rules, number, now)
        state.account[number].used_at = now
        state.account[number].booked += cores
    host = state.job[job].host
    state.host[host].cores -= cores
    state.host[host].memory -= sign * state.job[job].memory
    state.status[0].free_cores -= cores


@compiled
def start(state: State, rules: Rules, position: int, host: int) -> None:
    """Start the job at ``position`` of the queue on ``host`` now.

    Args:
        state: The state of the replay.
        rules: The rules of the policy.
        position: The position in the queue.
        host: The host's number.
    """
    status = state.status[0]
    now, number = status.now, state.queue[position]
    for later in range(position + 1, status.queued):
        state.queue[later - 1] = state.queue[later]
    status.queued -= 1
    job = state.job[number]
    job.host = host
    job.started = now
    job.expected = now + job.finish
    _book(state, rules, number, 1, now)
    _insert(state.ends, status.running, now + job.length, number)
    _insert(state.dues, status.running, job.expected, number)
    status.running += 1


@compiled
def end(state: State, rules: Rules) -> None:
    """End the running job whose end is next."""
    status = state.status[0]
    last = status.running - 1
    number, now = state.ends[last].job, state.ends[last].time
    _remove(state.dues, status.running, state.job[number].expected, number)
    status.running = last
    _book(state, rules, number, -1, now)
    state.job[number].ended = now
    state.ended[status.ended] = number
    status.ended += 1


@compiled
def correct(state: State, number: int, expected: float) -> None:
    """Move the expected end of running job ``number`` to ``expected``, a time in s.

    Args:
        state: The state of the replay.
        number: The job's number.
        expected: The new expected end, in s.
    """
    running = state.status[0].running
    _remove(state.dues, running, state.job[number].expected, number)
    _insert(state.dues, running - 1, expected, number)
    state.job[number].expected = expected
    state.job[number].corrections += 1
