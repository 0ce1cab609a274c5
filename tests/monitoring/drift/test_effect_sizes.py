"""Effect sizes are Evidently's, do not grow with the rows, and are small without change."""

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from monitoring.drift.effect_sizes import (
    NEW,
    OTHER_CODE,
    Sampling,
    buckets,
    category_distance,
    largest_block_distance,
    largest_permuted_distance,
    missing_distance,
    number_distance,
)

ALL = Sampling(most=10**9)


@pytest.mark.parametrize("seed", range(3))
def test_the_distances_are_evidentlys_own(seed: int) -> None:
    from evidently.legacy.calculations.stattests import (
        jensenshannon_stat_test,
        wasserstein_stat_test,
    )
    from evidently.legacy.core import ColumnType

    random = np.random.default_rng(seed)
    numbers = random.normal(3, 1, 3000), random.normal(3.4, 2, 1000)
    score = wasserstein_stat_test.func(
        pd.Series(numbers[0]), pd.Series(numbers[1]), ColumnType.Numerical, 0.1
    )[0]
    assert number_distance(*numbers, ALL) == pytest.approx(score)
    codes = random.integers(0, 9, 3000), random.integers(1, 9, 1000)
    score = jensenshannon_stat_test.func(
        pd.Series(codes[0]), pd.Series(codes[1]), ColumnType.Categorical, 0.1
    )[0]
    assert category_distance(*codes, ALL) == pytest.approx(score)


def test_three_jobs_against_three_by_hand() -> None:
    # Each value moves by 1; the standard deviation of 1, 2, 3 is the root of 2/3.
    assert number_distance(
        np.array([1.0, 2.0, 3.0]), np.array([2.0, 3.0, 4.0]), ALL
    ) == pytest.approx(1 / np.sqrt(2 / 3))
    # No value in common: the root of ln 2.
    assert category_distance(np.array([0, 0, 0]), np.array([1, 1, 1]), ALL) == pytest.approx(
        np.sqrt(np.log(2))
    )
    assert missing_distance(np.array([1.0, np.nan]), np.array([np.nan, np.nan]), ALL) == 0.5


def test_rare_values_share_a_bucket_and_unheard_ones_another() -> None:
    first, second = buckets(np.array([5, 5, 5, 2, 2, 0]), np.array([5, 0, 7]), most=2)
    assert first.tolist() == [5, 5, 5, 2, 2, OTHER_CODE]
    assert second.tolist() == [5, OTHER_CODE, NEW]


@given(
    arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 40)),
    arrays(np.int64, st.integers(1, 60), elements=st.integers(0, 40)),
)
def test_a_category_distance_is_bounded_symmetric_in_sign_and_zero_for_the_same_jobs(
    first: np.ndarray, second: np.ndarray
) -> None:
    assert 0 <= category_distance(first, second, ALL) <= np.sqrt(np.log(2)) + 1e-9
    assert category_distance(first, first, ALL) == 0


@given(arrays(float, st.integers(1, 60), elements=st.floats(0, 12)), st.floats(-3, 3))
def test_a_shift_of_every_value_moves_a_number_by_that_shift(
    values: np.ndarray, shift: float
) -> None:
    expected = abs(shift) / max(float(np.std(values)), 0.001)
    assert number_distance(values, values + shift, ALL) == pytest.approx(expected, abs=1e-6)


def test_nothing_can_be_said_of_an_empty_window() -> None:
    empty = np.array([])
    assert np.isnan(number_distance(empty, np.array([1.0]), ALL))
    assert np.isnan(number_distance(np.array([np.nan]), np.array([1.0]), ALL))
    assert np.isnan(category_distance(np.array([], dtype=int), np.array([1]), ALL))
    assert largest_block_distance(empty, 10, number_distance, ALL) == 0
    assert largest_block_distance(np.array([np.nan] * 9), 3, number_distance, ALL) == 0


def test_a_sample_is_the_same_rows_for_the_same_seed_and_in_their_order() -> None:
    rows = Sampling(most=50, seed=3).rows(10_000)
    assert len(rows) == 50
    assert np.all(np.diff(rows) > 0)
    assert np.array_equal(rows, Sampling(most=50, seed=3).rows(10_000))
    assert not np.array_equal(rows, Sampling(most=50, seed=4).rows(10_000))


def test_bursts_are_ordinary_where_they_always_happen() -> None:
    random = np.random.default_rng(0)
    bursts = np.repeat(random.integers(0, 30, 200), 50)  # each user submits 50 jobs at a time
    steady = random.permutation(bursts)
    assert largest_block_distance(
        bursts, 1000, category_distance, ALL
    ) > 2 * largest_block_distance(steady, 1000, category_distance, ALL)


def test_dealing_out_bursts_tells_a_thousand_alike_from_a_thousand_jobs() -> None:
    random = np.random.default_rng(0)
    task = np.repeat(np.arange(30), 100)
    values = np.repeat(random.normal(0, 1, 30), 100) + random.normal(0, 0.01, 3000)
    windows, tasks = (values[:2000], values[2000:]), (task[:2000], task[2000:])
    each_alone = (np.arange(2000), np.arange(2000, 3000))
    assert largest_permuted_distance(
        *windows, tasks, number_distance, ALL
    ) > 2 * largest_permuted_distance(*windows, each_alone, number_distance, ALL)
    assert (
        largest_permuted_distance(
            *windows, (task[:2000] * 0, task[2000:] * 0), number_distance, ALL
        )
        == np.inf
    )
