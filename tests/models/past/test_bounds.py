"""The binomial bound: by hand, and that it holds as often as it says."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.stats import binom

from models.past.bounds import binomial_bounds, min_outcomes, ranks


def test_the_rank_is_the_smallest_that_bounds_the_quantile_with_the_confidence() -> None:
    which = ranks(0.95, 0.95, 200)
    assert min_outcomes(0.95, 0.95) == 59
    assert which[58] == 59  # too few: none of them does
    assert which[59] == 59
    for count in (59, 100, 200):
        assert (
            binom.cdf(which[count] - 1, count, 0.95)
            >= 0.95
            > binom.cdf(which[count] - 2, count, 0.95)
        )


def test_nothing_is_bounded_by_fewer_than_59_and_then_by_the_largest() -> None:
    rows = np.arange(70)
    values = np.random.default_rng(0).random(70)
    found = binomial_bounds(np.zeros(70), rows, rows + 1, values)
    assert np.isnan(found[:59]).all()
    assert found[59] == values[:59].max()


def test_it_holds_in_at_least_95_of_100_and_forgets_when_times_change() -> None:
    rng = np.random.default_rng(1)
    rows = np.arange(4000)
    values = rng.exponential(1.0, 4000) * np.where(rows < 2000, 1.0, 10.0)
    found = binomial_bounds(np.zeros(4000), rows, rows + 1, values)
    steady = slice(500, 2000)
    assert 0.95 <= (values[steady] <= found[steady]).mean() <= 0.99
    assert found[2600:].mean() == pytest.approx(30.0, rel=0.5)
