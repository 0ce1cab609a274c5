"""Time limits: never above the request, and chosen so that few jobs are killed."""

import numpy as np

from trial.limits import LEVELS, LimitSetting, choose_setting, write_limits


def jobs(count: int = 1000) -> dict[str, np.ndarray]:
    """Jobs that run up to twice their 95 % quantile, of which each 50th runs that long."""
    walltime = np.where(np.arange(count) % 50 == 0, 3900.0, 1800.0)
    return {
        "upper": np.tile([2000.0, 2400.0, 3000.0, 3600.0], (count, 1)),
        "request": np.full(count, 86400.0),
        "walltime": walltime,
        "cores": np.full(count, 4.0),
        "keeps_request": np.arange(count) < 10,
    }


def test_a_limit_is_rounded_up_and_never_above_the_request() -> None:
    arguments = jobs(4) | {
        "request": np.array([86400.0, 1500.0, 86400.0, 86400.0]),
        "keeps_request": np.array([False, False, True, False]),
    }
    arguments["upper"][3] = 10.0
    limits = write_limits(setting=LimitSetting(0.95, 1.0), **arguments)
    assert limits.limit.tolist() == [2100.0, 1500.0, 86400.0, 600.0]


def test_a_killed_job_requests_its_limit_and_then_its_request() -> None:
    limits = write_limits(setting=LimitSetting(0.995, 1.0), **jobs())
    assert limits.killed.sum() == 19  # of the 20 long ones the first keeps its request
    killed = np.flatnonzero(limits.killed)
    assert np.allclose(limits.written[killed], (3600 + 86400) * 4 / 3600)
    assert np.allclose(limits.lost[killed], 4.0)
    assert limits.lost.sum() == limits.lost[killed].sum()


def test_the_setting_that_requests_least_within_the_risk_is_chosen() -> None:
    arguments = jobs()
    chosen = choose_setting(risk=0.01, **arguments)
    limits = write_limits(setting=chosen, **arguments)
    assert limits.killed.mean() <= 0.01
    lax = choose_setting(risk=0.05, **arguments)
    assert write_limits(setting=lax, **arguments).written.sum() < limits.written.sum()


def test_where_no_setting_is_safe_enough_the_safest_is_chosen() -> None:
    arguments = jobs() | {"walltime": np.full(1000, 80000.0)}
    assert choose_setting(risk=0.01, **arguments).level in LEVELS
