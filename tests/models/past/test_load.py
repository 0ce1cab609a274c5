"""What else was under way: by hand, and that nothing of the future is among it, for transfers and for queues."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

from infra.errors import InputError
from jobs.schema import JOB, conform, derive_fields
from jobs.transfers import TRANSFER, derive_transfer_fields
from models.histories.features import choose_levels, encode
from models.past.load import in_progress, started_recently
from models.past.queue_inputs import queue_inputs
from models.past.queues import STATE, with_queues
from models.past.traffic import TRAFFIC, read_series, with_measurements, with_traffic
from models.quantities.targets import TARGETS, with_extra_inputs

START = pd.Timestamp("2026-01-01", tz="UTC")


def some_transfers(count: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 4000, count)), unit="s")
    frame = {
        "transfer_id": np.arange(count).astype(str),
        "source": "s",
        "submitted_at": at,
        "bytes": rng.integers(1, 10**9, count),
    }
    places = {
        "from_endpoint": rng.choice(["a", "b"], count),
        "to_endpoint": rng.choice(["c", "d"], count),
    }
    return derive_transfer_fields(
        conform(
            pd.DataFrame(
                {**frame, **places, "duration": rng.integers(0, 300, count).astype(float)}
            ),
            TRANSFER,
        )
    )


def some_jobs(count: int = 300, seed: int = 0) -> pd.DataFrame:
    rng = np.random.default_rng(seed)
    at = START + pd.to_timedelta(np.sort(rng.integers(0, 40_000, count)), unit="s")
    waited, ran = (pd.to_timedelta(rng.integers(0, 3000, count), unit="s") for _ in range(2))
    frame = {
        "job_id": np.arange(count).astype(str),
        "source": "s",
        "submitted_at": at,
        "started_at": at + waited,
        "ended_at": at + waited + ran,
    }
    asked = {
        "queue": rng.choice(["short", "long"], count),
        "user": rng.choice(["ann", "bob"], count),
        "requested_walltime": 3600.0,
        "requested_memory": rng.integers(1, 9, count) * 2.0**30,
        "requested_gpus": rng.integers(0, 3, count).astype(float),
        "priority": rng.integers(1, 100, count).astype(float),
        "fair_share": rng.random(count),
        "qos": rng.choice(["normal", "high"], count),
    }
    return derive_fields(
        conform(pd.DataFrame({**frame, **asked, "requested_cores": rng.integers(1, 9, count)}), JOB)
    )


def scrambled(records: pd.DataFrame, now: pd.Timestamp, seed: int = 1) -> pd.DataFrame:
    """The same records with all changed that was not known at ``now``: starts and ends after it, and what was submitted after it."""
    rng = np.random.default_rng(seed)
    changed = records.copy()
    for name in ("started_at", "ended_at"):
        later = (changed[name] > now).to_numpy()
        later_time = now + pd.to_timedelta(rng.integers(1, 10**6, later.sum()), unit="s")
        changed.loc[later, name] = later_time
    changed["ended_at"] = changed[["started_at", "ended_at"]].max(axis=1)
    took = "duration" if "duration" in changed else "walltime"
    changed[took] = (changed["ended_at"] - changed["started_at"]).dt.total_seconds()
    later = (changed["submitted_at"] > now).to_numpy()
    size = "bytes" if "bytes" in changed else "requested_walltime"
    changed.loc[later, size] = rng.integers(1, 10**6, later.sum()).astype(float)
    return changed


@pytest.mark.parametrize(
    ("records", "surround", "columns"),
    [
        (some_transfers(), with_traffic, TRAFFIC),
        (some_jobs(), with_queues, STATE),
        (some_jobs(), queue_inputs, tuple(queue_inputs(some_jobs()))),
    ],
    ids=["transfers", "waits", "inputs of waits"],
)
def test_the_future_moves_nothing_that_is_told_of_the_load(
    records: pd.DataFrame,
    surround: Callable[[pd.DataFrame], pd.DataFrame],
    columns: tuple[str, ...],
) -> None:
    told = [name for name in columns if name in surround(records)]
    for row in (50, 150, 250):
        now = records["submitted_at"].iloc[row]
        before = surround(records).loc[records["submitted_at"] <= now, told]
        after = surround(scrambled(records, now)).loc[records["submitted_at"] <= now, told]
        pd.testing.assert_frame_equal(before, after)
    assert surround(records)[told].nunique().gt(1).any()


def test_a_load_by_hand() -> None:
    transfers = derive_transfer_fields(
        conform(
            pd.DataFrame(
                {
                    "transfer_id": ["a", "b", "c", "d"],
                    "source": "s",
                    "submitted_at": [
                        START + pd.Timedelta(seconds, "s") for seconds in (0, 10, 20, 100)
                    ],
                    "duration": [10.0, 50.0, 50.0, 1.0],
                    "bytes": [100.0, 500.0, 1000.0, 1.0],
                }
            ),
            TRANSFER,
        )
    )
    told = with_traffic(transfers)
    # At 20 s the first is over, which moved 10 bytes a second; the second has been under way for 10 s.
    assert told["server_transfers"].tolist() == [0, 0, 1, 0]
    assert told["server_bytes"].tolist() == [0, 0, 500, 0]
    assert told["server_left"].tolist() == [0, 0, 400, 0]
    assert told["server_age"].tolist()[2] == 10
    assert told["server_begun"].tolist() == [0, 1, 2, 0]


def test_what_begins_at_the_very_instant_is_not_known_yet() -> None:
    now = np.zeros(2)
    assert in_progress(now, now, now, np.ones(2), np.ones(2), now)[:, 0].tolist() == [0, 0]
    assert started_recently(now, now, 60.0).tolist() == [0, 0]


def test_a_measured_series_is_joined_by_last_value_or_by_mean() -> None:
    records = pd.DataFrame({"submitted_at": [START, START + pd.Timedelta(100, "s")]})
    when = [START + pd.Timedelta(seconds, "s") for seconds in (10, 50, 101)]
    series = pd.DataFrame({"measured_at": when, "name": "net", "value": [2.0, 4.0, 9.0]})
    assert with_measurements(records, series)["measured_net"].tolist()[1] == 4.0
    found = with_measurements(records, series, "mean")["measured_net"]
    assert np.isnan(found[0]) and found[1] == 3.0
    with pytest.raises(InputError, match="no column name, value"):
        with_measurements(records, series[["measured_at"]])


def test_a_series_is_read_from_a_file_and_a_bad_one_is_a_sentence(tmp_path: Path) -> None:
    good, bad = tmp_path / "series.csv", tmp_path / "bad.csv"
    good.write_text(
        "measured_at,name,value\n2026-01-01T00:00:10Z,net,2\n2026-01-01T00:00:20Z,net,\n"
    )
    bad.write_text("measured_at,name,value\nyesterday,net,2\n")
    found = with_measurements(
        pd.DataFrame({"submitted_at": [START, START + pd.Timedelta(60, "s")]}), read_series(good)
    )
    np.testing.assert_equal(
        found["measured_net"].to_numpy(), [np.nan, 2.0]
    )  # an empty cell measured nothing
    for path, sentence in (
        (bad, "cannot be read as a series"),
        (tmp_path / "none.csv", "cannot be read as a series"),
    ):
        with pytest.raises(InputError, match=sentence):
            read_series(path)


def test_a_refiner_is_shown_what_a_site_measured() -> None:
    transfers = some_transfers(50).assign(measured_net=np.arange(50.0))
    levels = choose_levels(
        with_traffic(transfers),
        with_extra_inputs(TARGETS["transfer_time"], ["measured_net"]).subject,
    )
    assert "measured_net" in levels.numbers
    assert encode(transfers, levels).numbers[-1, -1] == pytest.approx(np.log2(49.0))
