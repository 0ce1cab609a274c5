"""Occupancy: a quantity's distribution, and the same weighted by how long jobs ran.

The cost of an allocation depends on both: a job that fails at once costs nothing, one that fails
after a day costs a day. Each outcome in a job's histories is paired with the walltime of the same
job, under the weights that the quantity's mixture has learned. Run times are few and vary widely,
so they count by half.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled, compiled_in_place
from infra.lanes import load_4, multiply_add, repeat_4, sum_4
from models.histories.blend import (
    View,
    add_masses,
    look,
    mass_of_outcome,
    new_sharp,
    set_coefficients,
    smooth,
)
from models.histories.components import MOST, Shape, bin_of
from models.histories.features import Contexts
from models.histories.mixture import (
    NEXT_OUTCOME,
    NEXT_QUERY,
    JobArrays,
    Mixture,
    MixtureState,
    PrequentialReplay,
    bin_of_limit,
    has_capacity,
    learn_outcome,
    upper_bounds,
    weigh_components,
)
from models.histories.outcome_index import (
    OutcomeIndex,
    available_end,
    compare_outcome,
    find_slot,
    first_position,
    value_at,
)
from models.histories.weights import limit_compliance
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid

TRUST = 0.5
"""How far the walltimes in a bin count where they differ from those of other bins."""


class Occupancy(NamedTuple):
    """n distributions of a quantity over one grid, and the same weighted by walltime."""

    mass: Array  # float32[n, bins]
    weighted: Array  # float32[n, bins], weighted by walltime, rows sum to 1
    seconds: Array  # float64[n], mean walltime, NaN for unknown
    top: Array  # int64[n], the last bin that may hold mass
    compliance: Array  # int64[n], see weights.limit_compliance
    cold: Array  # bool[n], the owner has no outcome

    def distribution(self, grid: Grid, limits: Array) -> Distribution:
        """Return what ``Mixture.distributions`` gives for jobs with these limits (float64[n])."""
        return Distribution(grid, self.mass, upper_bounds(grid, limits, self.compliance))


@compiled_in_place
def _blend_both(
    index: OutcomeIndex,
    times: OutcomeIndex,
    shape: Shape,
    jobs: JobArrays,
    row: int,
    limit_bin: int,
    view: View,
    lasted: Array,
    mass: Array,
    weighted: Array,
) -> float:
    """Compute both distributions of one job; returns the mean walltime, NaN for unknown."""
    sharp, bins, coefficients, fading = view.sharp, view.bins, view.coefficients, shape.fading
    sharp[:], lasted[:] = 0.0, 0.0
    paired_mass, total_time = repeat_4(0.0), repeat_4(0.0)
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.starts[level], view.ends[level] - 1
        if count <= 0:
            continue
        shift = jobs.limit[row] if shape.relative[level] else 0.0
        slot = find_slot(times, jobs.keys[row, level])
        first_paired = first_position(times, slot) if slot >= 0 else 0
        paired = available_end(times, slot, jobs.at[row]) - 1 if slot >= 0 else -1
        for age in range(count):
            bins[age] = bin_of(index.log_bin_position[newest - age] + shift, shape)
        set_coefficients(shape, level, count, view)
        first, second = load_4(coefficients, 0), load_4(coefficients, MOST)
        third, fourth = load_4(coefficients, 2 * MOST), load_4(coefficients, 3 * MOST)
        for age in range(count):
            masses = mass_of_outcome(fading, age, first, second, third, fourth)
            add_masses(sharp, bins[age], 1.0, masses)
            own_row, order = index.outcome_row[newest - age], 1
            at, outcome_id = index.available_at[own_row], index.outcome_id[own_row]
            while paired >= first_paired and order > 0:
                order = compare_outcome(times, paired, at, outcome_id)
                paired -= order > 0
            if order == 0:
                walltime = value_at(times, paired)
                add_masses(lasted, bins[age], walltime, masses)
                total_time = multiply_add(masses, repeat_4(walltime), total_time)
                paired_mass = multiply_add(masses, repeat_4(1.0), paired_mass)
    smooth(shape, limit_bin, sharp, view.padded, mass)
    for b in range(len(mass)):
        weighted[b] = mass[b]
    pairs, seconds = sum_4(paired_mass), sum_4(total_time)
    if pairs <= 0.0:
        return np.nan
    if seconds > 0.0:
        smooth(shape, limit_bin, lasted, view.padded, weighted)
        for b in range(len(mass)):
            weighted[b] = TRUST * weighted[b] + (1.0 - TRUST) * mass[b]
    return seconds / pairs


@compiled
def _advance(
    state: MixtureState,
    times: MixtureState,
    shape: Shape,
    time_shape: Shape,
    jobs: JobArrays,
    time_jobs: JobArrays,
    outcomes: Array,
    query_rows: Array,
    progress: Array,
    weighing: tuple[bool, bool],
    view: View,
    time_view: View,
    lasted: Array,
    out: Occupancy,
    counts: Array,
) -> None:
    """Replay as ``mixture._advance`` does, through two mixtures side by side."""
    while progress[NEXT_QUERY] < len(query_rows):
        query = progress[NEXT_QUERY]
        row, pending = query_rows[query], progress[NEXT_OUTCOME] < len(outcomes)
        if pending and jobs.available_at[outcomes[progress[NEXT_OUTCOME]]] <= jobs.at[row]:
            outcome = outcomes[progress[NEXT_OUTCOME]]
            keys = jobs.keys[outcome]
            if not has_capacity(state, keys) or not has_capacity(times, keys):
                return
            learn_outcome(state, shape, jobs, outcome, weighing[0], view)
            learn_outcome(times, time_shape, time_jobs, outcome, weighing[1], time_view)
            progress[NEXT_OUTCOME] += 1
        else:
            look(state.outcomes, shape, jobs.keys[row], jobs.at[row], jobs.limit[row], view)
            weigh_components(state, shape, jobs.keys[row], view)
            counts[query] = view.counts
            top = bin_of_limit(jobs.limit[row], state.tables, shape)
            out.top[query], out.compliance[query] = top, limit_compliance(state.tables, shape)
            out.cold[query] = view.ends[shape.owner] <= view.starts[shape.owner]
            mass, weighted = out.mass[query], out.weighted[query]
            out.seconds[query] = _blend_both(
                state.outcomes,
                times.outcomes,
                shape,
                jobs,
                row,
                top,
                view,
                lasted,
                mass,
                weighted,
            )
            progress[NEXT_QUERY] += 1


def occupancy(
    mixture: Mixture, times: Mixture, contexts: Contexts, limits: Array
) -> tuple[Occupancy, Array]:
    """Predict the occupancies of jobs by what was available at ``contexts.at``.

    Returns them and ``Mixture.ended_counts`` of the jobs.

    Args:
        mixture: The quantity's mixture.
        times: The mixture of the walltimes of the same jobs.
        contexts: The jobs.
        limits: float64[n], infinite for none.
    """
    unknown = np.full(len(contexts), np.nan)
    replay = OccupancyReplay(mixture, times, contexts, unknown, limits, unknown, queries_only=True)
    return replay.advance(np.arange(len(contexts))), replay.replay.counts


class OccupancyReplay:
    """A replay of jobs' outcomes and queries in event order; see ``PrequentialReplay``."""

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
        """Prepare a replay.

        Args:
            mixture: Learns the quantity's outcomes.
            times: Learns the walltimes.
            contexts: The jobs.
            values: The quantity (float64[n], NaN for unknown).
            limits: Its limits (float64[n], infinite for none).
            seconds: The walltimes (float64[n], NaN for unknown).
            queries_only: Learn nothing.
        """
        unlimited = np.full(len(contexts), np.inf)
        self.replay = PrequentialReplay(mixture, contexts, values, limits, queries_only)
        self.times = PrequentialReplay(times, contexts, seconds, unlimited, queries_only)

    def advance(self, query_rows: Array) -> Occupancy:
        """Replay until the last of ``query_rows`` (in order of prediction) is answered."""
        replay, times, queries = self.replay, self.times, len(query_rows)
        lasted = new_sharp(replay.mixture.shape)
        bins = replay.mixture.grid.bins
        out = Occupancy(
            mass=np.empty((queries, bins), np.float32),
            weighted=np.empty((queries, bins), np.float32),
            seconds=np.empty(queries),
            top=np.empty(queries, np.int64),
            compliance=np.empty(queries, np.int64),
            cold=np.empty(queries, np.bool_),
        )
        replay.counts = np.empty((queries, replay.jobs.keys.shape[1]), np.int64)
        replay.progress[NEXT_QUERY] = 0
        while True:
            _advance(
                replay.mixture.state,
                times.mixture.state,
                replay.mixture.shape,
                times.mixture.shape,
                replay.jobs,
                times.jobs,
                replay.outcomes,
                query_rows,
                replay.progress,
                (True, False),  # literals in compiled code would compile ``learn_outcome`` twice
                replay.view,
                times.view,
                lasted,
                out,
                replay.counts,
            )
            if replay.progress[NEXT_QUERY] == queries:
                return out
            replay.mixture.grow()
            times.mixture.grow()
