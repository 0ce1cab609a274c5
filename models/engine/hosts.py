"""CPU time on a host of known power, from the work that such jobs did on any host.

A core of power p (HEPScore) does p HEPScore seconds of work in a second of CPU time, so that the
prediction also holds for a host never seen before.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from infra.aliases import Array, Floats, Integers
from jobs.coded_jobs import CodedJobs
from models.engine.predictions import DECIMALS

CPU_TIME, CPU_WORK = "cpu_time", "cpu_work"
_CLASS_COLUMNS = ("_class", "_class_probability")


def read_fields(names: Collection[str]) -> tuple[str, ...]:
    """The fields that are read: none unless both quantities are among the targets ``names``."""
    return ("host_power",) if {CPU_TIME, CPU_WORK} <= set(names) else ()


def powers(jobs: CodedJobs, names: Collection[str]) -> Floats:
    """The power of each job's host (float64[n], HEPScore per core), NaN where it is unknown."""
    has_power = read_fields(names) and "host_power" in jobs
    power = jobs["host_power"] if has_power else np.full(len(jobs), np.nan)
    return np.where(power > 0, power, np.nan)


def replace_cpu_times(
    columns: dict[str, Array], rows: Integers, work: dict[str, Array], power: float, limits: Array
) -> None:
    """Replace the CPU times of some rows by those on a host of known power.

    Args:
        columns: The predicted columns of all jobs, changed in place.
        rows: The jobs on such a host.
        work: The columns of the predicted work of ``rows``; their classes are by thresholds of CPU
            time multiplied by the power, and taken as they are.
        power: Of the host, HEPScore per core.
        limits: Where the system stops each of ``rows``, s.
    """
    for name, values in work.items():
        end = name.removeprefix(CPU_WORK)
        times = values
        if end not in _CLASS_COLUMNS:
            times = np.round(values / power, DECIMALS)
            times = times if end == "_sd" else np.minimum(times, limits)
        columns[CPU_TIME + end][rows] = times
