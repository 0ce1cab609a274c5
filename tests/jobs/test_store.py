"""The store, on SQLite and on PostgreSQL by the same tests."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pytest
from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext

from jobs.schema import COLUMNS, conform
from jobs.store import add_jobs, count_jobs, open_store, read_jobs
from jobs.store.tables import metadata


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
        context = MigrationContext.configure(connection, opts={"version_table": "gridcast_version", "compare_type": True})
        assert compare_metadata(context, metadata) == []


def test_a_job_comes_back_as_it_went_in(store: Any) -> None:
    labels = ("task_id", "user", "group", "project", "program", "job_name", "queue", "site", "host")
    full = {name: f"the {name} – ä" for name in labels}
    numbers = dict.fromkeys(("host_power", "requested_walltime", "requested_cores", "requested_memory", "walltime", "cpu_time"), 12.5)
    times = {"submitted_at": "2026-03-29T00:59:59.123456Z", "started_at": "2026-03-29T01:00:00Z", "ended_at": "2026-03-29T01:00:12.5Z"}
    jobs = frame(job("1", **full, **numbers, **times, status="completed"), job("2", submitted_at="2026-03-29T02:00:00Z"))
    with store.begin() as connection:
        add_jobs(connection, jobs)
    pd.testing.assert_frame_equal(read_jobs(store), jobs)
    assert tuple(read_jobs(store).columns) == COLUMNS


def test_adding_the_same_jobs_again_changes_nothing(store: Any) -> None:
    assert add(store, job("1", ended_at="2026-01-02"), job("2")) == (2, 0, 0)
    before = read_jobs(store)
    assert add(store, job("1", ended_at="2026-01-02"), job("2")) == (0, 0, 2)
    pd.testing.assert_frame_equal(read_jobs(store), before)


def test_opening_an_open_store_again_is_harmless(store_url: str) -> None:
    first, second = open_store(store_url), open_store(store_url)
    add(first, job("1"))
    assert count_jobs(second)[["source", "jobs", "ended"]].values.tolist() == [["test", 1, 0]]
    first.dispose()
    second.dispose()


@pytest.mark.parametrize(
    "url", ["", "nonsense", "mysql://u:secret@host/jobs", "postgresql://u:secret@host:port/jobs", "sqlite:////no/such/folder/jobs.db"]
)
def test_a_wrong_address_is_one_sentence_without_the_password(url: str) -> None:
    from infra.errors import GridcastError

    with pytest.raises(GridcastError) as error:
        open_store(url)
    assert "secret" not in str(error.value)
    assert "\n" not in str(error.value)
