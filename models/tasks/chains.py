"""Chains and requests: tasks that wait for others, tasks requested together, and their ends.

A waiting task begins when the last of its predecessors is done: its end is the latest of their ends
plus its own time, a sum and a maximum of stochastic values. A task that has begun already, on
partial output of a predecessor, ends no sooner than that one.
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
    """Acyclic links among ``count`` tasks: ``later`` waits for ``earlier`` (int64[links])."""

    count: int
    later: Array
    earlier: Array

    @cached_property
    def before(self) -> dict[int, list[int]]:
        """The predecessors of each waiting task, in topological order."""
        predecessors: dict[int, list[int]] = {}
        for task, earlier in zip(self.later.tolist(), self.earlier.tolist(), strict=True):
            predecessors.setdefault(task, []).append(earlier)
        ordered: dict[int, list[int]] = {}
        while predecessors:
            ready = [
                task
                for task, before in predecessors.items()
                if not any(earlier in predecessors for earlier in before)
            ]
            ordered |= {task: predecessors.pop(task) for task in ready}
        return ordered


@dataclass(frozen=True)
class TaskSet:
    """A chain, named by its first task, or a request: ``rows`` of Tasks (int64) by definition."""

    kind: Kind
    name: str
    rows: Array


def links(tasks: Tasks) -> Links:
    """Dependencies by ``after_task_id``; unknown tasks are ignored and cycles are cut."""
    jobs = tasks.jobs
    dependent = np.flatnonzero(jobs["after_task_id"].notna())
    pairs = pd.DataFrame(
        {
            "later": tasks.task[dependent],
            "source": jobs["source"].iloc[dependent],
            "name": jobs["after_task_id"].iloc[dependent],
        }
    )
    heads = jobs.iloc[tasks.first[:-1]][["source"]].assign(
        name=tasks.names, earlier=np.arange(len(tasks))
    )
    joined = pairs.drop_duplicates().merge(heads, on=["source", "name"])
    later, earlier = (joined[name].to_numpy(np.int64) for name in ("later", "earlier"))
    cycle = _components(len(tasks), later, earlier, "strong")
    acyclic = cycle[later] != cycle[earlier]
    return Links(len(tasks), later[acyclic], earlier[acyclic])


def _components(count: int, later: Array, earlier: Array, connection: str) -> Array:
    """The connected component of each task (int64[count])."""
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    if not len(later):
        return np.arange(count)
    graph = coo_array((np.ones(len(later)), (later, earlier)), shape=(count, count)).tocsr()
    return np.asarray(connected_components(graph, connection=connection)[1], dtype=np.int64)


def task_sets(tasks: Tasks, waits: Links) -> list[TaskSet]:
    """The chains, and the requests of at least two tasks, by the first job of each task."""
    heads = tasks.jobs.iloc[tasks.first[:-1]]
    request_ids = heads["request_id"].reset_index(drop=True)
    requests = (
        heads["source"].reset_index(drop=True).astype(str) + "\0" + request_ids.astype(str)
    ).where(request_ids.notna())
    chained = np.union1d(waits.later, waits.earlier).astype(np.int64)
    chains = pd.Series(
        _components(waits.count, waits.later, waits.earlier, "weak")[chained], index=chained
    )
    groups = [("chain", rows) for rows in chains.groupby(chains).groups.values()]
    groups += [("request", rows) for rows in requests.groupby(requests).groups.values()]
    sets = []
    for kind, rows in ((kind, np.sort(np.asarray(rows, dtype=np.int64))) for kind, rows in groups):
        if len(rows) > 1:
            sets.append(
                TaskSet("chain", tasks.names[rows[0]], rows)
                if kind == "chain"
                else TaskSet("request", str(request_ids[rows[0]]), rows)
            )
    return sets


def began(tasks: Tasks, at: float) -> Array:
    """Whether any job of each task had started by an instant (bool[tasks])."""
    return (
        np.minimum.reduceat(tasks.started, tasks.first[:-1]) <= at
        if len(tasks)
        else np.zeros(0, bool)
    )


def ready_at(tasks: Tasks, waits: Links) -> Array:
    """When each task could begin (float64[tasks], s since 1970).

    At its definition, or when its predecessors were done, but no later than it did.
    """
    if not len(waits.later):
        return tasks.defined
    ready = tasks.defined.copy()
    np.maximum.at(ready, waits.later, tasks.finished[waits.earlier])
    return np.minimum(ready, np.minimum.reduceat(tasks.started, tasks.first[:-1]))


def ends(own: dict[int, Array], begun: Array, waits: Links) -> dict[int, Array]:
    """Time until each task is done, its predecessors included; tasks are taken as independent.

    Args:
        own: Time that each task needs by itself, float64[POINTS] by task, 0 where it is done.
        begun: Whether each task has begun, bool[tasks].
        waits: The dependencies.

    Returns:
        float64[POINTS] by task, s.
    """
    until_done = dict(own)
    for task, before in waits.before.items():
        if task in own and own[task].any():
            ready = stochastic.maximum(
                *(until_done[earlier][None] for earlier in before if earlier in until_done)
            )
            late = (
                stochastic.maximum(ready, own[task][None])
                if begun[task]
                else stochastic.total(ready, own[task][None])
            )
            until_done[task] = late[0]
    return until_done


def last_of(task_set: TaskSet, until_done: dict[int, Array], waits: Links) -> list[int]:
    """The open tasks of a set that no other open task waits for.

    Args:
        task_set: The set.
        until_done: Time until each task is done, as of ``ends``.
        waits: The dependencies.
    """
    open_ones = {row for row in task_set.rows.tolist() if until_done[row].any()}
    waited_for = {earlier for later in open_ones for earlier in waits.before.get(later, [])}
    return sorted(open_ones - waited_for) or task_set.rows[-1:].tolist()


def end_of(task_set: TaskSet, until_done: dict[int, Array], waits: Links) -> Array:
    """Time until all tasks of a set are done (float64[POINTS], s); arguments as of ``last_of``."""
    last = (until_done[row][None] for row in last_of(task_set, until_done, waits))
    return np.asarray(stochastic.maximum(*last)[0])
