"""The store, on SQLite and on PostgreSQL by the same tests."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from infra.errors import GridcastError
from jobs.readers import Reject
from jobs.schema import COLUMNS, conform
from jobs.store import (
    StoreError,
    add_jobs,
    add_measurements,
    add_predictions,
    add_rejects,
    count_jobs,
    open_store,
    read_ended,
    read_jobs,
    read_measurements,
    read_predictions,
    read_rejects,
)
from jobs.store.database import HEAD, lock_writers
from jobs.store.frames import MIN_COPY_ROWS, write_rows
from jobs.store.merging import merge_repeated
from jobs.store.tables import RECORDS, metadata


def job(job_id: str = "1", **fields: object) -> dict[str, object]:
    return {"job_id": job_id, "source": "test", "submitted_at": "2026-01-01 00:00", **fields}


def frame(*jobs: dict[str, object]) -> pd.DataFrame:
    return conform(pd.DataFrame(list(jobs)))


def add(engine: Any, *jobs: dict[str, object]) -> tuple[int, int, int]:
    with engine.begin() as connection:
        added = add_jobs(connection, frame(*jobs))
    return added.added, added.updated, added.unchanged


def test_the_migrations_make_exactly_the_declared_tables(store: Any) -> None:
    with store.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": "gridcast_version", "compare_type": True}
        )
        assert compare_metadata(context, metadata) == []


def test_a_job_comes_back_as_it_went_in(store: Any) -> None:
    labels = ("task_id", "user", "group", "project", "program", "job_name", "queue", "site", "host")
    full = {name: f"the {name} – ä" for name in labels}
    numbers = dict.fromkeys(
        (
            "host_power",
            "requested_walltime",
            "requested_cores",
            "requested_memory",
            "walltime",
            "cpu_time",
        ),
        12.5,
    )
    times = {
        "submitted_at": "2026-03-29T00:59:59.123456Z",
        "started_at": "2026-03-29T01:00:00Z",
        "ended_at": "2026-03-29T01:00:12.5Z",
    }
    jobs = frame(
        job("1", **full, **numbers, **times, status="completed"),
        job("2", submitted_at="2026-03-29T02:00:00Z"),
    )
    with store.begin() as connection:
        add_jobs(connection, jobs)
    pd.testing.assert_frame_equal(read_jobs(store), jobs)
    assert tuple(read_jobs(store).columns) == COLUMNS


def test_labels_of_several_reports_are_merged_by_name(store: Any) -> None:
    reports = [{"biome": "soil"}, {"reads": 3.0}, {"biome": "soil", "study": "s"}]
    for labels in reports:
        with store.begin() as connection:
            add_jobs(connection, frame(job("1", labels=labels)))
    assert read_jobs(store)["labels"].tolist() == ['{"biome":"soil","reads":3.0,"study":"s"}']
    # The label of the report that wins (the end of the job) stays, others are added.
    end = {"ended_at": "2026-03-29T09:00:00Z", "status": "completed"}
    first, last = frame(job("2", labels={"a": 1, "b": 1})), frame(job("2", labels={"a": 2}, **end))
    for jobs in (pd.concat([first, last]), pd.concat([last, first])):
        merged = merge_repeated(jobs.reset_index(drop=True))
        assert merged["labels"].tolist() == ['{"a":2.0,"b":1.0}']


AWKWARD = ["", '"', "\\.", "\\N", "a,b\r\n", "NULL"]
TEXTS = st.text(
    st.characters(codec="utf-8", exclude_characters="\0"), max_size=12
) | st.sampled_from(AWKWARD)


@settings(
    max_examples=5, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(texts=st.lists(TEXTS, min_size=1, max_size=30), seed=st.integers(0, 99))
def test_many_jobs_at_once_come_back_as_they_went_in_and_a_later_report_changes_them(
    store: Any, texts: list[str], seed: int
) -> None:
    rng = np.random.default_rng(seed)
    count = 2 * MIN_COPY_ROWS
    jobs = conform(
        pd.DataFrame(
            {
                "job_id": [f"{seed}-{row}" for row in range(count)],
                "source": "many",
                "submitted_at": pd.Timestamp("2026-01-01", tz="UTC")
                + pd.to_timedelta(rng.integers(0, 10**13, count), unit="us"),
                "job_name": [texts[row % len(texts)] or None for row in range(count)],
                "user": [None if row % 7 == 0 else "ann" for row in range(count)],
                "input_bytes": np.where(
                    rng.random(count) < 0.3, np.nan, rng.lognormal(20, 9, count)
                ),
            }
        )
    )
    running = jobs.assign(user="bob", started_at=jobs["submitted_at"])
    with store.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
        add_jobs(connection, jobs.iloc[: MIN_COPY_ROWS + 1])
        reports = add_jobs(connection, running)
    assert (reports.added, reports.updated) == (MIN_COPY_ROWS - 1, MIN_COPY_ROWS + 1)
    expected = running.sort_values(["submitted_at", "source", "job_id"], ignore_index=True)
    pd.testing.assert_frame_equal(read_jobs(store)[list(COLUMNS)], conform(expected)[list(COLUMNS)])


def test_a_database_that_goes_away_while_many_jobs_are_stored_is_one_sentence(
    postgres_url: str,
) -> None:
    engine = open_store(postgres_url)
    many = conform(
        pd.DataFrame(
            {
                "job_id": np.arange(600).astype(str),
                "source": "s",
                "submitted_at": pd.Timestamp("2026-01-01", tz="UTC"),
            }
        )
    )
    with (
        pytest.raises(GridcastError, match="cannot be used"),
        engine.begin() as connection,
        engine.connect() as second_connection,
    ):
        own = connection.execute(text("SELECT pg_backend_pid()")).scalar()
        add_jobs(connection, many.head(1))
        second_connection.execute(text(f"SELECT pg_terminate_backend({own})"))
        write_rows(connection, RECORDS["job"], many, overwrite=True)
    assert read_jobs(engine).empty
    engine.dispose()


def test_adding_the_same_jobs_again_changes_nothing(store: Any) -> None:
    assert add(store, job("1", ended_at="2026-01-02"), job("2")) == (2, 0, 0)
    before = read_jobs(store)
    assert add(store, job("1", ended_at="2026-01-02"), job("2")) == (0, 0, 2)
    pd.testing.assert_frame_equal(read_jobs(store), before)


def test_only_its_owner_reads_the_file_of_a_store(sqlite_url: str) -> None:
    before = os.umask(0)
    try:
        store = open_store(sqlite_url)
        add(store, job("1"))
        file = Path(sqlite_url.removeprefix("sqlite:///"))
        modes = {path.name: path.stat().st_mode & 0o777 for path in file.parent.glob("jobs.db*")}
    finally:
        os.umask(before)
    assert modes.keys() >= {"jobs.db", "jobs.db-wal"} and set(modes.values()) == {0o600}
    store.dispose()


def test_opening_an_open_store_again_is_harmless(store_url: str) -> None:
    first, second = open_store(store_url), open_store(store_url)
    add(first, job("1"))
    assert count_jobs(second)[["source", "jobs", "ended"]].values.tolist() == [["test", 1, 0]]
    first.dispose()
    second.dispose()


@pytest.mark.parametrize(
    "url",
    [
        "",
        "nonsense",
        "mysql://u:secret@host/jobs",
        "postgresql://u:secret@host:port/jobs",
        "sqlite:////no/such/folder/jobs.db",
    ],
)
def test_a_wrong_address_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(GridcastError) as error:
        open_store(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)


def test_alembics_head_is_the_one_that_the_store_opens() -> None:
    from alembic.config import Config
    from alembic.script import ScriptDirectory

    import infra.migrations

    config = Config()
    config.set_main_option("script_location", str(Path(infra.migrations.__path__[0])))
    assert ScriptDirectory.from_config(config).get_heads() == [HEAD]


def test_a_store_of_a_newer_gridcast_is_refused(store: Any) -> None:
    with store.begin() as connection:
        connection.execute(text("UPDATE gridcast_version SET version_num = '9999'"))
    with pytest.raises(StoreError, match="newer Gridcast"):
        open_store(store.url.render_as_string(hide_password=False))


def test_sqlite_keeps_what_it_acknowledged_through_a_power_loss_and_lets_readers_in(
    sqlite_store: Any,
) -> None:
    with sqlite_store.connect() as connection:
        pragmas = {
            name: connection.exec_driver_sql(f"PRAGMA {name}").scalar()
            for name in ("journal_mode", "synchronous", "foreign_keys")
        }
        assert pragmas == {"journal_mode": "wal", "synchronous": 2, "foreign_keys": 1}
    add(sqlite_store, job("1"))
    with sqlite_store.begin() as writer:
        add_jobs(writer, frame(job("2")))
        assert len(read_jobs(sqlite_store)) == 1  # neither waits nor sees what is not committed


@pytest.mark.parametrize("url", ["postgresql://u:secret@127.0.0.1:1/jobs"])
def test_an_unreachable_database_is_one_sentence_without_the_password(url: str) -> None:
    with pytest.raises(StoreError) as error:
        open_store(url)
    assert "secret" not in str(error.value)
    assert "127.0.0.1" in str(error.value)
    assert "\n" not in str(error.value)


def test_a_file_that_is_no_database_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "jobs.db").write_bytes(b"this is a letter to my aunt, not a database" * 100)
    with pytest.raises(StoreError, match="file is not a database"):
        open_store(f"sqlite:///{tmp_path / 'jobs.db'}")


def test_a_failing_batch_leaves_nothing_behind(store: Any) -> None:
    with pytest.raises(RuntimeError), store.begin() as connection:
        add_jobs(connection, frame(job("1")))
        add_rejects(connection, "log", [Reject(1, "bad", "x")])
        raise RuntimeError("the machine said no")
    assert read_jobs(store).empty
    assert read_rejects(store).empty


def test_an_ended_job_is_not_overwritten_but_a_waiting_one_is(store: Any) -> None:
    ended = job(ended_at="2026-01-02", status="completed", walltime=60, requested_walltime=600)
    assert add(store, job(status="waiting", user="ada", requested_walltime=300)) == (1, 0, 0)
    assert add(store, job(status="running", started_at="2026-01-01 12:00")) == (0, 1, 0)
    assert add(store, ended) == (0, 1, 0)
    assert add(
        store, job(status="running", started_at="2026-01-01 12:00", requested_walltime=1)
    ) == (0, 0, 1)
    assert add(store, job(ended_at="2026-01-01 20:00", status="failed", walltime=99)) == (0, 0, 1)
    (stored,) = read_jobs(store).to_dict("records")
    assert (stored["status"], stored["walltime"], stored["requested_walltime"], stored["user"]) == (
        "completed",
        60,
        600,
        "ada",
    )


def test_adding_says_which_jobs_ended_by_it(store: Any) -> None:
    with store.begin() as connection:
        first = add_jobs(connection, frame(job("1"), job("2", ended_at="2026-01-02")))
        again = add_jobs(
            connection, frame(job("1", ended_at="2026-01-03"), job("2", ended_at="2026-01-02"))
        )
        third = add_jobs(connection, frame(job("1", ended_at="2026-01-03", user="late news")))
    assert [added.ended["job_id"].tolist() for added in (first, again, third)] == [["2"], ["1"], []]


def ids_ended(engine: Any, after: int = 0) -> list[tuple[str, int]]:
    return list(
        read_ended(engine, after)[["job_id", "revision"]].itertuples(index=False, name=None)
    )


def test_a_reader_asks_for_the_jobs_that_ended_since_a_revision(store: Any) -> None:
    assert ids_ended(store) == []
    add(store, job("1"), job("late", ended_at="2026-01-03"), job("early", ended_at="2026-01-02"))
    add(store, job("2"), job("1", user="ada"))  # nothing ended
    add(store, job("1", ended_at="2026-01-04"), job("new", ended_at="2026-01-05"))
    assert ids_ended(store) == [("early", 1), ("late", 1), ("1", 2), ("new", 2)]
    assert ids_ended(store, after=1) == [("1", 2), ("new", 2)]
    assert ids_ended(store, after=2) == []
    pd.testing.assert_frame_equal(
        read_ended(store)[list(COLUMNS)],
        read_jobs(store, ended=True).sort_values("ended_at", ignore_index=True),
    )


def test_a_correction_of_an_outcome_is_stored_and_is_no_second_end(store: Any) -> None:
    add(store, job("1", ended_at="2026-01-01 12:00"))
    add(store, job("2", ended_at="2026-01-03"))
    assert add(store, job("1", ended_at="2026-01-02")) == (0, 1, 0)
    assert add(store, job("1", ended_at="2026-01-02", user="late news")) == (0, 1, 0)
    assert ids_ended(store) == [("1", 1), ("2", 2)]
    assert read_ended(store, after=1)["job_id"].tolist() == ["2"]
    with store.begin() as connection:
        added = add_jobs(
            connection,
            frame(job("1", ended_at="2026-01-02 01:00"), job("3", ended_at="2026-01-04")),
        )
    assert (added.revision, added.ended["job_id"].tolist()) == (3, ["3"])


def test_a_requeued_job_has_no_end_until_its_last_run_ends(store: Any) -> None:
    lost = job(started_at="2026-01-01 01:00", ended_at="2026-01-01 02:00", status="failed")
    queued = job(submitted_at="2026-01-01 02:00", status="waiting")
    ended = job(
        submitted_at="2026-01-01 02:00",
        started_at="2026-01-01 03:00",
        ended_at="2026-01-01 05:00",
        status="completed",
    )
    assert add(store, lost) == (1, 0, 0)
    assert ids_ended(store) == [("1", 1)]
    assert add(store, queued) == (0, 1, 0)
    assert ids_ended(store) == []
    assert add(store, lost) == (0, 0, 1)
    assert add(store, ended) == (0, 1, 0)
    # The new end is news for who follows the revisions.
    assert ids_ended(store, after=1) == [("1", 2)]
    assert add(store, queued, lost, ended) == (0, 0, 1)
    assert read_jobs(store)["status"].tolist() == ["completed"]


def test_another_run_of_a_job_is_news_a_correction_of_one_is_none(store: Any) -> None:
    run = job(started_at="2026-01-01 01:00", ended_at="2026-01-01 02:00", status="preempted")
    add(store, run)
    add(store, run | {"ended_at": "2026-01-01 02:05"})
    assert ids_ended(store) == [("1", 1)]
    add(store, run | {"started_at": "2026-01-01 03:00", "ended_at": "2026-01-01 04:00"})
    assert ids_ended(store) == [("1", 2)]


def test_earlier_runs_are_counted_and_repeated_reports_are_not(store: Any) -> None:
    run = job(started_at="2026-01-01 01:00", ended_at="2026-01-01 02:00", status="preempted")
    again = run | {"started_at": "2026-01-01 03:00", "ended_at": "2026-01-01 04:00"}

    def attempts(*reports: dict[str, object]) -> int:
        with store.begin() as connection:
            return add_jobs(connection, frame(*reports)).attempts

    assert [attempts(run), attempts(again), attempts(again), attempts(run)] == [0, 0, 0, 1]
    assert attempts(run, again, job("2", ended_at="2026-01-02")) == 1


def test_a_recycled_id_is_another_job_however_the_reports_arrive(store: Any) -> None:
    first = job("7", ended_at="2026-01-02", user="ann")
    again = job("7", submitted_at="2026-05-01", ended_at="2026-05-02", user="bob")
    third = job("7", submitted_at="2026-09-01", ended_at="2026-09-02", user="cid")
    for reports in ([again], [first, third], [first], [again, third], [third, first, again]):
        add(store, *reports)
    users = dict(read_jobs(store)[["job_id", "user"]].itertuples(index=False, name=None))
    assert users == {"7": "bob", "7@2026-01-01": "ann", "7@2026-09-01": "cid"}
    # A run of the first job that was requeued the next day is still that job's.
    assert add(store, first | {"submitted_at": "2026-01-02", "ended_at": "2026-01-03"}) == (0, 1, 0)


def test_a_migrated_store_tells_what_had_ended(store: Any) -> None:
    from alembic import command
    from alembic.config import Config

    import infra.migrations

    add(store, job("1", ended_at="2026-01-02"), job("2"))
    config = Config()
    config.set_main_option("script_location", str(Path(infra.migrations.__path__[0])))
    with store.begin() as connection:
        config.attributes["connection"] = connection
        command.downgrade(config, "0001")
    again = open_store(store.url.render_as_string(hide_password=False))
    assert ids_ended(again) == [("1", 1)]
    add(again, job("2", ended_at="2026-01-03"))
    assert ids_ended(again, after=1) == [("2", 2)]
    again.dispose()


FOLLOWED = """
import sys, time
import pandas as pd
from jobs.schema import conform
from jobs.store import add_jobs, open_store
engine = open_store(sys.argv[1])
for batch in range(40):
    ids = [f"{sys.argv[2]}-{batch}-{i}" for i in range(20)]
    jobs = pd.DataFrame({"job_id": ids, "source": "test", "submitted_at": "2026-01-01", "ended_at": "2026-01-02"})
    with engine.begin() as connection:
        add_jobs(connection, conform(jobs))
        if batch % 4 == 0:
            time.sleep(0.01)  # a transaction that commits late
"""


def test_a_reader_that_follows_two_writers_misses_no_job_and_sees_none_twice(
    store_url: str,
) -> None:
    engine = open_store(store_url)
    writers = [
        subprocess.Popen(
            [sys.executable, "-c", FOLLOWED, store_url, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("a", "b")
    ]
    seen, after, running = [], 0, True
    while running:
        running = any(
            writer.poll() is None for writer in writers
        )  # asked before the last look, so that this sees everything
        rows = read_ended(engine, after)
        seen += rows["job_id"].tolist()
        after = int(rows["revision"].max()) if len(rows) else after
    assert [writer.communicate()[0] for writer in writers] == ["", ""]
    engine.dispose()
    assert len(seen) == len(set(seen)) == 2 * 40 * 20


def reports() -> st.SearchStrategy[list[dict[str, object]]]:
    """Reports of few jobs: their outcomes may contradict each other, what was asked for may be left out."""
    asked = {
        name: st.sampled_from([None, value])
        for name, value in (("user", "ada"), ("requested_walltime", 600.0), ("site", "cern"))
    }
    hours = st.sampled_from([None, *(f"2026-01-02 0{hour}:00" for hour in range(4))])
    outcome = {
        "started_at": hours,
        "ended_at": hours,
        "status": st.sampled_from([None, "waiting", "running", "completed", "failed", "unknown"]),
        "walltime": st.sampled_from([None, 1.0, 2.0]),
        "host": st.sampled_from([None, "a", "b"]),
        "submitted_at": st.sampled_from(["2026-01-01", "2026-01-01 01:00"]),
    }
    report = st.fixed_dictionaries(
        {"job_id": st.sampled_from(["1", "1", "2"]), "source": st.just("test"), **asked, **outcome}
    )
    return st.lists(report, min_size=1, max_size=5)


@settings(max_examples=40, deadline=None)
@given(reports(), st.randoms(use_true_random=False))
def test_any_order_of_arrival_and_any_batches_give_the_same_jobs(
    reports: list[dict[str, object]], chance: random.Random
) -> None:
    jobs = frame(*reports)

    def arrive(order: list[int], one_batch: bool) -> pd.DataFrame:
        batches = [order] if one_batch else [[row] for row in order]
        merged = jobs.iloc[:0]
        for batch in batches:
            merged = merge_repeated(pd.concat([merged, jobs.iloc[batch]], ignore_index=True))
        return merged.sort_values("job_id").reset_index(drop=True)

    places = list(range(len(reports)))
    expected = arrive(places, one_batch=False)
    pd.testing.assert_frame_equal(
        arrive(chance.sample(places, len(reports)), one_batch=True), expected
    )
    pd.testing.assert_frame_equal(
        arrive(chance.sample(places, len(reports)), one_batch=False), expected
    )


@settings(
    max_examples=15, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(reports(), st.integers(0, 5))
def test_the_table_holds_what_merging_says_however_the_reports_are_cut(
    sqlite_store: Any, reports: list[dict[str, object]], cut: int
) -> None:
    with sqlite_store.begin() as connection:
        connection.execute(text("DELETE FROM jobs"))
    for batch in (reports[:cut], reports[cut:]):
        if batch:
            add(sqlite_store, *batch)
    expected = (
        merge_repeated(frame(*reports))
        .sort_values(["submitted_at", "source", "job_id"])
        .reset_index(drop=True)
    )
    pd.testing.assert_frame_equal(read_jobs(sqlite_store), expected)


def test_a_job_reported_ten_thousand_times_is_one_job(store: Any) -> None:
    same = conform(
        pd.DataFrame(
            {
                "job_id": "1",
                "source": "test",
                "submitted_at": "2026-01-01",
                "walltime": np.arange(10_000.0),
            }
        )
    )
    with store.begin() as connection:
        assert add_jobs(connection, same).added == 1
    assert read_jobs(store)["walltime"].tolist() == [9_999.0]


@pytest.mark.parametrize("one_batch", [True, False])
def test_priority_and_fair_share_stay_as_they_were_first_reported(
    sqlite_store: Any, one_batch: bool
) -> None:
    job = {"job_id": "1", "source": "test", "submitted_at": "2026-01-01"}
    run = {"started_at": "2026-01-02", "ended_at": "2026-01-03", "status": "completed"}
    reports = [
        job | {"fair_share": 0.5, "qos": "low"},
        job | {"priority": 100, "fair_share": 0.7, "qos": "low"},
        job | run | {"priority": 900, "fair_share": 0.1, "qos": "high"},
        # Queued again: what is stored is of the new submission.
        job | {"submitted_at": "2026-01-04", "priority": 50},
    ]
    for batch in [reports[:3]] if one_batch else [[report] for report in reports[:3]]:
        add(sqlite_store, *batch)
    (stored,) = read_jobs(sqlite_store).to_dict("records")
    assert (stored["priority"], stored["fair_share"]) == (100, 0.5)
    assert stored["qos"] == "high"
    add(sqlite_store, reports[3])
    (stored,) = read_jobs(sqlite_store).to_dict("records")
    assert (stored["priority"], stored["fair_share"]) == (50, 0.5)


def test_jobs_are_read_by_source_time_state_and_column_in_a_stable_order(store: Any) -> None:
    add(
        store,
        job("b", submitted_at="2026-01-02", ended_at="2026-01-03"),
        job("Z", submitted_at="2026-01-02"),
        job("ä", submitted_at="2026-01-02"),
        job("c", source="other", submitted_at="2026-01-02"),
        job("a", submitted_at="2026-01-04"),
    )

    def ids(**chosen: Any) -> list[str]:
        return read_jobs(store, **chosen)["job_id"].tolist()

    assert ids() == [
        "c",
        "Z",
        "b",
        "ä",
        "a",
    ]  # byte by byte on both databases, whatever their locale
    assert ids(sources=["test"], limit=2) == ["Z", "b"]
    assert ids(since=pd.Timestamp("2026-01-02"), until=pd.Timestamp("2026-01-04T00:00Z")) == [
        "c",
        "Z",
        "b",
        "ä",
    ]
    assert ids(ended=True) == ["b"]
    assert ids(ended=False, sources=["other"]) == ["c"]
    assert ids(sources=[]) == []
    assert list(read_jobs(store, columns=["walltime", "job_id"]).columns) == ["walltime", "job_id"]
    pd.testing.assert_frame_equal(
        read_jobs(store, sources=["none"]),
        frame(job()).iloc[:0].reset_index(drop=True),
        check_index_type=False,
    )


def test_rejects_are_kept_once_with_line_reason_and_text(store: Any) -> None:
    bad = [Reject(7, "too short", "x \udcff"), Reject(9, "r" * 5000, "y\0z")]
    for _ in range(2):
        with store.begin() as connection:
            add_rejects(connection, "some.log", bad)
    rejects = read_rejects(store, file="some.log")
    assert rejects["line"].tolist() == [7, 9]
    assert rejects["raw"].str.replace("\\0", "\ufffd").tolist() == ["x ?", "y\ufffdz"]
    assert rejects["reason"].str.len().tolist() == [9, 500]
    assert read_rejects(store, file="other.log").empty
    assert rejects["file"].tolist() == [str(Path("some.log").absolute())] * 2


def test_predictions_are_logged_once_and_read_with_what_became_of_the_job(store: Any) -> None:
    add(store, job("1", ended_at="2026-01-02", walltime=60, group="cms"), job("2"))
    asked = pd.Timestamp("2026-01-01T00:00:00.000001Z")
    answers = pd.DataFrame(
        {
            "asked_at": asked,
            "source": "test",
            "job_id": ["1", "2", "3\0"],
            "target": "walltime",
            "model_version": "4",
            "cluster": ["cms", None, "global"],
            "point": [50.0, 70.0, np.nan],
            "median": 55.0,
            "low": 10.0,
            "high": 90.0,
            "cold_start": [False, True, True],
        }
    )
    for _ in range(2):
        with store.begin() as connection:
            add_predictions(connection, answers)
    log = read_predictions(store, columns=["walltime", "ended_at", "group"])
    assert log["asked_at"].tolist() == [asked] * 3
    assert log["cold_start"].tolist() == [False, True, True]
    assert log["walltime"].fillna(-1).tolist() == [60, -1, -1]
    assert log["group"].fillna("").tolist() == ["cms", "", ""]
    assert read_predictions(store, ended=True)["job_id"].tolist() == ["1"]
    assert read_predictions(
        store, ended_since=pd.Timestamp("2026-01-02", tz="UTC"), target="walltime"
    )["point"].tolist() == [50.0]
    assert read_predictions(store, ended_until=pd.Timestamp("2026-01-02", tz="UTC")).empty
    assert read_predictions(store, since=asked + pd.Timedelta(microseconds=1)).empty
    assert len(read_predictions(store, limit=2)) == 2


def test_measurements_come_back_by_time_with_their_details(store: Any) -> None:
    days = pd.to_datetime(["2026-01-01", "2026-01-02", "2026-01-03"], utc=True)
    numbers = pd.DataFrame(
        {
            "measured_at": days,
            "kind": "decay",
            "name": "mae",
            "value": [3.0, np.nan, 1.0],
            "details": [{"jobs": 7}, None, ["ä"]],
        }
    )
    with store.begin() as connection:
        add_measurements(connection, numbers)
        add_measurements(connection, numbers.assign(segment="cms", name="coverage"))
        add_measurements(connection, numbers)
    assert read_measurements(store, "mae")["details"].tolist() == [{"jobs": 7}, None, ["ä"]]
    assert read_measurements(store, "mae")["value"].fillna(-1).tolist() == [3, -1, 1]
    assert read_measurements(store, "mae", latest=1)["measured_at"].tolist() == [days[2]]
    assert read_measurements(store, kind="decay", segment="cms")["name"].unique().tolist() == [
        "coverage"
    ]
    assert read_measurements(store, since=days[1], until=days[2])["segment"].tolist() == [
        "cms",
        "all",
    ]


def test_counts_tell_each_source_apart(store: Any) -> None:
    add(
        store,
        job("1", ended_at="2026-01-05"),
        job("2", submitted_at="2026-01-03"),
        job("1", source="other"),
    )
    counts = count_jobs(store)
    assert counts[["source", "jobs", "ended"]].to_numpy().tolist() == [
        ["other", 1, 0],
        ["test", 2, 1],
    ]
    assert counts["last_submitted_at"].tolist() == [
        pd.Timestamp("2026-01-01", tz="UTC"),
        pd.Timestamp("2026-01-03", tz="UTC"),
    ]
    assert counts["last_ended_at"].tolist() == [pd.NaT, pd.Timestamp("2026-01-05", tz="UTC")]


WRITER = """
import sys
import pandas as pd
from jobs.schema import conform
from jobs.store import add_jobs, open_store
engine = open_store(sys.argv[1])
me = sys.argv[2]
for batch in range(10):
    ids = [f"{me}-{batch}-{i}" for i in range(50)] + [f"shared-{i}" for i in range(50)]
    jobs = pd.DataFrame({"job_id": ids[:: 1 if me == "a" else -1], "source": "test", "submitted_at": "2026-01-01", "user": me})
    with engine.begin() as connection:
        add_jobs(connection, conform(jobs.assign(ended_at="2026-01-02") if batch == 9 else jobs))
"""


def test_two_processes_open_and_fill_a_new_store_at_once_and_nothing_is_lost(
    store_url: str,
) -> None:
    children = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, store_url, name],
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for name in ("a", "b")
    ]
    for child in children:
        output, _ = child.communicate(timeout=300)
        assert (child.returncode, output) == (0, "")
    engine = open_store(store_url)
    jobs = read_jobs(engine)
    engine.dispose()
    assert jobs["job_id"].is_unique
    assert len(jobs) == 2 * 10 * 50 + 50
    assert jobs[jobs["job_id"].str.startswith("shared")]["ended_at"].notna().all()


DISK_FULL = """
import resource, sys
import pandas as pd
from infra.errors import GridcastError
from jobs.schema import conform
from jobs.store import add_jobs, open_store
engine = open_store(sys.argv[1])
resource.setrlimit(resource.RLIMIT_FSIZE, (600_000, 600_000))
for batch in range(100):
    ids = [f"{batch}-{i}" for i in range(1000)]
    try:
        with engine.begin() as connection:
            add_jobs(connection, conform(pd.DataFrame({"job_id": ids, "source": "test", "submitted_at": "2026-01-01"})))
    except GridcastError as error:
        print(error)
        sys.exit(error.exit_code)
    print(batch, flush=True)
"""


def test_a_full_disk_is_one_sentence_and_whole_batches_stay(sqlite_url: str) -> None:
    child = subprocess.run(
        [sys.executable, "-c", DISK_FULL, sqlite_url],
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert child.stderr == ""
    *batches, sentence = child.stdout.splitlines()
    assert child.returncode == 1
    assert "cannot be written" in sentence
    engine = open_store(sqlite_url)
    jobs = read_jobs(engine)
    assert len(jobs) == 1000 * len(batches) > 0
    add(engine, job("after"))  # with space again, work goes on
    assert len(read_jobs(engine)) == len(jobs) + 1
    engine.dispose()


def test_a_restarted_server_is_met_without_an_error(postgres: Any, postgres_url: str) -> None:
    engine = open_store(postgres_url)
    add(engine, job("1"))
    name = engine.url.database
    postgres.psql(
        f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}';"
    )  # what a restart does to us
    add(engine, job("2"))
    assert len(read_jobs(engine)) == 2
    engine.dispose()


def test_a_writer_waits_for_another_only_as_long_as_asked(store_url: str) -> None:
    patient, hasty = open_store(store_url), open_store(store_url, busy_seconds=0.2)
    with patient.begin() as connection:
        lock_writers(connection)
        with pytest.raises(StoreError, match=r"locked by another process for 0\.2 s"):  # noqa: SIM117
            with hasty.begin() as second:
                add_jobs(second, conform(pd.DataFrame([job("1")])))
        assert len(read_jobs(hasty)) == 0  # readers do not wait
    with hasty.begin() as second:
        assert add_jobs(second, conform(pd.DataFrame([job("1")]))).added == 1
    patient.dispose()
    hasty.dispose()
