"""A centre's questions: pools or one pool, quotas, fair share; who wins and who loses."""

import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields
from scheduling.machine import MachineError, Pool, processors, read_machine
from scheduling.replay import replay
from scheduling.studies.comparison import by_group, difference, verdict
from scheduling.studies.what_if import partition, what_if
from scheduling.trace import TraceError


def two_groups() -> pd.DataFrame:
    """A big group that fills the centre in one burst, and a small one whose jobs come while the
    burst waits."""
    big = pd.DataFrame(
        {"submitted": np.zeros(60), "walltime": 100.0, "group": "atlas", "user": "ada"}
    )
    small = pd.DataFrame(
        {"submitted": np.arange(1, 11) * 20.0, "walltime": 10.0, "group": "lhcb", "user": "bob"}
    )
    frame = pd.concat([big, small], ignore_index=True).assign(
        cores=1, source="centre", requested_walltime=200.0
    )
    frame["job_id"] = frame.index.astype(str)
    frame["submitted_at"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(
        frame["submitted"], unit="s"
    )
    return derive_fields(conform(frame))


def test_a_partition_gives_each_group_its_part_by_use_and_room_for_its_widest_job() -> None:
    jobs = two_groups()
    bound, machine = partition(jobs, 10, "group")
    assert machine.pools == (Pool("atlas", 9), Pool("lhcb", 1))
    assert set(bound["site"]) == {"atlas", "lhcb"}
    with pytest.raises(MachineError, match="too few"):
        partition(jobs, 1, "group")


def test_the_small_group_wins_by_fair_share_what_it_loses_in_one_queue() -> None:
    rows = by_group(what_if(two_groups(), 10))
    table = pd.DataFrame(rows).pivot(index="group", columns="scenario", values="mean_wait")
    assert list(dict.fromkeys(row["group"] for row in rows)) == ["lhcb", "atlas"]  # smallest first
    waits = table.loc["lhcb"]
    assert waits["one pool"] > 200  # behind the burst
    assert waits["fair share 7 d"] < 60  # as soon as any core comes free
    assert waits["partitioned"] == 0.0
    assert (
        table.loc["atlas", "one pool"]
        <= table.loc["atlas", "fair share 7 d"]
        <= table.loc["atlas", "partitioned"]
    )


def test_jobs_without_a_group_share_a_pool_and_an_account_of_their_own() -> None:
    jobs = two_groups()
    jobs.loc[jobs["group"] == "lhcb", "group"] = pd.NA
    rows = by_group(what_if(jobs, 10))
    assert {(row["group"], row["jobs"]) for row in rows} == {("(none)", 10), ("atlas", 60)}


def test_what_if_refuses_logs_that_have_not_run_and_fields_that_are_none() -> None:
    jobs = two_groups()
    with pytest.raises(TraceError, match="none of the 70 jobs of the log reports a run time"):
        what_if(jobs.assign(walltime=np.nan, ended_at=jobs["submitted_at"]), 10)
    with pytest.raises(TraceError, match="none of the 70 jobs of the log has ended"):
        what_if(jobs.assign(walltime=np.nan, ended_at=pd.NaT), 10)
    with pytest.raises(MachineError, match="'colour' is no field"):
        what_if(jobs, 10, "colour")


def test_a_difference_is_told_from_luck_by_weeks() -> None:
    generator = np.random.default_rng(0)
    frame = pd.DataFrame(
        {
            "submitted": np.sort(generator.uniform(0, 60 * 86400, 3000)),
            "walltime": generator.exponential(3000, 3000) + 1,
        }
    )
    frame = frame.assign(
        cores=1,
        source="weeks",
        requested_walltime=86400.0,
        user="ada",
        job_id=[str(n) for n in range(3000)],
    )
    frame["submitted_at"] = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(
        frame["submitted"], unit="s"
    )
    jobs = derive_fields(conform(frame))
    plain, short, same = (
        replay(jobs, processors(2), *way)
        for way in (("fcfs",), ("sjf", "perfect"), ("fcfs", "perfect"))
    )
    assert verdict(difference(short, plain)) == "better"
    assert verdict(difference(plain, short)) == "worse"
    assert verdict(difference(same, plain)) == "no difference seen"
    assert difference(short, plain) == difference(short, plain)


def test_a_machine_is_read_from_a_few_lines() -> None:
    machine = read_machine({"CERN": {"hosts": 20, "cores": 8, "memory": 16e9}, "LYON": 64})
    assert machine.pools == (Pool("CERN", 8, 20, 16e9), Pool("LYON", 64))
    for wrong in (
        {},
        {"CERN": {"hosts": 3}},
        {"CERN": 0},
        {"CERN": {"cores": "many"}},
        {"CERN": {"cores": 1, "colour": 2}},
    ):
        with pytest.raises(MachineError):
            read_machine(wrong)
