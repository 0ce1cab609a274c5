"""Answers: what was foreseen for many jobs, kept a kind of job."""

from __future__ import annotations

from dataclasses import dataclass

import pandas as pd

from infra.aliases import Array

DECIMALS = 3
"""Milliseconds are more than a prediction knows; more digits would only make answers longer."""
SHARES = {"_low": 0.05, "_high": 0.95, "_allocation": 0.95, "_kill_limit": 0.99}
"""The share of the jobs that each of these answers is to lie above, within what the user asked for."""


@dataclass(frozen=True)
class Answers:
    """What was foreseen for n jobs, kept a kind of job: ``which`` (int64[n]) is the kind of each.

    ``numbers``, float64[kinds] by name, are for each target t the best single value t, t_median, t_mean, t_sd, the 90 % range t_low to
    t_high, what to set aside t_allocation and where to stop the job t_kill_limit (see SHARES), and t_q<level> for each quantile asked
    for; where classes are, t_class and t_class_probability. ``cluster`` (object[kinds]) is whose refiner answered, ``cold_start``
    (bool[kinds]) says that nothing is known of who submits. Of peak_memory, where walltimes are predicted too, t_allocation is the first
    rung of the ladder that wastes least (see allocation.py); t_allocation_2 and t_allocation_3 are what to try after a failure (no
    larger where there is nothing more to try), and t_risk is the probability that the first fails.
    """

    numbers: dict[str, Array]
    cluster: Array
    cold_start: Array
    which: Array
    model_version: str

    def __len__(self) -> int:
        return len(self.which)

    def frame(self, job_ids: Array) -> pd.DataFrame:
        """A row a job: job_id, the numbers, then cluster, model_version and cold_start."""
        columns = {name: values[self.which] for name, values in self.numbers.items()}
        last = {
            "cluster": self.cluster[self.which],
            "model_version": self.model_version,
            "cold_start": self.cold_start[self.which],
        }
        return pd.DataFrame({"job_id": job_ids, **columns, **last})
