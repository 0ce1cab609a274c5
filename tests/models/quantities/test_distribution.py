"""A distribution answers every question consistently, whatever its masses are."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.quantities.distribution import DEVIATION, Distribution
from models.quantities.targets import TARGETS

GRID = TARGETS["walltime"].grid
MASSES = arrays(np.float32, (3, GRID.bins), elements=st.floats(0, 1, width=32)).map(
    lambda mass: mass + np.float32(1e-6)
)


def made(mass: np.ndarray, limit: float = np.inf) -> Distribution:
    return Distribution(
        GRID, (mass / mass.sum(axis=1, keepdims=True)).astype(np.float32), np.full(len(mass), limit)
    )


@settings(max_examples=40, deadline=None)
@given(MASSES, st.lists(st.floats(0.01, 0.99), min_size=2, max_size=5))
def test_quantiles_rise_with_their_level(mass: np.ndarray, levels: list[float]) -> None:
    answer = made(mass)
    values = [answer.quantile(level) for level in sorted(levels)]
    for lower, upper in itertools.pairwise(values):
        assert (lower <= upper).all()


@settings(max_examples=40, deadline=None)
@given(MASSES, st.floats(60, 1e5))
def test_no_quantile_and_no_mean_is_above_the_limit(mass: np.ndarray, limit: float) -> None:
    answer = made(mass, limit)
    assert (answer.quantile(0.99) <= limit * (1 + 1e-6)).all()
    assert (answer.mean() <= limit * (1 + 1e-6)).all()


@settings(max_examples=40, deadline=None)
@given(MASSES)
def test_the_interval_holds_the_median(mass: np.ndarray) -> None:
    answer = made(mass)
    low, high = answer.interval(0.9)
    assert ((low <= answer.median()) & (answer.median() <= high)).all()


def test_all_mass_in_one_bin_is_told_as_that_value() -> None:
    mass = np.zeros((1, GRID.bins), np.float32)
    mass[0, 160] = 1.0
    answer = Distribution(GRID, mass, np.array([np.inf]))
    width = 2.0 ** (1 / GRID.steps)
    assert answer.quantile(0.95)[0] / answer.quantile(0.05)[0] <= width * 1.001
    assert answer.quantile(0.05)[0] <= answer.mean()[0] <= answer.quantile(0.95)[0] * width


@settings(max_examples=20, deadline=None)
@given(MASSES, st.floats(60, 1e7), st.floats(10, 1e5))
def test_the_best_bin_is_the_one_of_most_expected_worth(
    mass: np.ndarray, limit: float, scale: float
) -> None:
    answer = made(mass, limit)
    values = np.minimum(GRID.centres, limit)
    near = np.minimum(values[:, None] / values, values / values[:, None])
    worth = (near - DEVIATION * np.abs(values[:, None] - values) / scale) @ answer.mass.astype(
        float
    ).T
    chosen = worth[answer.best_bin(scale), np.arange(len(mass))]
    np.testing.assert_allclose(chosen, worth.max(axis=0), rtol=1e-9, atol=1e-12)


@settings(max_examples=20, deadline=None)
@given(MASSES, st.floats(60, 1e7), st.lists(st.floats(0.001, 0.999), min_size=1, max_size=4))
def test_what_is_read_off_is_what_the_masses_say(
    mass: np.ndarray, limit: float, levels: list[float]
) -> None:
    answer = made(mass, limit)
    exact, values = answer.mass.astype(float), np.minimum(GRID.centres, limit)
    np.testing.assert_allclose(answer.mean(), exact @ values, rtol=1e-9)
    spread = exact @ values**2 - (exact @ values) ** 2
    np.testing.assert_allclose(
        answer.standard_deviation() ** 2, spread, rtol=1e-6, atol=1e-6 * answer.mean().max() ** 2
    )
    for place, level in enumerate(levels):
        bins = [int(np.argmax(np.cumsum(row) / row.sum() >= level - 1e-12)) for row in exact]
        tops = [int(np.argmax(np.cumsum(row) / row.sum() >= 1 - 1e-12)) for row in exact]
        above = [
            limit if b == top else GRID.edges[b + 1] for b, top in zip(bins, tops, strict=True)
        ]
        wanted = (
            [GRID.edges[b] if level < 0.5 else GRID.centres[b] for b in bins]
            if level <= 0.5
            else above
        )
        np.testing.assert_allclose(
            answer.quantiles(np.array(levels))[:, place], np.minimum(wanted, limit), rtol=1e-12
        )


def test_without_a_limit_the_floor_under_all_values_does_not_make_the_mean() -> None:
    mass = np.full((1, GRID.bins), 0.02 / GRID.bins)
    mass[0, GRID.bin(np.array([3600.0]))] += 0.98
    answer = Distribution(GRID, mass.astype(np.float32), np.array([np.inf]))
    assert 0.9 * 3600 < answer.mean()[0] < 1.1 * 3600
    assert answer.standard_deviation()[0] < 3600
