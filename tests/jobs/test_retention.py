"""Retention: what a site wants no longer goes by whole months, is counted, and stays away; on both databases."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import text

from jobs.ingest import ingest_file
from jobs.readers import Reject
from jobs.schema import conform
from jobs.store import (
    StoreError,
    add_jobs,
    add_predictions,
    add_rejects,
    add_task_predictions,
    drop_source,
    dropped_at,
    has_ended_after,
    latest_task_predictions,
    prune,
    read_ended,
    read_jobs,
    read_measurements,
    read_predictions,
    read_rejects,
    retention,
)
from jobs.store.copies import _lock_partitions, _tables
from jobs.store.partitions import partitions
from jobs.transfers import TRANSFER
from jobs.writers import write_csv

NOW = datetime(2026, 11, 22, tzinfo=UTC)
DONE = {"ended_at": "2026-10-02", "status": "completed"}


def job(job_id: str, submitted_at: str, **fields: object) -> dict[str, object]:
    return {"job_id": job_id, "source": "test", "submitted_at": submitted_at, **fields}


def add(engine: Any, *jobs: dict[str, object]) -> Any:
    with engine.begin() as connection:
        return add_jobs(connection, conform(pd.DataFrame(list(jobs))))


def ids(engine: Any) -> list[str]:
    return read_jobs(engine)["job_id"].tolist()


def test_without_it_nothing_goes(store: Any) -> None:
    add(store, job("old", "1981-01-01", **DONE))
    assert prune(store, 0, NOW).since is None
    assert ids(store) == ["old"]
    assert read_measurements(store, kind="retention").empty


def test_whole_months_go_but_no_job_that_has_not_ended_and_none_of_the_newest_revision(
    store: Any,
) -> None:
    add(
        store,
        job("ended", "2026-07-31 23:59", **DONE),
        job("ended without a time", "2026-07-01", status="failed"),
        job("told nothing", "2026-07-02"),
        job("waits", "2026-06-01", status="waiting"),
        job("runs", "2026-06-02", started_at="2026-06-03"),
        job("ended too", "2026-05-01", **DONE),
        job("kept", "2026-08-01", **DONE),
    )
    add(store, job("newest", "2026-05-02", **DONE))
    done = prune(store, 3, NOW)
    assert done.since == datetime(2026, 8, 1, tzinfo=UTC)
    assert done.rows["jobs"] == 3
    assert ids(store) == ["newest", "waits", "runs", "told nothing", "kept"]
    noted = read_measurements(store, kind="retention").set_index("name")["value"]
    assert noted.to_dict() == {"kept since": done.since.timestamp(), "jobs": 3.0}
    assert prune(store, 3, NOW).rows["jobs"] == 0

    # The open ones end at last, and go; then the newest of before goes, too.
    late = add(store, job("told nothing", "2026-07-02", **DONE), job("waits", "2026-06-01", **DONE))
    assert (late.updated, late.outdated) == (2, 0)
    assert prune(store, 3, NOW).rows["jobs"] == 1
    assert ids(store) == ["waits", "runs", "told nothing", "kept"]
    if store.dialect.name == "postgresql":
        with store.connect() as connection:
            assert partitions(connection, "jobs") == {
                "jobs_2026_06",
                "jobs_2026_07",
                "jobs_2026_08",
            }


def test_what_was_said_of_old_jobs_goes_with_them(store: Any) -> None:
    moments = pd.to_datetime(["2026-07-31", "2026-08-01"], utc=True)
    rows = {
        "source": "test",
        "job_id": ["old", "new"],
        "target": "walltime",
        "model_version": "1",
        "asked_at": moments,
    }
    tasks = pd.DataFrame(
        {"asked_at": [*moments, moments[0]], "kind": "task", "task": ["open", "open", "closed"]}
    )
    transfer = {
        "transfer_id": "old",
        "source": "fts",
        "submitted_at": "2026-07-31",
        "ended_at": "2026-08-01",
    }
    with store.begin() as connection:
        for number in range(2):  # the second is the newest revision
            ingested = {**transfer, "transfer_id": str(number)}
            add_jobs(connection, conform(pd.DataFrame([ingested]), TRANSFER), TRANSFER)
        add_predictions(connection, pd.DataFrame(rows))
        add_task_predictions(connection, tasks)
        add_rejects(connection, "old.log", [Reject(1, "bad", "x")], moments[0].to_pydatetime())
        add_rejects(connection, "new.log", [Reject(1, "bad", "x")], moments[1].to_pydatetime())
    assert prune(store, 3, NOW).rows == {
        "jobs": 0,
        "attempts": 0,
        "transfers": 1,
        "predictions": 1,
        "rejects": 1,
        "task_predictions": 1,
        "audit": 0,
    }
    assert read_predictions(store)["job_id"].tolist() == ["new"]
    assert read_jobs(store, record=TRANSFER)["transfer_id"].tolist() == ["1"]
    assert read_rejects(store)["seen_at"].tolist() == [moments[1]]
    assert latest_task_predictions(store)["task"].tolist() == ["open"]


def test_an_old_window_that_is_told_again_stays_away_and_is_counted(
    store: Any, tmp_path: Any
) -> None:
    window = [
        job("old", "2026-07-31", **DONE),
        job("new", "2026-08-01", **DONE),
        job("never told", "2026-07-01", status="waiting"),
    ]
    write_csv(conform(pd.DataFrame(window)), tmp_path / "window.csv")
    add(store, *window[:2])
    add(store, job("newest", "2026-11-01", **DONE))
    assert prune(store, 3, NOW).rows["jobs"] == 1
    ingested = ingest_file(store, tmp_path / "window.csv")
    assert (ingested.read, ingested.added, ingested.unchanged, ingested.rejected) == (3, 0, 3, 0)
    assert {
        note: count for note, count in ingested.notes.items() if "GRIDCAST_RETENTION_MONTHS" in note
    } == {"older than what is kept (GRIDCAST_RETENTION_MONTHS), left out": 2}
    assert ids(store) == ["new", "newest"]

    # A site that wants more again gets it; what is told of the months between is taken.
    assert prune(store, 4, NOW).rows["jobs"] == 0
    assert add(store, *window).added == 2
    prune(store, 3, NOW)
    assert prune(store, 0, NOW).since is None
    assert add(store, job("ancient", "1996-01-01", **DONE)).added == 1


def test_revisions_go_on_for_those_who_follow_though_all_before_is_gone(store: Any) -> None:
    for number in range(3):
        add(store, job(str(number), "2020-01-01", ended_at="2020-01-02"))
    after = int(read_ended(store)["revision"].max())
    assert prune(store, 1, NOW).rows["jobs"] == 2
    add(store, job("new", "2026-11-20", ended_at="2026-11-21"))
    assert prune(store, 1, NOW).rows["jobs"] == 1
    assert read_ended(store, after)["job_id"].tolist() == ["new"]


def test_what_is_interrupted_goes_on_with_the_next_call(
    store: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(retention, "BATCH_ROWS", 2)
    add(
        store,
        *(
            job(f"{month}-{number}", f"2026-0{month}-01", **DONE)
            for month in (1, 2, 3)
            for number in range(3)
        ),
    )
    add(store, job("newest", "2026-11-01", **DONE))
    step = "delete_from_partition" if store.dialect.name == "postgresql" else "_delete_batch"
    once, calls = getattr(retention, step), []

    def dying(*arguments: Any) -> int:
        calls.append(arguments)
        went = once(*arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return int(went)

    with monkeypatch.context() as broken:
        broken.setattr(retention, step, dying)
        with pytest.raises(KeyboardInterrupt):
            prune(store, 3, NOW)
    first = 9 + 1 - len(ids(store))
    assert 0 < first < 9  # what was done is done, and no more
    assert add(store, job("1-0", "2026-01-01", **DONE)).added == 0
    assert prune(store, 3, datetime(2026, 11, 23, tzinfo=UTC)).rows["jobs"] == 9 - first
    assert ids(store) == ["newest"]
    assert read_measurements(store, "jobs", kind="retention")["value"].tolist() == [
        first,
        9 - first,
    ]


def test_a_month_that_a_backup_reads_is_left_and_said(
    postgres_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from jobs.store import open_store

    monkeypatch.setattr(retention, "LOCK_TIMEOUT", "100ms")
    engine = open_store(postgres_url)
    add(engine, job("old", "2026-01-01", **DONE), job("open", "2026-01-01"))
    add(engine, job("newest", "2026-11-01", **DONE))
    with engine.connect() as reader:
        reader.execution_options(isolation_level="REPEATABLE READ")
        with engine.connect() as looking:
            tables = _tables(looking)
        _lock_partitions(reader, tables)
        with pytest.raises(StoreError, match="run the same command again later"):
            prune(engine, 3, NOW)
        assert reader.execute(text("SELECT count(*) FROM jobs")).scalar() == 3
    assert prune(engine, 3, NOW).rows["jobs"] == 1
    assert ids(engine) == ["open", "newest"]
    engine.dispose()


def test_a_dropped_source_leaves_the_others_and_no_revision_comes_twice(store: Any) -> None:
    add(store, job("1", "2026-10-01", **DONE), {**job("2", "2026-10-01", **DONE), "source": "b"})
    add(store, job("3", "2026-10-02", **DONE))
    moment = pd.Timestamp("2026-10-02", tz="UTC")
    log = {"job_id": "1", "target": "walltime", "model_version": "1", "asked_at": moment}
    transfer = {"transfer_id": "1", "submitted_at": "2026-10-01"}
    with store.begin() as connection:
        for source in ("test", "b"):
            named = {"source": source}
            add_predictions(connection, pd.DataFrame([log | named]))
            add_task_predictions(
                connection,
                pd.DataFrame([{"asked_at": moment, "kind": "task", "task": "t"} | named]),
            )
            add_jobs(connection, conform(pd.DataFrame([transfer | named]), TRANSFER), TRANSFER)
        add_rejects(connection, "file", [Reject(1, "reason", "raw")])
    assert dropped_at(store) is None

    rows = drop_source(store, "test", NOW)
    assert rows == {
        "jobs": 2,
        "attempts": 0,
        "transfers": 1,
        "predictions": 1,
        "task_predictions": 1,
        "measurements": 0,
    }
    assert read_jobs(store)["source"].tolist() == ["b"]
    assert read_jobs(store, record=TRANSFER)["source"].tolist() == ["b"]
    assert read_predictions(store)["source"].tolist() == ["b"]
    assert latest_task_predictions(store)["source"].tolist() == ["b"]
    assert len(read_rejects(store)) == 1
    assert dropped_at(store) == NOW

    # Who has learned up to the second revision must get the next one.
    assert not has_ended_after(store, 2)
    assert add(store, job("4", "2026-10-03", **DONE)).revision == 3
    assert read_ended(store, after=2)["job_id"].tolist() == ["4"]
    assert not any(drop_source(store, "never heard of").values())
    assert prune(store, 0, NOW).since is None
    assert drop_source(store, "test")["jobs"] == 1
    assert drop_source(store, "b")["jobs"] == 1
    assert add(store, job("5", "2026-10-03", **DONE)).revision == 4
