"""Scouts: how PanDA learns what a task needs from its first jobs, exactly by its formulas, which are the bar for whoever predicts before.

The formulas are those of PanDA's code (JEDI's ``TaskUtils`` and task refiners) as ANCHORS.md tells them; the paper on learned resource
prediction prints some of them (its equations 1 to 3). Memory is in MB or kB as PanDA keeps it, times in seconds, HS06 a core.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import ceil

import numpy as np

from infra.aliases import Floats

MOST_JOBS = 1000
"""At most so many finished jobs of a task are looked at."""
MEMORY_SHARE, CPU_SHARE = 75.0, 95.0
"""The percentiles over a task's jobs: of memory and output, of CPU time."""
MEMORY_MARGIN = 10
"""Percent added to memory. The paper's equation 1 prints "margin (default 10)" as if it were a factor."""
CPU_MARGIN = 1.5
EFFICIENCY = 90.0
BASE_WALLTIME, BASE_WALLTIME_ANALYSIS = 600.0, 60.0
CORE_POWER = 10.0
FEWEST_EVENTS = 10.0
"""A job tells the CPU time an event where it has so many events a core, or is LONG."""
LONG = 6 * 3600.0
RAM_LADDER = (1000.0, 2000.0, 3000.0, 4000.0, 6000.0, 8000.0)
"""MB a core: what a job killed for memory is tried with next."""
RAISED_SHARE = 0.3
"""The whole task is raised once more than this share of its files were."""


def percentile(values: Sequence[float] | Floats, share: float) -> float:
    """The ``share``-th percentile (0 to 100), linear between neighbours, k = (n − 1)·share/100, as PanDA takes it.

    >>> percentile([10.0, 20.0, 30.0, 40.0], 75)  # k = 2.25
    32.5
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    k = (len(ordered) - 1) * share / 100
    below, above = int(np.floor(k)), int(np.ceil(k))
    return float(ordered[below] + (k - below) * (ordered[above] - ordered[below]))


def ram_count(peaks_kb: Floats, cores: Floats, base_mb: float = 0.0, least_mb: float = 0.0) -> int:
    """``ramCount`` in MB a core: int(P75(ceil((maxPSS − base·1024)/cores))·110 // 100 / 1024), no less than ``least_mb``.

    Three jobs of 8 cores used 8, 12 and 16 GB: 1,048,576, 1,572,864 and 2,097,152 kB a core. P75 is 1,835,008 kB; with 10 percent
    2,018,508 kB, or 1,971 MB.

    >>> ram_count(np.array([8.0, 12.0, 16.0]) * 2**20, np.array([8.0, 8.0, 8.0]))
    1971
    """
    shares = np.ceil((np.asarray(peaks_kb) - base_mb * 1024) / cores)
    found = int(percentile(shares, MEMORY_SHARE) * (100 + MEMORY_MARGIN) // 100 / 1024)
    return max(found, int(least_mb))


def next_ram(ram_mb: float) -> float | None:
    """The next rung of the retry ladder above ``ram_mb`` MB a core, or None at its end.

    >>> next_ram(1971), next_ram(4000), next_ram(8000)
    (2000.0, 6000.0, None)
    """
    return next((rung for rung in RAM_LADDER if rung > ram_mb), None)


def raises_task(raised_files: int, files: int) -> bool:
    """Whether so many files were raised that the whole task is.

    >>> raises_task(30, 100), raises_task(31, 100)
    (False, True)
    """
    return raised_files > RAISED_SHARE * files


@dataclass(frozen=True)
class Ran:
    """What is known of jobs that ran: arrays float64[n], or one number for all.

    ``walltime`` s; ``cores``; ``events``; ``power`` HS06 a core.
    """

    walltime: Floats
    cores: Floats
    events: Floats
    power: Floats


def cpu_time(
    ran: Ran, efficiency: float = EFFICIENCY, base: float = BASE_WALLTIME
) -> tuple[int, str] | None:
    """``cpuTime`` an event: ceil(1.5·P95(max(0, walltime − base)·power·cores·efficiency/100/events)), with its unit.

    Jobs count with at least ten events a core or longer than six hours; below 10 HS06·s it is told in mHS06·s, times 1000. None when no
    job counts. One job of 8 cores ran 4,200 s on cores of 10 HS06 for 1,000 events: 3,600·10·8·.9/1000 = 259.2, times 1.5 is 388.8.

    >>> one = Ran(*(np.array([value]) for value in (4200.0, 8.0, 1000.0, 10.0)))
    >>> cpu_time(one)
    (389, 'HS06sPerEvent')
    >>> cpu_time(Ran(*(np.array([value]) for value in (1000.0, 1.0, 1000.0, 10.0))))
    (5400, 'mHS06sPerEvent')
    """
    walltime, cores, events, power = (
        np.atleast_1d(np.asarray(part, np.float64))
        for part in (ran.walltime, ran.cores, ran.events, ran.power)
    )
    counts = (events > 0) & ((events >= FEWEST_EVENTS * cores) | (walltime > LONG))
    if not counts.any():
        return None
    each = (
        np.maximum(0.0, walltime - base)[counts]
        * power[counts]
        * cores[counts]
        * efficiency
        / 100
        / events[counts]
    )
    needed = CPU_MARGIN * percentile(each, CPU_SHARE)
    return (
        (ceil(needed * 1000), "mHS06sPerEvent") if needed < 10 else (ceil(needed), "HS06sPerEvent")
    )


def cpu_time_after_failure(
    walltime: float,
    cores: float,
    events: float,
    power: float,
    before: float,
    efficiency: float = EFFICIENCY,
    base: float = BASE_WALLTIME,
) -> float:
    """CPU time an event once a job ended without success: 1.5·(walltime − base)·power·cores·1.1/(efficiency/100)/events, upwards only.

    >>> round(cpu_time_after_failure(4200.0, 8.0, 1000.0, 10.0, before=389.0), 1)
    528.0
    >>> cpu_time_after_failure(1200.0, 8.0, 1000.0, 10.0, before=389.0)
    389.0
    """
    return max(
        before, CPU_MARGIN * (walltime - base) * power * cores * 1.1 / (efficiency / 100) / events
    )


def io_intensity(input_mb: Floats, output_bytes: Floats, walltime: Floats, cores: Floats) -> int:
    """``ioIntensity`` in kB/s a core: ceil(max((input_MB·1024 + output_bytes/1024)/walltime/cores)).

    1,000 MB in and 100 MiB out in 1,000 s on 8 cores: (1,024,000 + 102,400)/1,000/8 = 140.8.

    >>> io_intensity(np.array([1000.0]), np.array([100 * 2.0**20]), np.array([1000.0]), np.array([8.0]))
    141
    """
    return ceil(float(np.max((input_mb * 1024 + output_bytes / 1024) / walltime / cores)))


def disk_io(moved_kb: Floats, walltime: Floats) -> float:
    """``diskIO`` in kB/s: the mean over jobs of what they read and wrote a second.

    >>> disk_io(np.array([1000.0, 3000.0]), np.array([100.0, 100.0]))
    20.0
    """
    return float(np.mean(moved_kb / walltime))


def out_disk(output_bytes: Floats, per: Floats) -> float:
    """``outDisk`` in kB an event or a MB of input, whichever ``per`` counts: P75(output/per)/1024.

    >>> out_disk(np.array([2.0**20, 2.0**21]), np.array([1024.0, 1024.0]))
    1.75
    """
    return percentile(output_bytes / per, MEMORY_SHARE) / 1024


def cpu_efficiency(cpu_seconds: Floats, cores: Floats, walltime: Floats) -> float:
    """``cpuEfficiency`` in percent: median(ceil(cpu/(cores·walltime)·100)).

    >>> cpu_efficiency(np.array([700.0, 810.0, 95.0]), np.array([8.0, 8.0, 1.0]), np.array([100.0, 100.0, 100.0]))
    95.0
    """
    return percentile(np.ceil(cpu_seconds / (cores * walltime) * 100), 50)


def walltime_of(
    cpu_per_event: float,
    events: float,
    cores: float,
    power: float,
    efficiency: float = EFFICIENCY,
    base: float = BASE_WALLTIME,
) -> float:
    """``maxWalltime`` in seconds: cpuTime·events/(cores·power)/(efficiency/100) + base (the paper's equation 3).

    >>> walltime_of(360.0, 1000.0, 8.0, 10.0)
    5600.0
    """
    return cpu_per_event * events / (cores * power) / (efficiency / 100) + base


def site_limit(
    longest: float,
    cores: float,
    power: float,
    efficiency: float = EFFICIENCY,
    base: float = BASE_WALLTIME,
) -> float:
    """The most HS06·s that the broker sends to a site of ``longest`` seconds: (longest − base)·cores·power·efficiency.

    >>> site_limit(36_600.0, 8.0, 10.0)
    2592000.0
    """
    return (longest - base) * cores * power * efficiency / 100


def core_power(model_at_site: float | None, model: float | None, queue: float | None) -> float:
    """HS06 a core: the processor's benchmark at that site, then its mean anywhere, then the queue's, then 10.

    >>> core_power(None, 12.5, 9.0), core_power(None, None, None)
    (12.5, 10.0)
    """
    return next((power for power in (model_at_site, model, queue) if power), CORE_POWER)


def exhausted(
    *,
    cpu_time: float,
    asked_cpu_time: float,
    walltime: float,
    ram_mb: float,
    asked_ram_mb: float,
    cpu_seconds: float,
    cores: float,
) -> list[str]:
    """Why PanDA stops a task after its scouts, as far as one job shows it: an empty list lets it go on.

    CPU time over twice what was asked in a run over a day; over 4,000 MB a core while less was asked; CPU over twice walltime times cores.

    >>> one = {"cpu_time": 500.0, "asked_cpu_time": 200.0, "walltime": 90_000.0, "cpu_seconds": 90_000.0, "cores": 1.0}
    >>> exhausted(**one, ram_mb=5000.0, asked_ram_mb=2000.0)
    ['CPU time over twice what was asked, in over a day', 'memory over 4000 MB a core, less was asked']
    >>> exhausted(**(one | {"walltime": 3600.0}), ram_mb=3000.0, asked_ram_mb=2000.0)
    ['CPU over twice walltime times cores']
    """
    found = {
        "CPU time over twice what was asked, in over a day": cpu_time > 2 * asked_cpu_time
        and walltime > 86_400,
        "memory over 4000 MB a core, less was asked": ram_mb > 4000 and asked_ram_mb < 4000,
        "CPU over twice walltime times cores": cpu_seconds > 2 * walltime * cores,
    }
    return [reason for reason, holds in found.items() if holds]
