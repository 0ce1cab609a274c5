"""Earlier attempts: each ended run of a job but its last is a row, however the reports arrive."""

from __future__ import annotations

import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from sqlalchemy import text

from infra.errors import InputError
from jobs.export import export_records
from jobs.ingest import EARLIER_ATTEMPT, ingest_file, read_log
from jobs.schema import conform
from jobs.store import add_jobs, drop_source, prune, read_attempts, read_jobs
from jobs.store.copies import dump, load_store, versions
from jobs.store.tables import ATTEMPT_FIELDS
from jobs.writers import write_csv

DAY = "2026-01-02"
GIB = 2.0**30


def run(hour: int, status: str = "preempted", job_id: str = "1", **fields: object) -> Any:
    """A run of half an hour from ``hour`` on, queued a quarter of an hour before."""
    start = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=hour)
    return {
        "job_id": job_id,
        "source": "test",
        "submitted_at": start - pd.Timedelta(minutes=15),
        "started_at": start,
        "ended_at": start + pd.Timedelta(minutes=30),
        "status": status,
        "walltime": 1800.0,
    } | fields


def waiting(hour: int, job_id: str = "1") -> dict[str, object]:
    at = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=hour)
    return {"job_id": job_id, "source": "test", "submitted_at": at, "status": "waiting"}


def add(engine: Any, *reports: dict[str, object]) -> Any:
    with engine.begin() as connection:
        return add_jobs(connection, conform(pd.DataFrame(list(reports))))


def hours(engine: Any, job_id: str = "1") -> list[tuple[int, str]]:
    """Start and status of the attempts of a job."""
    rows = read_attempts(engine, pd.DataFrame({"source": ["test"], "job_id": [job_id]}))
    starts = rows["started_at"].fillna(rows["ended_at"])
    return [(start.hour, status) for start, status in zip(starts, rows["status"], strict=True)]


def clear(engine: Any) -> None:
    with engine.begin() as connection:
        for table in ("jobs", "attempts"):
            connection.execute(text(f"DELETE FROM {table}"))


def test_an_attempt_has_what_its_report_said(store: Any) -> None:
    killed = run(
        1, "out_of_memory", requested_memory=2 * GIB, peak_memory=1.9 * GIB, host="n1", site="S",
        queue="q", cores=4.0, requested_cores=4.0, requested_walltime=3600.0, cpu_time=7000.0,
    )  # fmt: skip
    add(store, killed)
    assert hours(store) == []
    add(store, run(3, "completed", requested_memory=8 * GIB))
    rows = read_attempts(store, read_jobs(store))
    expected = conform(pd.DataFrame([killed]))[list(ATTEMPT_FIELDS)]
    pd.testing.assert_frame_equal(rows, expected)
    assert read_jobs(store)["requested_memory"].tolist() == [8 * GIB]


def test_each_run_is_kept_once_in_whatever_order_and_batches_it_is_reported(store: Any) -> None:
    reports = [
        run(1), run(1), waiting(2), run(3, "failed"), waiting(4), run(5, "out_of_memory"),
        run(7, "completed"), run(7, "completed"),
    ]  # fmt: skip
    shuffled = random.Random(1)
    for _ in range(8):
        shuffled.shuffle(reports)
        clear(store)
        cuts = sorted(shuffled.sample(range(1, len(reports)), 3))
        for start, stop in zip([0, *cuts], [*cuts, len(reports)], strict=True):
            add(store, *reports[start:stop])
        assert hours(store) == [(1, "preempted"), (3, "failed"), (5, "out_of_memory")]
        assert read_jobs(store)["status"].tolist() == ["completed"]
    before = read_attempts(store, read_jobs(store))
    add(store, *reports)
    pd.testing.assert_frame_equal(read_attempts(store, read_jobs(store)), before)


def test_a_job_that_waits_again_has_its_ended_run_as_an_attempt(store: Any) -> None:
    add(store, run(1), waiting(2))
    assert hours(store) == [(1, "preempted")]
    assert read_jobs(store)["ended_at"].isna().all()


def test_a_correction_of_a_run_is_no_attempt(store: Any) -> None:
    end = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=2)
    add(store, run(1))
    add(store, run(1, ended_at=end))
    add(store, run(1, started_at=end - pd.Timedelta(minutes=50), ended_at=end, status="failed"))
    assert hours(store) == []
    # The report that comes late says that the run, an attempt by now, ended later.
    add(store, run(3, "completed"))
    add(store, run(1, ended_at=end + pd.Timedelta(minutes=5)))
    assert hours(store) == [(1, "preempted")]
    (row,) = read_attempts(store, read_jobs(store)).itertuples()
    assert row.ended_at == end + pd.Timedelta(minutes=5)


def test_an_attempt_that_turns_out_to_be_the_outcome_is_none_any_more(store: Any) -> None:
    end = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=4)
    add(store, run(1), waiting(2))
    assert hours(store) == [(1, "preempted")]
    add(store, run(1, "completed", ended_at=end))
    assert (hours(store), read_jobs(store)["status"].tolist()) == ([], ["completed"])


def test_a_recycled_id_is_another_job_and_each_has_its_own_attempts(store: Any) -> None:
    later = {"job_id": "1", "source": "test", "submitted_at": "2026-06-01"}
    add(store, run(1, "failed"), run(3, "completed"))
    add(
        store,
        later | {"started_at": "2026-06-02", "ended_at": "2026-06-03", "status": "preempted"},
        later | {"started_at": "2026-06-04", "ended_at": "2026-06-05", "status": "completed"},
    )
    assert read_jobs(store)["job_id"].tolist() == ["1", "1@2026-06-01"]
    assert hours(store) == [(1, "failed")]
    assert hours(store, "1@2026-06-01") == [(0, "preempted")]


def run_reports() -> st.SearchStrategy[list[dict[str, object]]]:
    """Reports of two jobs: runs that do not overlap, repeated, cut short, and queued again."""
    ended = st.builds(
        lambda hour, job_id, minutes, host: run(
            hour,
            ("preempted", "failed", "completed")[hour % 3],
            job_id,
            ended_at=pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=hour, minutes=minutes),
            walltime=60.0 * minutes,
            host=host,
        ),
        st.integers(1, 6),
        st.sampled_from(["1", "2"]),
        st.sampled_from([30, 40]),
        st.sampled_from(["a", "b"]),
    )
    queued = st.builds(waiting, st.integers(1, 7), st.sampled_from(["1", "2"]))
    return st.lists(st.one_of(ended, queued), min_size=1, max_size=10)


@settings(
    max_examples=10,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(run_reports(), st.randoms(use_true_random=False))
def test_attempts_do_not_depend_on_order_and_batches(
    sqlite_store: Any, reports: list[dict[str, object]], shuffled: random.Random
) -> None:
    clear(sqlite_store)
    add(sqlite_store, *reports)
    expected = read_attempts(sqlite_store, read_jobs(sqlite_store))
    # Every ended run is an attempt or its job's outcome.
    ended = {(row["job_id"], row["started_at"]) for row in reports if "started_at" in row}
    outcomes = read_jobs(sqlite_store).dropna(subset="ended_at")
    stored = pd.concat([expected, outcomes])[["job_id", "started_at"]]
    assert sorted(stored.itertuples(index=False, name=None)) == sorted(ended)
    clear(sqlite_store)
    shuffled.shuffle(reports)
    for report in reports:
        add(sqlite_store, report)
    pd.testing.assert_frame_equal(read_attempts(sqlite_store, read_jobs(sqlite_store)), expected)


def test_many_attempts_take_the_ways_of_many_rows(store: Any) -> None:
    """More than the store inserts one by one, and deletes by one statement."""
    names = [str(number) for number in range(700)]
    first = [run(1, job_id=name) for name in names]
    add(store, *first, *(waiting(2, name) for name in names))
    jobs = read_jobs(store)
    assert len(read_attempts(store, jobs)) == 700
    end = pd.Timestamp(DAY, tz="UTC") + pd.Timedelta(hours=4)
    add(store, *(row | {"ended_at": end} for row in first))
    assert read_attempts(store, jobs).empty


def test_attempts_go_with_their_job_and_with_their_source(store: Any) -> None:
    now = datetime(2026, 11, 22, tzinfo=UTC)
    add(store, run(1), run(3, "completed"))
    add(store, *(run(hour, source="other") for hour in (1, 3)))
    recent = {"source": "other", "job_id": "9", "submitted_at": "2026-11-01"}
    add(store, recent | {"ended_at": "2026-11-02"})
    assert drop_source(store, "test", now)["attempts"] == 1
    assert prune(store, 3, now).rows["attempts"] == 1
    assert read_jobs(store)["job_id"].tolist() == ["9"]
    # A pruned job and its attempts stay away.
    add(store, *(run(hour, source="other") for hour in (1, 3)))
    with store.connect() as connection:
        assert connection.execute(text("SELECT count(*) FROM attempts")).scalar() == 0


def test_attempts_are_exported_and_copied(store: Any, tmp_path: Path) -> None:
    add(store, run(1, "timeout"), run(3, "completed"), run(1, job_id="2"), waiting(2, "2"))
    stored = read_attempts(store, read_jobs(store))
    assert export_records(store, "attempts", tmp_path / "attempts.csv") == 2
    with pytest.raises(InputError, match=r"there is no row to write, so .* stays as it is"):
        export_records(store, "attempts", tmp_path / "attempts.csv", sources=["other"])
    exported = conform(pd.read_csv(tmp_path / "attempts.csv", dtype={"job_id": str}))
    pd.testing.assert_frame_equal(exported[list(ATTEMPT_FIELDS)], stored)
    assert dump(store, tmp_path / "copy")["attempts"] == 2
    clear(store)
    with store.begin() as connection:
        connection.execute(text("DELETE FROM measurements"))
        (version,) = versions(store).values()
        load_store(connection, tmp_path / "copy", version)
    pd.testing.assert_frame_equal(read_attempts(store, read_jobs(store)), stored)


# For each line of standard input it forks a process that ingests a log into a store and kills
# itself -9 before a statement. One import serves all the forks.
KILLED = """
import os, sys
from pathlib import Path
from sqlalchemy import event
from jobs.ingest import ingest_file
from jobs.store import open_store
for line in sys.stdin:
    url, path, statements = line.rstrip("\\n").split("\\t")
    child = os.fork()
    if child == 0:
        engine, left = open_store(url), int(statements)
        @event.listens_for(engine, "before_cursor_execute")
        def count(*arguments):
            global left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), 9)
        ingest_file(engine, Path(path))
        os._exit(0)
    os.waitpid(child, 0)
    print("ended", flush=True)
"""


@pytest.fixture(scope="module")
def killed_ingest() -> Iterator[Callable[[str, Path, int], None]]:
    """Ingests a log into a store, in a process that is killed before a statement."""
    with subprocess.Popen(
        [sys.executable, "-c", KILLED],
        cwd=Path(__file__).parents[3],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as killer:
        orders, answers = killer.stdin, killer.stdout
        assert orders is not None
        assert answers is not None

        def ingest(url: str, path: Path, statements: int) -> None:
            orders.write(f"{url}\t{path}\t{statements}\n")
            orders.flush()
            assert answers.readline() == "ended\n"

        yield ingest
        orders.close()


@pytest.mark.parametrize("statements", [3, 5, 7, 8, 9, 10, 12])
def test_a_killed_ingest_is_completed_by_the_next(
    store: Any,
    tmp_path: Path,
    statements: int,
    killed_ingest: Callable[[str, Path, int], None],
) -> None:
    reports = [run(hour, job_id=name) for name in ("1", "2") for hour in (1, 3, 5)]
    path = write_csv(conform(pd.DataFrame(reports)), tmp_path / "log.csv")
    add(store, run(3, job_id="1"), run(7, job_id="2"))
    killed_ingest(store.url.render_as_string(hide_password=False), path, statements)
    stored = read_attempts(store, read_jobs(store))
    assert len(stored) in (0, 5), "all of a batch or nothing"
    result = ingest_file(store, path)
    assert hours(store) == [(1, "preempted"), (3, "preempted")]
    assert hours(store, "2") == [(1, "preempted"), (3, "preempted"), (5, "preempted")]
    assert result.notes[EARLIER_ATTEMPT] == 5
    assert read_log(path)[1].notes == {EARLIER_ATTEMPT: 4}, "without a store its own last runs"
