"""The audit log in the store: rows with their changes, counted, unchangeable, and kept long enough."""

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import exc, text

from infra.actor import Actor, acting, current_actor, local_account
from jobs.ingest import ingest_file
from jobs.schema import conform
from jobs.store import (
    StoreError,
    add_jobs,
    audit,
    count_jobs,
    drop_source,
    prune,
    read_audit,
    read_thresholds,
    set_threshold,
)
from jobs.writers import write_csv

ADA = Actor("ada", "page", "192.0.2.7")
NOW = datetime.now(UTC)


def jobs(*names: str, submitted_at: str = "2026-01-01") -> pd.DataFrame:
    rows = [{"job_id": name, "source": "log", "submitted_at": submitted_at} for name in names]
    return conform(pd.DataFrame(rows).assign(ended_at=submitted_at, status="completed"))


def url(store: Any) -> str:
    return str(store.url.render_as_string(hide_password=False))


def rows(store: Any, **filters: Any) -> list[dict[str, Any]]:
    """The rows of the audit log, the newest first, with None for what is missing."""
    records = read_audit(store, **filters).to_dict("records")
    return [
        {name: None if pd.isna(value) else value for name, value in row.items()} for row in records
    ]


def refuse_rows(store: Any) -> None:
    """Let the database take no row of the audit log, as where its disk is full."""
    with store.begin() as connection:
        connection.execute(text("ALTER TABLE audit RENAME TO audit_elsewhere"))


def test_a_change_of_the_store_is_recorded_with_who_when_what_and_from_where(store: Any) -> None:
    before = datetime.now(UTC)
    with acting(ADA), store.begin() as connection:
        set_threshold(connection, "atlas", "late", 0.8, "grace", NOW)
    with store.begin() as connection:
        add_jobs(connection, jobs("1", "2"))
        set_threshold(connection, "atlas", "late", 0.9, "grace", NOW + timedelta(seconds=1))
    drop_source(store, "log")
    dropped, second, first = rows(store)
    assert first.items() >= {
        "who": "ada", "origin": "page", "address": "192.0.2.7", "action": "threshold",
        "object": "late of atlas", "before": None, "after": "0.8", "why": "set by grace",
        "result": "done",
    }.items()  # fmt: skip
    assert before <= first["changed_at"] <= datetime.now(UTC)
    assert (second["who"], second["before"], second["after"]) == ("grace", "0.8", "0.9")
    assert (dropped["who"], dropped["origin"]) == (local_account(), "Gridcast itself")
    assert (dropped["object"], dropped["before"], dropped["records"]) == ("log", "2 jobs", 2)
    assert list(read_audit(store, actor="ada")["action"]) == ["threshold"]
    assert list(read_audit(store, action="drop-source")["who"]) == [local_account()]
    assert read_audit(store, since=datetime.now(UTC)).empty
    assert list(read_audit(store, limit=1, offset=1)["after"]) == ["0.9"]


def test_what_cannot_be_recorded_is_not_changed(store: Any) -> None:
    with store.begin() as connection:
        add_jobs(connection, jobs("1"))
    refuse_rows(store)
    with pytest.raises(Exception, match="audit"):
        drop_source(store, "log")
    with pytest.raises(Exception, match="audit"), store.begin() as connection:
        set_threshold(connection, "all", "late", 0.8, "ada", NOW)
    with pytest.raises(Exception, match="audit"):
        prune(store, 3, NOW)
    begun = []
    with (
        pytest.raises(Exception, match="audit"),
        audit.recording(url(store), "promote", "gridcast"),
    ):
        begun.append("promoted")
    assert not begun
    assert count_jobs(store)["jobs"].sum() == 1 and read_thresholds(store).empty


def test_a_row_is_not_changed_and_a_count_only_grows(store: Any) -> None:
    with acting(ADA), store.begin() as connection:
        audit.count(connection, "outcomes", "log", records=3)
    for change in (
        "who = 'eve'",
        "changed_at = 0",
        "result = 'failed'",
        "calls = 0",
        "before = 'x'",
    ):
        with (
            pytest.raises((exc.DBAPIError, StoreError), match="not changed"),
            store.begin() as connection,
        ):
            connection.execute(text(f"UPDATE audit SET {change}"))
    assert list(read_audit(store)["who"]) == ["ada"]


def test_repeated_changes_are_a_row_an_hour_of_their_actor(store: Any) -> None:
    for actor in (ADA, ADA, Actor("eve", "page", "192.0.2.7"), Actor("ada", "page")):
        with acting(actor), store.begin() as connection:
            audit.count(connection, "outcomes", "log", records=5)
    hours = {time.floor("h") for time in read_audit(store)["changed_at"]}
    counts: dict[tuple[Any, Any], list[int]] = {}
    for row in rows(store):
        of_actor = counts.setdefault((row["who"], row["address"]), [0, 0])
        of_actor[0] += row["calls"]
        of_actor[1] += row["records"]
    assert counts == {
        ("ada", "192.0.2.7"): [2, 10],
        ("eve", "192.0.2.7"): [1, 5],
        ("ada", None): [1, 5],
    }
    assert len(read_audit(store)) <= 3 * len(hours)


def test_a_change_elsewhere_is_recorded_before_it_and_with_its_result(store: Any) -> None:
    with acting(ADA), audit.recording(url(store), "promote", "gridcast", why="better") as change:
        assert list(read_audit(store)["result"]) == [audit.BEGUN]
        change.before, change.after = "gridcast-1", "gridcast-2"
    with (
        pytest.raises(ValueError, match="overtaken"),
        acting(ADA),
        audit.recording(url(store), "promote", "gridcast", why="chosen"),
    ):
        raise ValueError("overtaken by gridcast-3")
    failed, done = rows(store)
    assert (done["result"], done["before"], done["after"]) == ("done", "gridcast-1", "gridcast-2")
    assert (failed["result"], failed["why"]) == ("failed", "chosen: overtaken by gridcast-3")


def test_an_ingested_file_is_a_row_and_one_that_changes_nothing_is_none(
    store: Any, tmp_path: Path
) -> None:
    write_csv(jobs(*map(str, range(30))), tmp_path / "log.csv")
    for _ in range(2):
        ingest_file(store, tmp_path / "log.csv")
    row = read_audit(store).iloc[0]
    assert (row["action"], row["object"]) == ("ingest", str(tmp_path / "log.csv"))
    assert read_audit(store)["records"].sum() == 30


def test_settings_are_recorded_where_they_differ_from_the_start_before(store: Any) -> None:
    for values in ({"A": "1"}, {"A": "1"}, {"A": "2", "B": "x" * 900}, {"B": "x" * 900}, {}):
        audit.record_settings(store, values)
    recorded = rows(store, action=audit.SETTING)
    changes = [(row["object"], row["before"], row["after"]) for row in recorded]
    long = "x" * audit.MAX_TEXT
    assert sorted(changes, key=str) == sorted(
        [("A", None, "1"), ("A", "1", "2"), ("B", None, long), ("A", "2", None), ("B", long, None)],
        key=str,
    )


def test_retention_keeps_rows_for_two_years_at_least_and_says_what_it_dropped(store: Any) -> None:
    with store.begin() as connection:
        audit.record(connection, "threshold", "late of all", after=1)
        audit.count(connection, "outcomes", "log", records=1)
    months = {month: NOW + timedelta(days=30.44 * month) for month in (23, 30, 45)}
    assert prune(store, 3, months[23]).rows["audit"] == 0
    assert prune(store, 40, months[30]).rows["audit"] == 0
    dropped = prune(store, 40, months[45]).rows["audit"]
    assert dropped >= 3
    [row] = rows(store)
    assert (row["action"], row["object"], row["records"]) == ("retention", "audit", dropped)


def test_the_account_of_a_process_is_not_what_its_environment_says(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "eve")
    assert current_actor().name == local_account() != "eve"
