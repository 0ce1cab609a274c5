"""Statistics of windows equal their definition, computed row by row."""

from __future__ import annotations

import numpy as np
import pytest

from models.past.windows import HOUR, WINDOWS, Past, Window


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_each_statistic_is_what_it_says_of_what_was_known(window: Window) -> None:
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, 40 * HOUR, 200))
    known, keys, values = (
        at + rng.integers(1, 5 * HOUR, 200),
        rng.integers(0, 3, 200),
        rng.random(200),
    )
    past = Past(keys, at, known, values)
    means, medians, regressions = (
        past.mean(window),
        past.median(window),
        past.autoregression(window),
    )
    for row in range(200):
        seen = np.flatnonzero((keys == keys[row]) & (known <= at[row]))
        seen = seen[np.argsort(known[seen])]
        seen = seen[-window.count :] if window.count else seen
        seen = seen[known[seen] >= at[row] - window.hours * HOUR] if window.hours else seen
        if not len(seen):
            assert np.isnan(means[row]) and np.isnan(medians[row])
            continue
        assert means[row] == pytest.approx(values[seen].mean())
        middle = (
            np.median(values[seen])
            if window.count
            else np.quantile(values[seen], 0.5, method="inverted_cdf")
        )
        assert medians[row] == pytest.approx(middle)
        if len(seen) > 3:
            slope, constant = np.polyfit(values[seen][:-1], values[seen][1:], 1)
            if abs(slope) < 1:
                assert regressions[row] == pytest.approx(constant + slope * values[seen][-1])


@pytest.mark.parametrize("window", WINDOWS, ids=lambda window: window.name)
def test_long_after_the_last_outcome_a_window_of_time_is_empty_and_says_so(window: Window) -> None:
    at = np.array([0, HOUR, 1000 * HOUR])
    past = Past(
        np.zeros(3), at, np.array([10, HOUR + 10, 1001 * HOUR]), np.array([4.0, 4.0, np.nan])
    )
    expected = np.nan if window.hours else 4.0
    for found in (past.mean(window), past.median(window), past.autoregression(window)):
        np.testing.assert_equal(found[-1], expected)
