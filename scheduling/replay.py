"""Replays: a log run again under another policy and predictor, in the replay's own time."""

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
from scheduling.quantities import check_quantity
from scheduling.state import ACCOUNT, JOB, Records, State, correct, new_state
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
    """Replay ``jobs`` on a machine under a policy.

    Args:
        jobs: Conformed records of jobs that ran.
        machine: Default: the log's own.
        policy: A policy, or its name.
        predictor: The name of a predictor.
        corrector: The name of a corrector.
        bound: The wait in s beyond which a job is served first; default: the policy's.
        rank: The quantity that orders the queue; default: the policy's.
        fit: The quantity that decides on backfilling; default: the policy's.
        finish: The quantity that predicts the end of a running job; default: the policy's.
        kill: A job is killed when its requested walltime is over.
        owners: Accounts, quotas and shares; default: an account for each user.
        model: A trained version for the predictor gridcast.
        past: The jobs that had ended before, for ``model``.
        progress: Is called with the share of jobs submitted.

    Raises:
        PolicyError: The policy, predictor, corrector, bound or a quantity is wrong.
        MachineError: The size of the machine is unknown, or a quota is too small.
        TraceError: No job can be replayed.
    """
    chosen = (policy if isinstance(policy, Policy) else policy_named(policy)).with_settings(
        bound, rank, fit, finish
    )
    for quantity in (chosen.rank, chosen.fit, chosen.finish):
        check_quantity(quantity)
    kind, corrector_kind = predictor_named(predictor), corrector_named(corrector)
    if model and kind.name != "gridcast":
        raise PolicyError(f"a model answers as the predictor gridcast, not as {kind.name}")
    machine = machine or machine_of(jobs)
    trace = trace_of(jobs, machine, kill=kill)
    _compile()
    began, table = time.perf_counter(), trace.records()
    for index, pool in enumerate(machine.pools):
        rows = np.flatnonzero(trace.pool == index)
        if len(rows):
            # Each pool has its own queue, clock and predictor.
            jobs_of_pool = trace if len(rows) == len(trace) else trace.take(rows)
            pool_predictor = (
                gridcast(jobs_of_pool, model, past) if model else kind.make(jobs_of_pool)
            )
            run = _PoolReplay(
                jobs_of_pool, pool, chosen, pool_predictor, corrector_kind, owners or Owners()
            )
            table[rows] = run.run(progress)
    seconds = time.perf_counter() - began
    return Replay(trace, machine, chosen, kind.name, corrector_kind.name, table, seconds)


@cache
def _compile() -> None:
    """Compile the kernel, or load its machine code, so that a replay's time does not include it."""
    job = np.zeros(1, dtype=JOB)
    job["cores"] = job["length"] = job["request"] = job["rank"] = job["fit"] = job["finish"] = 1
    state = new_state(
        job, Pool("one", 1).free(), np.zeros(0, dtype=ACCOUNT), np.zeros((1, 0), dtype=np.int64)
    )
    state.status[0]["predicted"] = 1
    advance(state, policy_named("easy").rules(0))


class _PoolReplay:
    """The replay of the jobs of one pool."""

    def __init__(
        self,
        trace: Trace,
        pool: Pool,
        policy: Policy,
        predictor: Predictor,
        corrector: Corrector,
        owners: Owners,
    ) -> None:
        self.trace, self.policy, self.predictor = trace, policy, predictor
        self.rules = policy.rules(corrector.code)
        accounts, accounts_of = owners.book(trace.jobs, trace.cores)
        self.state: State = new_state(trace.records(), pool.free(), accounts, accounts_of)

    def run(self, progress: Progress | None) -> Records:
        """Replay until all jobs have ended; returns the kernel's records."""
        state, trace, rules, learned = self.state, self.trace, self.rules, 0
        status = state.status[0]
        if isinstance(self.predictor, Fixed):
            self._predict(np.arange(len(trace)))
            status["predicted"] = len(trace)
            rules = rules._replace(refresh=False)
        owner = state.accounts_of[:, 0]
        has_ended = np.zeros(len(state.account), dtype=bool)
        while (code := advance(state, rules)) != DONE:
            ended = state.ended[learned : status["ended"]]
            if len(ended):
                self.predictor.learn(ended, state.job["ended"][ended], trace.length[ended])
                learned += len(ended)
                has_ended[owner[ended]] = True
            if code == PREDICT:
                first = int(status["predicted"])
                last = int(np.searchsorted(trace.submitted, trace.submitted[first], side="right"))
                self._predict(np.arange(first, last))
                status["predicted"] = last
                if progress is not None and last * 100 // len(trace) > first * 100 // len(trace):
                    progress(last / len(trace))
            elif code == CORRECT:
                self._correct()
            else:
                # An outcome says most about the waiting jobs of the same owner.
                waiting = state.queue[: status["queued"]]
                rows = waiting[has_ended[owner[waiting]]]
                if len(rows):
                    self._predict(rows)
                has_ended[:] = False
                status["refreshed"] = 1
        return state.job

    def _predict(self, rows: Integers) -> None:
        """Predict ``rows``, at least a second and at most the request, which no job may exceed."""
        request, now = self.trace.request[rows], float(self.state.status[0]["now"])
        predictions: dict[str, Floats] = {"request": request}
        for field in ("rank", "fit", "finish"):
            quantity = getattr(self.policy, field)
            if quantity not in predictions:
                predictions[quantity] = np.clip(
                    self.predictor.predict(rows, quantity, now), 1.0, np.maximum(request, 1.0)
                )
            self.state.job[field][rows] = predictions[quantity]

    def _correct(self) -> None:
        """Correct the running job that is due by the prediction of one that has run so long."""
        state = self.state
        row = int(state.dues["job"][state.status[0]["running"] - 1])
        now, started = float(state.status[0]["now"]), float(state.job["started"][row])
        expected = started + self.predictor.remaining(row, now - started, now)
        latest = started + self.trace.request[row]
        if now >= latest:
            latest = now + max(now - started, 1.0)
        correct(state, row, min(max(expected, now + 1.0), latest))
