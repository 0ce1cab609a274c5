"""Brokers of a simulated grid: where each sends a job, from what has happened and no more."""

from __future__ import annotations

import numpy as np

from jobs.workload.grid import NOWHERE
from scheduling.grid import Lived


class Random:
    """Any site, with the chance of its slots."""

    def __init__(self, seed: int = 0) -> None:
        self._random = np.random.default_rng(seed)

    def choose(self, job: int, now: float, lived: Lived) -> int:
        """See Broker."""
        return int(self._random.choice(len(lived.grid.slots), p=lived.grid.slots / lived.grid.slots.sum()))


class ShortestQueue:
    """The site with the fewest jobs that were sent there and have not started, a slot; of equals the one with most of its slots free."""

    def choose(self, job: int, now: float, lived: Lived) -> int:
        """See Broker."""
        slots = lived.grid.slots
        return int(np.lexsort((-lived.free / slots, lived.ahead / slots))[0])


class NearestData:
    """The site that holds the input; a job without input goes to the shortest queue."""

    def choose(self, job: int, now: float, lived: Lived) -> int:
        """See Broker."""
        at = int(lived.grid.input_at[job])
        return at if at != NOWHERE else ShortestQueue().choose(job, now, lived)
