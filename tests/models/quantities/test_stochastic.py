"""Stochastic values against simulation, and against what is known exactly."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from models.quantities.distribution import Distribution
from models.quantities.stochastic import (
    POINTS,
    constant,
    first,
    histogram,
    interval,
    maximum,
    normal,
    quantile,
    reached,
    times,
    total,
)
from models.quantities.targets import Grid

DRAWS = 40_000
QUICK = settings(max_examples=25, deadline=None)
MEANS, WIDTHS = st.floats(50, 1000), st.floats(0.5, 15)


def drawn(values: NDArray[np.float64], seed: int) -> NDArray[np.float64]:
    """As simulation has them: draws from the points, with what lies between."""
    return np.interp(
        np.random.default_rng(seed).random(DRAWS) * POINTS - 0.5, np.arange(POINTS), values
    )


values = st.one_of(
    st.builds(lambda mean, width: normal(np.array([mean]), np.array([width])), MEANS, WIDTHS),
    st.builds(
        lambda low, width: interval(np.array([low]), np.array([low + width])),
        MEANS,
        st.floats(0, 500),
    ),
    st.builds(
        lambda masses: histogram(
            Distribution(Grid(1.0, 4, 40), np.array([masses]) / sum(masses), np.array([np.inf]))
        ),
        st.lists(st.floats(0.01, 1), min_size=40, max_size=40),
    ),
)


@QUICK
@given(st.lists(values, min_size=2, max_size=5))
def test_a_sum_and_a_maximum_are_those_of_a_simulation(parts: list[NDArray[np.float64]]) -> None:
    simulated = np.array([drawn(part[0], seed) for seed, part in enumerate(parts)])
    for ours, theirs in (
        (total(*parts), simulated.sum(axis=0)),
        (maximum(*parts), simulated.max(axis=0)),
    ):
        spread = theirs.std() + 1e-6
        assert ours.mean() == pytest.approx(theirs.mean(), abs=0.08 * spread + 1e-6)
        assert ours.std() == pytest.approx(theirs.std(), rel=0.25, abs=1e-6)
        for level in (0.1, 0.5, 0.9):
            # By probabilities: in a gap between values a quantile may lie anywhere.
            value = np.quantile(theirs, level)
            assert reached(ours, np.array([value + 0.05 * spread]))[0] >= level - 0.08
            assert reached(ours, np.array([value - 0.05 * spread]))[0] <= level + 0.08


def test_a_quantile_lies_between_the_points() -> None:
    assert quantile(interval(np.array([0.0]), np.array([10.0])), 0.25)[0] == pytest.approx(2.5)


@QUICK
@given(MEANS, WIDTHS, MEANS, WIDTHS)
def test_the_sum_of_normals_is_the_normal_that_theory_says(
    a: float, b: float, c: float, d: float
) -> None:
    found = total(normal(np.array([a]), np.array([b])), normal(np.array([c]), np.array([d])))
    assert found.mean() == pytest.approx(a + c, rel=1e-6)
    assert found.std() == pytest.approx(np.hypot(b, d), rel=0.06)


def test_constants_shift_and_factors_stretch() -> None:
    found = total(
        times(interval(np.array([1.0]), np.array([3.0])), 10.0), constant(np.array([5.0]))
    )
    assert found.mean() == pytest.approx(25.0)
    assert reached(found, np.array([25.0]))[0] == pytest.approx(0.5)


@QUICK
@given(st.lists(values, min_size=2, max_size=4))
def test_the_chances_of_being_first_are_those_of_a_simulation(
    parts: list[NDArray[np.float64]],
) -> None:
    found = first(np.concatenate(parts), np.zeros(len(parts)))
    # Of equals any may be first.
    simulated = np.array([drawn(part[0], seed) for seed, part in enumerate(parts)])
    simulated += np.random.default_rng(9).random(simulated.shape) * 1e-6
    shares = np.bincount(simulated.argmin(axis=0), minlength=len(parts)) / DRAWS
    assert found.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found, shares, atol=0.05)


def test_equals_share_the_first_place_and_groups_are_apart() -> None:
    found = first(constant(np.array([5.0, 5.0, 9.0, 1.0])), np.array([0, 0, 0, 1]))
    assert found.tolist() == [0.5, 0.5, 0.0, 1.0]
