"""Brokers of a simulated grid: where each sends a job, from what has happened and no more; and one that knows what none can."""

from __future__ import annotations

import heapq

import numpy as np

from jobs.workload.grid import NO_SITE, GeneratedGrid
from scheduling.brokering.grid import LATENCY, GridState


class Random:
    """Any site, with the chance of its slots."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        return int(
            self._random.choice(len(state.grid.slots), p=state.grid.slots / state.grid.slots.sum())
        )


class ShortestQueue:
    """The site with the fewest jobs that were sent there and have not started, a slot; of equals the one with most of its slots free."""

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        slots = state.grid.slots
        return int(np.lexsort((-state.free / slots, state.ahead / slots))[0])


class NearestData:
    """The site that holds the input; a job without input goes to the shortest queue."""

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        at = int(state.grid.input_at[job])
        return at if at != NO_SITE else ShortestQueue().choose(job, now, state)


class Oracle:
    """Where a job is done first by what no broker can know: what each job takes on a typical host, and how fast each site is.

    By these it plays out every queue, in the order in which sites serve, and it knows each link's rate: a bound for whoever chooses
    one job after the other. Which host a job will get, and how much slower its transfer will be than its link, it does not know either.
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
        """When ``job`` would start at ``site``: its input there, and those before it served."""
        running = np.flatnonzero(
            (state.site == site) & ~np.isnan(state.started) & np.isnan(state.ended)
        )
        ends = [
            (max(now, state.started[other] + self.expected[other, site]), state.cores[other])
            for other in running
        ]
        heapq.heapify(ends)
        moment, free = now, state.free[site]
        for other in (*state.queues[site], job):
            while free < state.cores[other]:
                end, cores = heapq.heappop(ends)
                moment, free = max(moment, end), free + cores
            free -= state.cores[other]
            heapq.heappush(ends, (moment + self.expected[other, site], state.cores[other]))
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
