"""Brokers of a simulated grid: each chooses a site from the state so far; one is an oracle."""

from __future__ import annotations

import heapq

import numpy as np

from jobs.workload.grid import NO_SITE, GeneratedGrid
from scheduling.brokering.grid import LATENCY, GridState


class Random:
    """A random site, with probabilities in proportion to slots."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        return int(
            self._random.choice(len(state.grid.slots), p=state.grid.slots / state.grid.slots.sum())
        )


class ShortestQueue:
    """The site with the fewest waiting jobs per slot; of equals the one with most slots free."""

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        slots = state.grid.slots
        return int(np.lexsort((-state.free / slots, state.ahead / slots))[0])


class NearestData:
    """The site that holds the input; the shortest queue for a job without input."""

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        site = int(state.grid.input_at[job])
        return site if site != NO_SITE else ShortestQueue().choose(job, now, state)


class Oracle:
    """The site where a job ends first, by true run times.

    It knows run times on a typical host, the speeds of sites and the rates of links, and simulates
    every queue in the order of service: a bound for brokers that choose job by job. The host that a
    job will get, and the jitter of its transfer, it does not know.
    """

    def __init__(self, grid: GeneratedGrid) -> None:
        logs = np.log(grid.seconds)
        self.expected = np.exp(
            logs.mean(axis=1)[:, None] + logs.mean(axis=0)[None, :] - logs.mean()
        )

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        done = [
            self._begins(job, site, now, state) + self.expected[job, site]
            for site in range(len(state.grid.sites))
        ]
        return int(np.argmin(done))

    def _begins(self, job: int, site: int, now: float, state: GridState) -> float:
        """When ``job`` would start at ``site``, after its transfer and the jobs before it."""
        running = np.flatnonzero(
            (state.site == site) & ~np.isnan(state.started) & np.isnan(state.ended)
        )
        ends = [
            (max(now, state.started[run] + self.expected[run, site]), state.cores[run])
            for run in running
        ]
        heapq.heapify(ends)
        moment, free = now, state.free[site]
        for queued in (*state.queues[site], job):
            while free < state.cores[queued]:
                end, cores = heapq.heappop(ends)
                moment, free = max(moment, end), free + cores
            free -= state.cores[queued]
            heapq.heappush(ends, (moment + self.expected[queued, site], state.cores[queued]))
        return max(moment, self._arrives(job, site, now, state))

    @staticmethod
    def _arrives(job: int, site: int, now: float, state: GridState) -> float:
        if not state.moves(job, site):
            return now
        source = state.grid.input_at[job]
        return float(
            now
            + LATENCY
            + state.size[job] * (state.moving[source, site] + 1) / state.grid.rates[source, site]
        )
