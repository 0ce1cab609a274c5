import numpy as np
import pytest

from models.evaluation.bucketing import (
    SAMPLED,
    exhaustive_ends,
    expected_waste,
    greedy_ends,
    replay_buckets,
)

ONE_LARGE = np.array([1.0, 1.0, 1.0, 10.0])


def test_the_expected_waste_of_two_buckets_by_hand():
    ones = np.ones(4)
    assert expected_waste(ONE_LARGE, ones, np.array([3])) == pytest.approx(10 - 3.25)
    # 3/4 use 1 and a quarter 10: 3/16 of the draws waste 9, 3/16 lose an allocation of 1.
    two = expected_waste(ONE_LARGE, ones, np.array([2, 3]))
    assert two == pytest.approx(0.75 * 0.25 * 9 + 0.25 * 0.75 * 1)
    three = np.array([1.0, 2.0, 4.0])
    # In thirds; of 4 the first allocation fails to 2 or to 4, each with a half: 1 + (2 + 0)/2 + 0/2.
    assert expected_waste(three, np.ones(3), np.arange(3)) == pytest.approx(
        (0 + 1 + 3 + (1 + (0 + 2) / 2) + 0 + 2 + (1 + (2 + 0) / 2) + 2 + 0) / 9
    )


def test_both_rules_cut_where_waste_is_least():
    ones = np.ones(4)
    assert greedy_ends(ONE_LARGE, ones).tolist() == [2, 3]
    assert exhaustive_ends(ONE_LARGE, ones).tolist() == [2, 3]
    equal = np.full(5, 3.0)
    assert greedy_ends(equal, np.ones(5)).tolist() == [4]
    assert exhaustive_ends(equal, np.ones(5)).tolist() == [4]


def test_later_jobs_weigh_more():
    values = np.array([1.0, 1.0, 10.0, 10.0])
    early_small, late_small = np.array([1.0, 2, 30, 40]), np.array([30.0, 40, 1, 2])
    costs = [
        expected_waste(values, weights, np.array([3])) for weights in (early_small, late_small)
    ]
    assert costs[0] < costs[1]


def drawn(values, at, greedy=True, rungs=4):
    count = len(values)
    draws = np.random.default_rng(1).random((count, rungs))
    codes = np.zeros(count, np.int64)
    available_at = at + 1
    return replay_buckets(codes, 1, at, available_at, values, np.arange(count), draws, greedy)


@pytest.mark.parametrize("greedy", [True, False])
def test_a_ladder_rises_through_buckets_of_what_had_ended(greedy):
    values = np.tile(ONE_LARGE, 50)
    ladders = drawn(values, 2 * np.arange(200), greedy)
    assert np.isnan(ladders[:SAMPLED]).all() and np.isfinite(ladders[SAMPLED:, 0]).all()
    assert set(ladders[np.isfinite(ladders)]) == {1.0, 10.0}
    small = ladders[SAMPLED:, 0] == 1.0
    assert 0.6 < small.mean() < 0.9
    assert (ladders[SAMPLED:, 1][small] == 10.0).all()
    assert np.isnan(ladders[SAMPLED:, 1][~small]).all()
    scrambled = values.copy()
    scrambled[100:] = 77.0
    assert np.array_equal(
        drawn(scrambled, 2 * np.arange(200), greedy)[:101], ladders[:101], equal_nan=True
    )
