"""Chains and requests under watch: when all their tasks are done, their states and last tasks."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.quantities import stochastic
from models.tasks.chains import Links, TaskSet, began, end_of, ends, last_of
from models.tasks.ranges import LEVELS
from models.tasks.sets import Tasks
from monitoring.tasks.states import MAX_NAMED, compare_with_first, confidence

STATES_BY_SEVERITY = ("failing", "stalled", "late", "normal", "ahead", "done")
"""The states, the gravest first; a set has the gravest state of its tasks."""


def until_done(
    tasks: Tasks, rows: Array, points: Array, sets: list[TaskSet], waits: Links, at: float
) -> dict[int, Array]:
    """The time until each task of ``sets`` is done, with what it waits for (float64[POINTS], s).

    Args:
        tasks: The tasks.
        rows: Tasks that are open or lately done; all others of the sets are done.
        points: The time that these need by themselves (float64[rows, POINTS], s).
        sets: The chains and requests.
        waits: Which task waits for which.
        at: The present (s since 1970).
    """
    own = {int(row): np.zeros(stochastic.POINTS) for task_set in sets for row in task_set.rows}
    own |= {int(row): points[index] for index, row in enumerate(rows) if int(row) in own}
    return ends(own, began(tasks, at), waits)


def blocked_tasks(tasks: Tasks, rows: Array, waits: Links, at: float) -> Array:
    """Which of tasks ``rows`` have not begun because one before them is not done (bool[rows]).

    Args:
        tasks: The tasks.
        rows: The tasks to look at.
        waits: Which task waits for which.
        at: The present, in s since 1970.
    """
    waiting = np.zeros(len(tasks), bool)
    waiting[waits.later[tasks.finished[waits.earlier] > at]] = True
    return waiting[rows] & ~began(tasks, at)[rows]


def held_up_by(tasks: Tasks, stalled: set[int], waits: Links, at: float) -> dict[int, int]:
    """The stalled task that each unfinished task depends on, itself for a stalled one.

    Args:
        tasks: The tasks.
        stalled: Rows of the stalled tasks.
        waits: Which task waits for which.
        at: The present (s since 1970).
    """
    causes = {row: row for row in stalled}
    for task, earlier in waits.before.items():
        cause = next((causes[row] for row in earlier if row in causes), None)
        if cause is not None and task not in causes and tasks.finished[task] > at:
            causes[task] = cause
    return causes


def quantiles(points: Array) -> Array:
    """The quantiles at LEVELS of stochastic values (float64[n, LEVELS])."""
    return np.column_stack([stochastic.quantile(points, level) for level in LEVELS])


def rows_of_sets(
    sets: list[TaskSet],
    tasks: Tasks,
    waits: Links,
    remaining: dict[int, Array],
    states: dict[int, str],
    causes: dict[int, int],
    first: Array,
    at: float,
) -> pd.DataFrame:
    """Describe each set, with the columns that a task has.

    Args:
        sets: The chains or requests.
        tasks: The tasks.
        waits: Which task waits for which.
        remaining: ``until_done`` of each of their tasks.
        states: The state of each task that is open or lately done, by row.
        causes: ``held_up_by``: a set with such a task has no predicted end.
        first: Low, median and high end predicted first (float64[sets, 3], s since 1970).
        at: The present (s since 1970).
    """
    rows: list[dict[str, Any]] = []
    for task_set, first_end in zip(sets, first, strict=True):
        head, done = task_set.rows[0], bool((tasks.finished[task_set.rows] <= at).all())
        finished = float(tasks.finished[task_set.rows].max())
        left = end_of(task_set, remaining, waits)[None]
        end = np.full(len(LEVELS), finished) if done else at + quantiles(left)[0]
        defined = float(tasks.defined[task_set.rows].min())
        level, expected = compare_with_first(
            np.array([defined]), end[None], first_end[None], np.array([at])
        )
        own_states = {
            row: states.get(row, "done" if tasks.finished[row] <= at else "normal")
            for row in task_set.rows.tolist()
        }
        unknown = any(row in causes for row in own_states)
        rows.append(
            {
                "kind": task_set.kind,
                "source": tasks.jobs["source"].iloc[tasks.first[head]],
                "task": task_set.name,
                "owner": tasks.users[head],
                "group": tasks.groups[head],
                "state": next(s for s in STATES_BY_SEVERITY if s in own_states.values()),
                "reasons": _reasons(
                    tasks, remaining, last_of(task_set, remaining, waits), own_states
                ),
                **_counts(tasks, task_set, at),
                "expected_progress": expected[0],
                "confidence": 0.0 if unknown else confidence(level)[0],
                "defined_at": defined,
                **dict(zip(("low", "median", "high"), end, strict=True)),
                "asked_at": at,
                "members": [tasks.names[row] for row in task_set.rows.tolist()],
            }
        )
        if unknown:
            rows[-1] |= dict.fromkeys(("low", "median", "high"), np.nan)
    return pd.DataFrame(rows)


def _counts(tasks: Tasks, task_set: TaskSet, at: float) -> dict[str, float]:
    """The tasks and jobs of a set, and how many of these have ended and failed."""
    spans = [np.arange(tasks.first[row], tasks.first[row + 1]) for row in task_set.rows]
    own = np.concatenate(spans)
    over = tasks.ended[own] <= at
    return {
        "tasks": len(task_set.rows),
        "jobs": len(own),
        "ended": over.sum(),
        "failed": (over & tasks.failed[own]).sum(),
        "progress": over.mean(),
    }


def _reasons(
    tasks: Tasks, remaining: dict[int, Array], last: list[int], states: dict[int, str]
) -> list[str]:
    """Say which tasks of a set are failing, stalled or late, and which will be the last."""
    reasons = [
        f"task {tasks.names[row]} is {state}"
        for row, state in states.items()
        if state in STATES_BY_SEVERITY[:3]
    ][:MAX_NAMED]
    latest = max(last, key=lambda row: float(np.median(remaining[row])))
    if remaining[latest].any():
        reasons.append(f"task {tasks.names[latest]} is to be the last")
    return reasons
