"""Tables by month on PostgreSQL, and the same on SQLite, which keeps them whole: one row a job, whatever its months."""

from __future__ import annotations

import subprocess
import sys
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pandas as pd
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from jobs.schema import JOB, conform
from jobs.store import (
    StoreError,
    add_jobs,
    add_predictions,
    count_jobs,
    frames,
    open_store,
    prune,
    read_ended,
    read_jobs,
    read_owners,
    read_predictions,
    read_predictions_of,
)
from jobs.store import partitions as partitioning
from jobs.store.copies import dump, load_store
from jobs.store.database import HEAD
from jobs.store.merging import merge_repeated
from jobs.store.partitions import partitions

BORDERS = [
    "2025-12-31 23:59:59.999999",
    "2026-01-01",
    "2026-01-31 23:59:59.999999",
    "2026-02-01",
    "2024-02-29",
]


def frame(*jobs: Mapping[str, object]) -> pd.DataFrame:
    return conform(
        pd.DataFrame([{"source": "test", "submitted_at": "2026-01-01", **job} for job in jobs])
    )


def add(engine: Any, *jobs: Mapping[str, object]) -> Any:
    with engine.begin() as connection:
        return add_jobs(connection, frame(*jobs))


def months(engine: Any, name: str) -> set[str]:
    with engine.connect() as connection:
        return {partition.removeprefix(f"{name}_") for partition in partitions(connection, name)}


REPORT = st.fixed_dictionaries(
    {
        "job_id": st.sampled_from(["1", "2", "3"]),
        "source": st.sampled_from(["test", "other"]),
        # Less than 30 days apart: later ones would be other jobs under a recycled id.
        "submitted_at": st.sampled_from(["2026-01-25", *BORDERS[2:4], "2026-02-20"]),
        "ended_at": st.sampled_from([None, "2026-02-22", "2026-02-23"]),
        "user": st.sampled_from([None, "ada"]),
    }
)


@settings(
    max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    reports=st.lists(REPORT, min_size=1, max_size=8), cut=st.integers(1, 8), by_copy=st.booleans()
)
def test_a_job_is_one_row_however_often_its_submission_is_corrected_across_months(
    store: Any, reports: list[dict[str, object]], cut: int, by_copy: bool
) -> None:
    with store.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
    ended: list[tuple[str, str]] = []
    with patch.object(frames, "MIN_COPY_ROWS", 1 if by_copy else frames.MIN_COPY_ROWS):
        for start in range(0, len(reports), cut):
            now = add(store, *reports[start : start + cut]).ended
            ended += now[["source", "job_id"]].itertuples(index=False, name=None)
        again = add(store, *reports)
    expected = merge_repeated(frame(*reports)).sort_values(
        ["submitted_at", *JOB.identity], ignore_index=True
    )
    pd.testing.assert_frame_equal(read_jobs(store), expected)
    assert (again.added, again.updated, again.unchanged) == (0, 0, len(expected))
    assert (
        len(ended)
        == len(set(ended))
        == len(read_ended(store))
        == expected["ended_at"].notna().sum()
    )


def test_a_month_is_there_when_something_of_it_is_and_sqlite_has_none(store: Any) -> None:
    assert months(store, "jobs") == set()
    add(
        store,
        *({"job_id": str(number), "submitted_at": moment} for number, moment in enumerate(BORDERS)),
    )
    there = (
        {"2024_02", "2025_12", "2026_01", "2026_02"}
        if store.dialect.name == "postgresql"
        else set()
    )
    assert months(store, "jobs") == there
    assert months(store, "transfers") == set()
    if there:
        with store.connect() as connection:
            waiting = connection.execute(
                text("SELECT tableoid::regclass::text, count(*) FROM jobs GROUP BY 1")
            ).all()
        assert dict(map(tuple, waiting)) == {
            "jobs_2024_02": 1,
            "jobs_2025_12": 1,
            "jobs_2026_01": 2,
            "jobs_2026_02": 1,
        }


def answer(job_id: str, asked_at: str = "2026-03-01") -> pd.DataFrame:
    row = {
        "asked_at": pd.Timestamp(asked_at, tz="UTC"),
        "source": "test",
        "job_id": job_id,
        "target": "walltime",
        "model_version": "1",
    }
    return pd.DataFrame([row | {"point": 1.0}])


def test_two_who_need_the_same_new_month_both_have_it(postgres_url: str) -> None:
    engine = open_store(postgres_url)

    def second() -> None:
        with engine.begin() as connection:
            add_predictions(connection, answer("2"))

    second_writer = threading.Thread(target=second)
    with engine.begin() as connection:
        add_predictions(connection, answer("1"))
        second_writer.start()
        assert read_predictions(engine).empty  # who reads waits for nobody
    second_writer.join(240)
    assert read_predictions(engine)["job_id"].tolist() == ["1", "2"]
    assert months(engine, "predictions") == {"2026_03"}
    engine.dispose()


KILLED = """
import os, signal, sys
import pandas as pd
from jobs.schema import conform
from jobs.store import add_jobs, open_store
engine = open_store(sys.argv[1])
with engine.begin() as connection:
    later = {"job_id": ["1", "2"], "source": "test", "submitted_at": "2026-05-01", "ended_at": "2026-05-02"}
    told = add_jobs(connection, conform(pd.DataFrame(later)))
    print(told.added, told.updated, flush=True)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_writer_who_is_killed_while_he_moves_a_job_leaves_it_where_it_was(store: Any) -> None:
    add(store, {"job_id": "1", "submitted_at": "2026-04-01"})
    before = months(store, "jobs")
    child = subprocess.run(
        [sys.executable, "-c", KILLED, store.url.render_as_string(hide_password=False)],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert (child.returncode, child.stdout) == (-9, "1 1\n"), child.stderr
    add(store)  # waits until the database has noticed
    assert read_jobs(store)["submitted_at"].dt.strftime("%m-%d").tolist() == ["04-01"]
    assert months(store, "jobs") == before
    assert (
        add(store, {"job_id": "1", "submitted_at": "2026-05-01", "ended_at": "2026-05-02"}).updated
        == 1
    )
    assert read_ended(store)["submitted_at"].dt.strftime("%m-%d").tolist() == ["05-01"]


@pytest.mark.parametrize("into", ["sqlite", "postgresql"])
def test_a_backup_knows_tables_and_no_partitions_and_goes_into_either_database(
    store: Any, into: str, request: pytest.FixtureRequest, tmp_path: Path
) -> None:
    add(
        store,
        *({"job_id": str(number), "submitted_at": moment} for number, moment in enumerate(BORDERS)),
    )
    with store.begin() as connection:
        add_predictions(connection, pd.concat([answer("0"), answer("1", "2026-04-01")]))
    rows = dump(store, tmp_path / "copy")
    assert (rows["jobs"], rows["predictions"]) == (5, 2)
    assert not [name for name in rows if "_20" in name]
    url = (
        f"sqlite:///{tmp_path / 'other.db'}"
        if into == "sqlite"
        else request.getfixturevalue("postgres_url")
    )
    with store.begin() as connection:  # it may be the same one
        for name in ("jobs", "predictions"):
            connection.execute(text(f"DELETE FROM {name}"))
    second_writer = open_store(url)
    with second_writer.begin() as connection:
        load_store(connection, tmp_path / "copy", HEAD)
    assert read_jobs(second_writer)["job_id"].tolist() == ["4", "0", "1", "2", "3"]
    # The restored keys are those of the restored jobs: one is found though it is corrected.
    corrected = {"job_id": "1", "submitted_at": "2026-01-02"}
    assert add(second_writer, corrected).updated == 1
    assert read_predictions(second_writer)["job_id"].tolist() == ["0", "1"]
    assert months(second_writer, "predictions") == (
        {"2026_03", "2026_04"} if into == "postgresql" else set()
    )
    second_writer.dispose()


def test_a_backup_with_two_records_of_a_job_is_refused_though_their_months_differ(
    store: Any, tmp_path: Path
) -> None:
    add(store, {"job_id": "1"}, {"job_id": "2", "submitted_at": "2026-05-01"})
    dump(store, tmp_path / "copy")
    file = tmp_path / "copy" / "jobs.parquet"
    pq.read_table(file).to_pandas().assign(job_id="1").to_parquet(file, index=False)
    with store.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
    with pytest.raises(StoreError, match="cannot be used"), store.begin() as connection:
        load_store(connection, tmp_path / "copy", HEAD)
    assert count_jobs(store).empty


def test_look_ups_by_job_id_read_the_partitions_that_the_keys_name(postgres_url: str) -> None:
    engine = open_store(postgres_url)
    add(
        engine,
        {"job_id": "old", "submitted_at": "2026-01-05"},
        *({"job_id": str(day), "submitted_at": f"2026-04-0{day}", "user": "ada"} for day in (1, 3)),
    )
    with engine.begin() as connection:
        add_predictions(connection, pd.concat([answer("old", "2026-01-05"), answer("1")]))
        add_predictions(connection, answer("1", "2026-04-02"))
    names = pd.DataFrame({"source": "test", "job_id": ["1", "3", "unknown"]})
    with engine.connect() as blocking:
        blocking.execute(text("LOCK TABLE jobs_2026_01, predictions_2026_01"))
        # A partition that is read would be waited for until this time-out, and then fail.
        hasty = open_store(f"{postgres_url}&options=-c%20lock_timeout%3D3s")
        with hasty.connect() as connection:
            assert read_owners(connection, names)["user"].tolist() == ["ada", "ada"]
        assert len(read_jobs(hasty, having={"source": "test", "job_id": "1"})) == 1
        assert len(read_jobs(hasty, having={"job_id": "3"})) == 1
        assert read_jobs(hasty, having={"job_id": "unknown"}).empty
        assert len(read_predictions_of(hasty, "test", ["1", "3"])) == 1
        with pytest.raises(StoreError):
            read_jobs(hasty)
        hasty.dispose()
    engine.dispose()


def test_the_month_after_a_large_one_is_divided_into_days_which_retention_drops(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = open_store(postgres_url)
    add(engine, {"job_id": "1", "submitted_at": "2026-01-05", "ended_at": "2026-01-06"})
    monkeypatch.setattr(partitioning, "LARGE_MONTH_BYTES", 0)
    add(engine, {"job_id": "2", "submitted_at": "2026-01-30"})
    days = ["2026-02-01 00:00:00", "2026-02-01 23:59:59.999999", "2026-02-03"]
    finished = [
        {"job_id": f"day {day}", "submitted_at": day, "ended_at": "2026-03-01"} for day in days
    ]
    add(engine, *finished)
    monkeypatch.setattr(partitioning, "LARGE_MONTH_BYTES", 10**9)
    add(
        engine,
        {"job_id": "3", "submitted_at": "2026-02-04"},
        {"job_id": "4", "submitted_at": "2026-03-01"},
    )
    assert months(engine, "jobs") == {
        "2026_01",
        "2026_02_01",
        "2026_02_03",
        "2026_02_04",
        "2026_03",
    }
    # A corrected submission moves a job from day to day.
    add(engine, {"job_id": "3", "submitted_at": "2026-02-06"})
    assert (read_jobs(engine)["job_id"] == "3").sum() == 1
    add(engine, {"job_id": "last", "submitted_at": "2026-04-01", "ended_at": "2026-04-02"})
    prune(engine, 1, now=pd.Timestamp("2026-04-10", tz="UTC").to_pydatetime())
    assert read_jobs(engine)["job_id"].tolist() == ["2", "3", "4", "last"]
    assert months(engine, "jobs") == {"2026_01", "2026_02_06", "2026_03", "2026_04"}
    with engine.connect() as connection:
        keys = connection.execute(text("SELECT job_id FROM job_keys ORDER BY 1")).scalars().all()
    assert keys == ["2", "3", "4", "last"]
    add(engine, *finished, {"job_id": "5", "submitted_at": "2026-04-02"})
    assert read_jobs(engine)["job_id"].tolist() == ["2", "3", "4", "last", "5"]
    engine.dispose()
