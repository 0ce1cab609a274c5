"""Speeds of sites, told apart by jobs that are alike in all but where they ran."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs
from models.ranking.speeds import Speeds


def test_a_site_that_takes_twice_as_long_is_told_apart_though_its_users_are_others() -> None:
    rng = np.random.default_rng(0)
    count = 2000
    slow = rng.random(count) < 0.3
    # Long jobs go to the fast site more often: means of sites would say the opposite.
    long = rng.random(count) < np.where(slow, 0.1, 0.8)
    jobs = pd.DataFrame(
        {"source": "s", "user": np.where(long, "ann", "bob"), "program": "p", "status": "completed"}
    )
    took = np.where(long, 10_000.0, 100.0) * np.where(slow, 2.0, 1.0) * rng.lognormal(0, 0.2, count)
    jobs = jobs.assign(
        requested_walltime=np.nan,
        requested_cores=1.0,
        site=np.where(slow, "slow", "fast"),
        walltime=took,
    )
    factor = Speeds.of(jobs).factor
    assert factor["slow"] / factor["fast"] == pytest.approx(2.0, rel=0.1)


def test_nothing_that_ended_tells_nothing() -> None:
    nothing = pd.DataFrame(
        columns=[
            "source",
            "user",
            "program",
            "requested_walltime",
            "requested_cores",
            "site",
            "walltime",
            "status",
        ]
    )
    assert Speeds.of(nothing).factor == {}


def rated_jobs(
    count: int, rng: np.random.Generator, there: np.ndarray, seconds: np.ndarray, power: np.ndarray
) -> pd.DataFrame:
    queries = {
        "source": "s",
        "user": "ann",
        "program": "p",
        "status": "completed",
        "requested_walltime": np.nan,
        "requested_cores": 1.0,
    }
    took = seconds[there] * rng.lognormal(0, 0.1, count)
    return pd.DataFrame(
        queries
        | {"site": np.array(["old", "new"])[there], "host_power": power[there], "walltime": took}
    )


def test_until_jobs_ran_at_a_site_its_hosts_rating_says_how_fast_it_is_and_then_they_say_it_themselves() -> (
    None
):
    rng = np.random.default_rng(1)
    # The new hosts are rated twice as fast, but these jobs wait for disks and take as long there as
    # anywhere.
    power, seconds = np.array([10.0, 20.0]), np.array([1000.0, 1000.0])

    def ratio(at_the_new_site: int) -> float:
        there = np.repeat([0, 1], [1000, at_the_new_site])
        factor = Speeds.of(rated_jobs(len(there), rng, there, seconds, power)).factor
        return factor["new"] / factor["old"]

    assert ratio(1) == pytest.approx(0.5, rel=0.1)
    assert ratio(1000) == pytest.approx(1.0, rel=0.1)


def test_a_site_never_seen_is_as_fast_as_its_hosts_are_rated_and_typical_without_a_rating() -> None:
    rng = np.random.default_rng(2)
    jobs = rated_jobs(500, rng, np.zeros(500, np.int64), np.array([1000.0]), np.array([10.0]))
    queries = pd.DataFrame(
        {"site": ["elsewhere", "elsewhere", "old"], "host_power": [20.0, np.nan, 20.0]}
    )
    factors = Speeds.of(jobs).of_jobs(encode_jobs(queries, ("site", "host_power")))
    assert factors == pytest.approx([0.5, 1.0, 1.0], rel=0.02)
