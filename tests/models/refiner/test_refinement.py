"""Refinement: what a refiner is shown, and how masses are bent, as their definitions say."""

import numpy as np
import pytest

from models.refiner.refinement import QUANTILES, coarse_bins, coarse_masses, refine, refiner_inputs


@pytest.fixture(params=[321, 513, 449], ids=lambda bins: f"{bins} bins")
def mass(request: pytest.FixtureRequest) -> np.ndarray:
    masses = np.random.default_rng(0).random((50, request.param)) ** 8
    return (masses / masses.sum(axis=1, keepdims=True)).astype(np.float32)


def test_coarse_masses_are_the_sums_over_their_bins(mass: np.ndarray) -> None:
    groups = coarse_bins(mass.shape[1])
    expected = [
        [row[groups == k].astype(float).sum() for k in range(groups[-1] + 1)] for row in mass
    ]
    np.testing.assert_allclose(coarse_masses(mass), expected, rtol=1e-12)


def test_a_refiner_is_shown_masses_quantiles_counts_and_numbers(mass: np.ndarray) -> None:
    counts, numbers = np.arange(100).reshape(50, 2), np.full((50, 1), np.nan, np.float32)
    coarse = coarse_masses(mass)
    shown = refiner_inputs(mass, coarse, counts, numbers)
    reached = np.cumsum(mass, axis=1, dtype=float)
    quantiles = np.column_stack([(reached < level).sum(axis=1) for level in QUANTILES])
    np.testing.assert_array_equal(
        shown,
        np.column_stack([coarse, quantiles, np.log2(1.0 + counts), numbers]).astype(np.float32),
    )


def test_masses_are_bent_by_their_factors_and_sum_to_one(mass: np.ndarray) -> None:
    factors = np.exp(np.random.default_rng(1).normal(size=coarse_masses(mass).shape))
    bent = refine(mass, factors)
    expected = mass * factors[:, coarse_bins(mass.shape[1])]
    np.testing.assert_allclose(bent, expected / expected.sum(axis=1, keepdims=True), rtol=1e-5)
    np.testing.assert_allclose(bent.sum(axis=1), 1.0, rtol=1e-5)
