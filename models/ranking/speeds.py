"""Speeds of sites: how much longer the same jobs run at one site than at a typical one, learned from what ended there.

Users submit the same thing many times, and brokers spread it: what is alike in all but its site tells sites apart long before any
user has a history at each.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.coded import Coded, CodedJobs
from models.past.load import key_of

Array = npt.NDArray[Any]

KIND = ("source", "user", "program", "requested_walltime", "requested_cores")
"""Jobs with these in common are taken to be alike, wherever they run."""
DOUBT = 20.0
"""So many jobs as at a typical site are taken to have run at each, before any has."""
FARTHEST = 2.0
"""No job says more than that its site is e² times as slow, or as fast."""
ROUNDS = 10


@dataclass(frozen=True)
class Speeds:
    """By site, the factor by which jobs run longer there than at a typical one; 1 for a site that is not known."""

    factor: Mapping[str, float]

    @staticmethod
    def of(jobs: pd.DataFrame) -> Speeds:
        """Learn from completed ``jobs``: the logarithm of a run is what its kind takes and what its site adds, fitted in turn."""
        done = jobs[jobs["status"].eq("completed").to_numpy(bool, na_value=False) & jobs["site"].notna() & (jobs["walltime"] > 0)]
        kinds, (sites, names) = key_of(done, KIND), pd.factorize(done["site"])
        logs = np.log(done["walltime"].to_numpy(dtype=np.float64))
        adds = np.zeros(len(names))
        often, there = np.bincount(kinds), np.bincount(sites, minlength=len(names))
        for _ in range(ROUNDS):
            takes = np.bincount(kinds, logs - adds[sites]) / np.maximum(often, 1)
            beyond = np.clip(logs - takes[kinds], -FARTHEST, FARTHEST)
            adds = np.bincount(sites, beyond, len(names)) / (there + DOUBT)
        return Speeds({str(name): float(np.exp(more)) for name, more in zip(names, adds, strict=True)})

    def of_sites(self, jobs: CodedJobs) -> Array:
        """The factor of each job's site (float64[n])."""
        site: Coded = jobs["site"]
        return np.array([*(self.factor.get(name, 1.0) for name in site.values), 1.0])[site.codes]
