"""A grid lived through: jobs come, a broker sends each to a site, its input travels while it waits there in order of arrival, it runs.

The grid is generated (``jobs.workload.grid``). A broker is told of a job, the moment and what has happened so far, and no more.
"""

from __future__ import annotations

import heapq
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.schema import JOB, TIME_TYPE, conform
from jobs.transfers import TRANSFER, derive_transfer_fields
from jobs.workload.grid import NO_SITE, GeneratedGrid

COMES, ARRIVES, ENDS = range(3)
LATENCY = 5.0
"""Seconds to open a transfer."""


@dataclass
class Lived:
    """What has happened so far on ``grid``, by job: all times in seconds since its first day, NaN for not yet.

    ``site`` is where each was sent (NO_SITE: not yet); a transfer is from ``sent`` until ``there``, a wait from ``sent`` until
    ``started``. ``free`` are each site's free slots, ``queues`` the jobs that wait there, ``ahead`` those sent there that have not started.
    """

    grid: GeneratedGrid
    came: Array
    site: Array
    sent: Array
    there: Array
    started: Array
    ended: Array
    free: Array
    queues: list[deque[int]]
    ahead: Array
    moving: Array
    cores: Array
    size: Array

    @staticmethod
    def beginning(grid: GeneratedGrid) -> Lived:
        """Nothing has happened yet."""
        count, sites = len(grid), len(grid.sites)
        came = (
            (grid.jobs["submitted_at"] - start_of(grid))
            .dt.total_seconds()
            .to_numpy(dtype=np.float64)
        )
        sent, there, started, ended = (np.full(count, np.nan) for _ in range(4))
        cores = grid.jobs["requested_cores"].to_numpy(dtype=np.float64).astype(np.int64)
        size = grid.jobs["input_bytes"].to_numpy(dtype=np.float64)
        empty = [deque[int]() for _ in range(sites)]
        ahead, moving = np.zeros(sites, np.int64), np.zeros((sites, sites), np.int64)
        return Lived(
            grid,
            came,
            np.full(count, NO_SITE),
            sent,
            there,
            started,
            ended,
            grid.slots.copy(),
            empty,
            ahead,
            moving,
            cores,
            size,
        )

    def moves(self, job: int, site: int) -> bool:
        """Whether a job's input must travel to ``site``."""
        return bool(self.grid.input_at[job] not in (NO_SITE, site))


class Broker(Protocol):
    """Who says where a job runs, from what has happened."""

    def choose(self, job: int, now: float, lived: Lived) -> int:
        """The site for ``job``, which has just come."""
        ...


def live_through(
    grid: GeneratedGrid, broker: Broker, progress: Callable[[float], None] | None = None
) -> Lived:
    """Live through all jobs of ``grid``, sent where ``broker`` says or where they are at home, until the last has ended."""
    lived = Lived.beginning(grid)
    events = [(float(moment), COMES, job) for job, moment in enumerate(lived.came)]
    heapq.heapify(events)
    while events:
        now, kind, job = heapq.heappop(events)
        if kind == COMES:
            at_home = int(grid.home[job])
            site = at_home if at_home != NO_SITE else broker.choose(job, now, lived)
            heapq.heappush(events, (_send(lived, job, site, now), ARRIVES, job))
            if progress and job % 100 == 0:
                progress(job / len(grid))
            continue
        site = int(lived.site[job])
        if kind == ARRIVES:
            if lived.moves(job, site):
                lived.moving[grid.input_at[job], site] -= 1
            lived.there[job] = now
        else:
            lived.ended[job] = now
            lived.free[site] += lived.cores[job]
        for begun in _start(lived, site, now):
            heapq.heappush(events, (now + float(grid.seconds[begun, site]), ENDS, begun))
    return lived


def _send(lived: Lived, job: int, site: int, now: float) -> float:
    """Send a job, and its input if it is elsewhere; says when both are there. Who comes to a busy link shares it from the start."""
    grid, source = lived.grid, int(lived.grid.input_at[job])
    lived.site[job], lived.sent[job] = site, now
    lived.ahead[site] += 1
    lived.queues[site].append(job)
    if not lived.moves(job, site):
        return now
    lived.moving[source, site] += 1
    rate = grid.rates[source, site] / lived.moving[source, site]
    return now + LATENCY + float(lived.size[job] / rate * grid.jitter[job])


def _start(lived: Lived, site: int, now: float) -> list[int]:
    """Start who waits at a site, first come first served; who still waits for input keeps its place and stops nobody."""
    begun = list[int]()
    for job in lived.queues[site]:
        if np.isnan(lived.there[job]):
            continue
        if lived.cores[job] > lived.free[site]:
            break
        lived.free[site] -= lived.cores[job]
        lived.ahead[site] -= 1
        lived.started[job] = now
        begun.append(job)
    for job in begun:
        lived.queues[site].remove(job)
    return begun


def start_of(grid: GeneratedGrid) -> pd.Timestamp:
    """The midnight before the first job."""
    return grid.jobs["submitted_at"].iloc[0].normalize()


def job_records(lived: Lived, rows: Array) -> pd.DataFrame:
    """The records of some jobs (indices) as they stand: submitted when they were sent."""
    begin = start_of(lived.grid)
    times = {"submitted_at": lived.sent, "started_at": lived.started, "ended_at": lived.ended}
    told = {name: _times(begin, values[rows]) for name, values in times.items()}
    ran = (lived.ended - lived.started)[rows]
    status = np.where(
        np.isnan(lived.ended[rows]),
        np.where(np.isnan(lived.started[rows]), "waiting", "running"),
        "completed",
    )
    sites = np.array(lived.grid.sites, dtype=object)[lived.site[rows]]
    return conform(
        lived.grid.jobs.iloc[rows].assign(**told, site=sites, walltime=ran, status=status), JOB
    )


def transfer_records(lived: Lived, rows: Array) -> pd.DataFrame:
    """The records of the transfers of some jobs (indices), all of which had one, as they stand."""
    begin, names = start_of(lived.grid), np.array(lived.grid.sites, dtype=object)
    told = {
        "transfer_id": lived.grid.jobs["job_id"].iloc[rows].to_numpy(),
        "source": lived.grid.jobs["source"].iloc[rows].to_numpy(),
        "from_endpoint": names[lived.grid.input_at[rows]],
        "to_endpoint": names[lived.site[rows]],
        "bytes": lived.grid.jobs["input_bytes"].iloc[rows].to_numpy(),
        "submitted_at": _times(begin, lived.sent[rows]),
        "started_at": _times(begin, lived.sent[rows]),
        "ended_at": _times(begin, lived.there[rows]),
        "duration": (lived.there - lived.sent)[rows],
    }
    return derive_transfer_fields(conform(pd.DataFrame(told), TRANSFER))


def _times(begin: pd.Timestamp, seconds: Array) -> Any:
    return pd.Series(begin + pd.to_timedelta(seconds, unit="s")).astype(TIME_TYPE).array
