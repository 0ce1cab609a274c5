"""The log of the demo: it ends now, an open task is stalled, and nothing of the future is in it."""

import pandas as pd
import pytest

from jobs.schema import OUTCOMES, split_valid
from jobs.workload.demonstration import (
    CHAINS,
    SLOW_SITE,
    WHILE_RUNNING,
    DemonstrationLog,
    demonstration_log,
)

NOW = pd.Timestamp("2026-03-02 09:41:30", tz="UTC")


@pytest.fixture(scope="module")
def log() -> DemonstrationLog:
    return demonstration_log(NOW)


def test_its_present_is_now_and_nothing_else_depends_on_the_clock(log: DemonstrationLog) -> None:
    assert log.now == NOW.floor("min")
    later = demonstration_log(NOW + pd.Timedelta(days=100))
    assert (later.jobs["submitted_at"] - log.jobs["submitted_at"] == pd.Timedelta(days=100)).all()
    numbers = ["job_id", "task_id", "walltime", "status", "site"]
    pd.testing.assert_frame_equal(later.jobs[numbers], log.jobs[numbers])


def test_its_jobs_are_valid_records(log: DemonstrationLog) -> None:
    valid, refused = split_valid(log.jobs)
    assert len(valid) == len(log.jobs) and not len(refused)
    assert log.jobs["job_id"].is_unique


def test_of_open_jobs_only_the_past_is_known(log: DemonstrationLog) -> None:
    jobs = log.as_of(log.now)
    assert jobs["submitted_at"].max() <= log.now and jobs["ended_at"].max() <= log.now
    is_open = jobs["ended_at"].isna()
    waits, runs = (jobs[is_open & (jobs["status"] == name)] for name in ("waiting", "running"))
    assert len(waits) > 20 and len(runs) > 50 and len(waits) + len(runs) == is_open.sum()
    assert waits[[name for name in OUTCOMES if name != "status"]].isna().all(axis=None)
    assert runs["started_at"].max() <= log.now and runs["host"].notna().all()
    unknown = [name for name in OUTCOMES if name not in ("status", *WHILE_RUNNING)]
    assert runs[unknown].isna().all(axis=None)


def test_a_chain_is_open_whose_second_task_only_waits_for_jobs_at_the_slow_site(
    log: DemonstrationLog,
) -> None:
    jobs = log.as_of(log.now)
    second = jobs[jobs["task_id"] == "lhcb-campaign-2"]
    still_open = second[second["ended_at"].isna()]
    assert len(still_open) == CHAINS["lhcb-campaign"][1].slow_jobs
    assert set(still_open["site"]) == {SLOW_SITE}
    third = jobs[jobs["task_id"] == "lhcb-campaign-3"]
    assert set(third["after_task_id"]) == {"lhcb-campaign-2"}
    assert set(third["status"]) == {"waiting"}


def test_jobs_take_longer_since_the_change(log: DemonstrationLog) -> None:
    jobs = log.as_of(log.now)
    before = jobs[jobs["ended_at"] <= log.trained_until]
    lately = jobs[jobs["submitted_at"] > log.now - pd.Timedelta(days=5)]
    ratio = (
        lately.groupby("program")["walltime"].median()
        / before.groupby("program")["walltime"].median()
    )
    assert ratio.median() > 2
