"""Speeds of sites: how much longer the same jobs run at one site than at a typical one, learned from what ended there.

Users submit the same thing many times, and brokers spread it: what is alike in all but its site tells sites apart long before any
user has a history at each. Until then a site is taken to be as fast as its hosts are rated, where a benchmark of them is told.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import Coded, CodedJobs
from models.past.load import key_of

KIND = ("source", "user", "program", "requested_walltime", "requested_cores")
"""Jobs with these in common are taken to be alike, wherever they run."""
DOUBT = 20.0
"""So many jobs are taken to have run at each site as its hosts' rating says, as at a typical site without one, before any has."""
FARTHEST = 2.0
"""No job says more than that its site is e² times as slow, or as fast."""
ROUNDS = 10


@dataclass(frozen=True)
class Speeds:
    """By site, the factor by which jobs run longer there than at a typical one; ``power`` is a typical host's, HEPScore per core."""

    factor: Mapping[str, float]
    power: float = np.nan

    @staticmethod
    def of(jobs: pd.DataFrame) -> Speeds:
        """Learn from completed ``jobs``: the logarithm of a run is what its kind takes and what its site adds, fitted in turn."""
        done = jobs[
            jobs["status"].eq("completed").to_numpy(bool, na_value=False)
            & jobs["site"].notna()
            & (jobs["walltime"] > 0)
        ]
        kinds, (sites, names) = key_of(done, KIND), pd.factorize(done["site"])
        logs = np.log(done["walltime"].to_numpy(dtype=np.float64))
        rated, power = _rated(done, sites, len(names))
        adds = rated.copy()
        often, there = np.bincount(kinds), np.bincount(sites, minlength=len(names))
        for _ in range(ROUNDS):
            takes = np.bincount(kinds, logs - adds[sites]) / np.maximum(often, 1)
            beyond = np.clip(logs - takes[kinds], -FARTHEST, FARTHEST)
            adds = (np.bincount(sites, beyond, len(names)) + DOUBT * rated) / (there + DOUBT)
        return Speeds(
            {str(name): float(np.exp(more)) for name, more in zip(names, adds, strict=True)}, power
        )

    def of_jobs(self, jobs: CodedJobs) -> Array:
        """The factor of each job's site, else of the power of its host, as far as they are known (float64[n])."""
        site: Coded = jobs["site"]
        factor = np.array([*(self.factor.get(name, np.nan) for name in site.values), np.nan])[
            site.codes
        ]
        rated = (
            self.power / jobs["host_power"] if "host_power" in jobs else np.full(len(jobs), np.nan)
        )
        factor = np.where(np.isnan(factor), rated, factor)
        return np.where(np.isfinite(factor) & (factor > 0), factor, 1.0)


def _rated(done: pd.DataFrame, sites: Array, count: int) -> tuple[Array, float]:
    """What the power of each site's hosts adds to a run's logarithm (float64[count], 0 where none is told), and a typical power."""
    told = (
        done["host_power"].to_numpy(dtype=np.float64, na_value=np.nan)
        if "host_power" in done
        else np.full(len(done), np.nan)
    )
    known = told > 0
    if not known.any():
        return np.zeros(count), np.nan
    logs = np.log(told[known])
    typical = float(logs.mean())
    often = np.bincount(sites[known], minlength=count)
    return -np.bincount(sites[known], logs - typical, count) / np.maximum(often, 1), float(
        np.exp(typical)
    )
