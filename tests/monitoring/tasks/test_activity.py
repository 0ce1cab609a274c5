"""Jobs counted by hour, group and site, against a count by hand."""

import numpy as np
import pandas as pd
import pytest

from jobs.workload import Change, generate
from models.tasks.sets import FAILED
from monitoring.tasks.activity import HOURS, MAX_GROUPS, REST, ended_by_hour, summarise
from monitoring.tasks.watch import as_of

NOW = pd.Timestamp("2025-01-09 14:20", tz="UTC")


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    jobs = generate(900, days=9, seed=3).jobs
    return as_of(jobs[jobs["submitted_at"] <= NOW], NOW)


def test_counts_are_those_of_a_count_by_hand(jobs: pd.DataFrame) -> None:
    counted = summarise(jobs, NOW)
    hours = [pd.Timestamp(at, unit="s", tz="UTC") for at in counted["hours"]]
    assert len(hours) == HOURS + 1 and hours[-1] == NOW
    assert hours[-2] == pd.Timestamp("2025-01-09 14:00", tz="UTC")
    for column, by_name in (("group", counted["groups"]), ("site", counted["sites"])):
        for name, counts in by_name.items():
            own = jobs[jobs[column] == name]
            for row in (-1, -2, -40):
                at, before = hours[row], hours[row - 1]
                begun, over = own["started_at"] <= at, own["ended_at"] <= at
                submitted = own["submitted_at"] <= at
                assert counts["waiting"][row] == (submitted & ~begun & ~over).sum()
                assert counts["running"][row] == (begun & ~over).sum()
                ended = own[over & (own["ended_at"] > before)]
                assert counts["ended"][row] == len(ended)
                assert counts["failed"][row] == ended["status"].isin(FAILED).sum()
    everything = sum(sum(counts["ended"]) for counts in counted["groups"].values())
    assert everything == jobs["ended_at"].notna().sum() > 0


def test_the_median_wait_is_that_of_the_jobs_that_started(jobs: pd.DataFrame) -> None:
    counted = summarise(jobs, NOW)
    last, now = (pd.Timestamp(at, unit="s", tz="UTC") for at in counted["hours"][-30:-28])
    for name, counts in counted["sites"].items():
        own = jobs[(jobs["site"] == name) & (jobs["started_at"] > last)]
        waits = (own["started_at"] - own["submitted_at"])[own["started_at"] <= now]
        wait = counts["wait"][-29]
        assert (wait is None) == waits.empty
        assert wait is None or wait == pytest.approx(waits.dt.total_seconds().median())


def test_many_groups_are_counted_together(jobs: pd.DataFrame) -> None:
    names = [f"vo{row % (MAX_GROUPS + 4)}" for row in range(len(jobs))]
    counted = summarise(jobs.assign(group=pd.Series(names, index=jobs.index, dtype="str")), NOW)
    assert len(counted["groups"]) == MAX_GROUPS + 1 and REST in counted["groups"]


def test_a_slow_site_is_seen_in_its_speed() -> None:
    slow = generate(
        3000, days=9, seed=3, changes=[Change("slow_site", day=1, name="site-02", factor=3.0)]
    )
    sites = summarise(as_of(slow.jobs, NOW), NOW)["sites"]
    speeds = {name: counts["speed"] for name, counts in sites.items()}
    assert max(speeds, key=lambda name: speeds[name] or 0) == "site-02"


def test_jobs_that_ended_are_counted_by_hour_and_task() -> None:
    now, hour = 1e9, 3600.0
    ended = np.array([now, now - hour + 1, now - hour, now - 24 * hour, now + 1, np.inf])
    counts = ended_by_hour(np.array([0, 0, 0, 0, 1, 1]), ended, 2, now)
    assert counts.shape == (2, 24)
    assert counts[0, -2:].tolist() == [1, 2] and counts.sum() == 3
