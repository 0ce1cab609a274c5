"""Speeds of sites: how much longer the same jobs run at one site than at a typical one.

Users submit the same job many times and brokers spread it, so jobs that differ only in their site
compare the sites before any user has a history at each. Until then a site is taken to be as fast as
the benchmark of its hosts says, where there is one.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags
from jobs.coded_jobs import Coded, CodedJobs
from models.past.load import key_of

SAME_JOB = ("source", "user", "program", "requested_walltime", "requested_cores")
"""Jobs equal in these are taken to be the same job, wherever they run."""
PRIOR_JOBS = 20.0
"""The weight, in jobs, of the prior that a site is as fast as its hosts are rated."""
LARGEST_EFFECT = 2.0
"""A single job's log-ratio counts for at most this much: a site e² times as slow, or as fast."""
ROUNDS = 10


@dataclass(frozen=True)
class Speeds:
    """The factor by which jobs run longer at each site than at a typical one.

    ``power`` is that of a typical host, HEPScore per core.
    """

    factor: Mapping[str, float]
    power: float = np.nan

    @staticmethod
    def of(jobs: pd.DataFrame) -> Speeds:
        """Learn from completed ``jobs``.

        The logarithm of a run time is the sum of an effect of the job and an effect of the site,
        fitted in turn.
        """
        completed = jobs["status"].eq("completed").to_numpy(bool, na_value=False)
        done = jobs[completed & jobs["site"].notna() & (jobs["walltime"] > 0)]
        same_job, (sites, names) = key_of(done, SAME_JOB), pd.factorize(done["site"])
        logs = np.log(done["walltime"].to_numpy(dtype=np.float64))
        rated, power = _rated_effects(done, sites, len(names))
        site_effect = rated.copy()
        runs_of_job, runs_at_site = np.bincount(same_job), np.bincount(sites, minlength=len(names))
        for _ in range(ROUNDS):
            job_sums = np.bincount(same_job, logs - site_effect[sites])
            job_effect = job_sums / np.maximum(runs_of_job, 1)
            residual = np.clip(logs - job_effect[same_job], -LARGEST_EFFECT, LARGEST_EFFECT)
            site_sums = np.bincount(sites, residual, len(names)) + PRIOR_JOBS * rated
            site_effect = site_sums / (runs_at_site + PRIOR_JOBS)
        return Speeds(
            {
                str(name): float(np.exp(effect))
                for name, effect in zip(names, site_effect, strict=True)
            },
            power,
        )

    def of_jobs(self, jobs: CodedJobs) -> Array:
        """The factor of each job's site, else of its host's power, else 1 (float64[n])."""
        factor = self._factors(jobs)
        return np.where(np.isnan(factor), 1.0, factor)

    def is_known(self, jobs: CodedJobs) -> Flags:
        """Whether there is a factor for each job's site or host (bool[n])."""
        return np.asarray(~np.isnan(self._factors(jobs)))

    def _factors(self, jobs: CodedJobs) -> Array:
        site: Coded = jobs["site"]
        factor = np.array([*(self.factor.get(name, np.nan) for name in site.values), np.nan])
        rated = np.full(len(jobs), np.nan)
        if "host_power" in jobs:
            rated = self.power / jobs["host_power"]
        factors = np.where(np.isnan(factor[site.codes]), rated, factor[site.codes])
        return np.where(np.isfinite(factors) & (factors > 0), factors, np.nan)


def _rated_effects(done: pd.DataFrame, sites: Array, count: int) -> tuple[Array, float]:
    """The effect on a run's logarithm of the power of each site's hosts, and a typical power.

    Effects are float64[count], 0 for sites without a rating.
    """
    if "host_power" not in done:
        return np.zeros(count), np.nan
    power = done["host_power"].to_numpy(dtype=np.float64, na_value=np.nan)
    is_rated = power > 0
    if not is_rated.any():
        return np.zeros(count), np.nan
    logs = np.log(power[is_rated])
    typical = float(logs.mean())
    jobs_at_site = np.maximum(np.bincount(sites[is_rated], minlength=count), 1)
    effects = -np.bincount(sites[is_rated], logs - typical, count) / jobs_at_site
    return effects, float(np.exp(typical))
