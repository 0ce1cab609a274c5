"""Allocation: how much to set aside, and what to try after each failure, as one decision.

A ladder of allocations is chosen that makes the expected cost least: what is set aside and not used, over the time it is held, all
that a failed attempt held, and a price for each failure. Dynamic programming from the top down: what it costs to go on after an
allocation failed is known when the one below is chosen. The cost of a next rung k after j failed is a line in what is still to come
after j, with the rung's size as its slope, so that the least of all lines (their lower hull) is found in time linear in the bins.
"""

from __future__ import annotations

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from models.histories.occupancy import Occupancy
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid

PRICE = 1.0
"""What a failure costs beside what it wasted, in GiB·h: the job is late, and somebody may have to look."""
GIB_HOUR = 2.0**30 * 3600.0
RUNGS = 8
"""How many rungs a ladder has at most; after the last whoever runs the job doubles."""
TOLD = 3
"""How many of them a caller is told."""
UNKNOWN_WALLTIME = 3600.0
"""The run time of a job of which nothing is known, in seconds."""


def ladders(
    found: Occupancy,
    grid: Grid,
    ceiling: Array,
    by_request: Array | bool = False,
    price: float = PRICE,
    typical: float = UNKNOWN_WALLTIME,
) -> Array:
    """What to set aside for each job, first and after each failure: float64[n, RUNGS], rising, NaN after the last rung.

    ``ceiling`` (float64[n], infinite for none) is the most that a job may get and the last rung where it is finite. ``by_request``
    (bool[n]) says that it is the job's own request: who is new gets just that. ``price`` is in GiB·h a failure; ``typical`` is the run
    time in seconds towards which those of single jobs are drawn.

    >>> half = np.array([[0.5, 0.0, 0.0, 0.5]])  # as many use 1 as use 8
    >>> sure = Occupancy(half, half, np.array([3600.0]), np.array([3]), np.array([0]), cold=np.array([False]))
    >>> gib = Grid(2.0**30, 1, 4)
    >>> np.round(ladders(sure, gib, np.array([np.inf]), price=0.0) / 2**30, 1)[0, :3].tolist()
    [2.0, 16.0, nan]
    >>> np.round(ladders(sure, gib, np.array([np.inf]), price=15.0) / 2**30, 1)[0, :2].tolist()
    [16.0, nan]
    """
    seconds = np.sqrt(np.where(np.isnan(found.seconds), typical, found.seconds) * typical)
    seconds = np.maximum(seconds, 1.0)
    out, ceiling = np.empty((len(seconds), RUNGS)), np.asarray(ceiling, np.float64)
    mass, held = (np.ascontiguousarray(part) for part in (found.mass, found.weighted))
    _ladders(
        mass, held, seconds, found.top, grid.edges, grid.centres, ceiling, price * GIB_HOUR, out
    )
    new = found.cold & by_request & np.isfinite(ceiling)
    out[new] = np.nan
    out[new, 0] = ceiling[new]
    return out


def set_aside(
    found: Occupancy, foreseen: Distribution, limits: Array, price: float = PRICE
) -> dict[str, Array]:
    """What is told of an allocation, float64[n] by the end of its name: the first three rungs, and the risk that the first fails.

    ``foreseen`` is the distribution of ``found``, of jobs that asked for ``limits`` (float64[n], infinite for nothing); ``price`` is that
    of a failure. Where jobs keep to their requests nothing is set aside above them.
    """
    ceiling = np.where(np.isfinite(foreseen.limit), limits, np.inf)
    rungs = ladders(found, foreseen.grid, ceiling, np.isfinite(ceiling), price)
    rungs = np.fmax.accumulate(rungs, axis=1)  # the last rung stands for those after it
    told = {
        "_allocation" + (f"_{place + 1}" if place else ""): rungs[:, place] for place in range(TOLD)
    }
    return told | {
        "_risk": np.where(rungs[:, 0] < foreseen.limit, foreseen.probability_over(rungs[:, 0]), 0.0)
    }


@compiled
def _ladders(
    mass: Array,
    held: Array,
    seconds: Array,
    top: Array,
    edges: Array,
    centres: Array,
    ceiling: Array,
    price: float,
    out: Array,
) -> None:
    bins = mass.shape[1]
    sums, hull, following = (
        np.empty((4, bins + 1)),
        np.empty(bins + 1, np.int64),
        np.empty(bins + 1, np.int64),
    )
    out[:] = np.nan
    for row in range(len(mass)):
        last = top[row]
        while last > 0 and edges[last] >= ceiling[row]:
            last -= 1
        _add_up(mass[row], held[row], seconds[row], centres, last, sums)
        _decide(sums, edges, last, price, hull, following)
        rung, place = following[0], 0
        while place < out.shape[1]:
            out[row, place] = min(edges[rung + 1], ceiling[row])
            if rung == last:
                break
            rung, place = following[rung + 1], place + 1


@compiled
def _add_up(
    mass: Array, held: Array, seconds: float, centres: Array, last: int, sums: Array
) -> None:
    """Into ``sums`` what lies below each bin: mass, time held, and what was used of it; all above ``last`` counts there."""
    sums[:] = 0.0
    for b in range(len(mass)):
        place = min(b, last) + 1
        sums[0, place] += mass[b]
        sums[1, place] += held[b] * seconds
        sums[2, place] += held[b] * seconds * centres[min(b, last)]
    for b in range(last + 1):
        for kind in range(3):
            sums[kind, b + 1] += sums[kind, b]


@compiled
def _decide(
    sums: Array, edges: Array, last: int, price: float, hull: Array, following: Array
) -> None:
    """Into ``following`` the rung to try when the bin before each was too small, with the least cost of all that may follow.

    ``sums[3]`` holds, a rung, the part of its line that does not depend on the rung below: its cost when all is still to come
    after it, less what jobs up to it used.
    """
    size, to_go, low = 0, 0.0, 0
    for rung in range(last, -1, -1):
        offset = to_go - sums[2, rung + 1] + price * (sums[0, last + 1] - sums[0, rung + 1])
        sums[3, rung] = offset
        while size >= 2:
            # The line last added is of no use where the one before and the new one cross before it is the least.
            before, middle = hull[size - 2], hull[size - 1]
            rise, steep = sums[3, middle] - sums[3, before], edges[before + 1] - edges[middle + 1]
            if (offset - sums[3, before]) * steep > rise * (edges[before + 1] - edges[rung + 1]):
                break
            size -= 1
        hull[size] = rung
        size += 1
        left = sums[1, last + 1] - sums[1, rung]
        # More is left with each step down, so that the least line never lies before the one that was the least.
        low = min(low, size - 1)
        while low < size - 1 and _at(hull[low + 1], edges, sums, left) < _at(
            hull[low], edges, sums, left
        ):
            low += 1
        best = hull[low]
        following[rung] = best
        to_go = _at(best, edges, sums, left) + sums[2, rung]


@compiled
def _at(rung: int, edges: Array, sums: Array, left: float) -> float:
    """What it costs to try ``rung`` next, with so much still to come, less what jobs before used."""
    return edges[rung + 1] * left + sums[3, rung]
