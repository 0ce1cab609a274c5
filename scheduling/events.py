"""The discrete-event kernel: jobs enter the queue, start, outlive their prediction, end.

At one moment the order is: ends (lower job first), corrections of predictions that have run out, submissions (in order of
the log), planned starts, then one scheduling pass. A correction frees no core, so it calls for no pass of its own. The kernel
returns whenever it needs an answer from outside and is called again with it.
"""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled
from scheduling.backfill import CONSERVATIVE, NONE, backfill, start_in_order
from scheduling.conservative import start_as_planned
from scheduling.state import (
    BROKEN,
    FREE,
    FRESH,
    LATE,
    PENDING,
    PREDICTED,
    QUEUED,
    RUNNING,
    SUBMITTED,
    Rules,
    State,
    correct,
    end,
)

DONE, PREDICT, CORRECT, REFRESH = range(4)
TO_REQUEST, STEPS, ASK = range(3)

_STEPS = 60.0 * np.array([1, 5, 15, 30, 60, 120, 300, 600, 1200, 3000, 6000])
"""Tsafrir's increments: how much longer than its prediction a job is given, correction by correction."""


@compiled
def _new_end(state: State, rules: Rules, number: int) -> float:
    """The new expected end of a job that has run as long as expected; always later than now."""
    job, now = state.job[number], state.clock[0]
    latest = job.started + job.request
    if latest <= now:
        return now + max(
            now - job.started, 1.0
        )  # beyond its request there is nothing to go by: as long again
    if rules.corrector == STEPS:
        step = _STEPS[min(job.corrections, len(_STEPS) - 1)]
        return min(max(job.started + job.finish + step, now + 1.0), latest)
    return latest


@compiled
def _schedule(state: State, rules: Rules) -> None:
    count = state.tally
    if rules.backfill == CONSERVATIVE:
        start_as_planned(state, rules)
    elif count[FREE] > 0:
        position = start_in_order(state, rules)
        if position >= 0 and rules.backfill != NONE:
            backfill(state, rules, position)
    count[PENDING] = count[LATE] = 0


@compiled
def advance(state: State, rules: Rules) -> int:
    """Run until all jobs have ended (DONE) or an answer is needed: predictions of the jobs submitted next (PREDICT), a new
    expected end of the job that is due (CORRECT), predictions of the waiting jobs anew (REFRESH)."""
    count, clock = state.tally, state.clock
    jobs = len(state.job)
    while True:
        running = count[RUNNING]
        next_end = state.ends[running - 1].time if running else np.inf
        next_due = state.dues[running - 1].time if running else np.inf
        next_submission = (
            state.job[count[SUBMITTED]].submitted if count[SUBMITTED] < jobs else np.inf
        )
        now = min(next_end, next_due, next_submission, clock[1])
        if count[PENDING] and now > clock[0]:
            if rules.refresh and not count[FRESH] and count[QUEUED]:
                return REFRESH
            _schedule(state, rules)
            continue
        if np.isinf(now):
            return DONE
        clock[0] = now
        if next_end == now:
            early = state.job[state.ends[running - 1].job].expected > now
            end(state, rules)
            count[FRESH] = 0
            if early or rules.backfill != CONSERVATIVE:
                count[LATE] = count[QUEUED]
        elif next_due == now:
            count[BROKEN] = 1
            count[LATE] = count[QUEUED]
            if rules.backfill == CONSERVATIVE:
                count[PENDING] = 1
            if rules.corrector == ASK:
                return CORRECT
            number = state.dues[running - 1].job
            correct(state, number, _new_end(state, rules, number))
            continue
        elif next_submission == now:
            if count[SUBMITTED] >= count[PREDICTED]:
                return PREDICT
            state.queue[count[QUEUED]] = count[SUBMITTED]
            count[QUEUED] += 1
            count[LATE] += 1
            count[SUBMITTED] += 1
        else:
            clock[1] = np.inf
        count[PENDING] = 1
