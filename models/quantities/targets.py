"""Targets: the quantities that Gridcast predicts, each with its unit, its grid and its limit.

The engine knows a target through these functions. Beside them ``histories/components`` (how closely
memory repeats), ``engine/hosts`` (CPU work carried to a host) and ``engine/forecaster`` (memory is
allocated over a walltime) name one.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Floats, Integers
from jobs.coded_jobs import CodedJobs
from jobs.schema import FIELDS
from jobs.transfers import LONGEST
from models.past.queues import waits
from models.quantities.subjects import JOBS, TRANSFERS, WAITS, Subject

LIMITED_BY = ("requested_walltime", "requested_memory", "requested_cores", "requested_gpus")
"""The fields that limits are made from."""
_ROUNDING = 1e-3
"""Added before a logarithm is floored, so that a power of two falls into its own bin."""
TAIL_WIDTH = 4
"""Fine bins in a bin of the tail, which few values reach."""


@dataclass(frozen=True)
class Grid:
    """Bins on a logarithmic axis: fine ones, then a coarser tail up to the highest value.

    Attributes:
        lowest: The first bin holds this value and all below it.
        steps: Fine bins an octave.
        fine_bins: Bin k of them begins at lowest·2^(k/steps).
        highest: The largest value that the schema accepts; bins of TAIL_WIDTH fine ones reach it.
    """

    lowest: float
    steps: int
    fine_bins: int
    highest: float = 0.0

    @cached_property
    def bins(self) -> int:
        """The number of all bins."""
        if self.highest <= self.lowest:
            return self.fine_bins
        beyond = self.steps * np.log2(self.highest / self.lowest) - self.fine_bins
        return self.fine_bins + max(int(np.ceil(beyond / TAIL_WIDTH)), 0)

    def log_bin_positions(self, values: Floats) -> Floats:
        """Return where ``values`` lie on the axis, in fine bins (float64, same shape)."""
        return self.steps * np.log2(np.maximum(values, self.lowest) / self.lowest)

    def bin_positions(self, values: Floats) -> Floats:
        """Return where ``values`` lie in bins, not rounded (float64, same shape)."""
        positions = self.log_bin_positions(values)
        beyond = np.maximum(positions - self.fine_bins, 0.0)
        return np.minimum(positions, self.fine_bins) + beyond / TAIL_WIDTH

    def bin(self, values: Floats) -> Integers:
        """Return the bin of each of ``values`` (int64, same shape).

        >>> Grid(1.0, 16, 321).bin(np.array([0.0, 1.0, 2.0, 1e9])).tolist()
        [0, 0, 16, 320]
        >>> Grid(1.0, 1, 4, 2.0**12).bin(np.array([8.0, 16.0, 255.0, 256.0, 4096.0])).tolist()
        [3, 4, 4, 5, 5]
        """
        bins = np.floor(self.bin_positions(values) + _ROUNDING)
        return np.clip(bins, 0, self.bins - 1).astype(np.int64)

    def _values_at(self, bin_positions: npt.NDArray[Any]) -> Floats:
        beyond = np.maximum(bin_positions - self.fine_bins, 0.0)
        return self.lowest * 2.0 ** ((bin_positions + (TAIL_WIDTH - 1) * beyond) / self.steps)

    @cached_property
    def edges(self) -> Floats:
        """Lower edges of the bins and the upper edge of the last (float64[bins + 1])."""
        edges = self._values_at(np.arange(self.bins + 1) - _ROUNDING)
        edges[0] = 0.0
        return edges

    @cached_property
    def centres(self) -> Floats:
        """The geometric middle of each bin, and the lowest value for the first (float64[bins])."""
        centres = self._values_at(np.arange(self.bins) + 0.5)
        centres[0] = self.lowest
        return centres


@dataclass(frozen=True)
class Target:
    """A quantity of a subject to predict.

    Attributes:
        name: Its name.
        unit: Its unit.
        grid: The grid of its distributions.
        value: Computes the outcomes of jobs (float64[n]).
        limit: Computes where the system stops each job (float64[n], infinite for nowhere).
        subject: The kind of record.
        binding: False if the limit stops nothing and only scales relative histories.
        point: The level of the quantile that is the best single value; None for the best of
            relative and absolute error together.
    """

    name: str
    unit: str
    grid: Grid
    value: Callable[[pd.DataFrame], Floats]
    limit: Callable[[pd.DataFrame | CodedJobs], Floats]
    subject: Subject = JOBS
    binding: bool = True
    point: float | None = None


class _FieldProbe:
    """Jobs without fields, which notes the fields that are looked for."""

    def __init__(self) -> None:
        self.fields = set[str]()

    def __len__(self) -> int:
        return 0

    def __contains__(self, name: str) -> bool:
        self.fields.add(name)
        return False


def read_fields(target: Target) -> set[str]:
    """Return the fields that outcomes and limits of a target are computed from.

    >>> sorted(read_fields(TARGETS["walltime"]))
    ['requested_walltime', 'walltime']
    """
    probe: Any = _FieldProbe()
    target.value(probe)
    target.limit(probe)
    return set(probe.fields)


def _column(jobs: pd.DataFrame | CodedJobs, name: str, missing: float = np.nan) -> Floats:
    if name not in jobs:
        return np.full(len(jobs), missing)
    values = (
        jobs[name]
        if isinstance(jobs, CodedJobs)
        else jobs[name].to_numpy(dtype=np.float64, na_value=np.nan)
    )
    return values if np.isnan(missing) else np.where(np.isnan(values), missing, values)


def _positive(limits: Floats) -> Floats:
    return np.where(limits > 0, limits, np.inf)


def _walltime(jobs: pd.DataFrame) -> Floats:
    return _column(jobs, "walltime")


def _cpu_time(jobs: pd.DataFrame) -> Floats:
    return _column(jobs, "cpu_time")


def _io(jobs: pd.DataFrame) -> Floats:
    read, written = _column(jobs, "read_bytes"), _column(jobs, "written_bytes")
    missing = np.isnan(read) & np.isnan(written)
    total = np.where(missing, np.nan, np.nan_to_num(read) + np.nan_to_num(written))
    return total / np.maximum(_column(jobs, "walltime"), 1.0)


def _positive_outcome(name: str) -> Callable[[pd.DataFrame], Floats]:
    """Return a function of the outcomes of a field of which 0 says that it was not measured."""

    def values(jobs: pd.DataFrame) -> Floats:
        outcomes = _column(jobs, name)
        return np.where(outcomes > 0, outcomes, np.nan)

    return values


def _requested_cores(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return np.maximum(_column(jobs, "requested_cores", 1.0), 1.0)


_peak_memory = _positive_outcome("peak_memory")


def _cores(jobs: pd.DataFrame) -> Floats:
    """Return the cores each job had, else requested, else one."""
    cores = _column(jobs, "cores")
    return np.where(np.isnan(cores), _requested_cores(jobs), np.maximum(cores, 1.0))


def _cpu_work(jobs: pd.DataFrame) -> Floats:
    power = _column(jobs, "host_power")
    return np.where(power > 0, _cpu_time(jobs) * power, np.nan)


def _cpu_per_event(jobs: pd.DataFrame) -> Floats:
    events = _column(jobs, "events")
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(events > 0, _cpu_work(jobs) / events, np.nan)


def _walltime_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _positive(_column(jobs, "requested_walltime", np.inf))


def _memory_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _positive(_column(jobs, "requested_memory", np.inf))


def _cpu_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _walltime_limit(jobs) * _requested_cores(jobs)


def _gpu_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return _walltime_limit(jobs) * _positive(_column(jobs, "requested_gpus", np.inf))


def _duration(transfers: pd.DataFrame) -> Floats:
    """Return durations of completed transfers; a failure's says nothing of the link."""
    completed = transfers["status"].eq("completed").to_numpy(bool, na_value=False)
    return np.where(completed, _column(transfers, "duration"), np.nan)


def _bytes(transfers: pd.DataFrame | CodedJobs) -> Floats:
    return _positive(_column(transfers, "bytes", np.inf))


def _drain(jobs: pd.DataFrame | CodedJobs) -> Floats:
    """Return the time in which the cores in use would do all waiting work as requested."""
    with np.errstate(divide="ignore", invalid="ignore"):
        drain = _column(jobs, "system_waiting_work") / _column(jobs, "system_running_cores")
    return _positive(np.nan_to_num(drain, posinf=0.0))


def _no_limit(jobs: pd.DataFrame | CodedJobs) -> Floats:
    return np.full(len(jobs), np.inf)


def with_extra_inputs(target: Target, numbers: Sequence[str]) -> Target:
    """Return ``target`` with further numeric fields of its records as inputs of the refiner."""
    return replace(
        target, subject=replace(target.subject, numbers=(*target.subject.numbers, *numbers))
    )


def _highest(name: str) -> float:
    return next(field.highest for field in FIELDS if field.name == name)


_SECONDS, _MEMORY = _highest("walltime"), _highest("peak_memory")
_CPU_TIME, _WORK = _highest("cpu_time"), _highest("cpu_time") * _highest("host_power")
_ENERGY, _GPU_TIME = _highest("energy"), _highest("gpu_time")
_GPU_MEMORY = _highest("peak_gpu_memory")
_IO = _highest("read_bytes") + _highest("written_bytes")

TARGETS: dict[str, Target] = {
    target.name: target
    for target in (
        Target("walltime", "s", Grid(1.0, 16, 321, _SECONDS), _walltime, _walltime_limit),
        Target(
            "peak_memory", "bytes", Grid(2.0**16, 16, 513, _MEMORY), _peak_memory, _memory_limit
        ),
        Target("cpu_time", "s", Grid(1.0, 16, 449, _CPU_TIME), _cpu_time, _cpu_limit),
        Target(
            "transfer_time",
            "s",
            Grid(1.0, 16, 321, LONGEST),
            _duration,
            _bytes,
            TRANSFERS,
            binding=False,
        ),
        # Half of all waits are short and a tenth last for days: the median error, by which waits
        # are judged, is least far below the median.
        Target(
            "wait",
            "s",
            Grid(1.0, 16, 353, _SECONDS),
            waits,
            _drain,
            WAITS,
            binding=False,
            point=1 / 3,
        ),
        Target("io", "bytes/s", Grid(1.0, 8, 321, _IO), _io, _no_limit),
        Target(
            "memory_per_core",
            "bytes",
            Grid(2.0**16, 16, 417, _MEMORY),
            lambda jobs: _peak_memory(jobs) / _cores(jobs),
            lambda jobs: _memory_limit(jobs) / _requested_cores(jobs),
        ),
        Target(
            "cpu_per_core",
            "s",
            Grid(1.0, 16, 385, _CPU_TIME),
            lambda jobs: _cpu_time(jobs) / _cores(jobs),
            _walltime_limit,
        ),
        Target(
            "cpu_per_event", "HEPScore s", Grid(2.0**-10, 16, 513, _WORK), _cpu_per_event, _no_limit
        ),
        Target("cpu_work", "HEPScore s", Grid(1.0, 16, 513, _WORK), _cpu_work, _no_limit),
        Target(
            "io_per_core",
            "bytes/s",
            Grid(1.0, 8, 321, _IO),
            lambda jobs: _io(jobs) / _cores(jobs),
            _no_limit,
        ),
        Target(
            "energy",
            "J",
            Grid(2.0**6, 16, 481, _ENERGY),
            _positive_outcome("energy"),
            _no_limit,
        ),
        Target(
            "gpu_time",
            "s",
            Grid(1.0, 16, 449, _GPU_TIME),
            lambda jobs: _column(jobs, "gpu_time"),
            _gpu_limit,
        ),
        Target(
            "peak_gpu_memory",
            "bytes",
            Grid(2.0**20, 16, 417, _GPU_MEMORY),
            _positive_outcome("peak_gpu_memory"),
            _no_limit,
        ),
    )
}
"""Every target by name.

Walltime; memory in use by the whole job; CPU time over all cores; bytes read and written a second;
the same of a core; CPU time times the power of the host, of an event and of the whole job; and the
energy of the job's nodes, GPU time used and GPU memory in use by the whole job.
"""
