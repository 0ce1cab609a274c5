import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as some

from models.quantities.metrics import (
    QUANTILE_LEVELS,
    compare_errors,
    deciles,
    distribution_errors,
    equal_blocks,
    log_score,
    pinball,
    point_errors,
    time_blocks,
)


def test_errors_of_a_story_written_out():
    found = point_errors(np.array([100.0, 200.0, 300.0]), np.array([50.0, 200.0, 600.0]))
    assert found["mae"] == pytest.approx(350 / 3)
    assert found["median_ae"] == 50
    assert found["rmse"] == pytest.approx(np.sqrt((50**2 + 300**2) / 3))
    assert found["r2"] == pytest.approx(1 - (50**2 + 300**2) / 20000)
    assert found["mape"] == pytest.approx((0.5 + 0 + 1) / 3)
    assert found["apa"] == pytest.approx((0.5 + 1 + 0.5) / 3)
    assert found["under"] == pytest.approx(1 / 3)


def test_a_job_of_no_length_divides_nothing_by_zero():
    found = point_errors(np.array([0.0, 4.0]), np.array([1.0, 4.0]))
    assert (found["apa"], found["mape"], found["r2_log"]) == (1.0, 0.5, 1.0)


def test_equal_outcomes_explain_nothing():
    assert point_errors(np.full(3, 7.0), np.array([7.0, 8.0, 6.0]))["r2"] is None


@given(some.lists(some.tuples(some.floats(0, 1e6), some.floats(0, 1e6)), min_size=1, max_size=20))
def test_the_crps_of_a_single_value_is_its_absolute_error(pairs):
    actual, point = np.array(pairs).T
    assert distribution_errors(actual, point[:, None])["crps"] == pytest.approx(
        np.abs(actual - point).mean(), abs=1e-6
    )


def test_the_crps_of_a_distribution_approaches_its_definition():
    # Of the uniform distribution on 0 to 1 and the outcome y the CRPS is y³/3 + (1−y)³/3.
    shares = np.arange(1, 2000) / 2000
    for outcome in (0.0, 0.3, 1.0):
        crps = 2 * pinball(np.array([outcome]), shares[None], shares)
        assert crps == pytest.approx((outcome**3 + (1 - outcome) ** 3) / 3, abs=1e-3)


def test_coverage_and_width_are_those_of_the_range():
    quantiles = np.tile(np.linspace(0, 10, len(QUANTILE_LEVELS)), (4, 1))
    actual = np.array([0.0, 5.0, 10.0, 11.0])
    found = distribution_errors(actual, quantiles, np.zeros(4), np.full(4, 10.0))
    assert (found["coverage_90"], found["width_90"]) == (0.75, 10.0)


def test_no_range_is_none_and_not_a_number_made_up():
    found = distribution_errors(np.ones(2), np.ones((2, 1)))
    assert found["coverage_90"] is None
    assert found["width_90"] is None


def test_deciles_of_calibrated_distributions_are_flat():
    draw = np.random.default_rng(0)
    place = draw.random(20_000)
    assert deciles(place, place + 1e-6) == pytest.approx([0.1] * 10, abs=0.01)
    assert deciles(np.zeros(5), np.ones(5)) == pytest.approx([0.1] * 10)
    assert sum(deciles(place / 2, place / 2)) == pytest.approx(1)
    assert deciles(place / 2, place / 2)[7] == 0


def test_the_log_score_of_a_certain_hit_is_zero():
    assert log_score(np.ones(3)) == 0
    assert log_score(np.array([0.5])) == pytest.approx(np.log(2))


def test_blocks_are_weeks_and_on_short_logs_half_days():
    days = pd.Series(pd.to_datetime(["2026-01-01T00", "2026-01-01T13", "2026-01-09T00"], utc=True))
    assert time_blocks(days).tolist() == [0, 1, 16]
    long = pd.Series(
        pd.to_datetime(["2026-01-01", "2026-01-07", "2026-01-09", "2026-03-01"], utc=True)
    )
    assert time_blocks(long).tolist() == [0, 0, 1, 8]


def test_a_win_in_every_block_is_a_win_and_a_lucky_block_is_not():
    block = np.repeat(np.arange(20), 50)
    theirs = np.full(1000, 10.0)
    difference, ratio = compare_errors(np.full(1000, 9.0), theirs, block)
    assert (difference.value, ratio.value) == (-1.0, 0.9)
    assert ratio.low == pytest.approx(0.9)
    assert ratio.high == pytest.approx(0.9)
    lucky = np.where(block == 0, 0.0, 10.2)
    difference, ratio = compare_errors(lucky, theirs, block)
    assert difference.value < 0
    assert ratio.low < 1 < ratio.high


def test_the_interval_of_blocks_is_wider_than_that_of_single_jobs():
    draw = np.random.default_rng(1)
    block = np.repeat(np.arange(30), 100)
    mine = 10 + np.repeat(draw.normal(0, 2, 30), 100)
    whole, single = (
        compare_errors(mine, np.full(3000, 10.0), b)[1] for b in (block, np.arange(3000))
    )
    assert whole.high - whole.low > 3 * (single.high - single.low)


def test_equal_blocks_are_runs_of_neighbours():
    assert equal_blocks(7, 3).tolist() == [0, 0, 0, 1, 1, 2, 2]
    assert equal_blocks(2, 40).tolist() == [0, 1]


def test_the_ratio_to_a_predictor_without_error_is_finite():
    none, some_error = np.zeros(4), np.ones(4)
    assert compare_errors(none, none, np.arange(4))[1].value == 1.0
    assert compare_errors(some_error, none, np.arange(4))[1].value == 1e6
