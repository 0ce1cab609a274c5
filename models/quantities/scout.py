"""Scouts: how PanDA learns what a task needs from its first jobs, by its own formulas.

They are the baseline of predictions before scouts have run. The formulas are those of PanDA's code
(JEDI's ``TaskUtils`` and task refiners); the paper on learned resource prediction prints some of
them (its equations 1 to 3). Memory is in MB or kB as PanDA has it, times in seconds, HS06 a core.
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
"""Percent added to memory; the paper's equation 1 prints it as if it were a factor."""
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
    """Return the ``share``-th percentile (0 to 100), linear at k = (n − 1)·share/100, as PanDA.

    >>> percentile([10.0, 20.0, 30.0, 40.0], 75)  # k = 2.25
    32.5
    """
    ordered = np.sort(np.asarray(values, dtype=np.float64))
    k = (len(ordered) - 1) * share / 100
    below, above = int(np.floor(k)), int(np.ceil(k))
    return float(ordered[below] + (k - below) * (ordered[above] - ordered[below]))


def ram_count(peaks_kb: Floats, cores: Floats, base_mb: float = 0.0, least_mb: float = 0.0) -> int:
    """Compute ``ramCount`` in MB a core.

    int(P75(ceil((maxPSS − base·1024)/cores))·110 // 100 / 1024). Three jobs of 8 cores used 8, 12
    and 16 GB: 1,048,576, 1,572,864 and 2,097,152 kB a core. P75 is 1,835,008 kB; with 10 percent
    2,018,508 kB, or 1,971 MB.

    Args:
        peaks_kb: maxPSS in kB.
        cores: Cores of each job.
        base_mb: Memory that does not grow with the cores.
        least_mb: The least result.

    >>> ram_count(np.array([8.0, 12.0, 16.0]) * 2**20, np.array([8.0, 8.0, 8.0]))
    1971
    """
    shares = np.ceil((np.asarray(peaks_kb) - base_mb * 1024) / cores)
    ram_mb = int(percentile(shares, MEMORY_SHARE) * (100 + MEMORY_MARGIN) // 100 / 1024)
    return max(ram_mb, int(least_mb))


def next_ram(ram_mb: float) -> float | None:
    """Return the next rung of the retry ladder above ``ram_mb`` MB a core, or None at its end.

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
    """Jobs that ran: arrays float64[n], or one number for all.

    ``walltime`` s; ``cores``; ``events``; ``power`` HS06 a core.
    """

    walltime: Floats
    cores: Floats
    events: Floats
    power: Floats


def cpu_time(
    ran: Ran, efficiency: float = EFFICIENCY, base: float = BASE_WALLTIME
) -> tuple[int, str] | None:
    """Compute ``cpuTime`` an event and its unit; None when no job counts.

    ceil(1.5·P95(max(0, walltime − base)·power·cores·efficiency/100/events)). Jobs count with at
    least ten events a core or longer than six hours; below 10 HS06·s the unit is mHS06·s. One job
    of 8 cores ran 4,200 s on cores of 10 HS06 for 1,000 events: 3,600·10·8·.9/1000 = 259.2, times
    1.5 is 388.8.

    Args:
        ran: The jobs.
        efficiency: In percent.
        base: Seconds that do not count.

    >>> one = Ran(*(np.array([value]) for value in (4200.0, 8.0, 1000.0, 10.0)))
    >>> cpu_time(one)
    (389, 'HS06sPerEvent')
    >>> cpu_time(Ran(*(np.array([value]) for value in (1000.0, 1.0, 1000.0, 10.0))))
    (5400, 'mHS06sPerEvent')
    """
    walltime, cores, events, power = (
        np.atleast_1d(np.asarray(values, np.float64))
        for values in (ran.walltime, ran.cores, ran.events, ran.power)
    )
    counts = (events > 0) & ((events >= FEWEST_EVENTS * cores) | (walltime > LONG))
    if not counts.any():
        return None
    work = np.maximum(0.0, walltime - base) * power * cores * efficiency / 100
    needed = CPU_MARGIN * percentile((work[counts] / events[counts]), CPU_SHARE)
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
    """Compute CPU time an event after a job failed; it only rises.

    1.5·(walltime − base)·power·cores·1.1/(efficiency/100)/events.

    Args:
        walltime: Of the failed job, s.
        cores: Its cores.
        events: Its events.
        power: HS06 a core.
        before: The CPU time an event until now.
        efficiency: In percent.
        base: Seconds that do not count.

    >>> round(cpu_time_after_failure(4200.0, 8.0, 1000.0, 10.0, before=389.0), 1)
    528.0
    >>> cpu_time_after_failure(1200.0, 8.0, 1000.0, 10.0, before=389.0)
    389.0
    """
    return max(
        before, CPU_MARGIN * (walltime - base) * power * cores * 1.1 / (efficiency / 100) / events
    )


def io_intensity(input_mb: Floats, output_bytes: Floats, walltime: Floats, cores: Floats) -> int:
    """Compute ``ioIntensity`` in kB/s a core, the most of all jobs.

    ceil(max((input_MB·1024 + output_bytes/1024)/walltime/cores)). 1,000 MB in and 100 MiB out in
    1,000 s on 8 cores: (1,024,000 + 102,400)/1,000/8 = 140.8.

    Args:
        input_mb: Input of each job, MB.
        output_bytes: Output of each, bytes.
        walltime: Of each, s.
        cores: Of each.

    >>> one = (np.array([value]) for value in (1000.0, 100 * 2.0**20, 1000.0, 8.0))
    >>> io_intensity(*one)
    141
    """
    return ceil(float(np.max((input_mb * 1024 + output_bytes / 1024) / walltime / cores)))


def disk_io(moved_kb: Floats, walltime: Floats) -> float:
    """Compute ``diskIO`` in kB/s, the mean over jobs of what they read and wrote a second.

    >>> disk_io(np.array([1000.0, 3000.0]), np.array([100.0, 100.0]))
    20.0
    """
    return float(np.mean(moved_kb / walltime))


def out_disk(output_bytes: Floats, per: Floats) -> float:
    """Compute ``outDisk`` in kB an event or a MB of input, whichever ``per`` counts.

    >>> out_disk(np.array([2.0**20, 2.0**21]), np.array([1024.0, 1024.0]))
    1.75
    """
    return percentile(output_bytes / per, MEMORY_SHARE) / 1024


def cpu_efficiency(cpu_seconds: Floats, cores: Floats, walltime: Floats) -> float:
    """Compute ``cpuEfficiency`` in percent: median(ceil(cpu/(cores·walltime)·100)).

    Args:
        cpu_seconds: Of each job over all cores.
        cores: Of each job.
        walltime: Of each job, s.

    >>> cores, walltime = np.array([8.0, 8.0, 1.0]), np.full(3, 100.0)
    >>> cpu_efficiency(np.array([700.0, 810.0, 95.0]), cores, walltime)
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
    """Compute ``maxWalltime`` in seconds (the paper's equation 3).

    cpuTime·events/(cores·power)/(efficiency/100) + base.

    Args:
        cpu_per_event: HS06·s.
        events: Of a job.
        cores: Of a job.
        power: HS06 a core.
        efficiency: In percent.
        base: Seconds added.

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
    """Compute the most HS06·s that the broker sends to a site: (longest − base)·cores·power·eff.

    Args:
        longest: The site's longest walltime, s.
        cores: Of a job.
        power: HS06 a core.
        efficiency: In percent.
        base: Seconds subtracted.

    >>> site_limit(36_600.0, 8.0, 10.0)
    2592000.0
    """
    return (longest - base) * cores * power * efficiency / 100


def core_power(model_at_site: float | None, model: float | None, queue: float | None) -> float:
    """Return HS06 a core, the first known of three benchmarks, else 10.

    Args:
        model_at_site: The processor's at that site.
        model: The processor's mean anywhere.
        queue: The queue's.

    >>> core_power(None, 12.5, 9.0), core_power(None, None, None)
    (12.5, 10.0)
    """
    return next((power for power in (model_at_site, model, queue) if power), CORE_POWER)


def exhausted(
    *,
    cpu_time: float,
    requested_cpu_time: float,
    walltime: float,
    ram_mb: float,
    requested_ram_mb: float,
    cpu_seconds: float,
    cores: float,
) -> list[str]:
    """Return why PanDA stops a task after its scouts by one of their jobs; empty: it goes on.

    Args:
        cpu_time: HS06·s an event.
        requested_cpu_time: The same as requested.
        walltime: s.
        ram_mb: MB a core.
        requested_ram_mb: The same as requested.
        cpu_seconds: CPU time over all cores, s.
        cores: Of the job.

    >>> job = {"cpu_time": 500.0, "requested_cpu_time": 200.0, "cores": 1.0, "ram_mb": 5000.0}
    >>> job |= {"walltime": 90_000.0, "cpu_seconds": 90_000.0, "requested_ram_mb": 2000.0}
    >>> for reason in exhausted(**job):
    ...     print(reason)
    CPU time over twice what was requested, in over a day
    memory over 4000 MB a core, less was requested
    >>> exhausted(**(job | {"walltime": 3600.0, "ram_mb": 3000.0}))
    ['CPU over twice walltime times cores']
    """
    reasons = {
        "CPU time over twice what was requested, in over a day": cpu_time > 2 * requested_cpu_time
        and walltime > 86_400,
        "memory over 4000 MB a core, less was requested": ram_mb > 4000 and requested_ram_mb < 4000,
        "CPU over twice walltime times cores": cpu_seconds > 2 * walltime * cores,
    }
    return [reason for reason, holds in reasons.items() if holds]
