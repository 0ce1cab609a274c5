"""The discrete-event kernel: jobs enter the queue, start, exceed their prediction, end.

Events of one moment are taken in this order: ends (lower job index first), corrections of exceeded
predictions, submissions (in order of the log), planned starts, then one scheduling pass. A
correction frees no core, so it needs no pass of its own. The kernel returns when it needs a
prediction, and is called again with it.
"""

from __future__ import annotations

import numpy as np

from infra.compiled import compiled
from scheduling.backfill import CONSERVATIVE, NONE, backfill, start_in_order
from scheduling.conservative import start_as_planned
from scheduling.state import Rules, State, correct, end

DONE, PREDICT, CORRECT, REFRESH = range(4)
TO_REQUEST, STEPS, REMAINING = range(3)

_STEPS = 60.0 * np.array([1, 5, 15, 30, 60, 120, 300, 600, 1200, 3000, 6000])
"""Tsafrir's increments (s): added to the prediction of a job at its first, second … correction."""


@compiled
def _new_end(state: State, rules: Rules, number: int) -> float:
    """The new expected end of a job that has run as long as predicted; later than now."""
    job, now = state.job[number], state.status[0].now
    latest = job.started + job.request
    if latest <= now:
        return now + max(now - job.started, 1.0)  # beyond its request: as long again as it has run
    if rules.corrector == STEPS:
        step = _STEPS[min(job.corrections, len(_STEPS) - 1)]
        return min(max(job.started + job.finish + step, now + 1.0), latest)
    return latest


@compiled
def _schedule(state: State, rules: Rules) -> None:
    status = state.status[0]
    if rules.backfill == CONSERVATIVE:
        start_as_planned(state, rules)
    elif status.free_cores > 0:
        position = start_in_order(state, rules)
        if position >= 0 and rules.backfill != NONE:
            backfill(state, rules, position)
    status.pass_due = status.reconsider = 0


@compiled
def advance(state: State, rules: Rules) -> int:
    """Process events until all jobs have ended or a prediction is needed.

    Returns:
        DONE; PREDICT: predictions of the jobs that are submitted next; CORRECT: a new expected end
        of the running job that is due; REFRESH: new predictions of the waiting jobs.
    """
    status = state.status[0]
    jobs = len(state.job)
    while True:
        running = status.running
        next_end = state.ends[running - 1].time if running else np.inf
        next_due = state.dues[running - 1].time if running else np.inf
        next_submission = (
            state.job[status.submitted].submitted if status.submitted < jobs else np.inf
        )
        now = min(next_end, next_due, next_submission, status.next_planned)
        if status.pass_due and now > status.now:
            if rules.refresh and not status.refreshed and status.queued:
                return REFRESH
            _schedule(state, rules)
            continue
        if np.isinf(now):
            return DONE
        status.now = now
        if next_end == now:
            early = state.job[state.ends[running - 1].job].expected > now
            end(state, rules)
            status.refreshed = 0
            if early or rules.backfill != CONSERVATIVE:
                status.reconsider = status.queued
        elif next_due == now:
            status.plan_broken = 1
            status.reconsider = status.queued
            if rules.backfill == CONSERVATIVE:
                status.pass_due = 1
            if rules.corrector == REMAINING:
                return CORRECT
            number = state.dues[running - 1].job
            correct(state, number, _new_end(state, rules, number))
            continue
        elif next_submission == now:
            if status.submitted >= status.predicted:
                return PREDICT
            state.queue[status.queued] = status.submitted
            status.queued += 1
            status.reconsider += 1
            status.submitted += 1
        else:
            status.next_planned = np.inf
        status.pass_due = 1
