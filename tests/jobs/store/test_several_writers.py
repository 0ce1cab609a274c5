"""Several writers at once on PostgreSQL: followers miss nothing, and reports of a job are merged."""

from __future__ import annotations

import threading
import time
from collections import Counter
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import event, text

from jobs.schema import conform
from jobs.store import (
    StoreError,
    add_jobs,
    frames,
    has_ended_after,
    open_store,
    read_ended,
    read_jobs,
    write_transaction,
)
from jobs.store.database import ATTEMPTS
from jobs.store.merging import merge_repeated
from jobs.store.retention import drop_source


@pytest.fixture(scope="module")
def server(postgres: Any) -> Any:
    """A store on PostgreSQL; each test has its own sources."""
    postgres.psql("CREATE DATABASE several_writers;")
    engine = open_store(str(postgres.get_uri(database="several_writers")), busy_seconds=90.0)
    with engine.begin() as connection:  # who creates a month lets others of it wait
        for month in ("2026-01-01", "2026-02-01"):
            add_jobs(connection, frame("first", [month], month))
    yield engine
    engine.dispose()
    postgres.psql("DROP DATABASE several_writers;")


def frame(source: str, ids: list[str], submitted: str = "2026-01-05", **fields: Any) -> Any:
    jobs = pd.DataFrame({"source": source, "job_id": ids, "submitted_at": submitted, **fields})
    return conform(jobs)


def ended(source: str, *ids: str, **fields: Any) -> Any:
    return frame(source, list(ids), **{"ended_at": "2026-02-09", **fields})


class Follower:
    """Reads what is new, as a predictor does."""

    def __init__(self, engine: Any) -> None:
        self.engine, self.after, self.seen = engine, 0, Counter[str]()

    def look(self) -> None:
        if has_ended_after(self.engine, self.after):
            rows = read_ended(self.engine, self.after)
            self.seen.update(rows["source"] + " " + rows["job_id"])
            self.after = int(max(rows["revision"].max(), self.after)) if len(rows) else self.after


@pytest.mark.parametrize("seed", range(12))
def test_a_follower_sees_each_outcome_once_however_transactions_interleave(
    server: Any, seed: int
) -> None:
    rng, source, committed = np.random.default_rng(seed), f"interleaved {seed}", set[str]()
    follower = Follower(server)
    follower.look()
    follower.seen.clear()
    open_ones: list[tuple[Any, Any, str]] = []
    for number in range(40):
        match rng.choice(["begin", "commit", "roll back", "look"], p=[0.4, 0.25, 0.1, 0.25]):
            case "begin" if len(open_ones) < 4:
                connection = server.connect()
                transaction = connection.begin()
                add_jobs(connection, ended(source, str(number)))
                open_ones.append((connection, transaction, f"{source} {number}"))
            case ("commit" | "roll back") as action if open_ones:
                connection, transaction, job = open_ones.pop(rng.integers(len(open_ones)))
                if action == "commit":
                    transaction.commit()
                    committed.add(job)
                else:
                    transaction.rollback()
                connection.close()
            case "look":
                follower.look()
    for connection, transaction, job in open_ones:
        follower.look()
        transaction.commit()
        connection.close()
        committed.add(job)
    follower.look()
    assert follower.seen == Counter(committed)


def test_a_later_revision_is_read_when_the_slow_transaction_before_it_has_ended(
    server: Any,
) -> None:
    follower = Follower(server)
    follower.look()
    follower.seen.clear()
    with server.connect() as slow, server.connect() as aborted:
        for connection, job in ((slow, "slow"), (aborted, "aborted")):
            connection.begin()
            add_jobs(connection, ended("slow", job))
        with server.begin() as quick:
            add_jobs(quick, ended("slow", "quick"))
        follower.look()
        assert not follower.seen
        slow.commit()
        follower.look()
        assert [*follower.seen] == ["slow slow"]
        aborted.rollback()
    follower.look()
    assert follower.seen == Counter(["slow slow", "slow quick"])


@pytest.mark.parametrize("copied", [False, True])
def test_writers_of_the_same_jobs_at_once_merge_all_that_was_committed(
    server: Any, copied: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four writers in threads, in other orders, with corrected months, slow and aborted ones."""
    if copied:
        monkeypatch.setattr(frames, "MIN_COPY_ROWS", 1)
    source, ids = f"the same, {copied}", [str(number) for number in range(30)]
    reports: list[pd.DataFrame] = []
    failures: list[BaseException] = []
    writing, follower = threading.Event(), Follower(server)
    follower.look()
    follower.seen.clear()

    def write(seed: int) -> None:
        rng = np.random.default_rng(seed)
        try:
            for number in range(12):
                chosen = [str(job) for job in rng.permutation(ids)[:20]]
                batch = frame(
                    source,
                    chosen,
                    str(rng.choice(["2026-01-28", "2026-02-02"])),
                    user=f"{seed} {number}",
                    ended_at=rng.choice([None, "2026-02-20", "2026-02-21"], 20),
                )
                with server.connect() as connection, connection.begin() as transaction:
                    add_jobs(connection, batch)
                    time.sleep(0.002 * rng.integers(5))
                    if rng.random() < 0.2:
                        transaction.rollback()
                    else:
                        transaction.commit()
                        reports.append(batch)
        except BaseException as error:
            failures.append(error)

    def follow() -> None:
        try:
            while not writing.wait(0.01):
                follower.look()
        except BaseException as error:
            failures.append(error)

    threads = [threading.Thread(target=write, args=(seed,)) for seed in range(4)]
    watcher = threading.Thread(target=follow)
    for thread in (*threads, watcher):
        thread.start()
    for thread in threads:
        thread.join(300)
    writing.set()
    watcher.join(300)
    assert not failures
    follower.look()
    expected = merge_repeated(pd.concat(reports, ignore_index=True)).sort_values("job_id")
    stored = read_jobs(server, sources=[source]).sort_values("job_id")
    fields = ["job_id", "submitted_at", "ended_at", "status"]
    pd.testing.assert_frame_equal(
        stored[fields].reset_index(drop=True), expected[fields].reset_index(drop=True)
    )
    names = [f"{source} {job}" for job in expected["job_id"][expected["ended_at"].notna()]]
    # A job whose report of a later submission took its end away is seen again when it ends again.
    assert {*follower.seen} == {*names}


def test_who_reports_a_job_that_another_one_is_writing_waits_and_names_it(server: Any) -> None:
    hasty = open_store(str(server.url.render_as_string(False)), busy_seconds=0.2)
    with server.begin() as connection:
        add_jobs(connection, ended("waits", "1"))
        with hasty.begin() as other:
            assert add_jobs(other, ended("waits", "2")).added == 1  # which nobody is writing
        with pytest.raises(StoreError, match="was locked by another process"):  # noqa: SIM117
            with hasty.begin() as other:
                add_jobs(other, ended("waits", "1"))
    with hasty.begin() as other:
        assert add_jobs(other, ended("waits", "1")).unchanged == 1
    hasty.dispose()


def test_the_keys_are_those_of_the_stored_jobs(server: Any) -> None:
    def keys() -> list[tuple[str, str]]:
        query = (
            "SELECT job_id, to_char(to_timestamp(submitted_at / 1e6) AT TIME ZONE 'UTC', 'MM-DD') "
            "FROM job_keys WHERE source = 'keys' ORDER BY job_id"
        )
        with server.connect() as connection:
            return [(str(job), str(day)) for job, day in connection.execute(text(query)).all()]

    for jobs in (frame("keys", ["1", "2", "1"]), frame("keys", ["2"], "2026-02-01")):
        with server.begin() as connection:
            add_jobs(connection, jobs)
    assert keys() == [("1", "01-05"), ("2", "02-01")]
    drop_source(server, "keys")
    assert keys() == []


def test_a_batch_that_is_copied_is_stored_where_some_of_its_jobs_were_there(server: Any) -> None:
    ids = [str(number) for number in range(frames.MIN_COPY_ROWS + 1)]
    added = []
    for names in (ids[:-1], ids, ids, [f"{name}'" for name in ids]):
        with server.begin() as connection:
            result = add_jobs(connection, ended("copied", *names))
        added.append((result.added, result.unchanged))
    count = len(ids)
    assert added == [(count - 1, 0), (1, count - 1), (0, count), (count, 0)]
    assert len(read_jobs(server, sources=["copied"])) == 2 * count


def test_two_transactions_of_several_calls_that_wait_for_each_other_lose_nothing(
    server: Any,
) -> None:
    """PostgreSQL undoes one of them, which says so; the same again stores its jobs."""
    met, failures = threading.Barrier(2, timeout=90), list[str]()

    def write(*ids: str) -> None:
        try:
            with server.begin() as connection:
                add_jobs(connection, ended("crossed", ids[0]))
                met.wait()
                add_jobs(connection, ended("crossed", ids[1]))
        except StoreError as error:
            failures.append(str(error))
            with server.begin() as connection:
                add_jobs(connection, ended("crossed", *ids))

    threads = [threading.Thread(target=write, args=ids) for ids in (("1", "2"), ("2", "1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert len(failures) == 1
    assert "waited for each other's jobs; run the same command again" in failures[0]
    assert read_jobs(server, sources=["crossed"])["job_id"].tolist() == ["1", "2"]


class Victim:
    """A writer's connection that the server ends before its ``number``-th statement."""

    def __init__(self, server: Any, number: int) -> None:
        self.server, self.left, self.connection = server, number, server.connect()
        self.process = self.connection.exec_driver_sql("SELECT pg_backend_pid()").scalar_one()
        self.connection.rollback()
        event.listen(self.connection, "before_cursor_execute", self.count)

    def count(self, *_: object) -> None:
        self.left -= 1
        if self.left == 0:
            self.kill()

    def kill(self) -> None:
        with self.server.connect() as connection:
            query = text("SELECT pg_terminate_backend(:process, 30000)")
            assert connection.execute(query, {"process": self.process}).scalar_one()


@pytest.mark.parametrize("seed", range(4))
def test_a_writer_that_is_killed_at_any_statement_loses_nothing_and_can_run_again(
    server: Any, seed: int
) -> None:
    """What it wrote is gone with it, what others committed is followed once, and a rerun works."""
    rng, source = np.random.default_rng(seed), f"killed {seed}"
    follower, committed, killed, begun = Follower(server), set[str](), list[str](), 0
    follower.look()
    follower.seen.clear()
    open_ones: list[tuple[Victim, Any, str]] = []
    kills: list[str] = []

    def write(job: str, statement: int) -> None:
        writer = Victim(server, statement)
        transaction = writer.connection.begin()
        try:
            add_jobs(writer.connection, ended(source, job, f"{job}'"))
            open_ones.append((writer, transaction, job))
        except StoreError:
            killed.append(job)
            kills.append(job)
            writer.connection.close()

    def end(is_killed: bool) -> None:
        writer, transaction, job = open_ones.pop(rng.integers(len(open_ones)))
        if is_killed:
            writer.kill()
            with pytest.raises(StoreError):
                transaction.commit()
            killed.append(job)
            kills.append(job)
        else:
            transaction.commit()
            committed.update([job, f"{job}'"])
        writer.connection.close()

    for _ in range(40):
        match rng.choice(["begin", "end", "look"], p=[0.5, 0.25, 0.25]):
            case "begin" if len(open_ones) < 4:
                is_rerun = bool(killed) and rng.random() < 0.5
                job = killed.pop() if is_rerun else str(begun)
                begun += not is_rerun
                write(job, int(rng.integers(1, 16)))
            case "end" if open_ones:
                end(bool(rng.random() < 0.3))
            case "look":
                follower.look()
                assert {*follower.seen} <= {f"{source} {job}" for job in committed}
    while open_ones:
        end(False)
        follower.look()
    assert kills
    for job in killed:
        with server.begin() as connection:
            assert add_jobs(connection, ended(source, job, f"{job}'")).added == 2
        committed.update([job, f"{job}'"])
    follower.look()
    assert follower.seen == Counter(f"{source} {job}" for job in committed)
    assert sorted(read_jobs(server, sources=[source])["job_id"]) == sorted(committed)
    with server.begin() as connection:
        assert add_jobs(connection, ended(source, *committed)).unchanged == len(committed)


def test_transactions_that_waited_for_each_other_are_run_again(server: Any) -> None:
    met, runs = threading.Barrier(2, timeout=90), Counter[str]()
    results: dict[str, int] = {}

    def write(first: str, second: str) -> None:
        def add(connection: Any) -> int:
            runs[first] += 1
            added = add_jobs(connection, ended("crossed again", first)).added
            if runs[first] == 1:
                met.wait()
            return added + add_jobs(connection, ended("crossed again", second)).added

        results[first] = write_transaction(server, add)

    threads = [threading.Thread(target=write, args=ids) for ids in (("1", "2"), ("2", "1"))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(300)
    assert runs.total() == 3, "the server undid one of them once"
    assert sorted(results.values()) == [0, 2], "each job was stored once"
    assert read_jobs(server, sources=["crossed again"])["job_id"].tolist() == ["1", "2"]


@pytest.mark.parametrize(
    ("state", "attempts"), [("40001", ATTEMPTS), ("40P01", ATTEMPTS), ("53100", 1)]
)
def test_a_transaction_is_run_again_a_few_times_and_only_where_it_was_undone(
    server: Any, state: str, attempts: int
) -> None:
    runs = 0

    def fail(connection: Any) -> None:
        nonlocal runs
        runs += 1
        connection.execute(text(f"DO $$ BEGIN RAISE SQLSTATE '{state}'; END $$"))

    with pytest.raises(StoreError):
        write_transaction(server, fail)
    assert runs == attempts
