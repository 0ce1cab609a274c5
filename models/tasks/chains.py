"""Chains and requests: tasks that wait for others, tasks that were asked for together, and when all of them will be done.

A task that waits begins when the last of those before it is done: its end is the latest of their ends and its own time after that, a sum
and a maximum of stochastic values. A task that has begun already, on what the one before has made so far, ends no sooner than that one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.quantities import stochastic
from models.tasks.sets import Tasks

Kind = Literal["chain", "request"]


@dataclass(frozen=True)
class Links:
    """Which of ``count`` tasks wait for which: ``later`` for ``earlier`` (int64[links] each, rows of Tasks), without any circle."""

    count: int
    later: Array
    earlier: Array

    @cached_property
    def before(self) -> dict[int, list[int]]:
        """The tasks that each waiting task waits for; those that others wait for come first."""
        of: dict[int, list[int]] = {}
        for task, other in zip(self.later.tolist(), self.earlier.tolist(), strict=True):
            of.setdefault(task, []).append(other)
        ordered: dict[int, list[int]] = {}
        while of:
            ready = [
                task for task, others in of.items() if not any(other in of for other in others)
            ]
            ordered |= {task: of.pop(task) for task in ready}
        return ordered


@dataclass(frozen=True)
class TaskSet:
    """A chain, named by its first task, or a request: ``rows`` of Tasks by their definition (int64[tasks])."""

    kind: Kind
    name: str
    rows: Array


def links(tasks: Tasks) -> Links:
    """Who waits for whom by ``after_task_id``; unknown tasks are no obstacle, and who would wait for itself in a circle waits for none."""
    jobs = tasks.jobs
    said = np.flatnonzero(jobs["after_task_id"].notna())
    pairs = pd.DataFrame(
        {
            "later": tasks.task[said],
            "source": jobs["source"].iloc[said],
            "name": jobs["after_task_id"].iloc[said],
        }
    )
    heads = jobs.iloc[tasks.first[:-1]][["source"]].assign(
        name=tasks.names, earlier=np.arange(len(tasks))
    )
    found = pairs.drop_duplicates().merge(heads, on=["source", "name"])
    later, earlier = (found[name].to_numpy(np.int64) for name in ("later", "earlier"))
    circle = _parts(len(tasks), later, earlier, "strong")
    straight = circle[later] != circle[earlier]
    return Links(len(tasks), later[straight], earlier[straight])


def _parts(count: int, later: Array, earlier: Array, connection: str) -> Array:
    """The number of the connected part that each task belongs to (int64[count])."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(later):
        return np.arange(count)
    graph = coo_array((np.ones(len(later)), (later, earlier)), shape=(count, count)).tocsr()
    return np.asarray(connected_components(graph, connection=connection)[1], dtype=np.int64)


def task_sets(tasks: Tasks, waits: Links) -> list[TaskSet]:
    """The chains, and the requests of at least two tasks: what the first job of a task says that it was asked for with."""
    heads = tasks.jobs.iloc[tasks.first[:-1]]
    asked = heads["request_id"].reset_index(drop=True)
    requests = (
        heads["source"].reset_index(drop=True).astype(str) + "\0" + asked.astype(str)
    ).where(asked.notna())
    chained = np.union1d(waits.later, waits.earlier).astype(np.int64)
    chains = pd.Series(
        _parts(waits.count, waits.later, waits.earlier, "weak")[chained], index=chained
    )
    whole = [("chain", rows) for rows in chains.groupby(chains).groups.values()]
    whole += [("request", rows) for rows in requests.groupby(requests).groups.values()]
    made = []
    for kind, rows in ((kind, np.sort(np.asarray(rows, dtype=np.int64))) for kind, rows in whole):
        if len(rows) > 1:
            made.append(
                TaskSet("chain", tasks.names[rows[0]], rows)
                if kind == "chain"
                else TaskSet("request", str(asked[rows[0]]), rows)
            )
    return made


def began(tasks: Tasks, at: float) -> Array:
    """Whether any job of each task had started by an instant (bool[tasks])."""
    return (
        np.minimum.reduceat(tasks.started, tasks.first[:-1]) <= at
        if len(tasks)
        else np.zeros(0, bool)
    )


def ready_at(tasks: Tasks, waits: Links) -> Array:
    """When each task could begin: at its definition, or when those before it were done, or when it did (float64[tasks], s since 1970)."""
    if not len(waits.later):
        return tasks.defined
    found = tasks.defined.copy()
    np.maximum.at(found, waits.later, tasks.finished[waits.earlier])
    return np.minimum(found, np.minimum.reduceat(tasks.started, tasks.first[:-1]))


def ends(own: dict[int, Array], begun: Array, waits: Links) -> dict[int, Array]:
    """The time until each task is done, those before it counted in: float64[POINTS] by task.

    ``own`` is the time that each task would need if it waited for none, 0 for what is done; ``begun`` bool[tasks]. Times of different
    tasks are taken to be independent.
    """
    found = dict(own)
    for task, others in waits.before.items():
        if task in own and own[task].any():
            ready = stochastic.maximum(*(found[other][None] for other in others if other in found))
            late = (
                stochastic.maximum(ready, own[task][None])
                if begun[task]
                else stochastic.total(ready, own[task][None])
            )
            found[task] = late[0]
    return found


def last_of(whole: TaskSet, found: dict[int, Array], waits: Links) -> list[int]:
    """The tasks of a set for whose end no other open one waits."""
    open_ones = {row for row in whole.rows.tolist() if found[row].any()}
    waited_for = {earlier for later in open_ones for earlier in waits.before.get(later, [])}
    return sorted(open_ones - waited_for) or whole.rows[-1:].tolist()


def end_of(whole: TaskSet, found: dict[int, Array], waits: Links) -> Array:
    """The time until all tasks of a set are done (float64[POINTS])."""
    return np.asarray(
        stochastic.maximum(*(found[row][None] for row in last_of(whole, found, waits)))[0]
    )
