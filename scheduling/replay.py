"""Replays: a log lived through again under another policy and predictor, in the replay's own time."""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from scheduling.correctors import Corrector, corrector_named
from scheduling.events import CORRECT, DONE, PREDICT, advance
from scheduling.machine import Machine, Pool, machine_of
from scheduling.outcome import Replay
from scheduling.owners import Owners
from scheduling.policies import Policy, PolicyError, policy_named
from scheduling.predictors import Fixed, Predictor, gridcast, predictor_named
from scheduling.state import (
    ACCOUNT,
    JOB,
    Records,
    State,
    correct,
    new_state,
)
from scheduling.trace import Trace, trace_of

if TYPE_CHECKING:
    from models.engine.model_set import ModelSet

Progress = Callable[[float], None]


def replay(
    jobs: pd.DataFrame,
    machine: Machine | None = None,
    policy: str | Policy = "easy",
    predictor: str = "request",
    corrector: str = "request",
    *,
    bound: float | None = None,
    rank: str | None = None,
    fit: str | None = None,
    finish: str | None = None,
    kill: bool = True,
    owners: Owners | None = None,
    model: ModelSet | None = None,
    past: pd.DataFrame | None = None,
    progress: Progress | None = None,
) -> Replay:
    """Replay ``jobs`` (conformed records that ran) on ``machine`` (default: the log's own) and say who waited how long.

    ``bound`` (s; infinite for none) and what is asked of the prediction (``rank``, ``fit``, ``finish``) default to the policy's own.
    With ``kill`` a job is killed when its requested walltime is over. ``owners`` gives accounts, quotas and shares. ``model``
    is a trained version for the predictor gridcast, and ``past`` the jobs that had ended before. ``progress`` is told the share of
    jobs done. Raises PolicyError, MachineError or TraceError, each one sentence.
    """
    chosen = (policy if isinstance(policy, Policy) else policy_named(policy)).with_(
        bound, rank, fit, finish
    )
    predicting, correcting = predictor_named(predictor), corrector_named(corrector)
    if model and predicting.name != "gridcast":
        raise PolicyError(f"a model answers as the predictor gridcast, not as {predicting.name}")
    machine = machine or machine_of(jobs)
    trace = trace_of(jobs, machine, kill=kill)
    _compile()
    began, table = time.perf_counter(), trace.records()
    for number, pool in enumerate(machine.pools):
        rows = np.flatnonzero(trace.pool == number)
        if len(rows):
            # A pool has its own queue and its own predictor: another pool's clock is not its clock.
            part = trace if len(rows) == len(trace) else trace.take(rows)
            asked = gridcast(part, model, past) if model else predicting.make(part)
            table[rows] = _live(part, pool, chosen, asked, correcting, owners or Owners(), progress)
    return Replay(
        trace, machine, chosen, predicting.name, correcting.name, table, time.perf_counter() - began
    )


@cache
def _compile() -> None:
    """Compile the kernel, or load it as compiled before, so that the time a replay takes is its own."""
    job = np.zeros(1, dtype=JOB)
    job["cores"] = job["length"] = job["request"] = job["rank"] = job["fit"] = job["finish"] = 1
    state = new_state(
        job, Pool("one", 1).free(), np.zeros(0, dtype=ACCOUNT), np.zeros((1, 0), dtype=np.int64)
    )
    state.status[0]["predicted"] = 1
    advance(state, policy_named("easy").rules(0))


def _live(
    trace: Trace,
    pool: Pool,
    policy: Policy,
    predictor: Predictor,
    corrector: Corrector,
    owners: Owners,
    progress: Progress | None,
) -> Records:
    """Live through the jobs of one pool; returns the kernel's records."""
    state = new_state(trace.records(), pool.free(), *owners.book(trace.jobs, trace.cores))
    rules, learned = policy.rules(corrector.code), 0
    if isinstance(predictor, Fixed):
        _predict(state, trace, policy, predictor, np.arange(len(trace)))
        state.status[0]["predicted"] = len(trace)
        rules = rules._replace(refresh=False)
    owner = state.accounts_of[:, 0]
    news = np.zeros(len(state.account), dtype=bool)
    while (code := advance(state, rules)) != DONE:
        ended = state.ended[learned : state.status[0]["ended"]]
        if len(ended):
            predictor.learn(ended, state.job["ended"][ended], trace.length[ended])
            learned += len(ended)
            news[owner[ended]] = True
        if code == PREDICT:
            first = int(state.status[0]["predicted"])
            last = int(np.searchsorted(trace.submitted, trace.submitted[first], side="right"))
            _predict(state, trace, policy, predictor, np.arange(first, last))
            state.status[0]["predicted"] = last
            if progress is not None and last * 100 // len(trace) > first * 100 // len(trace):
                progress(last / len(trace))
        elif code == CORRECT:
            _ask_anew(state, trace, predictor)
        else:
            # What a job came to tells most about the waiting jobs of the same owner.
            waiting = state.queue[: state.status[0]["queued"]]
            rows = waiting[news[owner[waiting]]]
            if len(rows):
                _predict(state, trace, policy, predictor, rows)
            news[:] = False
            state.status[0]["refreshed"] = 1
    return state.job


def _predict(
    state: State, trace: Trace, policy: Policy, predictor: Predictor, rows: Integers
) -> None:
    """Write what is predicted of ``rows``, at least a second and at most the request, as no job may outrun that."""
    request, now = trace.request[rows], float(state.status[0]["now"])
    answers: dict[str, Floats] = {"request": request}
    for name, asked in (("rank", policy.rank), ("fit", policy.fit), ("finish", policy.finish)):
        if asked not in answers:
            answers[asked] = np.clip(
                predictor.predict(rows, asked, now), 1.0, np.maximum(request, 1.0)
            )
        state.job[name][rows] = answers[asked]


def _ask_anew(state: State, trace: Trace, predictor: Predictor) -> None:
    """Correct the running job that is due by what the predictor says of one that has run so long."""
    row = int(state.dues["job"][state.status[0]["running"] - 1])
    now, started = float(state.status[0]["now"]), float(state.job["started"][row])
    expected = started + predictor.remaining(row, now - started, now)
    latest = max(
        started + trace.request[row],
        now + max(now - started, 1.0) if now >= started + trace.request[row] else 0.0,
    )
    correct(state, row, min(max(expected, now + 1.0), latest))
