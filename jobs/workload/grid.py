"""A generated grid: sites with slots and power, links between them, data at sites, and jobs.

The jobs are those of ``generate``, not yet assigned to a site: the run time of each is known at
every site.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array
from infra.errors import InputError
from jobs.schema import OUTCOMES
from jobs.workload.outcomes import run
from jobs.workload.population import (
    DAY,
    Grid,
    draw_programs,
    draw_sites,
    draw_users,
)
from jobs.workload.tasks import draw_jobs, draw_tasks

NO_SITE = -1
"""The site of data that no site has, and of jobs that may run anywhere."""
FEWEST_SLOTS = 16
"""Twice the cores of the largest job."""
LOCAL = 0.25
"""The share of jobs that users submit to their own site."""
RATE = 2e7
"""Bytes per second between typical sites."""


@dataclass(frozen=True)
class GeneratedGrid:
    """Jobs and the truth about them.

    Attributes:
        sites: names of the sites.
        jobs: the jobs by submission, without outcomes.
        seconds: run time of each job at each site, float64[n, sites].
        home: the site to which its user submits a job, else NO_SITE, int64[n].
        input_at: the site of a job's input, or NO_SITE, int64[n].
        slots: cores of each site, int64[sites].
        rates: bytes per second from site to site over an idle link, float64[sites, sites].
        jitter: factor on the time of each job's transfer, float64[n].
    """

    sites: list[str]
    jobs: pd.DataFrame
    seconds: Array
    home: Array
    input_at: Array
    slots: Array
    rates: Array
    jitter: Array

    def __len__(self) -> int:
        return len(self.jobs)


def generate_grid(
    jobs: int = 4000, days: float = 5.0, seed: int = 1, sites: int = 20, load: float = 0.7
) -> GeneratedGrid:
    """Generate a grid; the same arguments give the same grid.

    Args:
        jobs: number of jobs.
        days: length of the log.
        seed: seed of all random numbers.
        sites: number of sites.
        load: share of all cores that the jobs use.
    """
    if jobs < 1 or days <= 0 or sites < 2 or not 0 < load <= 1:
        raise InputError(
            "a generated grid needs at least one job, two sites, some days "
            "and a load between 0 and 1"
        )
    grid = Grid(
        draw_sites(seed, sites), draw_programs(seed), seed=seed, days=days, first_sites=sites
    )
    people = draw_users(seed, 40, grid.programs)
    tasks = draw_tasks(grid, people, jobs, ())
    plan = draw_jobs(grid, people, tasks, jobs, ())
    no_slowdown = np.ones(len(plan["task"]))
    runs = [
        run(grid, people, tasks, {**plan, "site": np.full(len(no_slowdown), site)}, no_slowdown)
        for site in range(sites)
    ]
    seconds = np.column_stack(
        [frame["walltime"].fillna(1.0).to_numpy(dtype=np.float64) for frame in runs]
    )
    requests = runs[0].drop(columns=list(OUTCOMES)).assign(site=None)
    rng = grid.stream(3)
    home = np.where(rng.random(len(requests)) < LOCAL, plan["site"], NO_SITE)
    # The input of a task is at one site, more often a large one.
    input_site = rng.choice(sites, len(tasks["size"]), p=grid.sites.share / grid.sites.share.sum())[
        plan["task"]
    ]
    input_at = np.where(requests["input_bytes"].notna(), input_site, NO_SITE)
    work = float((seconds.mean(axis=1) * requests["requested_cores"]).sum())
    share = grid.sites.share / grid.sites.share.sum()
    slots = np.maximum(np.round(work / (days * DAY * load) * share), FEWEST_SLOTS).astype(np.int64)
    uplinks = RATE * rng.lognormal(0, 0.8, sites)
    slower = np.minimum(uplinks[:, None], uplinks[None, :])
    rates = slower * rng.lognormal(-0.5, 0.7, (sites, sites))
    return GeneratedGrid(
        grid.sites.names,
        requests,
        seconds,
        home,
        input_at,
        slots,
        rates,
        rng.lognormal(0, 0.3, len(requests)),
    )
