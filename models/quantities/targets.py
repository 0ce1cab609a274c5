"""Targets: the quantities that Gridcast predicts, each with its unit, its grid of values and its limit.

The engine knows a target through these functions; beside them only `histories/components` (how closely memory repeats), `engine/hosts`
(CPU work carried to a host) and `engine/forecaster` (memory is set aside over a walltime) name one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats
from jobs.coded_jobs import CodedJobs
from models.past.queues import waits
from models.quantities.subjects import JOBS, TRANSFERS, WAITS, Subject

LIMITED_BY = ("requested_walltime", "requested_memory", "requested_cores")
"""The fields that limits are made from."""
_ROUNDING = 1e-3
"""Added before a logarithm is floored, so that a power of two falls into its own bin whatever the last digit of its logarithm."""


@dataclass(frozen=True)
class Grid:
    """Bins of equal width on a logarithmic axis: bin k holds lowest·2^(k/steps) up to the next; the first also all below it."""

    lowest: float
    steps: int
    bins: int

    def log_bin_positions(self, values: Floats) -> Floats:
        """Where ``values`` lie on the axis, in bins from the lowest value, not rounded (float64, same shape)."""
        return self.steps * np.log2(np.maximum(values, self.lowest) / self.lowest)

    def bin(self, values: Floats) -> npt.NDArray[np.int64]:
        """The bin of each of ``values`` (int64, same shape).

        >>> Grid(1.0, 16, 321).bin(np.array([0.0, 1.0, 2.0, 1e9])).tolist()
        [0, 0, 16, 320]
        """
        return np.clip(
            np.floor(self.log_bin_positions(values) + _ROUNDING), 0, self.bins - 1
        ).astype(np.int64)

    @cached_property
    def edges(self) -> Floats:
        """Lower edges of the bins and the upper edge of the last (float64[bins + 1]); the first is 0."""
        edges = self.lowest * 2.0 ** ((np.arange(self.bins + 1) - _ROUNDING) / self.steps)
        edges[0] = 0.0
        return edges

    @cached_property
    def centres(self) -> Floats:
        """A value that stands for each bin: its geometric middle, or the lowest value in the first (float64[bins])."""
        centres = self.lowest * 2.0 ** ((np.arange(self.bins) + 0.5) / self.steps)
        centres[0] = self.lowest
        return centres


@dataclass(frozen=True)
class Target:
    """A quantity of a subject to predict: ``value`` gives its outcomes and ``limit`` where the system stops the job, both float64[n].

    A limit that is not ``binding`` stops nothing: it is only the yardstick that relative histories are measured against. ``point`` is the
    level of the quantile that is told as the best single value; None: the best for relative and absolute error together.
    """

    name: str
    unit: str
    grid: Grid
    value: Callable[[pd.DataFrame], Floats]
    limit: Callable[[pd.DataFrame | CodedJobs], Floats]
    subject: Subject = JOBS
    binding: bool = True
    point: float | None = None


def _column(jobs: pd.DataFrame | CodedJobs, name: str, missing: float = np.nan) -> Floats:
    if name not in jobs:
        return np.full(len(jobs), missing)
    values = (
        jobs[name]
        if isinstance(jobs, CodedJobs)
        else jobs[name].to_numpy(dtype=np.float64, na_value=np.nan)
    )
    return values if np.isnan(missing) else np.where(np.isnan(values), missing, values)


def _walltime(jobs: pd.DataFrame) -> Floats:
    return _column(jobs, "walltime")


def _peak_memory(jobs: pd.DataFrame) -> Floats:
    used = _column(jobs, "peak_memory")
    return np.where(used > 0, used, np.nan)  # a log that writes 0 did not measure it


def _cpu_time(jobs: pd.DataFrame) -> Floats:
    return _column(jobs, "cpu_time")


def _io(jobs: pd.DataFrame) -> Floats:
    read, written, seconds = (
        _column(jobs, name) for name in ("read_bytes", "written_bytes", "walltime")
    )
    moved = np.where(
        np.isnan(read) & np.isnan(written), np.nan, np.nan_to_num(read) + np.nan_to_num(written)
    )
    return moved / np.maximum(seconds, 1.0)


def _cores(jobs: pd.DataFrame) -> Floats:
    """What each job was given, else what it asked for, else one core."""
    given, asked = _column(jobs, "cores"), _asked_cores(jobs)
    return np.where(np.isnan(given), asked, np.maximum(given, 1.0))


def _cpu_work(jobs: pd.DataFrame) -> Floats:
    power = _column(jobs, "host_power")
    return np.where(power > 0, _cpu_time(jobs) * power, np.nan)


def _cpu_per_event(jobs: pd.DataFrame) -> Floats:
    events = _column(jobs, "events")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(events > 0, _cpu_work(jobs) / events, np.nan)


def _positive(limits: Floats) -> Floats:
    return np.where(limits > 0, limits, np.inf)


def _walltime_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _positive(_column(jobs, "requested_walltime", np.inf))


def _memory_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _positive(_column(jobs, "requested_memory", np.inf))


def _cpu_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _walltime_limit(jobs) * _asked_cores(jobs)


def _asked_cores(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return np.maximum(_column(jobs, "requested_cores", 1.0), 1.0)


def _duration(transfers: pd.DataFrame) -> Floats:
    """Of those that were completed: how long a failure takes says nothing about the way."""
    return np.where(
        transfers["status"].eq("completed").to_numpy(bool, na_value=False),
        _column(transfers, "duration"),
        np.nan,
    )


def _bytes(transfers: pd.DataFrame | CodedJobs) -> Floats:
    return _positive(_column(transfers, "bytes", np.inf))


def _drain(jobs: pd.DataFrame | CodedJobs) -> Floats:
    """The time in which those who run at a site would do all that waits there, if all took what they asked for; infinite where none."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return _positive(
            np.nan_to_num(
                _column(jobs, "system_waiting_work") / _column(jobs, "system_running_cores"),
                posinf=0.0,
            )
        )


def _no_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return np.full(len(jobs), np.inf)


def with_extra_inputs(target: Target, numbers: Sequence[str]) -> Target:
    """``target`` with further ``numbers`` of its records that a refiner is shown."""
    return replace(
        target, subject=replace(target.subject, numbers=(*target.subject.numbers, *numbers))
    )


TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("walltime", "s", Grid(1.0, 16, 321), _walltime, _walltime_limit),
        Target("peak_memory", "bytes", Grid(2.0**16, 16, 513), _peak_memory, _memory_limit),
        Target("cpu_time", "s", Grid(1.0, 16, 449), _cpu_time, _cpu_limit),
        Target(
            "transfer_time", "s", Grid(1.0, 16, 321), _duration, _bytes, TRANSFERS, binding=False
        ),
        # Half of all waits are short and a tenth last for days: the median error, by which waits are judged, is least far below the median.
        Target("wait", "s", Grid(1.0, 16, 353), waits, _drain, WAITS, binding=False, point=1 / 3),
        Target("io", "bytes/s", Grid(1.0, 8, 321), _io, _no_limit),
        Target(
            "memory_per_core",
            "bytes",
            Grid(2.0**16, 16, 417),
            lambda jobs: _peak_memory(jobs) / _cores(jobs),
            lambda jobs: _memory_limit(jobs) / _asked_cores(jobs),
        ),
        Target(
            "cpu_per_core",
            "s",
            Grid(1.0, 16, 385),
            lambda jobs: _cpu_time(jobs) / _cores(jobs),
            _walltime_limit,
        ),
        Target("cpu_per_event", "HEPScore s", Grid(2.0**-10, 16, 513), _cpu_per_event, _no_limit),
        Target("cpu_work", "HEPScore s", Grid(1.0, 16, 513), _cpu_work, _no_limit),
        Target(
            "io_per_core",
            "bytes/s",
            Grid(1.0, 8, 321),
            lambda jobs: _io(jobs) / _cores(jobs),
            _no_limit,
        ),
    )
}
"""Every target by name: walltime; memory in use by the whole job; CPU time over all cores; bytes read and written a second; the same
of a core; and the CPU time times the power of the host where that is known, of an event and of the whole job."""
