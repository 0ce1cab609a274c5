"""One pass over masses gives what the methods of a distribution give one by one."""

import numpy as np
import pytest

from models.quantities.classes import Cuts
from models.quantities.distribution import DEVIATION, Distribution
from models.quantities.masses import reweight, summarise
from models.quantities.targets import TARGETS

GRID = TARGETS["peak_memory"].grid
LEVELS = np.array([0.03, 0.5, 0.97, 0.999])


@pytest.mark.parametrize("limited", [False, True])
def test_one_pass_says_what_a_distribution_says(limited: bool) -> None:
    draw = np.random.default_rng(4)
    masses = (draw.random((40, GRID.bins)) ** 8).astype(np.float32)
    masses /= masses.sum(axis=1, keepdims=True)
    rows = draw.integers(0, len(masses), 300)
    width = -(-GRID.fine_bins // 27)
    factors = np.exp(draw.normal(size=(300, -(-GRID.fine_bins // width))))
    limit = draw.choice([2e8, 5e9, np.inf], 300) if limited else np.full(300, np.inf)
    coarse = np.minimum(np.arange(GRID.bins) // width, factors.shape[1] - 1)
    reweighted = masses[rows] * factors[:, coarse]
    reweighted /= reweighted.sum(axis=1, keepdims=True)
    distribution = Distribution(GRID, reweighted, limit)
    stored = np.empty((300, GRID.bins), np.float32)
    reweight(masses[rows], factors, width, stored)
    np.testing.assert_allclose(stored, reweighted, rtol=1e-6)
    cuts = Cuts.of((3e7, 1e9, 2.5e9), GRID)
    numbers, best, classes = (
        np.empty((300, 2 + len(LEVELS))),
        np.empty(300, np.int64),
        np.empty((300, len(cuts) + 1)),
    )
    summarise(
        masses, rows, factors, width, GRID.centres, GRID.edges, limit, LEVELS[None],
        DEVIATION / 1e8, np.full(300, 0.5), cuts.bins, cuts.parts,
        numbers, best, classes,
    )  # fmt: skip
    # Sums may be taken in any order (infra/compiled.py), which depends on the processor.
    np.testing.assert_allclose(classes, distribution.shares(cuts), rtol=1e-12)
    np.testing.assert_array_equal(best, distribution.best_bin(1e8))
    np.testing.assert_allclose(
        numbers,
        np.column_stack([distribution.moments(), distribution.quantiles(LEVELS)]),
        rtol=1e-12,
    )
