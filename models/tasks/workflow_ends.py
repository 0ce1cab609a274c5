"""Predicted ends of a running workflow: by its tasks' usual times, against the rate so far.

The order of a workflow's tasks is learned from earlier runs: of each task the usual time from its
end to the end of the run (the rest of the critical path).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.aliases import Array, Floats, Progress
from models.tasks.delayed_machines import Delays, UsualTimes, delays_at
from models.tasks.workflow_log import WorkflowLog

MOMENTS = np.arange(1, 10) / 10
"""Shares of a run's duration at which its end is predicted."""
MOST_RUNS = 1000
STRETCHES = np.array([0.0, 0.05, 0.1, 0.25, 0.5, 1.0])
"""Parts of the delay so far by which the rest may be stretched; the best of the past is used."""


@dataclass
class PastRuns:
    """Durations, numbers of tasks and times from a task's end to the run's end, of ended runs.

    ``remaining`` is by the task's code.
    """

    durations: list[float] = field(default_factory=list)
    sizes: list[int] = field(default_factory=list)
    remaining: dict[str, list[float]] = field(default_factory=dict)
    usual: UsualTimes = field(default_factory=UsualTimes)

    def learn(self, log: WorkflowLog, rows: Array) -> None:
        """Add an ended run."""
        end = float(log.end[rows].max())
        self.durations.append(end - float(log.submitted[rows].min()))
        self.sizes.append(len(rows))
        for row in rows.tolist():
            times = self.remaining.setdefault(log.names[row], [])
            times.append(end - float(log.end[row]))
            del times[:-MOST_RUNS]
        self.usual.learn(log, rows)


def extrapolated_end(log: WorkflowLog, rows: Array, past: PastRuns, at: float) -> float:
    """The end if tasks go on ending at the rate so far (s since 1970).

    Args:
        log: The tasks.
        rows: Those of the run.
        past: The ended runs, of which the number of tasks is known.
        at: The moment (s since 1970).
    """
    begin = float(log.submitted[rows].min())
    ended = int((log.end[rows] <= at).sum())
    if not ended:
        return begin + float(np.median(past.durations))
    return begin + (at - begin) * max(past.sizes[-1] / ended, 1.0)


def predicted_ends(log: WorkflowLog, rows: Array, past: PastRuns, at: float) -> Floats:
    """The latest end that follows from any task that has started, by STRETCHES (s since 1970).

    A task's own end, and its usual time from there to the run's end. Where tasks are delayed, what
    is left is stretched: by a part of their factor, times the share of the tasks that are delayed.

    Args:
        log: The tasks.
        rows: Those of the run.
        past: The ended runs.
        at: The moment (s since 1970).

    Returns:
        float64[STRETCHES].
    """
    delays = delays_at(log, rows, past.usual, at)
    if not len(delays.rows):
        begin = float(log.submitted[rows].min())
        return np.full(len(STRETCHES), max(begin + float(np.median(past.durations)), at))
    started = delays.rows
    stretch = 1 + STRETCHES * (_factor(delays) - 1)
    usual = np.nan_to_num(np.exp(past.usual.usual(log.task[started].tolist())))
    elapsed = at - log.start[started]
    left = np.maximum(usual * stretch[:, None] - elapsed, 0.0)
    own_end = np.where(log.end[started] <= at, log.end[started], at + left)
    rest = np.array([np.median(past.remaining.get(name, (0.0,))) for name in log.names[started]])
    return np.asarray(np.maximum((own_end + rest * stretch[:, None]).max(axis=1), at))


def _factor(delays: Delays) -> float:
    """The mean factor of the tasks' times, undelayed ones counting as usual."""
    factors = np.exp(np.where(delays.is_delayed, delays.excess, 0.0))
    return float(factors.mean())


def score_ends(
    log: WorkflowLog, warm_up: float = 0.2, progress: Progress | None = None
) -> list[dict[str, Any]]:
    """Errors of the predicted ends at MOMENTS of every run after the warm-up, a row a predictor.

    Args:
        log: The tasks of the runs.
        warm_up: The share of the runs that are only learned from.
        progress: Called with a text and the share that is done.
    """
    past, first = PastRuns(), max(int(len(log.runs) * warm_up), 1)
    errors: dict[str, list[float]] = {"gridcast": [], "rate": [], "usual duration": []}
    losses = np.zeros(len(STRETCHES))
    for run in range(len(log.runs)):
        rows = log.rows_of(run)
        begin, end = float(log.submitted[rows].min()), float(log.end[rows].max())
        moments = (begin + MOMENTS * (end - begin)).tolist() if run else []
        best = int(np.argmin(losses))
        for moment in moments:
            ends = predicted_ends(log, rows, past, moment)
            losses = 0.995 * losses + np.abs(ends - end)
            if run >= first:
                typical = begin + float(np.median(past.durations))
                errors["gridcast"].append(abs(float(ends[best]) - end))
                errors["rate"].append(abs(extrapolated_end(log, rows, past, moment) - end))
                errors["usual duration"].append(abs(max(typical, moment) - end))
        past.learn(log, rows)
        if progress:
            progress(f"{run:,} runs", run / len(log.runs))
    return [
        {
            "fault": "end of workflow",
            "predictor": name,
            "mae": float(np.mean(values)),
            "median_ae": float(np.median(values)),
            "predictions": len(values),
        }
        for name, values in errors.items()
        if values
    ]
