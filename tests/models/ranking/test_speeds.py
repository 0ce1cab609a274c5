"""Speeds of sites, told apart by jobs that are alike in all but where they ran."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from models.ranking.speeds import Speeds


def test_a_site_that_takes_twice_as_long_is_told_apart_though_its_users_are_others() -> None:
    rng = np.random.default_rng(0)
    count = 2000
    slow = rng.random(count) < 0.3
    # Long jobs go to the fast site more often: means of sites would say the opposite.
    long = rng.random(count) < np.where(slow, 0.1, 0.8)
    jobs = pd.DataFrame({"source": "s", "user": np.where(long, "ann", "bob"), "program": "p", "status": "completed"})
    took = np.where(long, 10_000.0, 100.0) * np.where(slow, 2.0, 1.0) * rng.lognormal(0, 0.2, count)
    jobs = jobs.assign(requested_walltime=np.nan, requested_cores=1.0, site=np.where(slow, "slow", "fast"), walltime=took)
    factor = Speeds.of(jobs).factor
    assert factor["slow"] / factor["fast"] == pytest.approx(2.0, rel=0.1)


def test_nothing_that_ended_tells_nothing() -> None:
    nothing = pd.DataFrame(columns=["source", "user", "program", "requested_walltime", "requested_cores", "site", "walltime", "status"])
    assert Speeds.of(nothing).factor == {}
