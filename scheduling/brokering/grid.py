"""A simulated grid: a broker sends each job to a site, where it waits for its input and its turn.

The grid is generated (``jobs.workload.grid``). A broker gets a job, the time and the state so far.
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
class GridState:
    """The state of a grid: by job times in seconds since its first day, NaN for not yet.

    ``came`` is the submission; ``site`` where a job was sent (NO_SITE: not yet). A transfer lasts
    from ``sent`` until ``there``, a wait from ``sent`` until ``started``. By site, ``free`` are
    slots, ``queues`` the waiting jobs, ``ahead`` how many were sent there and have not started;
    ``moving`` counts transfers by link.
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
    def beginning(grid: GeneratedGrid) -> GridState:
        """The state before the first submission."""
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
        return GridState(
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
        """Whether a job's input must be transferred to ``site``."""
        return bool(self.grid.input_at[job] not in (NO_SITE, site))


class Broker(Protocol):
    """Chooses the site of a job from the state."""

    def choose(self, job: int, now: float, state: GridState) -> int:
        """The site for ``job``, submitted at ``now``.

        Args:
            job: The job's number.
            now: Its submission, in s.
            state: The state of the grid.
        """
        ...


def simulate(
    grid: GeneratedGrid, broker: Broker, progress: Callable[[float], None] | None = None
) -> GridState:
    """Simulate all jobs of ``grid`` until the last has ended.

    Args:
        grid: The grid and its jobs.
        broker: Chooses the sites of jobs that have no home.
        progress: Is called with the share of jobs submitted.
    """
    state = GridState.beginning(grid)
    events = [(float(moment), COMES, job) for job, moment in enumerate(state.came)]
    heapq.heapify(events)
    while events:
        now, kind, job = heapq.heappop(events)
        if kind == COMES:
            at_home = int(grid.home[job])
            site = at_home if at_home != NO_SITE else broker.choose(job, now, state)
            heapq.heappush(events, (_send(state, job, site, now), ARRIVES, job))
            if progress and job % 100 == 0:
                progress(job / len(grid))
            continue
        site = int(state.site[job])
        if kind == ARRIVES:
            if state.moves(job, site):
                state.moving[grid.input_at[job], site] -= 1
            state.there[job] = now
        else:
            state.ended[job] = now
            state.free[site] += state.cores[job]
        for begun in _start(state, site, now):
            heapq.heappush(events, (now + float(grid.seconds[begun, site]), ENDS, begun))
    return state


def _send(state: GridState, job: int, site: int, now: float) -> float:
    """Send a job, and its input if it is at another site; returns when both have arrived.

    A transfer shares its link with those under way when it begins.
    """
    grid, source = state.grid, int(state.grid.input_at[job])
    state.site[job], state.sent[job] = site, now
    state.ahead[site] += 1
    state.queues[site].append(job)
    if not state.moves(job, site):
        return now
    state.moving[source, site] += 1
    rate = grid.rates[source, site] / state.moving[source, site]
    return now + LATENCY + float(state.size[job] / rate * grid.jitter[job])


def _start(state: GridState, site: int, now: float) -> list[int]:
    """Start jobs that wait at a site in order of arrival, skipping those without their input."""
    begun = list[int]()
    for job in state.queues[site]:
        if np.isnan(state.there[job]):
            continue
        if state.cores[job] > state.free[site]:
            break
        state.free[site] -= state.cores[job]
        state.ahead[site] -= 1
        state.started[job] = now
        begun.append(job)
    for job in begun:
        state.queues[site].remove(job)
    return begun


def start_of(grid: GeneratedGrid) -> pd.Timestamp:
    """Midnight before the first job."""
    return grid.jobs["submitted_at"].iloc[0].normalize()


def job_records(state: GridState, rows: Array) -> pd.DataFrame:
    """The records of some jobs (indices) now; they are submitted when they were sent."""
    begin = start_of(state.grid)
    times = {"submitted_at": state.sent, "started_at": state.started, "ended_at": state.ended}
    columns = {name: _times(begin, values[rows]) for name, values in times.items()}
    ran = (state.ended - state.started)[rows]
    status = np.where(
        np.isnan(state.ended[rows]),
        np.where(np.isnan(state.started[rows]), "waiting", "running"),
        "completed",
    )
    sites = np.array(state.grid.sites, dtype=object)[state.site[rows]]
    return conform(
        state.grid.jobs.iloc[rows].assign(**columns, site=sites, walltime=ran, status=status), JOB
    )


def transfer_records(state: GridState, rows: Array) -> pd.DataFrame:
    """The records of the transfers of some jobs (indices), all of which had one, now."""
    begin, names = start_of(state.grid), np.array(state.grid.sites, dtype=object)
    columns = {
        "transfer_id": state.grid.jobs["job_id"].iloc[rows].to_numpy(),
        "source": state.grid.jobs["source"].iloc[rows].to_numpy(),
        "from_endpoint": names[state.grid.input_at[rows]],
        "to_endpoint": names[state.site[rows]],
        "bytes": state.grid.jobs["input_bytes"].iloc[rows].to_numpy(),
        "submitted_at": _times(begin, state.sent[rows]),
        "started_at": _times(begin, state.sent[rows]),
        "ended_at": _times(begin, state.there[rows]),
        "duration": (state.there - state.sent)[rows],
    }
    return derive_transfer_fields(conform(pd.DataFrame(columns), TRANSFER))


def _times(begin: pd.Timestamp, seconds: Array) -> Any:
    return pd.Series(begin + pd.to_timedelta(seconds, unit="s")).astype(TIME_TYPE).array
