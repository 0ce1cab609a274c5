"""Weights: how much each component is trusted, learned online in tables that shrink towards each other (compiled).

When a job ends, each component's share in having foreseen it is added to several tables: of all jobs, of those with as long a
history and of its size, of its owner, of its owner's jobs of its size, of its template. A job's weights come from these, coarse to
fine. Size matters because a few large jobs make most of the error, and what foresees them is not what foresees the many small.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from models.histories.blend import View, bin_of
from models.histories.components import FACTS, TABLES, Shape
from models.histories.outcome_index import OutcomeIndex, count_available

_FADE = 0.9999
_ENOUGH = 20.0
STRICTLY, NEARLY, NOT = 0, 1, 2
_STOPPED_LATE = 0.005
"""More jobs than this share over their limit, and systems are taken to stop jobs a moment after it."""
_NOTHING = 1e-9
"""Shares that faded below this are 0: denormal numbers would make every later sum a hundred times slower."""
_LOOKED_AT = 4
"""How many outcomes tell a job's expected size."""


class WeightTables(NamedTuple):
    """Sums of shares under hashed keys, and what else is counted as jobs end."""

    key: Array  # uint64[power of two], 0 where free
    row: Array  # int32, the row of a key
    rows: Array  # float32[rows, components]
    facts: Array  # float64[5]: sum of the simplest forecast's errors, their number; jobs far over their limit, over it, with a limit
    slopes: Array  # float64[components, FACTS], of the gate
    travelled: Array  # float64[components, FACTS], sums of its squared steps
    used: Array  # int64[1], rows in use


class LearnedWeights(NamedTuple):
    """What a mixture learned, as it is kept in a model set."""

    keys: Array  # uint64[k]
    rows: Array  # float32[k, components]
    facts: Array  # float64[5]
    slopes: Array  # float64[components, FACTS]
    travelled: Array  # float64[components, FACTS]


def new_weight_tables(components: int, rows: int = 256) -> WeightTables:
    """Nothing learned."""
    return WeightTables(
        np.zeros(4 * rows, np.uint64), np.zeros(4 * rows, np.int32), np.zeros((rows, components), np.float32), np.zeros(5),
        np.zeros((components, FACTS)), np.ones((components, FACTS)), np.zeros(1, np.int64),
    )  # fmt: skip


def enlarge_weight_tables(tables: WeightTables) -> WeightTables:
    """The same tables with room for twice as many rows, if they are nearly full."""
    if has_rows(tables):
        return tables
    bigger = new_weight_tables(tables.rows.shape[1], 2 * len(tables.rows))
    bigger = bigger._replace(
        facts=tables.facts, slopes=tables.slopes, travelled=tables.travelled, used=tables.used
    )
    bigger.rows[: len(tables.rows)] = tables.rows
    _copy_keys(tables, bigger)
    return bigger


def learned(tables: WeightTables) -> LearnedWeights:
    """A copy of the tables without the room between them."""
    taken = np.flatnonzero(tables.key)
    return LearnedWeights(
        tables.key[taken],
        tables.rows[tables.row[taken]],
        tables.facts.copy(),
        tables.slopes.copy(),
        tables.travelled.copy(),
    )


def restored(what: LearnedWeights) -> WeightTables:
    """WeightTables that start from what was learned."""
    size = 256
    while size < len(what.keys) + TABLES:
        size *= 2
    tables = new_weight_tables(what.rows.shape[1], size)
    for key, shares in zip(what.keys, what.rows, strict=True):
        tables.rows[_need_row(tables, key)] = shares
    tables.facts[:], tables.slopes[:], tables.travelled[:] = what.facts, what.slopes, what.travelled
    return tables


@compiled
def has_rows(tables: WeightTables) -> bool:
    """Whether one more job fits."""
    return tables.used[0] + TABLES <= len(tables.rows)


@compiled
def _copy_keys(source: WeightTables, target: WeightTables) -> None:
    for i in range(len(source.key)):
        if source.key[i] != 0:
            place = _place(target, source.key[i])
            target.key[place], target.row[place] = source.key[i], source.row[i]


@compiled
def _place(tables: WeightTables, key: np.uint64) -> np.int64:
    mask = np.uint64(len(tables.key) - 1)
    place = np.int64(key & mask)
    while tables.key[place] != 0 and tables.key[place] != key:
        place = (place + 1) & np.int64(mask)
    return place


@compiled
def _need_row(tables: WeightTables, key: np.uint64) -> np.int64:
    place = _place(tables, key)
    if tables.key[place] == 0:
        tables.key[place] = key
        tables.row[place] = tables.used[0]
        tables.used[0] += 1
    return np.int64(tables.row[place])


@compiled
def _mixed(key: np.uint64, what: int) -> np.uint64:
    """A key for ``what`` of ``key``: the finaliser of splitmix64, never 0."""
    value = (key ^ np.uint64(what + 1)) * np.uint64(0x9E3779B97F4A7C15)
    value = (value ^ (value >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    value = (value ^ (value >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return (value ^ (value >> np.uint64(31))) | np.uint64(1)


@compiled
def _size(lists: OutcomeIndex, shape: Shape, view: View) -> np.int64:
    """The class (two octaves) of the size that a job's finest history lets expect; 0 without any."""
    for level in range(len(view.slots)):
        count = min(view.ends[level] - view.firsts[level], _LOOKED_AT)
        if count > 0 and not shape.relative[level]:
            total = 0.0
            for age in range(count):
                total += lists.log_bin_position[view.ends[level] - 1 - age]
            return 1 + bin_of(total / count, shape.bins) // np.int64(2 * shape.steps)
    return np.int64(0)


@compiled
def _doublings(count: int) -> int:
    size = 0
    while count > 0 and size < 13:
        count >>= 1
        size += 1
    return size


@compiled
def find_tables(lists: OutcomeIndex, shape: Shape, keys: Array, view: View) -> None:
    """The keys of a job's tables, coarse to fine, into view.tables."""
    size = _size(lists, shape, view)
    template, owner = view.slots[0], view.slots[shape.owner]
    known = _doublings(count_available(lists, template, view.ends[0]) if template >= 0 else 0)
    known_owner = _doublings(
        count_available(lists, owner, view.ends[shape.owner]) if owner >= 0 else 0
    )
    view.tables[0] = _mixed(np.uint64(0), 0)
    view.tables[1] = _mixed(np.uint64(1), known * 16 + known_owner)
    view.tables[2] = _mixed(np.uint64(2), known * 64 + size)
    view.tables[3] = _mixed(keys[shape.owner], 0)
    view.tables[4] = _mixed(keys[shape.owner], 1 + size)
    view.tables[5] = _mixed(keys[0], 0x1000)


@compiled
def weigh(tables: WeightTables, shape: Shape, view: View) -> None:
    """The weights of one job's components into view.weights, before those without history are hidden."""
    weights = view.weights
    weights[:] = 1.0 / len(weights)
    for t in range(TABLES):
        place = _place(tables, view.tables[t])
        if tables.key[place] != 0:
            table = tables.rows[tables.row[place]]
            total = shape.shrink[t]
            for c in range(len(weights)):
                total += table[c]
            for c in range(len(weights)):
                weights[c] = (table[c] + shape.shrink[t] * weights[c]) / total


@compiled
def update_weights(tables: WeightTables, shape: Shape, view: View) -> None:
    """Add the shares in view.weights to every table of the job."""
    for t in range(TABLES):
        table = tables.rows[_need_row(tables, view.tables[t])]
        for c in range(len(view.weights)):
            share = table[c] * shape.forget[t] + view.weights[c]
            table[c] = share if share > _NOTHING else 0.0


@compiled
def update_error_scale(
    lists: OutcomeIndex, shape: Shape, tables: WeightTables, view: View, value: float, over: float
) -> None:
    """Keep the error of the simplest forecast (mean of the finest history's last two), and how jobs keep to their limits.

    ``over`` is how far above its limit the job went, in bins; minus infinity for a job without one.
    """
    facts = tables.facts
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.firsts[level], view.ends[level] - 1
        if count > 0 and not shape.relative[level]:
            mean = (
                0.5 * (lists.value[newest] + lists.value[newest - 1])
                if count > 1
                else lists.value[newest]
            )
            facts[0] = facts[0] * _FADE + abs(value - mean)
            facts[1] = facts[1] * _FADE + 1.0
            break
    if np.isfinite(over):
        facts[2] = facts[2] * _FADE + (1.0 if over > shape.moment else 0.0)
        facts[3] = facts[3] * _FADE + (1.0 if over > 0.0 else 0.0)
        facts[4] = facts[4] * _FADE + 1.0


@compiled
def error_scale(tables: WeightTables) -> float:
    """What counts as a large error, in the target's unit: the mean error of the simplest forecast; NaN while unknown."""
    return tables.facts[0] / tables.facts[1] if tables.facts[1] >= _ENOUGH else np.nan


@compiled
def limit_compliance(tables: WeightTables, shape: Shape) -> int:
    """How jobs keep to their limits, as far as has been seen: STRICTLY, NEARLY (they are stopped a moment after) or NOT at all."""
    seen = max(tables.facts[4], _ENOUGH)
    if not shape.binding or tables.facts[2] > shape.limit_broken * seen:
        return NOT
    return NEARLY if tables.facts[3] > _STOPPED_LATE * seen else STRICTLY
