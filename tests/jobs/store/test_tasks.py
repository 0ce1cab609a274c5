"""Tasks are identified by their source, too."""

from __future__ import annotations

from typing import Any

import pandas as pd
from sqlalchemy import MetaData, Table, text

from jobs.store import (
    add_task_predictions,
    connect,
    first_task_predictions,
    latest_task_predictions,
    mark_notified,
    open_store,
    task_history,
    unnotified_tasks,
)
from jobs.store.database import migrate
from jobs.store.partitions import create_partitions, is_partitioned

NOW = pd.Timestamp("2026-11-01", tz="UTC")


def prediction(source: str, hours: int, task: str = "t", **fields: object) -> dict[str, object]:
    asked_at = NOW + pd.Timedelta(hours, "h")
    key = {"asked_at": asked_at, "kind": "task", "source": source, "task": task}
    return {**key, "median": asked_at, **fields}


def test_two_sources_may_have_tasks_of_one_name(store: Any) -> None:
    rows = [prediction("a", 0), prediction("b", 0), prediction("b", 1), prediction("a", 2)]
    with store.begin() as connection:
        add_task_predictions(connection, pd.DataFrame(rows))
        add_task_predictions(connection, pd.DataFrame(rows))
    assert len(task_history(store, "t")) == 4
    assert task_history(store, "t", source="b")["asked_at"].dt.hour.tolist() == [0, 1]
    newest = latest_task_predictions(store)
    assert dict(zip(newest["source"], newest["asked_at"].dt.hour, strict=True)) == {"a": 2, "b": 1}
    assert len(first_task_predictions(store)) == 2
    with store.begin() as connection:
        mark_notified(connection, ("task", "a", "t"), rows[3]["asked_at"], NOW)  # type: ignore[arg-type]
    assert unnotified_tasks(store)["source"].tolist() == ["b"]


def test_predictions_of_an_earlier_gridcast_get_the_source_of_their_jobs(store_url: str) -> None:
    engine = connect(store_url)
    with engine.begin() as connection:
        migrate(connection, store_url, "0008")
    jobs = [
        {"job_id": job_id, "source": source, "task_id": task_id, "request_id": request_id}
        | {"submitted_at": 1_767_225_600_000_000, "revision": number}
        for number, (job_id, source, task_id, request_id) in enumerate(
            [
                ("1", "a", "only a's", "r"),
                ("2", "a", "only a's", None),
                ("3", "a", "both's", None),
                ("4", "b", "both's", None),
            ]
        )
    ]
    with engine.begin() as connection:
        table = Table("jobs", MetaData(), autoload_with=connection)
        if is_partitioned(connection, table):
            create_partitions(connection, table, [job["submitted_at"] for job in jobs])
        connection.execute(table.insert(), jobs)
        for kind, task in [
            ("task", "only a's"),
            ("chain", "only a's"),
            ("task", "both's"),
            ("task", "nobody's"),
            ("request", "r"),
        ]:
            connection.execute(
                text(
                    "INSERT INTO task_predictions (asked_at, kind, task) VALUES (1, :kind, :task)"
                ),
                {"kind": kind, "task": task},
            )
    engine.dispose()
    engine = open_store(store_url)
    rows = unnotified_tasks(engine)
    engine.dispose()
    assert dict(zip(rows["kind"] + " " + rows["task"], rows["source"], strict=True)) == {
        "task only a's": "a",
        "chain only a's": "a",
        "task both's": "",
        "task nobody's": "",
        "request r": "a",
    }
