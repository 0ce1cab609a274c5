"""Queue orders: the sort key of a waiting job, lowest first; ties in order of submission.

Each order is a function of the job's wait so far, its predicted run time, the cores it requests and
what its owner has used.
"""

from __future__ import annotations

from math import log2

from infra.compiled import compiled

ARRIVAL, SHORTEST, LARGEST, SMALLEST_AREA, SMITH, EXPANSION, AGED, FAIR_SHARE, QUOTA = range(9)
"""The orders; those from FAIR_SHARE on depend on the owner's account."""

TAU = 10.0
"""Run times below this many seconds count as this long in a slowdown."""

AGEING = 12 * 3600.0
"""Seconds of waiting that make up for a run time twice as long."""


@compiled
def expansion(waited: float, predicted: float) -> float:
    """Bounded expansion factor of a job that starts now: (wait + run) / max(run, TAU)."""
    return (waited + predicted) / max(predicted, TAU)


@compiled
def urgency(
    order: int, waited: float, predicted: float, cores: float, used: float, running: float
) -> float:
    """Sort key of a waiting job, lowest first.

    Smith's rule is area over weight, with the weight of the bounded slowdown,
    1 / max(predicted, TAU).

    Args:
        order: One of the orders above.
        waited: Wait so far, s.
        predicted: Predicted run time, s.
        cores: Requested cores.
        used: The owner's decayed core-seconds over its share.
        running: The owner's running cores over its quota.
    """
    if order == SHORTEST:
        return predicted
    if order == LARGEST:
        return -cores
    if order == SMALLEST_AREA:
        return predicted * cores
    if order == SMITH:
        return predicted * cores * max(predicted, TAU)
    if order == EXPANSION:
        return -expansion(waited, predicted)
    if order == AGED:
        return log2(max(predicted, TAU)) - waited / AGEING
    if order == FAIR_SHARE:
        return used
    if order == QUOTA:
        # ALICE's task queue: owners far below their quota first; a day of waiting is a quota.
        return running - waited / 86400.0
    return -waited
