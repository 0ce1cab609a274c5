"""Allocation: what to allocate and what to try after each failure, as one decision.

The ladder of allocations minimises the expected cost: what is allocated and not used over the time
it is held, all that a failed attempt held, and a price for each failure. It is found by dynamic
programming from the top down: the cost of going on after an allocation failed is known when the one
below is chosen. The cost of a next rung k after j failed is a line in what is still to come after
j, whose slope is the size of the rung; the least of all lines (their lower hull) is found in time
linear in the bins.
"""

from __future__ import annotations

import numpy as np

from infra.aliases import Array, Floats
from infra.compiled import compiled
from models.histories.occupancy import Occupancy
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid

FAILURE_PRICE = 1.0
"""The cost of a failure beside its waste, GiB·h: the job is late, a person may look at it."""
GIB_HOUR = 2.0**30 * 3600.0
MAX_RUNGS = 8
"""Rungs of a ladder at most; after the last the allocation is doubled."""
REPORTED_RUNGS = 3
MASS, TIME, USED, RATE, OFFSET, SUMS = range(6)
"""Rows of the sums that the choice of rungs works on."""
TYPICAL_WALLTIME = 3600.0
"""The run time of a job without any history, s."""


def ladders(
    occupancy: Occupancy,
    grid: Grid,
    ceiling: Array,
    by_request: Array | bool = False,
    price: float = FAILURE_PRICE,
    typical: float = TYPICAL_WALLTIME,
    gradual: bool = False,
) -> Floats:
    """Compute the allocations of each job, first and after each failure.

    Args:
        occupancy: The predicted memory of n jobs, and for how long it is held.
        grid: Of the memory.
        ceiling: The most that each job may get, float64[n], infinite for none; a finite one is the
            last rung.
        by_request: Whether the ceiling is the job's own request, bool[n]; a cold start gets just
            that.
        price: Of a failure, GiB·h.
        typical: The run time towards which those of single jobs are drawn, s.
        gradual: Memory grows evenly, so that a failed attempt ends after the share
            allocation/peak of the run time; otherwise it takes the whole run time.

    Returns:
        float64[n, MAX_RUNGS], rising, NaN after the last rung.

    >>> half = np.array([[0.5, 0.0, 0.0, 0.5]])  # as many use 1 as use 8
    >>> one_hour, top, compliance = np.array([3600.0]), np.array([3]), np.array([0])
    >>> two_peaks = Occupancy(half, half, one_hour, top, compliance, cold=np.array([False]))
    >>> gib = Grid(2.0**30, 1, 4)
    >>> free = ladders(two_peaks, gib, np.array([np.inf]), price=0.0)
    >>> np.round(free / 2**30, 1)[0, :3].tolist()
    [2.0, 16.0, nan]
    >>> dear = ladders(two_peaks, gib, np.array([np.inf]), price=15.0)
    >>> np.round(dear / 2**30, 1)[0, :2].tolist()
    [16.0, nan]
    """
    seconds = np.where(np.isnan(occupancy.seconds), typical, occupancy.seconds)
    seconds = np.maximum(np.sqrt(seconds * typical), 1.0)
    rungs, ceiling = np.empty((len(seconds), MAX_RUNGS)), np.asarray(ceiling, np.float64)
    _ladders(
        np.ascontiguousarray(occupancy.mass),
        np.ascontiguousarray(occupancy.weighted),
        seconds,
        occupancy.top,
        grid.edges,
        grid.centres,
        ceiling,
        price * GIB_HOUR,
        gradual,
        rungs,
    )
    at_request = occupancy.cold & by_request & np.isfinite(ceiling)
    rungs[at_request] = np.nan
    rungs[at_request, 0] = ceiling[at_request]
    return rungs


def allocation_columns(
    occupancy: Occupancy, predicted: Distribution, limits: Array, price: float = FAILURE_PRICE
) -> dict[str, Array]:
    """Compute the columns of an allocation, float64[n] by the end of their names.

    Where jobs keep to their requests nothing is allocated above them.

    Args:
        occupancy: The predicted memory of n jobs, and for how long it is held.
        predicted: The distribution of the memory.
        limits: What each job requested, float64[n], infinite for nothing.
        price: Of a failure, GiB·h.

    Returns:
        The first REPORTED_RUNGS rungs, and the risk that the first fails.
    """
    ceiling = np.where(np.isfinite(predicted.limit), limits, np.inf)
    rungs = ladders(occupancy, predicted.grid, ceiling, np.isfinite(ceiling), price)
    rungs = np.fmax.accumulate(rungs, axis=1)  # the last rung stays for those after it
    columns = {
        "_allocation" + (f"_{rung + 1}" if rung else ""): rungs[:, rung]
        for rung in range(REPORTED_RUNGS)
    }
    first = rungs[:, 0]
    risk = np.where(first < predicted.limit, predicted.probability_over(first), 0.0)
    return columns | {"_risk": risk}


@compiled
def _ladders(
    mass: Array,
    weighted: Array,
    seconds: Array,
    top: Array,
    edges: Array,
    centres: Array,
    ceiling: Array,
    price: float,
    gradual: bool,
    rungs: Array,
) -> None:
    bins = mass.shape[1]
    sums, hull = np.empty((SUMS, bins + 1)), np.empty(bins + 1, np.int64)
    next_rung = np.empty(bins + 1, np.int64)
    rungs[:] = np.nan
    for row in range(len(mass)):
        last = top[row]
        while last > 0 and edges[last] >= ceiling[row]:
            last -= 1
        _sum_below(mass[row], weighted[row], seconds[row], centres, last, sums)
        _choose_rungs(sums, edges, last, price, gradual, hull, next_rung)
        rung = next_rung[0]
        for number in range(rungs.shape[1]):
            rungs[row, number] = min(edges[rung + 1], ceiling[row])
            if rung == last:
                break
            rung = next_rung[rung + 1]


@compiled
def _sum_below(
    mass: Array, weighted: Array, seconds: float, centres: Array, last: int, sums: Array
) -> None:
    """Sum into ``sums`` the mass, time, use and time over use below each bin.

    All above ``last`` counts there.
    """
    sums[:] = 0.0
    for b in range(len(mass)):
        edge = min(b, last) + 1
        sums[MASS, edge] += mass[b]
        sums[TIME, edge] += weighted[b] * seconds
        sums[USED, edge] += weighted[b] * seconds * centres[min(b, last)]
        sums[RATE, edge] += weighted[b] * seconds / centres[min(b, last)]
    for b in range(last + 1):
        for kind in range(OFFSET):
            sums[kind, b + 1] += sums[kind, b]


@compiled
def _choose_rungs(
    sums: Array,
    edges: Array,
    last: int,
    price: float,
    gradual: bool,
    hull: Array,
    next_rung: Array,
) -> None:
    """Find the cheapest next rung after each bin was too small.

    Args:
        sums: Of one job, see ``_sum_below``. ``sums[OFFSET]`` is filled with the part of each
            rung's line that does not depend on the rung below: its cost when all is still to come
            after it, less what jobs up to it used.
        edges: Of the grid.
        last: The last bin that may be allocated.
        price: Of a failure.
        gradual: See ``ladders``.
        hull: Room for the rungs on the lower hull.
        next_rung: The result, for each bin.
    """
    size, to_go, low = 0, 0.0, 0
    for rung in range(last, -1, -1):
        failing = sums[MASS, last + 1] - sums[MASS, rung + 1]
        offset = to_go - sums[USED, rung + 1] + price * failing
        if gradual:  # a failed attempt holds the rung for rung/peak of the time, not for all of it
            size_of_rung = edges[rung + 1]
            above = sums[TIME, last + 1] - sums[TIME, rung + 1]
            rate = sums[RATE, last + 1] - sums[RATE, rung + 1]
            offset += size_of_rung * (size_of_rung * rate - above)
        sums[OFFSET, rung] = offset
        while size >= 2:
            # The line added last is never least where the one before and the new one cross before.
            before, middle = hull[size - 2], hull[size - 1]
            rise = sums[OFFSET, middle] - sums[OFFSET, before]
            run = edges[before + 1] - edges[middle + 1]
            if (offset - sums[OFFSET, before]) * run > rise * (edges[before + 1] - edges[rung + 1]):
                break
            size -= 1
        hull[size] = rung
        size += 1
        left = sums[TIME, last + 1] - sums[TIME, rung]
        # More time is left with each step down: the least line never moves back.
        low = min(low, size - 1)
        while low < size - 1 and _cost(hull[low + 1], edges, sums, left) < _cost(
            hull[low], edges, sums, left
        ):
            low += 1
        best = hull[low]
        next_rung[rung] = best
        to_go = _cost(best, edges, sums, left) + sums[USED, rung]


@compiled
def _cost(rung: int, edges: Array, sums: Array, left: float) -> float:
    """The cost of trying ``rung`` next with ``left`` time to come, less what jobs before used."""
    return edges[rung + 1] * left + sums[OFFSET, rung]
