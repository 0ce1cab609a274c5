"""The state of the queue at each submission, counted by hand and by a plain loop over all jobs."""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.schema import JOB, conform
from models.past.queue_inputs import USUAL_SHARE, first_of_burst, queue_inputs

START = pd.Timestamp("2026-01-05", tz="UTC")  # a Monday
HOUR = 3600.0


def after(seconds: Any) -> pd.DatetimeIndex:
    return START + pd.to_timedelta(seconds, unit="s")


def jobs_of(rows: list[dict[str, Any]]) -> pd.DataFrame:
    frame = pd.DataFrame(rows)
    for name in ("submitted_at", "started_at", "ended_at"):
        frame[name] = after(frame[name])
    names = {"job_id": [str(row) for row in range(len(rows))], "source": "s"}
    return conform(frame.assign(**names), JOB)


def job(at: float, start: float, end: float, **fields: Any) -> dict[str, Any]:
    usual = {"user": "ann", "queue": "long", "requested_cores": 2.0, "requested_walltime": HOUR}
    times = {"submitted_at": at, "started_at": start, "ended_at": end}
    return {**usual, "priority": 10.0, "requested_gpus": 1.0, **fields, **times}


def test_the_queue_by_hand() -> None:
    rows = [
        job(0, 10, 1810),
        job(20, 2000, 5000, priority=5.0),
        job(30, 1900, 9000, user="bob", priority=20.0, requested_cores=4.0),
        job(40, np.nan, np.nan, queue="short"),
        job(3000, 3500, 4000),
    ]
    last = queue_inputs(jobs_of(rows)).iloc[-1]
    # The first has ended; the second and third run; the fourth waits in another queue.
    assert last["system_waiting"] == 1
    assert last["queue_waiting"] == 0
    assert last["system_waiting_oldest"] == 2960
    assert last["owner_waiting"] == 1
    assert last["owner_queue_waiting"] == 0
    assert last["system_running_cores"] == 6
    assert last["owner_running_gpus"] == 1
    assert last["queue_remaining_request"] == 2 * (HOUR - 1000) + 4 * (HOUR - 1100)
    # Ann's first job used half of its request when her second started; bob has no ended job.
    expected = 2 * (0.5 * HOUR - 1000) + 4 * (USUAL_SHARE * HOUR - 1100)
    assert last["queue_remaining_expected"] == pytest.approx(expected)
    assert last["queue_free_cores"] == 0
    assert last["owner_started"] == 2
    assert last["owner_last_wait"] == pytest.approx(np.log(1980))
    assert last["queue_wait_at_priority"] == pytest.approx(np.log(10))
    # Of the job submitted last by ann it is known that it waits, and for how long.
    assert last["owner_last_has_started"] == 0
    assert last["owner_last_age"] == pytest.approx(np.log(2960))
    assert last["hour"] == 0
    assert last["weekday"] == 4  # days since 1970, a Thursday, in weeks


def test_those_ahead_have_no_lower_priority_or_came_before() -> None:
    rows = [job(0, 900, 1000, priority=p) for p in (5.0, 10.0, 20.0)] + [job(60, 900, 1000)]
    last = queue_inputs(jobs_of(rows)).iloc[-1]
    assert last["queue_ahead_waiting"] == 2
    assert last["queue_rank"] == pytest.approx(2 / 3)
    unranked = jobs_of(rows).assign(priority=np.nan)
    assert queue_inputs(unranked).iloc[-1]["queue_ahead_waiting"] == 3


def test_counts_are_those_of_a_plain_loop() -> None:
    rng = np.random.default_rng(3)
    count = 150
    at = np.sort(rng.integers(0, 20_000, count)).astype(float)
    start = at + rng.integers(0, 4000, count)
    end = start + rng.integers(1, 4000, count)
    frame = jobs_of(
        [
            job(
                *times,
                user=str(rng.choice(["ann", "bob"])),
                queue=str(rng.choice(["x", "y"])),
                requested_cores=float(rng.integers(1, 5)),
                priority=float(rng.integers(1, 9)),
            )
            for times in zip(at, start, end, strict=True)
        ]
    )
    inputs = queue_inputs(frame)
    for row in range(count):
        now, mine = at[row], frame.iloc[row]
        waits = (at < now) & (start >= now)
        runs = (start < now) & (end >= now)
        queue, user = frame["queue"] == mine["queue"], frame["user"] == mine["user"]
        ahead = frame["priority"] >= mine["priority"]
        cores = frame["requested_cores"]
        assert inputs["queue_waiting"].iloc[row] == (waits & queue).sum()
        assert inputs["queue_ahead_waiting_cores"].iloc[row] == cores[waits & queue & ahead].sum()
        assert inputs["owner_queue_waiting"].iloc[row] == (waits & queue & user).sum()
        assert inputs["owner_running_cores"].iloc[row] == cores[runs & user].sum()
        assert inputs["system_running"].iloc[row] == runs.sum()


def test_a_burst_counts_once() -> None:
    rows = [job(at, 1e5, 2e5) for at in (0, 10, 3599, 3600)] + [job(3700, 1e5, 2e5, user="bob")]
    assert first_of_burst(jobs_of(rows)).tolist() == [True, False, False, True, True]
