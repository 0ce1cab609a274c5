"""Time limits: never above the request, and chosen so that few jobs are killed."""

from dataclasses import replace

import numpy as np

from trial.limits import LimitSetting, Requested, choose_setting, write_limits


def jobs(count: int = 1000) -> Requested:
    """Jobs that run half an hour, each 50th 65 minutes, whose 99.5 % quantile is an hour."""
    return Requested(
        upper=np.tile([2000.0, 2400.0, 3000.0, 3600.0], (count, 1)),
        request=np.full(count, 86400.0),
        walltime=np.where(np.arange(count) % 50 == 0, 3900.0, 1800.0),
        cores=np.full(count, 4.0),
        keeps_request=np.arange(count) < 10,
    )


def test_a_limit_is_rounded_up_and_never_above_the_request() -> None:
    four = replace(
        jobs(4),
        request=np.array([86400.0, 1500.0, 86400.0, 86400.0]),
        keeps_request=np.array([False, False, True, False]),
    )
    four.upper[3] = 10.0
    limits = write_limits(four, LimitSetting(0.95, 1.0))
    assert limits.limit.tolist() == [2100.0, 1500.0, 86400.0, 600.0]


def test_a_killed_job_requests_its_limit_and_then_its_request() -> None:
    limits = write_limits(jobs(), LimitSetting(0.995, 1.0))
    assert limits.killed.sum() == 19  # of the 20 long ones the first keeps its request
    killed = np.flatnonzero(limits.killed)
    assert np.allclose(limits.written[killed], (3600 + 86400) * 4 / 3600)
    assert np.allclose(limits.lost[killed], 4.0)
    assert limits.lost.sum() == limits.lost[killed].sum()


def test_the_setting_that_requests_least_within_the_risk_is_chosen() -> None:
    strict = write_limits(jobs(), choose_setting(jobs(), 0.01))
    assert strict.killed.mean() == 0.0
    lax = write_limits(jobs(), choose_setting(jobs(), 0.02))
    assert lax.killed.mean() == 0.019
    assert lax.limit.max() == 86400.0
    assert np.median(lax.limit) == 2100.0 < np.median(strict.limit) == 3900.0


def test_where_no_setting_is_safe_enough_the_safest_is_chosen() -> None:
    never_safe = replace(jobs(), walltime=np.where(np.arange(1000) % 2 == 0, 80000.0, 7000.0))
    chosen = choose_setting(never_safe, 0.01)
    limits = write_limits(never_safe, chosen)
    fewest = write_limits(never_safe, LimitSetting(0.995, 3.0)).killed.sum()
    assert limits.killed.sum() == fewest > 0.01 * 1000
