"""The gate: which histories deserve weight by their looks is learned as jobs end."""

import numpy as np
import pytest

from models.histories.blend import View, look, new_view
from models.histories.components import MixtureSettings, Shape, make_shape
from models.histories.gate import compute_facts, gate, update_gate
from models.histories.outcome_index import (
    OutcomeIndex,
    add_row,
    ensure_slot,
    insert,
    new_outcome_index,
)
from models.histories.weights import WeightTables, new_weight_tables
from models.quantities.targets import TARGETS

LONG, SHORT, EVERYONE, UNKNOWN = (np.uint64(key) for key in (1, 2, 3, 4))
MINUTE = 60_000_000
LATER = 100 * MINUTE


@pytest.fixture(scope="module")
def shape() -> Shape:
    """Three kinds of history, one component each."""
    return make_shape(
        MixtureSettings(decays=(0.9,), widths=(0.15,)),
        TARGETS["walltime"].grid,
        np.zeros(3, np.bool_),
        0,
    )


@pytest.fixture
def lists() -> OutcomeIndex:
    """A long history of one value, a short one of two that lie apart, and that of all jobs."""
    lists = new_outcome_index()
    told = [(LONG, minute, 80.0) for minute in range(40)] + [(SHORT, 50, 20.0), (SHORT, 60, 120.0)]
    for ident, (key, minute, mark) in enumerate(told):
        row = add_row(lists, minute * MINUTE, np.uint32(ident), 2.0 ** (mark / 16))
        for each in (key, EVERYONE):
            insert(lists, ensure_slot(lists, each), row, np.float32(mark))
    return lists


def seen(lists: OutcomeIndex, shape: Shape, *keys: np.uint64) -> View:
    """What a job of these keys is told of, every component weighing the same."""
    view = new_view(shape, 3)
    look(lists, shape, np.array(keys), LATER, np.inf, view)
    compute_facts(lists, shape, view)
    view.weights[:] = 1 / 3
    return view


def learned(lists: OutcomeIndex, shape: Shape, times: int = 40) -> WeightTables:
    """A gate that saw the long history predict every outcome, now a job's first, now its second."""
    tables = new_weight_tables(3)
    for time in range(times):
        keys = (LONG, SHORT) if time % 2 else (SHORT, LONG)
        view = seen(lists, shape, *keys, EVERYONE)
        gate(tables, shape, view)
        view.weights[:] = view.weights / view.weights.sum()
        view.prior[:] = view.weights
        view.weights[:] = [keys[0] == LONG, keys[1] == LONG, 0.0]
        update_gate(tables, shape, view)
    return tables


def test_facts_tell_length_silence_spread_and_repeats(lists: OutcomeIndex, shape: Shape) -> None:
    long, short, _ = seen(lists, shape, LONG, SHORT, EVERYONE).facts
    np.testing.assert_allclose(long, [np.log2(41) / 6, np.log2(1 + 21) / 10, 0.0, 1.0, 0.0])
    np.testing.assert_allclose(
        short, [np.log2(3) / 6, 0.0, np.log2(1 + 100 / shape.steps) / 2, 0.0, 0.0]
    )


def test_a_gate_that_learned_nothing_changes_nothing(lists: OutcomeIndex, shape: Shape) -> None:
    view = seen(lists, shape, LONG, SHORT, EVERYONE)
    gate(new_weight_tables(3), shape, view)
    assert view.weights.tolist() == [1 / 3] * 3


def test_a_gate_learns_to_trust_the_longer_history_wherever_it_stands(
    lists: OutcomeIndex, shape: Shape
) -> None:
    tables = learned(lists, shape)
    for keys, longer in (((LONG, SHORT), 0), ((SHORT, LONG), 1)):
        view = seen(lists, shape, *keys, EVERYONE)
        gate(tables, shape, view)
        assert view.weights[longer] > 3 * view.weights[1 - longer]
        assert view.weights[longer] > 3 * view.weights[2]


def test_a_history_without_outcomes_neither_learns_nor_is_gated(
    lists: OutcomeIndex, shape: Shape
) -> None:
    tables = learned(lists, shape)
    before = tables.slopes.copy()
    view = seen(lists, shape, LONG, UNKNOWN, EVERYONE)
    view.facts[1] = 1.0
    gate(tables, shape, view)
    assert view.weights[1] == 1 / 3
    view.prior[:] = [0.2, 0.6, 0.2]
    update_gate(tables, shape, view)
    np.testing.assert_array_equal(tables.slopes[1], before[1])
    assert (tables.slopes[[0, 2]] != before[[0, 2]]).any()
