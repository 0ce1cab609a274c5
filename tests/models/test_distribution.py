"""A distribution answers every question consistently, whatever its masses are."""

import itertools

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from models.distribution import Distribution
from models.targets import TARGETS

GRID = TARGETS["walltime"].grid
MASSES = arrays(np.float32, (3, GRID.bins), elements=st.floats(0, 1, width=32)).map(lambda mass: mass + np.float32(1e-6))


def made(mass: np.ndarray, limit: float = np.inf) -> Distribution:
    return Distribution(GRID, (mass / mass.sum(axis=1, keepdims=True)).astype(np.float32), np.full(len(mass), limit))


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
