"""The state of a replay on pilots, as the kernel holds it."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Floats, Integers
from models.quantities.targets import TAIL_WIDTH, Grid
from scheduling.trace import Trace

RAN_CLASSES = 40
"""Classes of a kind of job: never killed, and by the octave halves of the time that it ran."""
STARTS, KILLS, DONE_JOBS, DROPPED, OUTCOMES, EVENTS, ACTIVE, ARRIVED = range(8)
NOW, USED, LOST, WAITED, PRICE, TARGET, OBSERVED, EXPECTED, PENDING = range(9)


class PilotState(NamedTuple):
    """Jobs by row, classes of equal waiting jobs, pilots, and what is predicted of each kind.

    A class is a kind times RAN_CLASSES plus the class of the time that a killed attempt ran. Times
    are in s since the first submission.
    """

    submitted: Floats
    length: Floats
    cores: Integers
    kind: Integers
    next_row: Integers
    """The row that waits behind each in its class, -1 for none."""
    attempts: Integers
    ran: Floats
    started: Floats
    risk: Floats
    """The predicted probability that the running attempt is killed."""
    pilot: Integers
    first: Integers
    last: Integers
    active: Integers
    active_index: Integers
    """Of a class in ``active``, -1 where none of it waits."""
    end: Floats
    free: Integers
    event_time: Floats
    event_row: Integers
    """A heap of ends: of jobs by row, and of the slot of pilot p as -1 - p."""
    need: Floats
    """The seconds that each kind needs under a static rule."""
    below: Floats
    """P(T ≤ edge) of each kind at the edges of the bins."""
    moment: Floats
    """E[T; T ≤ edge] likewise."""
    requested: np.ndarray
    """Whether jobs of each kind have been submitted since the last prediction."""
    predicted: np.ndarray
    owner: Integers
    """The owner of each kind."""
    ends: Floats
    """Ends of each owner's jobs lately, and what was expected of them (see ``kernel.observe``)."""
    expected: Floats
    hazard: Floats
    """The ratio of both by owner, at most 1."""
    running: Integers
    """Running attempts of each owner."""
    outcome_row: Integers
    outcome_at: Floats
    outcome_value: Floats
    counts: Integers
    sums: Floats


class GridAxis(NamedTuple):
    """The axis of the distributions, for compiled code."""

    lowest: float
    steps: float
    fine_bins: int
    bins: int
    tail_width: float


def axis_of(grid: Grid) -> GridAxis:
    """The axis of a grid."""
    return GridAxis(grid.lowest, float(grid.steps), grid.fine_bins, grid.bins, float(TAIL_WIDTH))


def new_pilot_state(
    trace: Trace,
    kind: Integers,
    owner: Integers,
    pilots: int,
    cores: int,
    slot: float,
    bins: int,
) -> PilotState:
    """The state before the first submission; the slots of the pilots end one after another.

    Args:
        trace: The jobs.
        kind: The kind of each.
        owner: The owner of each kind.
        pilots: How many there are.
        cores: Of each pilot.
        slot: Seconds of a slot.
        bins: Of the distributions.
    """
    n, kinds = len(trace), int(kind.max()) + 1
    classes = kinds * RAN_CLASSES
    capacity = n + pilots
    state = PilotState(
        submitted=trace.submitted.astype(np.float64),
        length=trace.length.astype(np.float64),
        cores=trace.cores.astype(np.int64),
        kind=kind.astype(np.int64),
        next_row=np.full(n, -1),
        attempts=np.zeros(n, np.int64),
        ran=np.zeros(n),
        started=np.zeros(n),
        risk=np.zeros(n),
        pilot=np.zeros(n, np.int64),
        first=np.full(classes, -1),
        last=np.full(classes, -1),
        active=np.zeros(classes, np.int64),
        active_index=np.full(classes, -1),
        end=np.arange(1, pilots + 1) / pilots * slot,
        free=np.full(pilots, cores),
        event_time=np.zeros(capacity),
        event_row=np.zeros(capacity, np.int64),
        need=np.full(kinds, np.nan),
        below=np.zeros((kinds, bins + 1)),
        moment=np.zeros((kinds, bins + 1)),
        requested=np.zeros(kinds, np.bool_),
        predicted=np.zeros(kinds, np.bool_),
        owner=owner.astype(np.int64),
        ends=np.zeros(int(owner.max()) + 1),
        expected=np.zeros(int(owner.max()) + 1),
        hazard=np.ones(int(owner.max()) + 1),
        running=np.zeros(int(owner.max()) + 1, np.int64),
        outcome_row=np.zeros(n + 2, np.int64),
        outcome_at=np.zeros(n + 2),
        outcome_value=np.zeros(n + 2),
        counts=np.zeros(8, np.int64),
        sums=np.zeros(9),
    )
    # Ascending times are a heap.
    state.event_time[:pilots] = state.end
    state.event_row[:pilots] = -1 - np.arange(pilots)
    state.counts[EVENTS] = pilots
    return state
