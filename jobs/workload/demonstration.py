"""The log of the demo: generated jobs up to the present, with planted changes and open chains.

All jobs take three times as long from some days ago on, as after a bad release of their software,
and one site has been twenty times slower for a day. Chains of tasks are open: one has stalled
because of that site, one goes on, and one fails.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import pandas as pd

from jobs.schema import OF_KIND, OUTCOMES, conform
from jobs.workload import START, Change, generate
from jobs.workload.population import GROUPS

SOURCE = "demo"
JOBS, DAYS, SEED = 15_000, 30, 1
PRESENT_DAY, TRAINED_DAY, CHANGE_DAY = 28 + 14 / 24, 18.0, 22.5
"""Days of the generated log: a Monday afternoon, the end of what is trained on, the bad release."""
SLOWDOWN = 3.0
SLOW_SITE, SLOW_FACTOR = "site-03", 20.0
CHANGES = (
    *(Change("slow_group", CHANGE_DAY, name=group, factor=SLOWDOWN) for group in GROUPS),
    Change("slow_site", day=27.5, name=SLOW_SITE, factor=SLOW_FACTOR),
)
TWO_DAYS = 172_800.0
WHILE_RUNNING = ("started_at", "host", "host_power", "cores")
"""Outcomes that are known once a job runs."""


@dataclass(frozen=True)
class Stage:
    """A task of a chain: its program, its number of jobs, and how many of them are slow or fail.

    ``hours`` is how long ago it was submitted; ``released`` whether its jobs may have begun. The
    last jobs run at the slow site, the first ones fail.
    """

    program: str
    jobs: int
    hours: float
    slow_jobs: int = 0
    failed_jobs: int = 0
    released: bool = True


CHAINS = {
    "lhcb-campaign": (
        Stage("lhcb-reconstruction", 60, 90.0),
        Stage("lhcb-calibration", 30, 24.0, slow_jobs=8),
        Stage("lhcb-training", 12, 24.0, released=False),
    ),
    "cms-campaign": (
        Stage("cms-training", 60, 26.0),
        Stage("cms-analysis", 40, 5.0),
        Stage("cms-merge", 20, 5.0, released=False),
    ),
    "atlas-campaign": (
        Stage("atlas-calibration", 40, 20.0, slow_jobs=3),
        Stage("atlas-analysis", 50, 3.0, failed_jobs=20),
    ),
}
"""The stages of each request, each after the one before it."""


@dataclass(frozen=True)
class DemonstrationLog:
    """All jobs with their outcomes, also those still to come, and the present.

    Jobs that ended until ``trained_until`` are for the training.
    """

    jobs: pd.DataFrame
    trained_until: pd.Timestamp
    now: pd.Timestamp

    def as_of(self, now: pd.Timestamp) -> pd.DataFrame:
        """The jobs submitted by ``now``, without what only became known later."""
        jobs = self.jobs[self.jobs["submitted_at"] <= now]
        is_open = jobs["ended_at"].isna() | (jobs["ended_at"] > now)
        runs = is_open & (jobs["started_at"] <= now)
        jobs = jobs.assign(
            **{
                name: jobs[name].mask(is_open & ~runs if name in WHILE_RUNNING else is_open)
                for name in OUTCOMES
            }
        )
        status = jobs["status"].mask(runs, "running").mask(is_open & ~runs, "waiting")
        return jobs.assign(status=status)


def demonstration_log(now: pd.Timestamp) -> DemonstrationLog:
    """Generate the demo's log, whose present is ``now``; its times move with it, nothing else."""
    moved = now.floor("min") - (START + pd.Timedelta(days=PRESENT_DAY))
    generated = generate(JOBS, DAYS, SEED, changes=CHANGES).jobs
    present = START + pd.Timedelta(days=PRESENT_DAY)
    tasks = [
        _task(generated, request, number, present)
        for request, stages in CHAINS.items()
        for number in range(len(stages))
    ]
    jobs = conform(pd.concat([generated, *tasks], ignore_index=True).assign(source=SOURCE))
    times = {name: jobs[name] + moved for name in OF_KIND["time"]}
    jobs = jobs.assign(**times).sort_values("submitted_at", kind="stable", ignore_index=True)
    trained = START + pd.Timedelta(days=TRAINED_DAY) + moved
    return DemonstrationLog(jobs, trained, present + moved)


def _task(
    generated: pd.DataFrame, request: str, number: int, present: pd.Timestamp
) -> pd.DataFrame:
    """The jobs of one stage of a request: earlier jobs of its program, submitted again.

    Args:
        generated: The generated jobs.
        request: The name of the request.
        number: The number of the stage.
        present: The present of the generated log.
    """
    stage = CHAINS[request][number]
    name = f"{request}-{number + 1}"
    earlier = generated[
        (generated["program"] == stage.program)
        & (generated["status"] == "completed")
        & (generated["site"] != SLOW_SITE)
        & (generated["submitted_at"] < START + pd.Timedelta(days=CHANGE_DAY))
    ]
    earlier = earlier[earlier["user"] == earlier["user"].mode().iloc[0]]
    jobs = earlier.sample(stage.jobs, random_state=SEED, replace=True).reset_index(drop=True)
    is_slow = np.arange(stage.jobs) >= stage.jobs - stage.slow_jobs
    hosts = generated["host"][generated["site"] == SLOW_SITE].dropna().iloc[: stage.jobs]
    wait = (jobs["started_at"] - jobs["submitted_at"]).clip(upper=pd.Timedelta(hours=1))
    submitted = present - pd.Timedelta(hours=stage.hours)
    submitted_at = submitted + pd.to_timedelta(5 * np.arange(stage.jobs), unit="s")
    has_failed = np.arange(stage.jobs) < stage.failed_jobs
    factor = np.where(is_slow, SLOW_FACTOR, np.where(has_failed, 0.05, 1.0))
    walltime = jobs["walltime"] * SLOWDOWN * factor
    started_at = submitted_at + wait
    if not stage.released:  # it begins when the stage before it has ended, after the log
        started_at = started_at + pd.Timedelta(days=3)
    times = {
        "submitted_at": submitted_at,
        "started_at": started_at,
        "ended_at": started_at + pd.to_timedelta(walltime, unit="s"),
    }
    return jobs.assign(
        job_id=[f"{name}-{job}" for job in range(stage.jobs)],
        task_id=name,
        job_name=name,
        after_task_id=f"{request}-{number}" if number else None,
        request_id=request,
        site=jobs["site"].mask(is_slow, SLOW_SITE),
        host=jobs["host"].mask(is_slow, pd.Series(hosts.to_numpy())),
        requested_walltime=TWO_DAYS,
        walltime=walltime,
        status=jobs["status"].mask(has_failed, "failed"),
        **{column: times[column].astype(jobs[column].dtype) for column in times},
    )
