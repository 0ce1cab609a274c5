"""Chains and requests under watch: when all their tasks will be done, how they stand by their tasks, and which task is the last."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.quantities import stochastic
from models.tasks.chains import Links, TaskSet, began, end_of, ends, last_of
from models.tasks.ranges import LEVELS
from models.tasks.sets import Tasks
from monitoring.tasks.states import NAMED, compare_with_first, confidence

STATES_BY_SEVERITY = ("failing", "stalled", "late", "normal", "ahead", "done")
"""The states, the one that most needs somebody first: a set stands as the task of it that needs somebody most."""


def until_done(
    tasks: Tasks, rows: Array, points: Array, sets: list[TaskSet], waits: Links, at: float
) -> dict[int, Array]:
    """The time until each task of ``sets`` is done, what it waits for counted in: float64[POINTS] by task.

    ``points`` float64[rows, POINTS] is the time that tasks ``rows`` need by themselves; the others of the sets are done.
    """
    own = {int(row): np.zeros(stochastic.POINTS) for whole in sets for row in whole.rows}
    own |= {int(row): points[place] for place, row in enumerate(rows) if int(row) in own}
    return ends(own, began(tasks, at), waits)


def blocked_tasks(tasks: Tasks, rows: Array, waits: Links, at: float) -> Array:
    """Which of tasks ``rows`` have not begun, since one before them is not done (bool[rows])."""
    waiting = np.zeros(len(tasks), bool)
    waiting[waits.later[tasks.finished[waits.earlier] > at]] = True
    return waiting[rows] & ~began(tasks, at)[rows]


def quantiles(points: Array) -> Array:
    """The end at LEVELS of stochastic values (float64[n, LEVELS])."""
    return np.column_stack([stochastic.quantile(points, level) for level in LEVELS])


def rows_of(
    sets: list[TaskSet],
    tasks: Tasks,
    waits: Links,
    found: dict[int, Array],
    members: pd.DataFrame,
    before: Array,
    at: float,
) -> pd.DataFrame:
    """A row a set, with the columns of its tasks' rows ``members`` (by name); ``before`` float64[sets, LEVELS] was foreseen at first."""
    known = members[members["kind"] == "task"].set_index("task")
    made = []
    for whole, first in zip(sets, before, strict=True):
        done = bool((tasks.finished[whole.rows] <= at).all())
        finished = float(tasks.finished[whole.rows].max())
        end = (
            np.full(len(LEVELS), finished)
            if done
            else at + quantiles(end_of(whole, found, waits)[None])[0]
        )
        defined = float(tasks.defined[whole.rows].min())
        place, expected = compare_with_first(
            np.array([defined]), end[None], first[None], np.array([at])
        )
        states = _states(tasks, whole, known, at)
        reasons = _reasons(tasks, {row: found[row] for row in last_of(whole, found, waits)}, states)
        made.append(
            {
                "kind": whole.kind, "task": whole.name, "owner": tasks.users[whole.rows[0]], "group": tasks.groups[whole.rows[0]],
                "state": next(state for state in STATES_BY_SEVERITY if state in states.values()), "reasons": reasons,
                **_counts(tasks, whole, at), "expected_progress": expected[0], "confidence": confidence(place)[0], "defined_at": defined,
                **dict(zip(("low", "median", "high"), end, strict=True)), "asked_at": at,
            }
        )  # fmt: skip
    return pd.DataFrame(made)


def _counts(tasks: Tasks, whole: TaskSet, at: float) -> dict[str, float]:
    """The tasks and jobs of a set, and how far these are."""
    own = np.concatenate([np.arange(tasks.first[row], tasks.first[row + 1]) for row in whole.rows])
    over = tasks.ended[own] <= at
    bad = (over & tasks.failed[own]).sum()
    return {
        "tasks": len(whole.rows),
        "jobs": len(own),
        "ended": over.sum(),
        "failed": bad,
        "progress": over.mean(),
    }


def _states(tasks: Tasks, whole: TaskSet, known: pd.DataFrame, at: float) -> dict[str, str]:
    """The state of each task of a set, by name."""
    of = known["state"].to_dict()
    return {
        name: of.get(name, "done" if tasks.finished[row] <= at else "normal")
        for name, row in zip(tasks.names[whole.rows], whole.rows, strict=True)
    }


def _reasons(tasks: Tasks, last: dict[int, Array], states: dict[str, str]) -> list[str]:
    """Which tasks need somebody, and which is to be the last."""
    said = [
        f"task {name} is {state}"
        for name, state in states.items()
        if state in STATES_BY_SEVERITY[:3]
    ]
    row = max(last, key=lambda one: float(np.median(last[one])))
    return [
        *said[:NAMED],
        *([f"task {tasks.names[row]} is to be the last"] if last[row].any() else []),
    ]
