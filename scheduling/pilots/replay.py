"""A log replayed on pilots: slots of limited time that pull the jobs that wait."""

from __future__ import annotations

from bisect import insort
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np

from infra.aliases import Floats, Integers
from infra.errors import InputError
from models.histories.unique_contexts import group_rows
from models.quantities.targets import TARGETS
from scheduling.forecasts import Forecasts
from scheduling.pilots.kernel import FITS, GAIN, PREDICT, advance, fill_idle, observe
from scheduling.pilots.state import (
    ACTIVE,
    ARRIVED,
    DONE_JOBS,
    DROPPED,
    EVENTS,
    KILLS,
    LOST,
    NOW,
    OUTCOMES,
    RAN_CLASSES,
    STARTS,
    TARGET,
    USED,
    WAITED,
    PilotState,
    axis_of,
    new_pilot_state,
)
from scheduling.trace import Trace, field_texts

HOUR = 3600.0
MOST_ATTEMPTS = 5
MOST_TICKS = 2000
"""Predictions are renewed every hour, but no more often than this in a log."""
SAFE = 0.99
"""The level of the static rule's quantile, and of the safe quantile."""
FEWEST = 20
"""Outcomes of a group before its quantile is taken."""
KILL_BUDGET = 0.006
"""The share of starts that may be killed, which the price of a kill is steered to."""


@dataclass(frozen=True)
class Pilots:
    """The pilots that a factory keeps running: seconds of a slot, and their cores.

    ``supply`` is what all pilots offer, as a share of what the jobs of the log used over its time.
    """

    slot: float
    supply: float = 0.9
    cores: int = 8

    def count(self, trace: Trace) -> int:
        """How many pilots run at a time, at least one."""
        demand = float((trace.length * trace.cores).sum()) / max(trace.submitted[-1], 1.0)
        return max(round(demand * self.supply / self.cores), 1)


class Rule(Protocol):
    """Decides which jobs a pilot starts, from what had ended before."""

    mode: int

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """Learn outcomes.

        Args:
            rows: The jobs.
            ended: When they ended, s.
            lengths: Their run times, s.
        """

    def predict(self, state: PilotState, kinds: Integers, now: float) -> None:
        """Renew what the state holds of some kinds.

        Args:
            state: The state.
            kinds: The kinds.
            now: The present, s.
        """


class Static:
    """The request, else the safe quantile of the group's run times; at most the slot."""

    mode = FITS

    def __init__(self, trace: Trace, first_rows: Integers, slot: float) -> None:
        stated = (trace.jobs["requested_walltime"] > 0).to_numpy()
        self.request = np.where(stated, trace.request, np.nan)
        self.group = field_texts(trace.jobs, "group").to_numpy()
        self.first_rows, self.slot = first_rows, slot
        self.lengths: dict[str, list[float]] = {}

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Rule."""
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            insort(self.lengths.setdefault(self.group[row], []), length)

    def predict(self, state: PilotState, kinds: Integers, now: float) -> None:
        """See Rule."""
        for kind in kinds.tolist():
            row = self.first_rows[kind]
            need, lengths = self.request[row], self.lengths.get(self.group[row], [])
            if np.isnan(need):
                last = min(int(np.ceil(SAFE * len(lengths))), len(lengths)) - 1
                need = lengths[last] if len(lengths) >= FEWEST else self.slot
            state.need[kind] = min(need, self.slot)


class Predicted:
    """Rules by Gridcast's calibrated distributions: a safe quantile, or the expected gain."""

    def __init__(self, trace: Trace, first_rows: Integers, slot: float, mode: int) -> None:
        self.mode, self.first_rows, self.slot = mode, first_rows, slot
        self.static = Static(trace, first_rows, slot)
        self.forecasts = Forecasts(trace, calibrate=True)
        self.edges = TARGETS["walltime"].grid.edges

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Rule."""
        self.static.learn(rows, ended, lengths)
        self.forecasts.learn(rows, ended, lengths)

    def predict(self, state: PilotState, kinds: Integers, now: float) -> None:
        """See Rule."""
        self.static.predict(state, kinds, now)
        for start in range(0, len(kinds), 1024):
            batch = kinds[start : start + 1024]
            below, moment = self.forecasts.calibrated(self.first_rows[batch], now)
            state.below[batch], state.moment[batch] = below, moment
            if self.mode == FITS:
                safe = self.edges[np.argmax(below >= SAFE, axis=1)]
                state.need[batch] = np.minimum(safe, self.slot)


RULES = ("static", "quantile", "gridcast")


def check_rule(name: str) -> None:
    """Raise InputError for a name that is none of RULES."""
    if name not in RULES:
        raise InputError(f"there is no rule {name!r}; there are {', '.join(RULES)}")


def make_rule(name: str, trace: Trace, first_rows: Integers, slot: float) -> Rule:
    """Create a rule.

    Args:
        name: One of RULES.
        trace: The jobs.
        first_rows: The first row of each kind.
        slot: Seconds of a slot.
    """
    check_rule(name)
    if name == "static":
        return Static(trace, first_rows, slot)
    return Predicted(trace, first_rows, slot, GAIN if name == "gridcast" else FITS)


def replay_pilots(
    trace: Trace, pilots: Pilots, rule: str, progress: Callable[[float], None] | None = None
) -> dict[str, Any]:
    """Replay the jobs as they came on pilots, and sum up; see ``run``.

    Args:
        trace: The jobs.
        pilots: The pilots.
        rule: One of RULES.
        progress: Is called with the share of the time replayed.
    """
    state, count = run(trace, pilots, rule, progress)
    return _summary(state, pilots, count, rule, float(state.submitted[-1]))


def run(
    trace: Trace, pilots: Pilots, rule: str, progress: Callable[[float], None] | None = None
) -> tuple[PilotState, int]:
    """Replay the jobs that fit into a pilot; ends with the last submission.

    Args:
        trace: The jobs.
        pilots: The pilots.
        rule: One of RULES.
        progress: Is called with the share of the time replayed.

    Returns:
        The last state, and how many pilots there were.
    """
    trace = trace.take(np.flatnonzero(trace.cores <= pilots.cores))
    horizon, count = float(trace.submitted[-1]), pilots.count(trace)
    forecasts = Forecasts(trace)
    contexts = forecasts.contexts
    unique = group_rows(
        [
            *contexts.keys.T,
            contexts.sources,
            forecasts.limits.view(np.uint64),
            trace.cores.astype(np.uint64),
        ],
        len(trace),
    )
    grid = TARGETS["walltime"].grid
    owner_keys = contexts.keys[unique.first_rows, forecasts.predictor.mixture.shape.owner]
    owner = np.unique(owner_keys, return_inverse=True)[1]
    state = new_pilot_state(
        trace, unique.context_of_row, owner, count, pilots.cores, pilots.slot, grid.bins
    )
    state.sums[TARGET] = KILL_BUDGET
    chosen, axis = make_rule(rule, trace, unique.first_rows, pilots.slot), axis_of(grid)
    tick = max(HOUR, horizon / MOST_TICKS)
    until = 0.0
    while until < horizon:
        until = min(until + tick, horizon)
        while True:
            reason = advance(state, axis, chosen.mode, until, pilots.slot, MOST_ATTEMPTS)
            _learn(state, chosen)
            if reason != PREDICT:
                break
            kind = state.kind[state.counts[ARRIVED]]
            chosen.predict(state, np.array([kind]), state.sums[NOW])
            state.predicted[kind] = True
        state.sums[NOW] = until
        waiting = state.active[: state.counts[ACTIVE]] // RAN_CLASSES
        kinds = np.union1d(np.flatnonzero(state.requested), waiting)
        state.requested[:] = False
        if len(kinds):
            chosen.predict(state, kinds, until)
            if chosen.mode != FITS:
                observe(state, axis, tick)
            fill_idle(state, axis, chosen.mode)
        if progress:
            progress(until / horizon)
    return state, count


def _learn(state: PilotState, rule: Rule) -> None:
    count = state.counts[OUTCOMES]
    if count:
        rule.learn(
            state.outcome_row[:count].copy(),
            state.outcome_at[:count].copy(),
            state.outcome_value[:count].copy(),
        )
        state.counts[OUTCOMES] = 0


def _summary(
    state: PilotState, pilots: Pilots, count: int, rule: str, horizon: float
) -> dict[str, Any]:
    counts, sums = state.counts, state.sums
    running = state.event_row[: counts[EVENTS]]
    running = running[running >= 0]
    occupied = float(((horizon - state.started[running]) * state.cores[running]).sum())
    capacity = count * pilots.cores * horizon
    return {
        "slot_hours": pilots.slot / HOUR,
        "rule": rule,
        "core_hours": float(sums[USED]) / HOUR,
        "killed_share": float(counts[KILLS] / max(counts[STARTS], 1)),
        "used_share": float(sums[USED]) / capacity,
        "lost_share": float(sums[LOST]) / capacity,
        "idle_share": 1.0 - float(sums[USED] + sums[LOST] + occupied) / capacity,
        "jobs_completed": int(counts[DONE_JOBS]),
        "jobs_dropped": int(counts[DROPPED]),
        "starts": int(counts[STARTS]),
        "mean_wait_s": float(sums[WAITED]) / max(int((state.attempts > 0).sum()), 1),
        "pilots": count,
    }
