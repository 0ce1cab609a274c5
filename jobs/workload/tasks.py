"""The tasks of similar jobs, their submission, and the site of each job."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from infra.aliases import Array
from jobs.workload.changes import Change, index_of_switching_user
from jobs.workload.population import (
    DAY,
    Grid,
    Users,
)


def draw_tasks(grid: Grid, people: Users, jobs: int, changes: Sequence[Change]) -> dict[str, Array]:
    """Draw the tasks: arrays over tasks of user, program, day, size and what their jobs share.

    Args:
        grid: the grid.
        people: its users.
        jobs: number of jobs of the log.
        changes: the planted changes.
    """
    rng = grid.stream(0)
    wanted = int(1.3 * jobs) + 200
    guess = max(
        20, int(2.5 * wanted / float(np.average(people.task_size, weights=people.activity)))
    )
    user = _choose(people.activity, rng.random(guess))
    # Half of the tasks are small trials; the tail of the others is heavy.
    size = np.where(
        rng.random(guess) < 0.3,
        1,
        1 + people.task_size[user] * np.minimum(rng.pareto(1.8, guess), 40),
    ).astype(int)
    size[-1] += max(0, jobs - int(size.sum()))
    enough = int(np.searchsorted(np.cumsum(size), wanted)) + 1
    user, size = user[:enough], size[:enough]
    count = len(user)
    day = _submission_days(grid, people, user, rng)
    draws = {
        name: rng.random(count)
        for name in ("program", "mode", "cancel", "buggy", "memory_factor", "trickle")
    }
    program = _choose(people.habit[user], draws["program"])
    for change in changes:
        if change.kind == "user_switch":
            switching = index_of_switching_user(change, people)
            habit = people.habit[switching]
            other_programs = habit * (np.arange(len(habit)) != habit.argmax())
            moved = (user == switching) & (day >= change.day)
            program[moved] = _choose(other_programs, draws["program"][moved])
    return {
        "user": user,
        "size": size,
        "day": day,
        "program": program,
        "mode": (draws["mode"] * 3).astype(int),
        "spread": rng.lognormal(0, 0.7, count),
        "events": rng.choice(
            [500, 1000, 2000, 5000, 10000], count, p=[0.1, 0.4, 0.25, 0.2, 0.05]
        ).astype(float),
        "input": rng.lognormal(np.log(2e9), 1.0, count),
        "belief": rng.lognormal(0, 0.25, count),
        "memory_factor": 1.05 + 1.2 * draws["memory_factor"],
        "gap": np.where(draws["trickle"] < 0.1, 600.0, 5.0) * rng.lognormal(0, 0.5, count),
        "cancelled": draws["cancel"] < 0.015,
        "buggy": draws["buggy"] < 0.03,
        "favourite": rng.random(count),
    }


def _submission_days(grid: Grid, people: Users, user: Array, rng: np.random.Generator) -> Array:
    """When each task is submitted, in days.

    People submit in working hours, rarely at weekends, and in campaigns; robots at any time.
    """
    count, all_days = len(user), max(1, int(np.ceil(grid.days)))
    weekend = np.arange(all_days) % 7 >= 5
    campaign = grid.days * rng.random((len(people.names), 3))
    near = campaign[user, rng.integers(0, 3, count)] + rng.normal(0, 1.5, count)
    any_day = _choose(np.where(weekend, 0.2, 1.0), rng.random(count)).astype(float)
    day = np.where(rng.random(count) < 0.5, np.floor(near), any_day)
    hour = people.hour[user] + rng.normal(0, 2.5, count)
    moment = np.where(people.robot[user], grid.days * rng.random(count), day + (hour % 24) / 24)
    return np.asarray(moment % grid.days)


def draw_jobs(
    grid: Grid, people: Users, tasks: dict[str, Array], jobs: int, openings: Sequence[Change]
) -> dict[str, Array]:
    """Draw the jobs: arrays, by submission, of task, submission (s), site, host and wait (s).

    Args:
        grid: the grid.
        people: its users.
        tasks: the arrays of ``draw_tasks``.
        jobs: number of jobs.
        openings: the changes that open a site.
    """
    rng = grid.stream(1)
    task = np.repeat(np.arange(len(tasks["size"])), tasks["size"])
    gaps = rng.exponential(1.0, len(task)) * tasks["gap"][task]
    since = np.cumsum(gaps)
    first = np.concatenate([[0], np.cumsum(tasks["size"])[:-1]])
    submitted = np.floor(tasks["day"][task] * DAY + since - since[first][task])
    end = grid.days * DAY
    if np.sum(submitted < end) < jobs:
        # The log is too short for its tasks: jobs after its end move into the time of their task.
        start = tasks["day"][task] * DAY
        submitted = np.where(
            submitted < end, submitted, np.floor(start + (end - start) * rng.random(len(task)))
        )
    inside = np.flatnonzero(submitted < end)
    drawn = np.sort(rng.permutation(inside)[:jobs])
    drawn = drawn[np.argsort(submitted[drawn], kind="stable")]
    task, submitted = task[drawn], submitted[drawn]

    share = grid.sites.share[: grid.first_sites]
    favourite = _choose(share, tasks["favourite"])[task]
    site = np.where(rng.random(len(task)) < 0.6, favourite, _choose(share, rng.random(len(task))))
    for number, change in enumerate(openings):
        # A new site is large: from its first day it runs a quarter of the jobs.
        taken = (submitted >= change.day * DAY) & (
            grid.stream(10 + number).random(len(task)) < 0.25
        )
        site = np.where(taken, grid.first_sites + number, site)
    host = rng.integers(0, grid.sites.powers.shape[1], len(task))
    busy = 1 + 0.8 * np.sin((submitted / DAY - 0.3) * 2 * np.pi)
    wait = np.floor(grid.sites.wait[site] * busy * rng.lognormal(0, 1.2, len(task)))
    return {
        "task": task,
        "submitted": submitted,
        "site": site,
        "host": host,
        "wait": wait,
        "program": tasks["program"][task],
        "user": tasks["user"][task],
    }


def _choose(weights: Array, uniform: Array) -> Array:
    """Draw an index for each uniform number, by one row of weights or by a row for each."""
    edges = np.cumsum(weights, axis=-1)
    below = (uniform * edges[..., -1])[:, None] >= np.atleast_2d(edges)
    return np.asarray(np.minimum(below.sum(axis=1), weights.shape[-1] - 1))
