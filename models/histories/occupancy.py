"""Occupancy: a quantity's distribution, and the same weighted by how long its jobs ran.

What an allocation costs depends on both: a job that fails at once costs nothing, one that fails after a day costs a day. So each
outcome in a job's histories is looked at beside the walltime of the same job, under the weights that the mixture has learned for the
quantity. Run times are few and wild, so half of what they say is believed.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from models.histories.blend import View, bin_of, look, smooth
from models.histories.components import Shape
from models.histories.features import Contexts
from models.histories.mixture import (
    JobArrays,
    Mixture,
    MixtureState,
    PrequentialReplay,
    bin_of_limit,
    bounds,
    has_room_for,
    learn_outcome,
    weigh_components,
)
from models.histories.outcome_index import OutcomeIndex, available_end, find_slot
from models.histories.weights import limit_compliance
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid

BELIEVED = 0.5
"""How far the run times in a bin are believed where they differ from the others'."""


class Occupancy(NamedTuple):
    """n distributions of a quantity over one grid: ``mass`` float32[n, bins], ``held`` the same weighted by walltime, rows summing to 1.

    ``seconds`` float64[n] is the mean walltime, NaN where none is known; ``top`` int64[n] the last bin allowed, ``limit_compliance`` int64[n] how
    limits are kept (see ``weights.limit_compliance``); ``cold`` bool[n] says that nothing is known of who submits.
    """

    mass: Array
    held: Array
    seconds: Array
    top: Array
    limit_compliance: Array
    cold: Array

    def distribution(self, grid: Grid, limits: Array) -> Distribution:
        """The distributions as ``Mixture.distributions`` gives them, of jobs with ``limits`` (float64[n], infinite for none)."""
        return Distribution(grid, self.mass, bounds(grid, limits, self.limit_compliance))


def _room(jobs: int, bins: int) -> Occupancy:
    mass, held = np.empty((jobs, bins), np.float32), np.empty((jobs, bins), np.float32)
    return Occupancy(
        mass,
        held,
        np.empty(jobs),
        np.empty(jobs, np.int64),
        np.empty(jobs, np.int64),
        np.empty(jobs, np.bool_),
    )


@compiled
def _blend_both(
    lists: OutcomeIndex,
    times: OutcomeIndex,
    shape: Shape,
    jobs: JobArrays,
    row: int,
    limit_bin: int,
    view: View,
    lasted: Array,
    mass: Array,
    held: Array,
) -> float:
    """Masses of one job, and masses weighted by walltime; returns the mean walltime, NaN where none is known."""
    decays, widths = len(shape.ages), len(shape.spread)
    view.sharp[:], lasted[:] = 0.0, 0.0
    weight, total, each = 0.0, 0.0, np.empty((widths, shape.ages.shape[1]))
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.firsts[level], view.ends[level] - 1
        if count <= 0:
            continue
        shift = jobs.limit[row] if shape.relative[level] else 0.0
        slot = find_slot(times, jobs.keys[row, level])
        first = times.start[slot] if slot >= 0 else 0
        place = available_end(times, slot, jobs.at[row]) - 1 if slot >= 0 else -1
        each[:] = 0.0
        for k in range(widths):
            for d in range(decays):
                share, fade = (
                    view.weights[(level * decays + d) * widths + k] / shape.sums[d, count],
                    shape.ages[d],
                )
                for age in range(count):
                    each[k, age] += share * fade[age]
        for age in range(count):
            outcome = newest - age
            b = bin_of(lists.log_bin_position[outcome] + shift, shape.bins)
            known, ident = lists.available_at[outcome], lists.outcome_id[outcome]
            while place >= first and (
                times.available_at[place] > known
                or (times.available_at[place] == known and times.outcome_id[place] > ident)
            ):
                place -= 1
            paired = (
                place >= first
                and times.available_at[place] == known
                and times.outcome_id[place] == ident
            )
            ran = times.value[place] if paired else 0.0
            for k in range(widths):
                view.sharp[k, b] += each[k, age]
                if paired:
                    lasted[k, b] += each[k, age] * ran
                    total += each[k, age] * ran
                    weight += each[k, age]
    smooth(shape, limit_bin, view.sharp, mass)
    held[:] = mass
    if weight <= 0.0:
        return np.nan
    if total > 0.0:
        smooth(shape, limit_bin, lasted, held)
        held[:] = BELIEVED * held + (1.0 - BELIEVED) * mass
    return total / weight


@compiled
def _look_at_both(
    state: MixtureState,
    times: MixtureState,
    shape: Shape,
    jobs: JobArrays,
    row: int,
    view: View,
    lasted: Array,
    place: int,
    room: Occupancy,
) -> None:
    look(state.lists, shape, jobs.keys[row], jobs.at[row], jobs.limit[row], view)
    weigh_components(state, shape, jobs.keys[row], view)
    top = bin_of_limit(jobs.limit[row], state.tables, shape)
    room.top[place], room.limit_compliance[place], room.cold[place] = (
        top,
        limit_compliance(state.tables, shape),
        view.ends[shape.owner] <= view.firsts[shape.owner],
    )
    mass, held = room.mass[place], room.held[place]
    room.seconds[place] = _blend_both(
        state.lists, times.lists, shape, jobs, row, top, view, lasted, mass, held
    )


@compiled
def _walk(
    state: MixtureState, times: MixtureState, shape: Shape, time_shape: Shape, jobs: JobArrays, time_jobs: JobArrays, ends: Array, query_rows: Array, stands: Array,
    view: View, time_view: View, room: Occupancy,
) -> None:  # fmt: skip
    """As ``mixture._walk``, through two mixtures side by side; it stops early when the arrays of either are full."""
    levels, lasted = jobs.keys.shape[1], np.zeros_like(view.sharp)
    while stands[1] < len(query_rows):
        if (
            stands[0] < len(ends)
            and jobs.available_at[ends[stands[0]]] <= jobs.at[query_rows[stands[1]]]
        ):
            if not has_room_for(state, levels) or not has_room_for(times, levels):
                return
            learn_outcome(state, shape, jobs, ends[stands[0]], True, view)
            learn_outcome(times, time_shape, time_jobs, ends[stands[0]], False, time_view)
            stands[0] += 1
        else:
            _look_at_both(
                state, times, shape, jobs, query_rows[stands[1]], view, lasted, stands[1], room
            )
            stands[1] += 1


def occupancy(mixture: Mixture, times: Mixture, contexts: Contexts, limits: Array) -> Occupancy:
    """The occupancies of jobs by what was known at ``contexts.at``; ``times`` is the mixture of the walltimes of the same jobs."""
    unknown = np.full(len(contexts), np.nan)
    return OccupancyReplay(
        mixture, times, contexts, unknown, limits, unknown, queries_only=True
    ).advance(np.arange(len(contexts)))


class OccupancyReplay:
    """A walk through the ends and submissions of some jobs, each asked about by what had ended."""

    def __init__(
        self,
        mixture: Mixture,
        times: Mixture,
        contexts: Contexts,
        values: Array,
        limits: Array,
        seconds: Array,
        queries_only: bool = False,
    ) -> None:
        self.mixture, self.times = mixture, times
        self.jobs = PrequentialReplay(mixture, contexts, values, limits, queries_only)
        self.time_jobs = PrequentialReplay(
            times, contexts, seconds, np.full(len(contexts), np.inf), queries_only
        )

    def advance(self, query_rows: Array) -> Occupancy:
        """PrequentialReplay until the last of ``query_rows`` (rows in the order in which they are asked about) is answered."""
        mixture, times, jobs, time_jobs = self.mixture, self.times, self.jobs, self.time_jobs
        room = _room(len(query_rows), mixture.grid.bins)
        jobs.stands[1] = 0
        while jobs.stands[1] < len(query_rows):
            _walk(
                mixture.state, times.state, mixture.shape, times.shape, jobs.jobs, time_jobs.jobs, jobs.ends, query_rows, jobs.stands,
                jobs.view, time_jobs.view, room,
            )  # fmt: skip
            if jobs.stands[1] < len(query_rows):
                mixture.grow()
                times.grow()
        return room
