"""A generated grid: sites with slots and power, links between them, data at sites, and jobs that could run at any of them.

The same jobs as ``generate`` makes, but nobody has said yet where they run: how long each would take is known of every site.
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
"""The place of what no site holds, and the home of what may run anywhere."""
FEWEST_SLOTS = 16
"""Twice the cores of the largest job."""
LOCAL = 0.25
"""The share of jobs that users of a site send to it themselves."""
RATE = 2e7
"""Bytes a second of a typical site's way to the others; unlike from site to site and from link to link."""


@dataclass(frozen=True)
class GeneratedGrid:
    """``jobs`` by submission as they are asked for, without outcomes, and what is true of them.

    ``seconds`` float64[n, sites] is how long each would run at each site; ``home`` int64[n] the site of a job that its users send there
    themselves, else NO_SITE; ``input_at`` int64[n] where its input lies, or NO_SITE. ``slots`` int64[sites] are cores; ``rates``
    float64[sites, sites] bytes a second from one site to another when nothing else moves; ``jitter`` float64[n] the factor by which
    each job's transfer is slower.
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
    """Generate a grid that ``jobs`` jobs in ``days`` days load to the share ``load``; the same arguments give the same grid."""
    if jobs < 1 or days <= 0 or sites < 2 or not 0 < load <= 1:
        raise InputError(
            "a generated grid needs at least one job, two sites, some days and a load between 0 and 1"
        )
    grid = Grid(
        draw_sites(seed, sites), draw_programs(seed), seed=seed, days=days, first_sites=sites
    )
    people = draw_users(seed, 40, grid.programs)
    tasks = draw_tasks(grid, people, jobs, ())
    plan = draw_jobs(grid, people, tasks, jobs, ())
    unhindered = np.ones(len(plan["task"]))
    runs = [
        run(grid, people, tasks, {**plan, "site": np.full(len(unhindered), site)}, unhindered)
        for site in range(sites)
    ]
    seconds = np.column_stack(
        [one["walltime"].fillna(1.0).to_numpy(dtype=np.float64) for one in runs]
    )
    asked = runs[0].drop(columns=list(OUTCOMES)).assign(site=None)
    rng = grid.stream(3)
    home = np.where(rng.random(len(asked)) < LOCAL, plan["site"], NO_SITE)
    # The input of a task lies in one place, of a large site rather than a small one.
    shelf = rng.choice(sites, len(tasks["size"]), p=grid.sites.share / grid.sites.share.sum())[
        plan["task"]
    ]
    input_at = np.where(asked["input_bytes"].notna(), shelf, NO_SITE)
    work = float((seconds.mean(axis=1) * asked["requested_cores"]).sum())
    share = grid.sites.share / grid.sites.share.sum()
    slots = np.maximum(np.round(work / (days * DAY * load) * share), FEWEST_SLOTS).astype(np.int64)
    ways = RATE * rng.lognormal(0, 0.8, sites)
    rates = np.minimum(ways[:, None], ways[None, :]) * rng.lognormal(-0.5, 0.7, (sites, sites))
    return GeneratedGrid(
        grid.sites.names,
        asked,
        seconds,
        home,
        input_at,
        slots,
        rates,
        rng.lognormal(0, 0.3, len(asked)),
    )
