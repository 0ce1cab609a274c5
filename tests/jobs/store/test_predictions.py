"""Predictions read beside what came: only those made before a job's end was known count."""

import pandas as pd
import pytest
from sqlalchemy import Engine, text

from jobs.schema import conform
from jobs.store import (
    add_jobs,
    add_predictions,
    read_predicted_and_actual,
    read_predictions_of,
)

START = pd.Timestamp("2026-01-01", tz="UTC")


def jobs(ended: int, waiting: int = 1) -> pd.DataFrame:
    """Jobs of one source, of which the k-th ended ``k`` hours after START, and waiting ones."""
    count = ended + waiting
    end = START + pd.to_timedelta(range(count), unit="h")
    is_open = pd.Series([False] * ended + [True] * waiting)
    frame = pd.DataFrame(
        {
            "job_id": [f"j{k}" for k in range(count)],
            "source": "made",
            "site": ["a", "b"] * (count // 2) + ["a"] * (count % 2),
            "submitted_at": START - pd.Timedelta(hours=1),
            "ended_at": pd.Series(end).mask(is_open),
            "walltime": pd.Series([60.0] * count).mask(is_open),
            "status": "completed",
        }
    )
    return conform(frame.assign(status=frame["status"].mask(is_open, "waiting")))


def logged(job_ids: list[str], revision: int, hours: float, shadow: bool = False) -> pd.DataFrame:
    """A prediction of 50 s for some jobs, made when the store had reached ``revision``."""
    return pd.DataFrame({"job_id": job_ids}).assign(
        asked_at=START + pd.Timedelta(hours=hours),
        source="made",
        target="walltime",
        model_version="gridcast-1",
        point=50.0,
        median=50.0,
        low=10.0 + hours,
        high=100.0,
        known_revision=revision,
        shadow=shadow,
    )


def test_only_predictions_made_before_the_end_was_known_count(store: Engine) -> None:
    ids = [f"j{k}" for k in range(5)]
    with store.begin() as connection:
        ended = add_jobs(connection, jobs(4)).revision
        add_predictions(connection, logged(ids, ended, -0.5))  # after the end was stored
        add_predictions(connection, logged(ids[:2], 0, -0.2, shadow=True))
        add_predictions(connection, logged(ids[:3], 0, -0.4))
        add_predictions(connection, logged(ids[:3], 0, -0.3))
    until = START + pd.Timedelta(days=1)
    found = read_predicted_and_actual(
        store, ["walltime"], ["walltime", "ended_at"], since=START, until=until, limit=10
    )
    assert found["job_id"].tolist() == ids[:3], "by the end, the first prediction of each"
    assert set(found["low"]) == {9.6} and set(found["walltime"]) == {60.0}
    own = read_predictions_of(store, "made", ids)
    assert own["job_id"].tolist() == ["j0", "j0", "j1", "j1", "j2", "j2", "j4"]
    assert read_predictions_of(store, "made", ids, ["wait"]).empty
    assert read_predictions_of(store, "other", ids).empty


def test_the_latest_jobs_are_looked_at_and_no_more(store: Engine) -> None:
    ids = [f"j{k}" for k in range(6)]
    with store.begin() as connection:
        add_jobs(connection, jobs(6))
        add_predictions(connection, logged(ids, 0, -0.4))
    window = {"since": START, "until": START + pd.Timedelta(hours=5)}
    columns = ["walltime"]
    two = read_predicted_and_actual(store, columns, columns, limit=2, **window)
    assert two["job_id"].tolist() == ["j3", "j4"], "j5 ended after the window"
    at_site = read_predicted_and_actual(
        store, columns, columns, limit=4, having={"site": "a"}, **window
    )
    assert at_site["job_id"].tolist() == ["j2", "j4"]


@pytest.mark.parametrize(
    ("index", "condition"),
    [("task_id", "task_id = 't'"), ("user", "\"user\" = 'u' AND submitted_at > 0")],
)
def test_the_jobs_of_a_task_and_of_a_user_are_found_by_an_index(
    store: Engine, index: str, condition: str
) -> None:
    with store.begin() as connection:
        add_jobs(connection, jobs(2))
    explain = "EXPLAIN QUERY PLAN" if store.dialect.name == "sqlite" else "EXPLAIN"
    with store.connect() as connection:
        if store.dialect.name == "postgresql":
            connection.execute(text("SET enable_seqscan = off"))
        rows = connection.execute(text(f"{explain} SELECT * FROM jobs WHERE {condition}"))
        steps = " ".join(str(row) for row in rows)
    # PostgreSQL names the index of a month after its columns.
    assert f"jobs_{index}" in steps or f"_{index}_" in steps, steps
