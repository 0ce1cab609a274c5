"""What one who comes now is told of its places is what the same record is told when a log is lived through."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs, in_microseconds
from jobs.schema import JOB, conform
from jobs.transfers import TRANSFER, derive_transfer_fields
from models.past.queues import LONGEST_RUN, LONGEST_WAIT, OVERTIME, queues_now, with_queues
from models.past.surroundings import CurrentSurroundings
from models.past.traffic import traffic_now, with_traffic

START = pd.Timestamp("2026-01-01", tz="UTC")
Surround = Callable[[pd.DataFrame], pd.DataFrame]
AroundOf = Callable[[pd.DataFrame], CurrentSurroundings]


def later(seconds: np.ndarray) -> pd.DatetimeIndex:
    return START + pd.to_timedelta(seconds, unit="s")


def some_jobs(count: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(0)
    at = np.sort(rng.integers(0, 40_000, count))
    waited, ran = rng.integers(0, 3000, count), rng.integers(1, 3000, count)
    names = {
        "job_id": np.arange(count).astype(str),
        "source": "s",
        "site": rng.choice(["x", "y"], count),
        "user": rng.choice(["a", "b"], count),
    }
    times = {
        "submitted_at": later(at),
        "started_at": later(at + waited),
        "ended_at": later(at + waited + ran),
    }
    asked = {"requested_walltime": 3600.0, "requested_cores": rng.integers(1, 9, count)}
    return conform(pd.DataFrame({**names, **times, **asked}), JOB)


def some_transfers(count: int = 200) -> pd.DataFrame:
    rng = np.random.default_rng(1)
    names = {
        "transfer_id": np.arange(count).astype(str),
        "source": "s",
        "submitted_at": later(np.sort(rng.integers(0, 4000, count))),
    }
    ends = {
        "from_endpoint": rng.choice(["a", "b"], count),
        "to_endpoint": rng.choice(["c", "d"], count),
    }
    size = {
        "bytes": rng.integers(1, 10**9, count),
        "duration": rng.integers(1, 300, count).astype(float),
    }
    return derive_transfer_fields(conform(pd.DataFrame({**names, **ends, **size}), TRANSFER))


@pytest.mark.parametrize(
    ("records", "surround", "around"),
    [(some_jobs(), with_queues, queues_now), (some_transfers(), with_traffic, traffic_now)],
    ids=["waits", "transfers"],
)
def test_both_ways_tell_the_same_row_by_row(
    records: pd.DataFrame, surround: Surround, around: AroundOf
) -> None:
    whole = surround(records)
    told = [name for name in whole if name not in records]
    for row in range(20, len(records), 30):
        now = whole["submitted_at"].iloc[row]
        known = records[records["submitted_at"] < now].copy()
        for name in ("started_at", "ended_at"):
            known[name] = known[name].where(known[name] <= now)
        known.loc[known["ended_at"].isna(), "duration" if "duration" in known else "walltime"] = (
            np.nan
        )
        asked = encode_jobs(records.iloc[[row]], [name for name in records if name != "job_id"])
        by_then, knowing_more = (
            around(some).observe(asked, in_microseconds(now)) for some in (known, records)
        )
        for name in told:
            assert by_then[name][0] == pytest.approx(whole[name].iloc[row], nan_ok=True), name
            assert knowing_more[name][0] == pytest.approx(by_then[name][0], nan_ok=True), (
                f"{name} sees what came later"
            )


def test_what_nobody_saw_start_or_end_is_taken_to_be_gone_in_time() -> None:
    jobs = some_jobs(4)
    jobs["started_at"] = jobs["submitted_at"].where(np.array([False, True, True, False]))
    jobs["ended_at"] = jobs["ended_at"].where(np.zeros(4, bool))
    jobs["requested_walltime"] = [3600.0, 3600.0, np.nan, 3600.0]
    jobs["site"] = "x"
    one, around = encode_jobs(jobs.iloc[[0]], ["source", "site", "queue", "user"]), queues_now(jobs)
    begun = in_microseconds(START + pd.Timedelta(40_000, "s"))

    def at(seconds: float) -> tuple[float, float]:
        found = around.observe(one, begun + round(seconds * 1e6))
        return float(found["system_waiting"][0]), float(found["system_running"][0])

    assert at(0)[0] == 2
    assert at(OVERTIME * 3600.0)[1] == 1, (
        "who asked for an hour is over, who asked for nothing is not"
    )
    assert at(LONGEST_RUN)[1] == 0
    assert at(LONGEST_WAIT) == (0, 0)
