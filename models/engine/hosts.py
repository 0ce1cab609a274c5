"""Hosts: CPU time on a host of known power, read off the work that such jobs did on any host; so it carries over to one never seen.

A core of power p (HEPScore) does p HEPScore seconds of work in a second of CPU time.
"""

from __future__ import annotations

from collections.abc import Collection

import numpy as np

from infra.aliases import Array
from jobs.coded_jobs import CodedJobs
from models.engine.predictions import DECIMALS

CARRIED, WORK = "cpu_time", "cpu_work"
"""What is carried over, where the work is among what is foreseen."""
_UNSCALED = ("_class", "_class_probability")


def read_fields(names: Collection[str]) -> tuple[str, ...]:
    """The fields that carrying over reads, none unless both quantities are among the targets' ``names``."""
    return ("host_power",) if {CARRIED, WORK} <= set(names) else ()


def powers(jobs: CodedJobs, names: Collection[str]) -> Array:
    """The power of the host that each job is asked about (float64[n], HEPScore per core), NaN where none is told or nothing carries."""
    told = read_fields(names) and "host_power" in jobs
    power = jobs["host_power"] if told else np.full(len(jobs), np.nan)
    return np.where(power > 0, power, np.nan)


def carry(
    numbers: dict[str, Array], rows: Array, work: dict[str, Array], power: float, limits: Array
) -> None:
    """Put CPU time on a host of ``power`` in the place of what ``numbers`` say of ``rows`` (indices), from what they say of ``work``.

    ``limits`` float64[rows] is where the system stops each. A class is of work by thresholds times the power, so taken as it is.
    """
    for name, values in work.items():
        end = name.removeprefix(WORK)
        if end in _UNSCALED:
            carried = values
        else:
            carried = np.round(values / power, DECIMALS)
            carried = carried if end == "_sd" else np.minimum(carried, limits)
        numbers[CARRIED + end][rows] = carried
