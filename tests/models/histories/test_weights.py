"""Weights: components that predicted an owner's jobs get weight for that owner, then for others."""

import numpy as np
import pytest

from models.histories.blend import View, new_view
from models.histories.components import TABLES, MixtureSettings, Shape, make_shape
from models.histories.outcome_index import new_outcome_index
from models.histories.weights import (
    NEARLY,
    NOT,
    STRICTLY,
    WeightTables,
    compact_weights,
    enlarge_weight_tables,
    error_scale,
    has_capacity,
    limit_compliance,
    new_weight_tables,
    restore_weights,
    update_error_scale,
    update_weights,
    weigh,
)
from models.quantities.targets import TARGETS

EACH = 3


@pytest.fixture(scope="module")
def shape() -> Shape:
    """One kind of history in three widths, so three components."""
    return make_shape(
        MixtureSettings(decays=(0.9,)), TARGETS["walltime"].grid, np.zeros(1, np.bool_), 0
    )


def of(shape: Shape, owner: int, shares: tuple[float, ...] = ()) -> View:
    """A job of an owner, all tables but the first two its own; ``shares`` are responsibilities."""
    view = new_view(shape, EACH)
    view.tables[:] = [1, 2, *(100 * owner + place for place in range(2, TABLES))]
    view.weights[:] = shares or 0.0
    return view


def weights(tables: WeightTables, shape: Shape, owner: int) -> np.ndarray:
    view = of(shape, owner)
    weigh(tables, shape, view)
    return view.weights


@pytest.fixture
def taught(shape: Shape) -> WeightTables:
    """Owner 1's jobs were all foreseen by the last component, owner 2's few by the first."""
    tables = new_weight_tables(EACH)
    for _ in range(60):
        update_weights(tables, shape, of(shape, 1, (0.0, 0.0, 1.0)))
    for _ in range(5):
        update_weights(tables, shape, of(shape, 2, (1.0, 0.0, 0.0)))
    return tables


def test_nothing_learned_weighs_all_alike(shape: Shape) -> None:
    np.testing.assert_allclose(weights(new_weight_tables(EACH), shape, 1), 1 / 3)


def test_an_owner_is_trusted_by_what_foresaw_it_and_a_stranger_by_what_foresaw_all(
    shape: Shape, taught: WeightTables
) -> None:
    first, second, stranger = (weights(taught, shape, owner) for owner in (1, 2, 3))
    for found in (first, second, stranger):
        assert found.sum() == pytest.approx(1)
    assert first[2] > 0.99
    assert 0.8 < stranger[2] < first[2]
    assert second[0] > 3 * stranger[0]


def test_what_was_long_ago_fades(shape: Shape, taught: WeightTables) -> None:
    for _ in range(300):
        update_weights(taught, shape, of(shape, 1, (0.0, 1.0, 0.0)))
    assert weights(taught, shape, 1)[1] > 0.9


def test_weights_stay_when_tables_grow_and_when_they_are_kept(
    shape: Shape, taught: WeightTables
) -> None:
    before = weights(taught, shape, 1)
    tables = taught
    for owner in range(10, 400):
        tables = enlarge_weight_tables(tables)
        assert has_capacity(tables)
        update_weights(tables, shape, of(shape, owner, (0.0, 0.0, 0.0)))
    assert len(tables.rows) > len(taught.rows)
    np.testing.assert_allclose(
        weights(restore_weights(compact_weights(tables)), shape, 1),
        weights(tables, shape, 1),
        rtol=1e-12,
    )
    assert weights(tables, shape, 1)[2] == pytest.approx(before[2], abs=0.01)


@pytest.mark.parametrize(("late", "far", "how"), [(0, 0, STRICTLY), (2, 0, NEARLY), (0, 20, NOT)])
def test_how_jobs_keep_to_their_limits_is_seen(shape: Shape, late: int, far: int, how: int) -> None:
    tables, view = new_weight_tables(EACH), new_view(shape, EACH)
    for job in range(100):
        update_error_scale(
            new_outcome_index(),
            shape,
            tables,
            view,
            50.0,
            0.5 if job < late else 30.0 if job < late + far else -10.0,
        )
    assert limit_compliance(tables, shape) == how
    assert np.isnan(error_scale(tables))
