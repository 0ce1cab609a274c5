"""Time limits that Gridcast would have written, and what they cost in jobs that run again.

A limit is a calibrated upper quantile of the walltime, times a factor, rounded up; it is never
above the job's request. A job that outlives its limit is killed and runs again with its request.
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


@dataclass(frozen=True)
class TimeLimits:
    """Limits of n jobs with a request.

    Attributes:
        limit: The first limit, s, float64[n].
        killed: Which jobs outlive it though their request is larger, bool[n].
        requested: Core hours requested, by the job itself, float64[n].
        written: Core hours requested with these limits, second attempts included, float64[n].
        lost: Core hours that killed attempts used, float64[n].
    """

    limit: Floats
    killed: Flags
    requested: Floats
    written: Floats
    lost: Floats


def write_limits(
    upper: Floats,
    setting: LimitSetting,
    request: Floats,
    walltime: Floats,
    cores: Floats,
    keeps_request: Flags,
) -> TimeLimits:
    """Write a limit for each job and run it.

    Args:
        upper: Calibrated quantiles at LEVELS, s, float64[n, levels].
        setting: What to make of them.
        request: The requested walltimes, s, float64[n].
        walltime: How long each job ran, s.
        cores: Of each job.
        keeps_request: Jobs that keep their request, bool[n].

    >>> limits = write_limits(np.full((1, 4), 1000.0), LimitSetting(0.99, 1.0), np.array([7200.0]),
    ...                       np.array([1300.0]), np.array([2.0]), np.array([False]))
    >>> limits.limit.tolist(), limits.killed.tolist(), limits.written.tolist()
    ([1200.0], [True], [4.666666666666667])
    """
    wanted = np.maximum(upper[:, LEVELS.index(setting.level)] * setting.factor, LEAST)
    limit = np.where(keeps_request, request, np.minimum(np.ceil(wanted / STEP) * STEP, request))
    killed = (walltime > limit) & (limit < request)
    hours = cores / 3600.0
    return TimeLimits(
        limit,
        killed,
        request * hours,
        (limit + np.where(killed, request, 0.0)) * hours,
        np.where(killed, limit, 0.0) * hours,
    )


def choose_setting(
    upper: Floats,
    request: Floats,
    walltime: Floats,
    cores: Floats,
    keeps_request: Flags,
    risk: float,
) -> LimitSetting:
    """Choose the setting that requests least of those that kill at most ``risk`` of the jobs.

    Where none does, that which kills fewest.

    Args:
        upper: As for ``write_limits``, and all that follow.
        request: Requested walltimes.
        walltime: Walltimes.
        cores: Cores.
        keeps_request: Jobs that keep their request.
        risk: The share of jobs that may be killed.
    """

    def cost(setting: LimitSetting) -> tuple[float, float]:
        done = write_limits(upper, setting, request, walltime, cores, keeps_request)
        killed = float(done.killed.mean()) if len(request) else 0.0
        return max(killed, risk), float(done.written.sum())

    return min((LimitSetting(*pair) for pair in product(LEVELS, FACTORS)), key=cost)
