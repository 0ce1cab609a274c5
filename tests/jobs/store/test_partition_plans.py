"""Readers of a store of many months read the partitions that their rows can be in, and no other."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from typing import Any

import pandas as pd
import pytest
from sqlalchemy import Engine, event

from jobs.schema import conform
from jobs.store import (
    add_jobs,
    add_predictions,
    open_store,
    read_canary_answers,
    read_predicted_and_actual,
    read_predictions,
    read_predictions_of,
)

MONTHS = [f"{month}-01" for month in pd.period_range("2024-01", "2026-02", freq="M")]
LAST = pd.Timestamp("2026-02-10", tz="UTC")
COLUMNS = ["walltime", "ended_at"]


@pytest.fixture(scope="module")
def stores(
    postgres: Any, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Engine, Engine]]:
    """The same 26 months on PostgreSQL and SQLite; a job of June 2024 ended in February 2026."""
    postgres.psql("CREATE DATABASE partition_plans;")
    folder = tmp_path_factory.mktemp("partition_plans")
    urls = (str(postgres.get_uri(database="partition_plans")), f"sqlite:///{folder / 'jobs.db'}")
    engines = tuple(open_store(url) for url in urls)
    for engine in engines:
        fill(engine)
    yield engines
    for engine in engines:
        engine.dispose()
    postgres.psql("DROP DATABASE partition_plans;")


def fill(engine: Engine) -> None:
    submitted = pd.to_datetime(MONTHS, utc=True) + pd.Timedelta(days=8)
    ids = [f"j{number}" for number in range(len(MONTHS))]
    frame = pd.DataFrame({"source": "made", "job_id": ids, "submitted_at": submitted})
    frame["ended_at"] = submitted + pd.Timedelta(hours=1)
    frame["walltime"] = 60.0
    late = frame["job_id"] == "j5"
    frame.loc[late, "ended_at"] = LAST
    frame.loc[frame["job_id"] == "j24", "ended_at"] = pd.NaT
    logged = frame[["source", "job_id"]].assign(
        asked_at=submitted,
        target="walltime",
        model_version="champion",
        point=50.0,
        known_revision=0,
        shadow=False,
    )
    # The canary answers in February for the last three jobs, the late one, and an unknown one.
    asked = logged[frame["job_id"].isin(["j5", "j24", "j25"])]
    asked = pd.concat([asked, asked.head(1).assign(job_id="unknown")])
    asked = asked.assign(asked_at=LAST - pd.Timedelta(hours=5))
    with engine.begin() as connection:
        add_jobs(connection, conform(frame))
        add_predictions(connection, logged)
        add_predictions(connection, asked.assign(model_version="canary", point=55.0))
        add_predictions(connection, asked.assign(shadow=True))


def partitions_read(engine: Engine, read: Callable[[Engine], object]) -> set[str]:
    """The partitions in the plan of the last statement of a reader."""
    statements: list[tuple[str, Any]] = []

    def note(connection: Any, cursor: Any, statement: str, parameters: Any, *_: Any) -> None:
        statements.append((statement, parameters))

    event.listen(engine, "before_cursor_execute", note)
    read(engine)
    event.remove(engine, "before_cursor_execute", note)
    statement, parameters = statements[-1]
    with engine.connect() as connection:
        rows = connection.exec_driver_sql(f"EXPLAIN {statement}", parameters).scalars()
        return {name for row in rows for name in re.findall(r" on ((?:jobs|pred)\w+_\d\d)\b", row)}


RECENT = LAST - pd.Timedelta(days=3)
OLD, NEW = "jobs_2024_06", {"jobs_2026_01", "jobs_2026_02"}


@pytest.mark.parametrize(
    ("read", "jobs", "rows"),
    [
        (lambda engine: read_predictions(engine, since=RECENT, columns=COLUMNS), {OLD, *NEW}, 9),
        (lambda engine: read_predictions(engine, since=RECENT, ended=True), {OLD, *NEW}, 5),
        (
            lambda engine: read_canary_answers(
                engine, "canary", "champion", COLUMNS, since=RECENT, limit=100
            ),
            {OLD, *NEW},
            4,
        ),
        (
            lambda engine: read_predictions(engine, ended_since=RECENT, columns=COLUMNS),
            {OLD, "jobs_2026_02"},
            6,
        ),
        (lambda engine: read_predictions_of(engine, "made", ["j5"]), {OLD}, 2),
    ],
    ids=["asked", "asked and ended", "canary", "drift", "of jobs"],
)
def test_only_partitions_of_the_predicted_jobs_are_read_and_an_old_one_among_them(
    stores: tuple[Engine, Engine], read: Any, jobs: set[str], rows: int
) -> None:
    postgresql, sqlite = stores
    plan = partitions_read(postgresql, read)
    assert {name for name in plan if name.startswith("jobs")} == jobs
    answer = read(postgresql)
    pd.testing.assert_frame_equal(answer, read(sqlite))
    assert len(answer) == rows
    assert "j5" in set(answer["job_id"])


def test_jobs_of_later_months_than_the_window_are_not_asked_for_their_ends(
    stores: tuple[Engine, Engine],
) -> None:
    def read(engine: Engine) -> pd.DataFrame:
        window = (pd.Timestamp(day, tz="UTC") for day in ("2024-03-01", "2024-05-01"))
        since, until = window
        return read_predicted_and_actual(
            engine, ["walltime"], COLUMNS, since=since, until=until, limit=100
        )

    plan = partitions_read(stores[0], read)
    read_months = {name for name in plan if name.startswith("jobs")}
    assert read_months == {f"jobs_2024_{month:02}" for month in (1, 2, 3, 4)}
    pd.testing.assert_frame_equal(read(stores[0]), read(stores[1]))
    assert read(stores[0])["job_id"].tolist() == ["j2", "j3"]


def test_a_job_without_predictions_in_the_window_leaves_all_partitions_of_jobs_unread(
    stores: tuple[Engine, Engine],
) -> None:
    def read(engine: Engine) -> pd.DataFrame:
        return read_predictions(engine, since=LAST + pd.Timedelta(days=300), columns=COLUMNS)

    assert not partitions_read(stores[0], read)
    assert read(stores[0]).empty
