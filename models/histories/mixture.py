"""The mixture of histories: one distribution from many keys' outcomes, its weights learned online.

Learning and prediction are replayed in event order: an outcome is learned once it is available, and
each job is predicted from what was available then.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled, compiled_in_place
from models.histories.blend import (
    View,
    blend,
    hide_empty,
    look,
    new_view,
    responsibilities,
    sees_the_same,
)
from models.histories.components import (
    OVER,
    MixtureSettings,
    Shape,
    bin_of,
    count_components,
    limit_positions,
    make_shape,
    positions_of_bin,
)
from models.histories.familiarity import Familiarity, find_familiarity, first_outcomes_key
from models.histories.features import NOT_AVAILABLE, Contexts
from models.histories.gate import compute_facts, gate, update_gate
from models.histories.outcome_index import (
    OutcomeIndex,
    add_row,
    available_end,
    count_ended,
    count_outcomes,
    ensure_capacity,
    ensure_slot,
    find_slot,
    first_in_window,
    free_unreferenced,
    has_outcome,
    insert,
    new_outcome_index,
    value_at,
)
from models.histories.outcome_index import has_capacity as index_has_capacity
from models.histories.weights import (
    NEARLY,
    NOT,
    LearnedWeights,
    WeightTables,
    compact_weights,
    enlarge_weight_tables,
    error_scale,
    find_tables,
    limit_compliance,
    new_weight_tables,
    restore_weights,
    update_error_scale,
    update_weights,
    weigh,
)
from models.histories.weights import has_capacity as tables_have_capacity
from models.quantities.distribution import Distribution
from models.quantities.targets import Grid, Target

NEXT_OUTCOME, NEXT_QUERY = 0, 1
"""Positions in ``PrequentialReplay.progress``."""


class JobArrays(NamedTuple):
    """Jobs as compiled code reads them."""

    keys: Array  # uint64[n, levels]
    at: Array  # int64[n], microseconds: when it is predicted
    available_at: Array  # int64[n], microseconds, NOT_AVAILABLE
    ids: Array  # uint32[n]
    value: Array  # float64[n], the outcome, NaN for unknown
    log_bin_position: Array  # float64[n], of the outcome
    limit: Array  # float64[n], position of the limit, infinite for none
    source: Array  # uint64[n], hash of the source


class MixtureState(NamedTuple):
    """All that changes as outcomes are learned."""

    outcomes: OutcomeIndex
    tables: WeightTables


@compiled_in_place
def bin_of_limit(limit: float, tables: WeightTables, shape: Shape) -> int:
    """Return the last bin that may hold mass, by the position of a job's limit on the axis.

    Args:
        limit: The position of the limit on the logarithmic axis.
        tables: The learned tables.
        shape: The sizes of the arrays.
    """
    if np.isfinite(limit) and limit_compliance(tables, shape) != NOT:
        return bin_of(limit, shape)
    return shape.bins - 1


@compiled_in_place
def finest_level(keys: Array) -> int:
    """Return the first level whose fields the job reports; all jobs have the coarsest."""
    level = 0
    while level < len(keys) - 1 and keys[level] == 0:
        level += 1
    return level


@compiled_in_place
def weigh_components(state: MixtureState, shape: Shape, keys: Array, view: View) -> None:
    """Compute the weights of a job's components into ``view.weights``.

    Args:
        state: The outcomes and weight tables.
        shape: The mixture's shape.
        keys: The job's keys (uint64[levels]).
        view: The job's windows.
    """
    find_tables(state.outcomes, shape, keys, view)
    weigh(state.tables, shape, view)
    compute_facts(state.outcomes, shape, view)
    gate(state.tables, shape, view)
    hide_empty(shape, view)


@compiled_in_place
def learn_outcome(
    state: MixtureState, shape: Shape, jobs: JobArrays, row: int, weighing: bool, view: View
) -> None:
    """Learn one outcome: update the weights (if ``weighing``), then insert it in each history.

    Weights are learned from the histories as they stood at the job's prediction. An unknown outcome
    and one that was learned before change nothing.

    Args:
        state: Receives the outcome; has capacity for it.
        shape: The mixture's shape.
        jobs: The jobs.
        row: The job whose outcome is learned.
        weighing: Whether the weights learn, too.
        view: Scratch space.
    """
    index, tables = state
    keys, limit, position = jobs.keys[row], jobs.limit[row], jobs.log_bin_position[row]
    available_at, outcome_id = jobs.available_at[row], jobs.ids[row]
    if np.isnan(position):
        return
    for level in range(len(keys)):
        view.slots[level] = ensure_slot(index, keys[level]) if keys[level] != 0 else -1
    slot = view.slots[finest_level(keys)]
    if slot < 0 or has_outcome(index, slot, available_at, outcome_id):
        return
    outcome_row = add_row(index, available_at, outcome_id, jobs.value[row])
    owner = shape.owner
    if keys[owner] != 0 and count_outcomes(index, view.slots[owner]) == 0:
        first_key = first_outcomes_key(jobs.source[row], limit, shape.steps)
        insert(index, ensure_slot(index, first_key), outcome_row, np.float32(position))
    if weighing:
        look(index, shape, keys, jobs.at[row], limit, view)
        limit_bin = bin_of_limit(limit, tables, shape)
        weigh_components(state, shape, keys, view)
        for c in range(len(view.weights)):
            view.prior[c] = view.weights[c]
        truth = min(bin_of(position, shape), limit_bin)
        responsibilities(index, shape, limit, limit_bin, truth, view)
        update_gate(tables, shape, view)
        update_weights(tables, shape, view)
        update_error_scale(index, shape, tables, view, jobs.value[row], position - limit)
    for level in range(len(keys)):
        if keys[level] != 0 and (np.isfinite(limit) or not shape.relative[level]):
            shift = limit if shape.relative[level] else 0.0
            insert(index, view.slots[level], outcome_row, np.float32(position - shift))
    free_unreferenced(index, outcome_row)


@compiled_in_place
def _predict(
    state: MixtureState,
    shape: Shape,
    jobs: JobArrays,
    row: int,
    reuse: bool,
    keep: bool,
    view: View,
    out: Array,
) -> None:
    """Predict one job; ``reuse`` and ``keep`` as for ``blend``."""
    limit = jobs.limit[row]
    if not reuse:
        look(state.outcomes, shape, jobs.keys[row], jobs.at[row], limit, view)
        weigh_components(state, shape, jobs.keys[row], view)
    limit_bin = bin_of_limit(limit, state.tables, shape)
    blend(state.outcomes, shape, limit, limit_bin, view, reuse, keep, out)


@compiled_in_place
def has_capacity(state: MixtureState, keys: Array) -> bool:
    """Whether one more outcome of a job with these keys fits."""
    # Beside the keys there is that of new owners' first outcomes.
    return index_has_capacity(state.outcomes, keys) and tables_have_capacity(state.tables)


@compiled
def _advance(
    state: MixtureState,
    shape: Shape,
    jobs: JobArrays,
    outcomes: Array,
    query_rows: Array,
    progress: Array,
    weighing: bool,
    view: View,
    masses: Array,
    scales: Array,
    compliance: Array,
    counts: Array,
) -> None:
    """Learn outcomes and answer queries in event order; at one instant outcomes come first.

    Stops when the last query is answered (without queries: when all outcomes are learned), or
    early when the state is full.
    """
    queries, keep = len(query_rows), False
    while progress[NEXT_QUERY] < queries or (
        queries == 0 and progress[NEXT_OUTCOME] < len(outcomes)
    ):
        now = jobs.at[query_rows[progress[NEXT_QUERY]]] if queries else np.int64(NOT_AVAILABLE)
        pending = progress[NEXT_OUTCOME] < len(outcomes)
        if pending and jobs.available_at[outcomes[progress[NEXT_OUTCOME]]] <= now:
            row = outcomes[progress[NEXT_OUTCOME]]
            if not has_capacity(state, jobs.keys[row]):
                return
            learn_outcome(state, shape, jobs, row, weighing, view)
            progress[NEXT_OUTCOME] += 1
            keep = False
        else:
            query, reuse = progress[NEXT_QUERY], keep
            row = query_rows[query]
            keep = query + 1 < queries and sees_the_same(
                jobs.keys, jobs.at, jobs.limit, row, query_rows[query + 1]
            )
            if reuse or keep:
                _predict(state, shape, jobs, row, reuse, keep, view, masses[query])
            else:  # constants, with which the usual case is compiled a tenth faster
                _predict(state, shape, jobs, row, False, False, view, masses[query])
            scales[query] = error_scale(state.tables)
            compliance[query] = limit_compliance(state.tables, shape)
            counts[query] = view.counts
            progress[NEXT_QUERY] += 1


@compiled
def _last_in_bin(
    index: OutcomeIndex, shape: Shape, keys: Array, at: Array, bins: Array, out: Array
) -> None:
    for row in range(len(at)):
        out[row] = np.nan
        low, high = positions_of_bin(bins[row], shape)
        for level in range(keys.shape[1]):
            slot = find_slot(index, keys[row, level])
            if slot < 0 or shape.relative[level]:
                continue
            end = available_end(index, slot, at[row])
            last = -1
            for position in range(first_in_window(index, slot, end), end):
                # The whole window, without a branch: this loop is vectorised.
                log_bin_position = np.float64(index.log_bin_position[position])
                within = (log_bin_position >= low) & (log_bin_position < high)
                last = max(last, position if within else -1)
            if last >= 0:
                out[row] = value_at(index, last)
                break


@compiled
def _find_new_outcomes(
    index: OutcomeIndex, keys: Array, available_at: Array, ids: Array, out: Array
) -> None:
    for row in range(len(ids)):
        slot = find_slot(index, keys[row, finest_level(keys[row])])
        repeated = (
            row > 0 and available_at[row] == available_at[row - 1] and ids[row] == ids[row - 1]
        )
        out[row] = not repeated and (
            slot < 0 or not has_outcome(index, slot, available_at[row], ids[row])
        )


class Mixture:
    """The histories and weights of one target.

    Contexts, values (float64[n], NaN for unknown) and limits (float64[n], infinite for none) have a
    row a job.
    """

    def __init__(
        self,
        target: Target,
        relative: tuple[bool, ...],
        owner: int,
        settings: MixtureSettings | None = None,
    ) -> None:
        """Create a mixture that has learned nothing; arguments as for ``make_shape``."""
        self.target, self.grid = target, target.grid
        self.shape = make_shape(
            settings or MixtureSettings(), target.grid, np.array(relative), owner, target.binding
        )
        components = count_components(self.shape)
        self.state = MixtureState(new_outcome_index(), new_weight_tables(components))
        self.view = new_view(self.shape, components)
        self.latest_outcome_at = int(np.iinfo(np.int64).min)
        """When the newest outcome became available, microseconds."""

    @property
    def error_scale(self) -> float:
        """What counts as a large error, in the target's unit; NaN while unknown."""
        return float(error_scale(self.state.tables))

    def learn(self, contexts: Contexts, values: Array, limits: Array, weigh: bool = True) -> None:
        """Learn outcomes in the order in which they became available.

        Args:
            contexts: The jobs.
            values: Their outcomes.
            limits: Their limits.
            weigh: Whether the weights learn, too, or only the histories.
        """
        PrequentialReplay(self, contexts, values, limits).advance(np.empty(0, np.int64), weigh)

    def distributions(self, contexts: Contexts, limits: Array) -> Distribution:
        """Predict jobs by what was available at ``contexts.at``."""
        return self.query(contexts, limits)[0]

    def query(self, contexts: Contexts, limits: Array) -> tuple[Distribution, Array]:
        """Predict jobs; returns ``distributions`` and ``ended_counts``."""
        unknown = np.full(len(contexts), np.nan)
        replay = PrequentialReplay(self, contexts, unknown, limits, queries_only=True)
        return replay.advance(np.arange(len(contexts)))[0], replay.counts

    def last_in_bin(self, contexts: Contexts, bins: Array) -> Array:
        """Return the last outcome in each job's bin by its finest history with one (float64[n]).

        NaN where no history has an outcome in that bin.
        """
        out, bins = np.empty(len(contexts)), np.asarray(bins, np.int64)
        _last_in_bin(self.state.outcomes, self.shape, contexts.keys, contexts.at, bins, out)
        return out

    def find_new_outcomes(self, contexts: Contexts) -> Array:
        """Whether each outcome, in the order of ``outcome_order``, is new here (bool[n])."""
        out = np.empty(len(contexts), np.bool_)
        _find_new_outcomes(
            self.state.outcomes, contexts.keys, contexts.available_at, contexts.ids, out
        )
        return out

    def ended_counts(self, contexts: Contexts) -> Array:
        """Count the outcomes that each of a job's keys had (int64[n, levels])."""
        out = np.empty(contexts.keys.shape, np.int64)
        count_ended(self.state.outcomes, contexts.keys, contexts.at, out)
        return out

    def familiarity(self, contexts: Contexts, limits: Array) -> Familiarity:
        """Return what was known of the jobs' owners at ``contexts.at``; see ``Familiarity``."""
        rows, owners = len(contexts), np.ascontiguousarray(contexts.keys[:, self.shape.owner])
        status, first = np.empty(rows, np.int64), np.empty((rows, 2))
        find_familiarity(
            self.state.outcomes,
            owners,
            contexts.sources,
            contexts.at,
            limit_positions(self.grid, limits),
            self.shape.steps,
            status,
            first,
        )
        return Familiarity(contexts.sources, owners, status, first[:, 0], first[:, 1])

    def learned(self) -> LearnedWeights:
        """Copy what was learned beside the histories."""
        return compact_weights(self.state.tables)

    def restore(self, learned: LearnedWeights) -> None:
        """Continue from the weights of an earlier mixture; ValueError if their shape differs."""
        components = self.state.tables.rows.shape[1]
        if learned.rows.shape[1] != components:
            raise ValueError(
                f"weights of {learned.rows.shape[1]} components do not fit"
                f" a mixture of {components}"
            )
        self.state = self.state._replace(tables=restore_weights(learned))

    def grow(self) -> None:
        """Enlarge the state for more keys and outcomes; call it until there is room."""
        outcomes, tables = self.state
        if tables_have_capacity(tables):
            outcomes = ensure_capacity(outcomes, len(self.shape.relative) + 1)
        self.state = MixtureState(outcomes, enlarge_weight_tables(tables))


class PrequentialReplay:
    """A replay of jobs' outcomes and queries in event order, which goes on at each ``advance``."""

    def __init__(
        self,
        mixture: Mixture,
        contexts: Contexts,
        values: Array,
        limits: Array,
        queries_only: bool = False,
    ) -> None:
        """Prepare a replay.

        Args:
            mixture: Learns the outcomes.
            contexts: The jobs.
            values: Their outcomes (float64[n], NaN for unknown).
            limits: Their limits (float64[n], infinite for none).
            queries_only: Learn nothing; several such replays may run at once.
        """
        self.mixture, self.limits, grid = mixture, np.asarray(limits, np.float64), mixture.grid
        self.jobs = JobArrays(
            keys=contexts.keys,
            at=contexts.at,
            available_at=contexts.available_at,
            ids=contexts.ids,
            value=np.array(values, np.float64),  # writeable: read-only ones would compile anew
            log_bin_position=grid.log_bin_positions(values),
            limit=limit_positions(grid, limits),
            source=contexts.sources,
        )
        self.outcomes = np.empty(0, np.int64) if queries_only else outcome_order(contexts)
        self.progress = np.zeros(2, np.int64)
        self.view = new_view(mixture.shape, len(mixture.view.weights))
        self.counts = np.empty((0, contexts.keys.shape[1]), np.int64)
        """The outcomes that each key of the latest queries had (int64[queries, levels])."""

    def advance(self, query_rows: Array, weigh: bool = True) -> tuple[Distribution, Array]:
        """Replay until the last query is answered, or without queries to the end.

        Args:
            query_rows: Rows in order of prediction.
            weigh: Whether the weights learn, too, or only the histories.

        Returns:
            The predictions, and ``Mixture.error_scale`` at each (float64[queries]).
        """
        mixture, grid, queries = self.mixture, self.mixture.grid, len(query_rows)
        masses = np.empty((queries, grid.bins), np.float32)
        scales, compliance = np.empty(queries), np.empty(queries, np.int64)
        self.counts = np.empty((queries, self.jobs.keys.shape[1]), np.int64)
        self.progress[NEXT_QUERY] = 0
        while True:
            _advance(
                mixture.state,
                mixture.shape,
                self.jobs,
                self.outcomes,
                query_rows,
                self.progress,
                weigh,
                self.view,
                masses,
                scales,
                compliance,
                self.counts,
            )
            learned = int(self.progress[NEXT_OUTCOME])
            if self.progress[NEXT_QUERY] == queries and (queries or learned == len(self.outcomes)):
                break
            mixture.grow()
        if learned:
            newest = int(self.jobs.available_at[self.outcomes[learned - 1]])
            mixture.latest_outcome_at = max(mixture.latest_outcome_at, newest)
        bounds = upper_bounds(grid, self.limits[query_rows], compliance)
        return Distribution(grid, masses, bounds), scales


def upper_bounds(grid: Grid, limits: Array, compliance: Array) -> Array:
    """Return when jobs end at the latest (float64[n], infinite for no bound).

    Args:
        grid: The target's grid.
        limits: float64[n], infinite for none.
        compliance: How jobs keep to them (int64[n]); see ``weights.limit_compliance``.
    """
    bounds = np.where(np.isfinite(limits) & (compliance != NOT), limits, np.inf)
    nearly = np.flatnonzero((compliance == NEARLY) & np.isfinite(limits))
    bounds[nearly] = grid.edges[grid.bin(limits[nearly] * OVER) + 1]
    return bounds


def outcome_order(contexts: Contexts, values: Array | None = None) -> Array:
    """Return the rows with an outcome (and a known value), in order of availability (int64)."""
    rows = np.flatnonzero(
        (contexts.available_at != NOT_AVAILABLE) & (True if values is None else np.isfinite(values))
    )
    return rows[np.lexsort((contexts.ids[rows], contexts.available_at[rows]))]
