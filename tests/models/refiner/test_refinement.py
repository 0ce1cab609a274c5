"""Refinement: the inputs of a refiner and reweighted masses follow their definitions."""

import numpy as np
import pytest

from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS
from models.refiner.refinement import QUANTILES, coarse_bins, coarse_masses, refine, refiner_inputs


@pytest.fixture(params=["walltime", "peak_memory", "cpu_time"])
def masses(request: pytest.FixtureRequest) -> Distribution:
    grid = TARGETS[request.param].grid
    mass = np.random.default_rng(0).random((50, grid.bins)) ** 8
    mass = (mass / mass.sum(axis=1, keepdims=True)).astype(np.float32)
    return Distribution(grid, mass, np.full(50, np.inf))


def test_coarse_masses_are_the_sums_over_their_bins(masses: Distribution) -> None:
    groups = coarse_bins(masses.grid)
    expected = [
        [row[groups == k].astype(float).sum() for k in range(groups[-1] + 1)] for row in masses.mass
    ]
    np.testing.assert_allclose(coarse_masses(masses), expected, rtol=1e-12)


def test_inputs_are_masses_quantiles_counts_and_numbers(masses: Distribution) -> None:
    counts, numbers = np.arange(100).reshape(50, 2), np.full((50, 1), np.nan, np.float32)
    coarse = coarse_masses(masses)
    inputs = refiner_inputs(masses.mass, coarse, counts, numbers)
    reached = np.cumsum(masses.mass, axis=1, dtype=float)
    quantiles = np.column_stack([(reached < level).sum(axis=1) for level in QUANTILES])
    np.testing.assert_array_equal(
        inputs,
        np.column_stack([coarse, quantiles, np.log2(1.0 + counts), numbers]).astype(np.float32),
    )


def test_masses_are_reweighted_by_their_factors_and_sum_to_one(masses: Distribution) -> None:
    factors = np.exp(np.random.default_rng(1).normal(size=coarse_masses(masses).shape))
    reweighted = refine(masses, factors).mass
    expected = masses.mass * factors[:, coarse_bins(masses.grid)]
    expected /= expected.sum(axis=1, keepdims=True)
    np.testing.assert_allclose(reweighted, expected, rtol=1e-5)
    np.testing.assert_allclose(reweighted.sum(axis=1), 1.0, rtol=1e-5)
