"""A seeded generator of grid jobs, with known truth, for the demo and for tests.

Tasks of similar jobs are submitted in working hours, or at any hour by robots. A run time is work
divided by the power of the host: it repeats almost exactly, jumps between few values, follows
events or input, or has a heavy tail. Users request too much, in round numbers; jobs fail, run out
of memory, and are killed at their limit. A planted change affects only jobs submitted after it:
every other value stays the same.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from infra.errors import InputError
from jobs.workload.changes import Change, read_change, slowdown_factors
from jobs.workload.facts import (
    PlantedLabel,
    add_gpus,
    add_labels,
    draw_labels,
    read_planted_label,
)
from jobs.workload.outcomes import run
from jobs.workload.population import (
    LAWS,
    SOURCE,
    START,
    Grid,
    Users,
    draw_programs,
    draw_sites,
    draw_users,
)
from jobs.workload.tasks import draw_jobs, draw_tasks

__all__ = [
    "SOURCE",
    "START",
    "Change",
    "GeneratedLog",
    "PlantedLabel",
    "generate",
    "read_change",
    "read_planted_label",
]


@dataclass(frozen=True)
class GeneratedLog:
    """Jobs by submission with all outcomes, in the schema's types, and their truth (for JSON)."""

    jobs: pd.DataFrame
    truth: dict[str, Any]


def generate(
    jobs: int = 20_000,
    days: float = 30.0,
    seed: int = 1,
    sites: int = 8,
    users: int = 40,
    changes: Sequence[Change] = (),
    labels: Sequence[PlantedLabel] = (),
    gpus: bool = False,
) -> GeneratedLog:
    """Generate jobs; the same arguments give the same jobs.

    Args:
        jobs: number of jobs.
        days: length of the log.
        seed: seed of all random numbers.
        sites: number of sites that are open from the start.
        users: number of users.
        changes: the planted changes.
        labels: the planted labels.
        gpus: whether some programs use GPUs, and the energy of jobs is measured.
    """
    if jobs < 1 or days <= 0 or sites < 1 or users < 1:
        raise InputError("a generated log needs at least one job, one site, one user and some days")
    openings = [change for change in changes if change.kind == "new_site"]
    grid = Grid(
        draw_sites(seed, sites + len(openings)),
        draw_programs(seed),
        seed=seed,
        days=days,
        first_sites=sites,
    )
    people = draw_users(seed, users, grid.programs)
    tasks = draw_tasks(grid, people, jobs, changes)
    plan = draw_jobs(grid, people, tasks, jobs, openings)
    slow, planted = slowdown_factors(grid, people, plan, changes)
    drawn, factor = draw_labels(grid, jobs, labels)
    frame = add_labels(run(grid, people, tasks, plan, slow * factor), drawn)
    if gpus:
        frame = add_gpus(grid, frame)
    truth = _truth(grid, people, planted, frame)
    return GeneratedLog(frame, truth | {"labels": [asdict(label) for label in labels]})


def _truth(grid: Grid, people: Users, planted: list[Change], frame: pd.DataFrame) -> dict[str, Any]:
    return {
        "source": SOURCE,
        "seed": grid.seed,
        "start": START.isoformat(),
        "days": grid.days,
        "jobs": len(frame),
        "changes": [
            {**asdict(change), "at": (START + pd.Timedelta(days=change.day)).isoformat()}
            for change in planted
        ],
        "sites": {
            name: sorted(set(powers.tolist()))
            for name, powers in zip(grid.sites.names, grid.sites.powers, strict=True)
        },
        "programs": {
            name: {"law": LAWS[law], "work": float(work), "cores": int(cores)}
            for name, law, work, cores in zip(
                grid.programs.names,
                grid.programs.law,
                grid.programs.work,
                grid.programs.cores,
                strict=True,
            )
        },
        "users": {
            name: float(factor)
            for name, factor in zip(people.names, people.request_factor, strict=True)
        },
    }
