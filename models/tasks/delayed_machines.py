"""Machines whose tasks take a multiple of their usual time: slow disks and slow stage-in.

A task is compared with itself in earlier runs. A running task counts as soon as it has run for
longer than usual, and by its stage-in once that is done.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

import numpy as np

from infra.aliases import Array, Flags, Floats
from models.tasks.workflow_log import WorkflowLog

DELAYED = float(np.log(1.5))
"""Log factor of its usual time from which a task is delayed."""
LARGEST = 1.5
"""A single task's log factor counts for at most this much."""
MIN_EVIDENCE = 1.2
"""Sum of the log factors of its delayed tasks from which a machine is called slow."""
FEWEST_PAST, MOST_PAST = 5, 200
SHORTEST_STAGE_IN = 5.0
"""Stage-ins that usually take less are not compared: times are in whole seconds (s)."""


@dataclass
class UsualTimes:
    """The usual walltime and stage-in of each task: medians of its undelayed runs, in log s."""

    walltime: dict[int, list[float]] = field(default_factory=dict)
    stage_in: dict[int, list[float]] = field(default_factory=dict)

    def usual(self, tasks: Iterable[int], phase: str = "walltime") -> Floats:
        """The median logarithm of each task's time, NaN with fewer than FEWEST_PAST (float64[n]).

        Args:
            tasks: Codes of the tasks.
            phase: ``walltime`` or ``stage_in``.
        """
        past = getattr(self, phase)
        lists = [past.get(task, ()) for task in tasks]
        return np.array([np.median(x) if len(x) >= FEWEST_PAST else np.nan for x in lists])

    def learn(self, log: WorkflowLog, rows: Array) -> None:
        """Add the tasks of an ended run that were not delayed."""
        for phase, seconds in (("walltime", log.walltime), ("stage_in", log.stage_in)):
            past, logs = getattr(self, phase), _log(seconds[rows])
            for task, value in zip(log.task[rows].tolist(), logs.tolist(), strict=True):
                times = past.setdefault(task, [])
                usual = np.median(times) if len(times) >= FEWEST_PAST else np.inf
                if np.isfinite(value) and value - usual < DELAYED:
                    times.append(value)
                    del times[:-MOST_PAST]


@dataclass(frozen=True)
class Delays:
    """The log factor of each started task's time over its usual time, as far as it was observable.

    ``excess`` is that of the walltime, or of the stage-in of a running task where it is larger; 0
    where neither is observed.
    """

    rows: Array
    excess: Floats
    is_delayed: Flags


def delays_at(log: WorkflowLog, rows: Array, usual: UsualTimes, at: float) -> Delays:
    """Compare the tasks of one run that had started by ``at`` with their usual times.

    Args:
        log: The tasks.
        rows: Those of the run.
        usual: The usual times, of runs that had ended before.
        at: The moment (s since 1970); what happens later is not read.
    """
    started = rows[log.start[rows] <= at]
    tasks = log.task[started].tolist()
    elapsed = np.minimum(log.end[started], at) - log.start[started]
    excess = _log(elapsed) - usual.usual(tasks)
    has_ended = log.end[started] <= at
    excess = np.where(has_ended, excess, np.maximum(excess, 0.0))
    usual_stage_in = usual.usual(tasks, "stage_in")
    staged = ~has_ended & (log.stage_in_end[started] <= at)
    staged &= usual_stage_in >= np.log(SHORTEST_STAGE_IN)
    of_stage_in = np.where(staged, _log(log.stage_in[started]) - usual_stage_in, np.nan)
    largest = np.fmax(excess, of_stage_in)
    largest = np.where(np.isnan(largest), 0.0, largest)
    return Delays(started, largest, largest > DELAYED)


@dataclass(frozen=True)
class SlowMachine:
    """A machine that is slow: by which factor its delayed tasks take longer, and since when."""

    machine: int
    factor: float
    since: float
    tasks: Array


def slow_machines(log: WorkflowLog, delays: Delays) -> Iterator[SlowMachine]:
    """The machines with enough delayed tasks."""
    machines = log.machine[delays.rows]
    counted = np.where(delays.is_delayed, np.minimum(delays.excess, LARGEST), 0.0)
    evidence = np.bincount(machines, counted, len(log.machines))
    for machine in np.flatnonzero(evidence >= MIN_EVIDENCE).tolist():
        own = delays.is_delayed & (machines == machine)
        factor = float(np.exp(np.median(delays.excess[own])))
        tasks = delays.rows[own]
        yield SlowMachine(machine, factor, float(log.start[tasks].min()), tasks)


def _log(seconds: Floats) -> Floats:
    return np.asarray(np.log(np.maximum(seconds, 1.0)))
