"""Time limits that Gridcast would have written, and what they cost in jobs that run again.

A limit is a calibrated upper quantile of the walltime, times a factor, rounded up; it is never
above the job's request. A job that runs past a limit below its request is killed and runs again
with its request; one whose limit equals its request ends as it does without Gridcast.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import numpy as np

from infra.aliases import Flags, Floats

LEVELS = (0.95, 0.975, 0.99, 0.995)
FACTORS = (1.0, 1.25, 1.5, 2.0, 3.0)
LEAST, STEP = 600.0, 300.0
"""No limit is under 10 minutes, and each is a multiple of 5."""


@dataclass(frozen=True)
class LimitSetting:
    """A level of the quantile, and the factor on it."""

    level: float
    factor: float

    def in_words(self) -> str:
        """The setting for people.

        >>> LimitSetting(0.975, 2.0).in_words()
        '2 × the time that 97.5 of 100 such jobs keep to'
        """
        return f"{self.factor:g} × the time that {100 * self.level:g} of 100 such jobs keep to"


@dataclass(frozen=True)
class TimeLimits:
    """Limits of n jobs with a request.

    Attributes:
        limit: The first limit, s, float64[n].
        killed: Which jobs it kills earlier than their request would, bool[n].
        requested: Core hours requested, by the job itself, float64[n].
        written: Core hours requested with these limits, second attempts included, float64[n].
        lost: Core hours that killed attempts used, float64[n].
    """

    limit: Floats
    killed: Flags
    requested: Floats
    written: Floats
    lost: Floats


@dataclass(frozen=True)
class Requested:
    """n jobs with a request, and what was predicted of them.

    Attributes:
        upper: Calibrated quantiles of the walltime at LEVELS, s, float64[n, levels].
        request: Requested walltimes, s, float64[n].
        walltime: How long each job ran, s, float64[n].
        cores: Of each job, float64[n].
        keeps_request: Jobs that keep their request, bool[n].
    """

    upper: Floats
    request: Floats
    walltime: Floats
    cores: Floats
    keeps_request: Flags

    def take(self, inside: Flags) -> Requested:
        """Some of the jobs."""
        return Requested(
            self.upper[inside],
            self.request[inside],
            self.walltime[inside],
            self.cores[inside],
            self.keeps_request[inside],
        )


def write_limits(jobs: Requested, setting: LimitSetting) -> TimeLimits:
    """Write a limit for each job and run it.

    >>> one = np.ones(1)
    >>> job = Requested(np.full((1, 4), 1000.0), 7200.0 * one, 1300.0 * one, 2.0 * one, one < 0)
    >>> limits = write_limits(job, LimitSetting(0.99, 1.0))
    >>> limits.limit.tolist(), limits.killed.tolist(), limits.written.tolist()
    ([1200.0], [True], [4.666666666666667])
    """
    wanted = np.maximum(jobs.upper[:, LEVELS.index(setting.level)] * setting.factor, LEAST)
    limit = np.minimum(np.ceil(wanted / STEP) * STEP, jobs.request)
    limit = np.where(jobs.keeps_request, jobs.request, limit)
    killed = (jobs.walltime > limit) & (limit < jobs.request)
    hours = jobs.cores / 3600.0
    return TimeLimits(
        limit,
        killed,
        jobs.request * hours,
        (limit + np.where(killed, jobs.request, 0.0)) * hours,
        np.where(killed, limit, 0.0) * hours,
    )


def choose_setting(jobs: Requested, risk: float) -> LimitSetting:
    """Choose the setting that requests least of those that kill at most ``risk`` of the jobs.

    Where none does, that which kills fewest.
    """

    def cost(setting: LimitSetting) -> tuple[float, float]:
        limits = write_limits(jobs, setting)
        killed = float(limits.killed.mean()) if len(jobs.request) else 0.0
        return max(killed, risk), float(limits.written.sum())

    return min((LimitSetting(*pair) for pair in product(LEVELS, FACTORS)), key=cost)
