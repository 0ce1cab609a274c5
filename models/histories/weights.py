"""Component weights, learned online by EM in tables that shrink towards coarser ones.

When a job ends, each component's responsibility for its outcome is added to six tables: of all
jobs, of jobs with as many outcomes, of these and its size, of its owner, of its owner's jobs of its
size, of its template. A job's weights are computed from them, coarse to fine. Size counts because a
few large jobs make most of the error, and other histories predict them than predict small jobs.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled, compiled_in_place
from models.histories.blend import View
from models.histories.components import FACTS, TABLES, Shape, bin_of
from models.histories.hash_table import enter_rows, find_position, find_row, mix
from models.histories.outcome_index import OutcomeIndex, count_available, value_at

STRICTLY, NEARLY, NOT = 0, 1, 2
"""How jobs keep to their limits: always, to within OVER, or not at all."""
ERROR_SUM, ERROR_COUNT, FAR_OVER_LIMIT, OVER_LIMIT, LIMITED, ERRORS, LIMITS = range(7)
"""Positions in ``WeightTables.facts``: sum and number of the simplest predictor's errors; jobs far
over their limit, over it, and with one. All are decayed but the last two, which count errors and
jobs with a limit since the tables were created."""
LEARNED_FACTS = 5
"""So many facts are saved in a model set."""
FACTS_DECAY = 0.9999
_MIN_COUNT = 20.0
_STOPPED_LATE = 0.005
"""Above this share of jobs over their limit, jobs are taken to be stopped late."""
_NEGLIGIBLE = 1e-9
"""Smaller shares are set to 0: denormal numbers would make sums a hundred times slower."""
_SIZE_OUTCOMES = 4
"""This many of the latest outcomes give a job's expected size."""
_MOST_DOUBLINGS, _COUNTS, _SIZES = 13, 16, 64
"""The largest number of doublings, and by how much keys of tables of counts and sizes differ."""
_GOLDEN = np.uint64(0x9E3779B97F4A7C15)


class WeightTables(NamedTuple):
    """Decayed sums of responsibilities by hashed key, and what else is learned from outcomes."""

    row_key: Array  # uint64[rows]
    table_row: Array  # int32[power of two], -1 where free
    rows: Array  # float32[rows, components]
    updates: Array  # int64[rows], how often each row was added to since the tables were created
    facts: Array  # float64[7], see ERROR_SUM
    slopes: Array  # float64[components, FACTS], of the gate
    squares: Array  # float64[components, FACTS], sums of its squared gradients
    used: Array  # int64[1], rows in use


class LearnedWeights(NamedTuple):
    """What a mixture learned, as it is saved in a model set."""

    keys: Array  # uint64[k]
    rows: Array  # float32[k, components]
    facts: Array  # float64[5]
    slopes: Array  # float64[components, FACTS]
    squares: Array  # float64[components, FACTS]


def new_weight_tables(components: int, rows: int = 256) -> WeightTables:
    """Create tables that have learned nothing."""
    return WeightTables(
        row_key=np.zeros(rows, np.uint64),
        table_row=np.full(4 * rows, -1, np.int32),
        rows=np.zeros((rows, components), np.float32),
        updates=np.zeros(rows, np.int64),
        facts=np.zeros(LIMITS + 1),
        slopes=np.zeros((components, FACTS)),
        squares=np.ones((components, FACTS)),
        used=np.zeros(1, np.int64),
    )


def enlarge_weight_tables(tables: WeightTables, more: int = TABLES) -> WeightTables:
    """Return the same tables with twice the room unless there is some for ``more`` rows."""
    if tables.used[0] + more <= len(tables.rows):
        return tables
    count = len(tables.rows)
    larger = new_weight_tables(tables.rows.shape[1], 2 * count)
    larger.rows[:count], larger.row_key[:count] = tables.rows, tables.row_key
    larger.updates[:count] = tables.updates
    enter_rows(larger.row_key, tables.used[0], larger.table_row)
    return larger._replace(
        facts=tables.facts, slopes=tables.slopes, squares=tables.squares, used=tables.used
    )


def compact_weights(tables: WeightTables) -> LearnedWeights:
    """Copy the tables without their spare room."""
    used = int(tables.used[0])
    return LearnedWeights(
        tables.row_key[:used].copy(),
        tables.rows[:used].copy(),
        tables.facts[:LEARNED_FACTS].copy(),
        tables.slopes.copy(),
        tables.squares.copy(),
    )


def restore_weights(learned: LearnedWeights) -> WeightTables:
    """Create tables that continue from what was learned."""
    size = 256
    while size < len(learned.keys) + TABLES:
        size *= 2
    tables = new_weight_tables(learned.rows.shape[1], size)
    for key, shares in zip(learned.keys, learned.rows, strict=True):
        tables.rows[_ensure_row(tables, key)] = shares
    tables.facts[:LEARNED_FACTS] = learned.facts
    tables.slopes[:], tables.squares[:] = learned.slopes, learned.squares
    return tables


@compiled_in_place
def has_capacity(tables: WeightTables) -> bool:
    """Whether one more job fits."""
    return tables.used[0] + TABLES <= len(tables.rows)


@compiled_in_place
def _ensure_row(tables: WeightTables, key: np.uint64) -> np.int64:
    position = find_position(tables.row_key, tables.table_row, key)
    if tables.table_row[position] < 0:
        tables.row_key[tables.used[0]] = key
        tables.table_row[position] = tables.used[0]
        tables.used[0] += 1
    return np.int64(tables.table_row[position])


@compiled_in_place
def _table_key(key: np.uint64, purpose: int) -> np.uint64:
    """Derive a key for one purpose from another key, never 0."""
    return mix((key ^ np.uint64(purpose + 1)) * _GOLDEN) | np.uint64(1)


@compiled_in_place
def _size_class(index: OutcomeIndex, shape: Shape, view: View) -> np.int64:
    """Return the class (two octaves) of the size that the finest history suggests; 0 for none."""
    for level in range(len(view.slots)):
        count = min(view.ends[level] - view.starts[level], _SIZE_OUTCOMES)
        if count > 0 and not shape.relative[level]:
            total = 0.0
            for age in range(count):
                total += index.log_bin_position[view.ends[level] - 1 - age]
            return 1 + bin_of(total / count, shape) // np.int64(2 * shape.steps)
    return np.int64(0)


@compiled_in_place
def _doublings(count: int) -> int:
    doublings = 0
    while count > 0 and doublings < _MOST_DOUBLINGS:
        count >>= 1
        doublings += 1
    return doublings


@compiled_in_place
def find_tables(index: OutcomeIndex, shape: Shape, keys: Array, view: View) -> None:
    """Compute the keys of a job's weight tables into ``view.tables``, coarse to fine.

    Args:
        index: The outcomes.
        shape: The mixture's shape.
        keys: The job's keys (uint64[levels]).
        view: The job's windows.
    """
    size, owner = _size_class(index, shape, view), shape.owner
    template, template_count, owner_count = 0, 0, 0
    while template < len(keys) - 1 and keys[template] == 0:
        template += 1
    if view.slots[template] >= 0:
        available = count_available(index, view.slots[template], view.ends[template])
        template_count = _doublings(available)
    if view.slots[owner] >= 0:
        owner_count = _doublings(count_available(index, view.slots[owner], view.ends[owner]))
    view.tables[0] = _table_key(np.uint64(0), 0)
    view.tables[1] = _table_key(np.uint64(1), template_count * _COUNTS + owner_count)
    view.tables[2] = _table_key(np.uint64(2), template_count * _SIZES + size)
    # Jobs that do not report their owner are no owner's.
    view.tables[3] = _table_key(keys[owner], 0) if keys[owner] != 0 else np.uint64(0)
    view.tables[4] = _table_key(keys[owner], 1 + size) if keys[owner] != 0 else np.uint64(0)
    view.tables[5] = _table_key(keys[template], 0x1000)


@compiled
def _coarse_keys(sizes: int, keys: Array, table: Array) -> None:
    """Compute ``CoarseRows.keys`` and ``table``; ``sizes`` is the number of size classes."""
    keys[0], table[0], count = _table_key(np.uint64(0), 0), 0, 1
    for template_count in range(_MOST_DOUBLINGS + 1):
        for owner_count in range(_MOST_DOUBLINGS + 1):
            keys[count] = _table_key(np.uint64(1), template_count * _COUNTS + owner_count)
            table[count], count = 1, count + 1
        for size in range(sizes):
            keys[count] = _table_key(np.uint64(2), template_count * _SIZES + size)
            table[count], count = 2, count + 1


@compiled
def _find_rows(tables: WeightTables, keys: Array, add: bool, out: Array) -> None:
    for i in range(len(keys)):
        out[i] = find_row(tables.row_key, tables.table_row, keys[i])
        if add and out[i] < 0:
            out[i] = _ensure_row(tables, keys[i])


class CoarseRows:
    """The rows of the tables of all jobs, of counts, and of counts and sizes.

    Attributes:
        keys: Their keys (uint64[k]).
        table: The table of each (int64[k]).
    """

    def __init__(self, shape: Shape) -> None:
        """Compute the keys; there are some hundred."""
        sizes = 2 + (shape.bins - 1) // int(2 * shape.steps)
        count = 1 + (_MOST_DOUBLINGS + 1) * (_MOST_DOUBLINGS + 1 + sizes)
        keys, table = np.empty(count, np.uint64), np.empty(count, np.int64)
        _coarse_keys(sizes, keys, table)
        # Some counts have the key of other counts and sizes, so one row serves both.
        first = np.sort(np.unique(keys, return_index=True)[1])
        self.keys, self.table = keys[first], table[first]

    def read(self, tables: WeightTables) -> tuple[Array, Array]:
        """Read the rows and their updates, zeros for rows that are not there.

        Returns:
            float64[k, components] and int64[k].
        """
        rows = np.empty(len(self.keys), np.int64)
        _find_rows(tables, self.keys, False, rows)
        shares, updates = tables.rows[rows].astype(np.float64), tables.updates[rows]
        shares[rows < 0], updates[rows < 0] = 0.0, 0
        return shares, updates

    def write(self, tables: WeightTables, shares: Array) -> WeightTables:
        """Replace the rows; those of zeros are not added.

        Args:
            tables: The tables.
            shares: The rows, as ``read`` returns them.

        Returns:
            The tables, larger where there was no room.
        """
        filled = np.flatnonzero(shares.any(axis=1))
        while tables.used[0] + len(filled) > len(tables.rows):
            tables = enlarge_weight_tables(tables, len(filled))
        rows = np.empty(len(filled), np.int64)
        _find_rows(tables, self.keys[filled], True, rows)
        tables.rows[rows] = shares[filled]
        return tables


@compiled_in_place
def weigh(tables: WeightTables, shape: Shape, view: View) -> None:
    """Compute a job's weights into ``view.weights``, levels without outcomes included.

    Args:
        tables: The learned tables.
        shape: The sizes of the arrays.
        view: The working arrays of one job.
    """
    weights = view.weights
    weights[:] = 1.0 / len(weights)
    for t in range(TABLES):
        row = find_row(tables.row_key, tables.table_row, view.tables[t])
        if row >= 0 and view.tables[t] != 0:
            shares = tables.rows[row]
            total = shape.shrink[t]
            for c in range(len(weights)):
                total += shares[c]
            scale = 1.0 / total
            for c in range(len(weights)):
                weights[c] = (shares[c] + shape.shrink[t] * weights[c]) * scale


@compiled_in_place
def update_weights(tables: WeightTables, shape: Shape, view: View) -> None:
    """Add the responsibilities in ``view.weights`` to each of the job's tables.

    Args:
        tables: The learned tables.
        shape: The sizes of the arrays.
        view: The working arrays of one job.
    """
    for t in range(TABLES):
        if view.tables[t] == 0:
            continue
        row = _ensure_row(tables, view.tables[t])
        tables.updates[row] += 1
        shares = tables.rows[row]
        for c in range(len(view.weights)):
            share = shares[c] * shape.forget[t] + view.weights[c]
            shares[c] = share if share > _NEGLIGIBLE else 0.0


@compiled_in_place
def update_error_scale(
    index: OutcomeIndex,
    shape: Shape,
    tables: WeightTables,
    view: View,
    value: float,
    excess: float,
) -> None:
    """Update the error of the simplest predictor, and how jobs keep to their limits.

    The simplest predictor is the mean of the last two outcomes of the finest history.

    Args:
        index: The outcomes.
        shape: The mixture's shape.
        tables: Receives the update.
        view: The job's windows.
        value: The outcome in the target's unit.
        excess: By how much it lies above the limit, in bins; minus infinity without a limit.
    """
    facts = tables.facts
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.starts[level], view.ends[level] - 1
        if count > 0 and not shape.relative[level]:
            mean = value_at(index, newest)
            if count > 1:
                mean = 0.5 * (mean + value_at(index, newest - 1))
            facts[ERROR_SUM] = facts[ERROR_SUM] * FACTS_DECAY + abs(value - mean)
            facts[ERROR_COUNT] = facts[ERROR_COUNT] * FACTS_DECAY + 1.0
            facts[ERRORS] += 1.0
            break
    if np.isfinite(excess):
        far_over, over = (1.0 if excess > shape.moment else 0.0), (1.0 if excess > 0.0 else 0.0)
        facts[FAR_OVER_LIMIT] = facts[FAR_OVER_LIMIT] * FACTS_DECAY + far_over
        facts[OVER_LIMIT] = facts[OVER_LIMIT] * FACTS_DECAY + over
        facts[LIMITED] = facts[LIMITED] * FACTS_DECAY + 1.0
        facts[LIMITS] += 1.0


@compiled_in_place
def error_scale(tables: WeightTables) -> float:
    """Return the mean error of the simplest predictor in the target's unit; NaN while unknown."""
    facts = tables.facts
    return facts[ERROR_SUM] / facts[ERROR_COUNT] if facts[ERROR_COUNT] >= _MIN_COUNT else np.nan


@compiled_in_place
def limit_compliance(tables: WeightTables, shape: Shape) -> int:
    """Return how jobs have kept to their limits so far: STRICTLY, NEARLY or NOT."""
    jobs = max(tables.facts[LIMITED], _MIN_COUNT)
    if not shape.binding or tables.facts[FAR_OVER_LIMIT] > shape.limit_broken * jobs:
        return NOT
    return NEARLY if tables.facts[OVER_LIMIT] > _STOPPED_LATE * jobs else STRICTLY
