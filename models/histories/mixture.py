"""The mixture of histories: what a job's keys did lately, as one distribution whose weights are learned as jobs end."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from models.histories.blend import (
    View,
    bin_of,
    blend,
    hide_unseen,
    look,
    new_view,
    responsibilities,
)
from models.histories.components import OVER, MixtureSettings, Shape, count_components, make_shape
from models.histories.features import NOT_AVAILABLE, Contexts
from models.histories.gate import gate, learn_gate, note_facts
from models.histories.outcome_index import (
    OutcomeIndex,
    available_end,
    count_available,
    ensure_capacity,
    ensure_slot,
    find_slot,
    first_in_window,
    has_capacity,
    has_outcome,
    insert,
    new_outcome_index,
)  # fmt: skip
from models.histories.weights import (
    NEARLY,
    NOT,
    LearnedWeights,
    WeightTables,
    enlarge_weight_tables,
    error_scale,
    find_tables,
    has_rows,
    learned,
    limit_compliance,
    new_weight_tables,
    restored,
    update_error_scale,
    update_weights,
    weigh,
)  # fmt: skip
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid, Target


class JobArrays(NamedTuple):
    """JobArrays as the compiled code reads them; marks are places on the grid's axis."""

    keys: Array  # uint64[n, levels]
    at: Array  # int64[n], microseconds: submitted
    available_at: Array  # int64[n], outcome known, NOT_AVAILABLE
    ids: Array  # uint32[n]
    value: Array  # float64[n], NaN unknown
    log_bin_position: Array  # float64[n]
    limit: Array  # float64[n], infinite for none


class MixtureState(NamedTuple):
    """All that changes as jobs end."""

    lists: OutcomeIndex
    tables: WeightTables


@compiled
def bin_of_limit(limit: float, tables: WeightTables, shape: Shape) -> int:
    """The bin that takes the mass above a job's limit; the last where there is no limit, or where jobs do not keep to it."""
    return (
        bin_of(limit, shape.bins)
        if np.isfinite(limit) and limit_compliance(tables, shape) != NOT
        else shape.bins - 1
    )


@compiled
def weigh_components(state: MixtureState, shape: Shape, keys: Array, view: View) -> None:
    """The weights of a job's components into view.weights, by what it can see."""
    find_tables(state.lists, shape, keys, view)
    weigh(state.tables, shape, view)
    note_facts(state.lists, shape, view)
    gate(state.tables, shape, view)
    hide_unseen(shape, view)


@compiled
def learn_outcome(
    state: MixtureState, shape: Shape, jobs: JobArrays, row: int, weighing: bool, view: View
) -> None:
    """Learn the outcome of a job: who foresaw it (if ``weighing``), and then the outcome itself into each of its histories."""
    lists, tables = state
    keys, limit, mark = jobs.keys[row], jobs.limit[row], jobs.log_bin_position[row]
    for level in range(len(keys)):
        view.slots[level] = ensure_slot(lists, keys[level])
    if np.isnan(mark) or has_outcome(lists, view.slots[0], jobs.available_at[row], jobs.ids[row]):
        return
    if weighing:
        look(lists, shape, keys, jobs.at[row], limit, view)
        limit_bin = bin_of_limit(limit, tables, shape)
        weigh_components(state, shape, keys, view)
        view.prior[:] = view.weights
        responsibilities(
            lists, shape, limit, limit_bin, min(bin_of(mark, shape.bins), limit_bin), view
        )
        learn_gate(tables, shape, view)
        update_weights(tables, shape, view)
        update_error_scale(lists, shape, tables, view, jobs.value[row], mark - limit)
    for level in range(len(keys)):
        if not shape.relative[level]:
            insert(
                lists,
                view.slots[level],
                jobs.available_at[row],
                jobs.ids[row],
                np.float32(mark),
                jobs.value[row],
            )
        elif np.isfinite(limit):
            insert(
                lists,
                view.slots[level],
                jobs.available_at[row],
                jobs.ids[row],
                np.float32(mark - limit),
                jobs.value[row],
            )


@compiled
def _predict(
    state: MixtureState, shape: Shape, jobs: JobArrays, row: int, view: View, out: Array
) -> None:
    lists, tables = state
    look(lists, shape, jobs.keys[row], jobs.at[row], jobs.limit[row], view)
    weigh_components(state, shape, jobs.keys[row], view)
    blend(lists, shape, jobs.limit[row], bin_of_limit(jobs.limit[row], tables, shape), view, out)


@compiled
def has_room_for(state: MixtureState, levels: int) -> bool:
    """Whether one more job fits whose keys are ``levels``."""
    lists, tables = state
    return has_capacity(lists, levels) and has_rows(tables)


@compiled
def _walk(
    state: MixtureState, shape: Shape, jobs: JobArrays, ends: Array, query_rows: Array, stands: Array, weighing: bool, view: View, out: Array,
    facts: Array,
) -> None:  # fmt: skip
    """PrequentialReplay on through ends and submissions in time (at one instant: ends first) from where ``stands`` says.

    Stops when the last of ``query_rows`` is answered (with no query_rows: when all is learned), or early when the arrays are full.
    """
    levels = jobs.keys.shape[1]
    while stands[1] < len(query_rows) or (len(query_rows) == 0 and stands[0] < len(ends)):
        now = jobs.at[query_rows[stands[1]]] if len(query_rows) else np.int64(NOT_AVAILABLE)
        if stands[0] < len(ends) and jobs.available_at[ends[stands[0]]] <= now:
            if not has_room_for(state, levels):
                return
            learn_outcome(state, shape, jobs, ends[stands[0]], weighing, view)
            stands[0] += 1
        else:
            _predict(state, shape, jobs, query_rows[stands[1]], view, out[stands[1]])
            facts[stands[1], 0], facts[stands[1], 1] = (
                error_scale(state.tables),
                limit_compliance(state.tables, shape),
            )
            stands[1] += 1


@compiled
def _last_in_bin(
    lists: OutcomeIndex, shape: Shape, keys: Array, at: Array, bins: Array, out: Array
) -> None:
    for row in range(len(at)):
        out[row] = np.nan
        for level in range(keys.shape[1]):
            slot = find_slot(lists, keys[row, level])
            if slot < 0 or shape.relative[level]:
                continue
            end = available_end(lists, slot, at[row])
            place, first = end - 1, first_in_window(lists, slot, end)
            while (
                place >= first
                and bin_of(np.float64(lists.log_bin_position[place]), shape.bins) != bins[row]
            ):
                place -= 1
            if place >= first:
                out[row] = lists.value[place]
                break


@compiled
def _news(lists: OutcomeIndex, keys: Array, known: Array, ids: Array, out: Array) -> None:
    for row in range(len(known)):
        slot = find_slot(lists, keys[row, 0])
        told = row > 0 and known[row] == known[row - 1] and ids[row] == ids[row - 1]
        out[row] = not told and (slot < 0 or not has_outcome(lists, slot, known[row], ids[row]))


@compiled
def _counts(lists: OutcomeIndex, keys: Array, at: Array, out: Array) -> None:
    for row in range(len(at)):
        for level in range(keys.shape[1]):
            slot = find_slot(lists, keys[row, level])
            out[row, level] = (
                count_available(lists, slot, available_end(lists, slot, at[row]))
                if slot >= 0
                else 0
            )


class Mixture:
    """The histories and weights of one target, the only mutable thing of the engine.

    Contexts, values (float64[n], NaN unknown) and limits (float64[n], infinite for none) always go together, a row a job.
    """

    def __init__(
        self,
        target: Target,
        relative: tuple[bool, ...],
        owner: int,
        settings: MixtureSettings | None = None,
    ) -> None:
        self.target, self.grid = target, target.grid
        self.shape = make_shape(
            settings or MixtureSettings(), target.grid, np.array(relative), owner, target.binding
        )
        components = count_components(self.shape)
        lists = new_outcome_index()
        self.state = MixtureState(lists, new_weight_tables(components))
        self.view = new_view(self.shape, components)
        self.latest_outcome_at = int(np.iinfo(np.int64).min)
        """When the newest outcome became known, in microseconds."""

    @property
    def error_scale(self) -> float:
        """What counts as a large error, in the target's unit; NaN while unknown."""
        return float(error_scale(self.state.tables))

    def learn(self, contexts: Contexts, values: Array, limits: Array, weigh: bool = True) -> None:
        """Take in jobs that ended, in the order of time; ``weigh=False`` fills the histories only."""
        walk = PrequentialReplay(self, contexts, values, limits)
        walk.advance(np.empty(0, np.int64), weigh)

    def distributions(self, contexts: Contexts, limits: Array) -> Distribution:
        """Distributions of jobs by what was known at ``contexts.at``."""
        walk = PrequentialReplay(
            self, contexts, np.full(len(contexts), np.nan), limits, queries_only=True
        )
        return walk.advance(np.arange(len(contexts)))[0]

    def last_in_bin(self, contexts: Contexts, bins: Array) -> Array:
        """The last value seen in each job's bin by its finest history that has one: float64[n], NaN for none."""
        out = np.empty(len(contexts))
        _last_in_bin(
            self.state.lists,
            self.shape,
            contexts.keys,
            contexts.at,
            np.asarray(bins, np.int64),
            out,
        )
        return out

    def find_new_outcomes(self, contexts: Contexts) -> Array:
        """Which outcomes, in the order of ``outcome_order``, are neither known nor told twice: bool[n]."""
        out = np.empty(len(contexts), np.bool_)
        _news(self.state.lists, contexts.keys, contexts.available_at, contexts.ids, out)
        return out

    def ended_counts(self, contexts: Contexts) -> Array:
        """How many ended jobs each of a job's keys had: int64[n, levels]."""
        out = np.empty(contexts.keys.shape, np.int64)
        _counts(self.state.lists, contexts.keys, contexts.at, out)
        return out

    def learned(self) -> LearnedWeights:
        """A copy of what was learned."""
        return learned(self.state.tables)

    def restore(self, what: LearnedWeights) -> None:
        """Start from what an earlier mixture of the same levels and settings learned; raises ValueError when they differ."""
        components = self.state.tables.rows.shape[1]
        if what.rows.shape[1] != components:
            raise ValueError(
                f"weights of {what.rows.shape[1]} components do not fit a mixture of {components}"
            )
        self.state = self.state._replace(tables=restored(what))

    def grow(self) -> None:
        """Make room for more keys and outcomes."""
        levels = len(self.shape.relative)
        lists = ensure_capacity(self.state.lists, levels)
        self.state = MixtureState(lists, enlarge_weight_tables(self.state.tables))


class PrequentialReplay:
    """A walk through the ends and submissions of some jobs, as far as asked, in time."""

    def __init__(
        self,
        mixture: Mixture,
        contexts: Contexts,
        values: Array,
        limits: Array,
        queries_only: bool = False,
    ) -> None:
        self.mixture, self.limits, grid = mixture, np.asarray(limits, np.float64), mixture.grid
        finite = np.isfinite(limits)
        marks = np.where(finite, grid.log_bin_positions(np.where(finite, limits, 1.0)), np.inf)
        self.jobs = JobArrays(
            contexts.keys, contexts.at, contexts.available_at, contexts.ids, np.asarray(values, np.float64), grid.log_bin_positions(values), marks,
        )  # fmt: skip
        self.ends = outcome_order(contexts) if not queries_only else np.empty(0, np.int64)
        self.stands = np.zeros(2, np.int64)  # of ends, of query_rows
        # Who only query_rows has room of its own to work in, so that several may ask at once.
        self.view = (
            new_view(mixture.shape, len(mixture.view.weights)) if queries_only else mixture.view
        )

    def advance(self, query_rows: Array, weigh: bool = True) -> tuple[Distribution, Array]:
        """PrequentialReplay until the last of ``query_rows`` (rows in order of submission) is answered, or with none to the end.

        Returns the distributions as foreseen at each submission, and ``Mixture.error_scale`` as it was then (float64[query_rows]).
        """
        mixture, grid = self.mixture, self.mixture.grid
        mass, facts = (
            np.empty((len(query_rows), grid.bins), np.float32),
            np.empty((len(query_rows), 2)),
        )
        self.stands[1] = 0
        while True:
            _walk(
                mixture.state,
                mixture.shape,
                self.jobs,
                self.ends,
                query_rows,
                self.stands,
                weigh,
                self.view,
                mass,
                facts,
            )
            if (
                self.stands[1] == len(query_rows)
                if len(query_rows)
                else self.stands[0] == len(self.ends)
            ):
                break
            mixture.grow()
        if self.stands[0]:
            mixture.latest_outcome_at = max(
                mixture.latest_outcome_at,
                int(self.jobs.available_at[self.ends[self.stands[0] - 1]]),
            )
        return Distribution(grid, mass, bounds(grid, self.limits[query_rows], facts[:, 1])), facts[
            :, 0
        ]


def bounds(grid: Grid, limits: Array, as_kept: Array) -> Array:
    """Where jobs end at the latest (float64[n]) by their ``limits`` and by how such limits are kept (see ``weights.limit_compliance``)."""
    late = grid.edges[grid.bin(np.where(np.isfinite(limits), limits * OVER, np.inf)) + 1]
    return np.select(
        [~np.isfinite(limits) | (as_kept == NOT), as_kept == NEARLY], [np.inf, late], limits
    )


def outcome_order(contexts: Contexts, values: Array | None = None) -> Array:
    """The jobs that ended (with a known value), in the order in which that became known (int64 indices)."""
    rows = np.flatnonzero(
        (contexts.available_at != NOT_AVAILABLE) & (True if values is None else np.isfinite(values))
    )
    return rows[np.lexsort((contexts.ids[rows], contexts.available_at[rows]))]
