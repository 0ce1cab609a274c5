"""Host loads predicted: the mixed tendency step by step, the best of a battery, and the real
loads."""

from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from scheduling.studies.host_load import (
    BATTERY,
    FORECASTS,
    absolute_error,
    best_of,
    interval,
    mixed_tendency,
    moving_median,
    relative_error,
)


def column(*values: float) -> np.ndarray:
    return np.array(values, dtype=float)[:, None]


def test_the_mixed_tendency_adds_while_rising_and_takes_a_share_off_while_falling() -> None:
    predicted = mixed_tendency(column(1, 2, 1, 0))[:, 0]
    assert np.isnan(predicted[0])
    # After one value: the same again. Rising: 0.1 more. Then it fell, and 0.01 of what there is
    # comes off.
    assert predicted[1:] == pytest.approx([1.0, 2.1, 1 - 0.01])


def test_a_steady_rise_is_learned_before_the_turning_point() -> None:
    # While the load lies under its mean nothing holds the increment back: it closes half of its
    # error each step.
    series = column(100, 0, 2, 4, 6, 8)
    predicted = mixed_tendency(series)[:, 0]
    assert predicted[3:] == pytest.approx([2.1, 4 + 0.1 + (2 - 0.1) / 2, 6 + 1.05 + (2 - 1.05) / 2])


@pytest.mark.parametrize("name", FORECASTS)
def test_no_forecast_looks_ahead(name: str) -> None:
    generator = np.random.default_rng(0)
    series = generator.gamma(2.0, 10.0, (80, 3))
    later = series.copy()
    later[50:] = generator.gamma(2.0, 10.0, (30, 3))
    before, after = FORECASTS[name](series), FORECASTS[name](later)
    assert before.shape == series.shape
    assert np.array_equal(before[:51], after[:51], equal_nan=True)
    assert not np.array_equal(before[51:], after[51:])
    assert np.isfinite(before[1:]).all()


def test_the_best_of_the_battery_follows_whoever_erred_least_so_far() -> None:
    # Alternating loads: the last value is always wrong, the mean never by much.
    series = column(*([0.0, 10.0] * 20))
    predicted = best_of(series, BATTERY[:2])
    assert absolute_error(series, predicted)[0] < 6
    assert absolute_error(series, BATTERY[0](series))[0] == 10


def test_errors_are_means_over_the_steps_that_have_a_forecast() -> None:
    series, predicted = column(1, 2, 4, 0), column(np.nan, 1, 6, 1)
    assert absolute_error(series, predicted)[0] == pytest.approx((1 + 2 + 1) / 3)
    assert relative_error(series, predicted)[0] == pytest.approx(
        (0.5 + 0.5) / 2
    )  # a load of 0 has no relative error


def test_a_moving_median_is_the_median_of_the_last_values() -> None:
    assert moving_median(3)(column(5, 1, 3, 9, 9))[:, 0].tolist()[1:] == [5, 3, 3, 3]


def test_an_interval_is_predicted_from_stretches_of_its_length() -> None:
    mean, deviation = interval(column(9, 1, 3, 1, 3, 1, 3), 2)
    assert (mean[0], deviation[0]) == (2.0, 1.0)
    with pytest.raises(ValueError, match="longer than the series"):
        interval(column(1, 2), 3)


def test_on_real_loads_of_five_minutes_the_tendency_misleads_as_found(traces: Path) -> None:
    loads = pd.read_csv(traces / "planetlab-20110303-cpu-load.csv.gz").to_numpy(dtype=float)
    assert loads.shape == (288, 526)
    errors = {
        name: absolute_error(loads, FORECASTS[name](loads)).mean()
        for name in ("mixed-tendency", "nws", "last", "mean", "median")
    }
    # What rose falls back within five minutes, so to follow the last change is worse than to ignore
    # it.
    assert (
        errors["nws"]
        < errors["median"]
        < errors["mean"]
        < errors["last"]
        < errors["mixed-tendency"]
    )
