"""Names longer than an index takes are stored all the same, under a key that stays theirs."""

from __future__ import annotations

import random
from types import SimpleNamespace
from typing import Any

import pandas as pd
import pytest

from jobs.schema import TEXT_BYTES
from jobs.store import (
    add_measurements,
    add_predictions,
    add_rejects,
    add_task_predictions,
    mark_notified,
    read_measurements,
    read_predictions,
    read_rejects,
    task_history,
    unnotified_tasks,
)
from jobs.store.copies import dump, load_store
from jobs.store.database import HEAD
from jobs.store.frames import KEY_BYTES, MIN_COPY_ROWS, index_key
from jobs.store.tables import metadata, task_predictions

NOW = pd.Timestamp("2026-11-01", tz="UTC")


def long_text(seed: int, characters: int = 4000) -> str:
    """Text that no database can compress: PostgreSQL would index a compressible one."""
    return "".join(
        chr(random.Random(seed + i).randrange(0x4E00, 0x9FFF)) for i in range(characters)
    )


@pytest.mark.parametrize("rows", [2, MIN_COPY_ROWS])
def test_predictions_with_ids_of_any_length_are_logged(store: Any, rows: int) -> None:
    text = long_text(1)
    ids = [text + str(number) for number in range(rows)]
    frame = pd.DataFrame(
        {
            "asked_at": NOW,
            "source": long_text(2),
            "job_id": ids,
            "target": "walltime",
            "model_version": long_text(3),
        }
    )
    for _ in range(2):
        with store.begin() as connection:
            add_predictions(connection, frame)
    assert read_predictions(store)["job_id"].nunique() == rows


def test_measurements_and_rejects_with_long_names_are_found_again(store: Any) -> None:
    name, reason = long_text(4), long_text(5)
    row = {"measured_at": NOW, "kind": "alert", "name": name, "segment": long_text(6), "value": 1.0}
    reject = SimpleNamespace(line=1, reason=reason, raw="raw")
    for _ in range(2):
        with store.begin() as connection:
            add_measurements(connection, pd.DataFrame([row]))
            add_rejects(connection, "/" + long_text(7), [reject])
            add_rejects(connection, "collected", [reject], window=long_text(8))
    assert read_measurements(store, name, segment=long_text(6))["value"].tolist() == [1.0]
    assert read_measurements(store, long_text(9)).empty
    assert len(read_rejects(store, file="/" + long_text(7))) == 1
    assert len(read_rejects(store)) == 1  # the window's was rejected alike


def test_a_task_with_a_long_name_is_followed(store: Any) -> None:
    source, task = long_text(10), long_text(11)
    row = {"asked_at": NOW, "kind": "task", "source": source, "task": task, "state": "late"}
    with store.begin() as connection:
        add_task_predictions(connection, pd.DataFrame([row]))
    assert len(task_history(store, task, source=source)) == 1
    assert len(unnotified_tasks(store)) == 1
    with store.begin() as connection:
        mark_notified(connection, ("task", source, task), NOW, NOW)
    assert unnotified_tasks(store).empty


def test_texts_that_the_schema_accepts_are_kept_as_they_are() -> None:
    for table in metadata.tables.values():
        for column in table.primary_key:
            if column.info["kind"] == "text":
                text = "é" * (TEXT_BYTES // 2)
                assert index_key(column, text) == text
    first, second = (index_key(task_predictions.c.task, long_text(12) + end) for end in "ab")
    assert first != second
    assert len(first.encode()) <= KEY_BYTES // 2


def test_a_store_of_sqlite_with_long_keys_moves_to_postgresql(
    sqlite_store: Any, postgres_url: str, tmp_path: Any
) -> None:
    from jobs.store import open_store

    insert = metadata.tables["measurements"].insert()
    with sqlite_store.begin() as connection:  # as an earlier Gridcast wrote it
        connection.execute(
            insert, {"measured_at": 0, "kind": "alert", "name": long_text(13), "segment": "all"}
        )
    dump(sqlite_store, tmp_path / "copy")
    engine = open_store(postgres_url)
    with engine.begin() as connection:
        load_store(connection, tmp_path / "copy", HEAD)
    assert len(read_measurements(engine, long_text(13))) == 1
    engine.dispose()
