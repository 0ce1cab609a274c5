"""Exported rows are those of the store, in batches of one schema."""

from __future__ import annotations

from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from jobs.schema import COLUMNS, conform
from jobs.store import add_jobs, add_predictions, export_batches, frames, read_jobs
from jobs.store.export import EXPORTED
from jobs.workload import generate


@pytest.mark.parametrize("kind", sorted(EXPORTED))
def test_an_empty_store_gives_the_columns(store: Any, kind: str) -> None:
    (batch,) = export_batches(store, kind)
    assert batch.num_rows == 0
    assert "revision" not in batch.schema.names
    assert batch.schema.field(EXPORTED[kind][1]).type == pa.timestamp("us", "UTC")


def test_jobs_come_in_batches_as_they_are_read(store: Any, monkeypatch: Any) -> None:
    monkeypatch.setattr(frames, "BATCH_ROWS", 70)
    generated = generate(jobs=300, days=3).jobs
    with store.begin() as connection:
        add_jobs(connection, generated)
        add_jobs(connection, generated.head(5).assign(source="another"))
    batches = list(export_batches(store, "jobs", sources=["generated"]))
    assert len(batches) == 5
    assert batches[0].schema.names == list(COLUMNS)
    frame = pa.Table.from_batches(batches).to_pandas()
    pd.testing.assert_frame_equal(conform(frame), read_jobs(store, sources=["generated"]))

    middle = generated["submitted_at"].sort_values().iloc[150]
    later = pa.Table.from_batches(export_batches(store, "jobs", since=middle))
    earlier = pa.Table.from_batches(export_batches(store, "jobs", until=middle))
    assert later.num_rows + earlier.num_rows == 305
    assert 150 <= later.num_rows < 160


def test_predictions_keep_their_flags_and_times(store: Any) -> None:
    moment = pd.Timestamp("2026-11-01 12:00:00.000001", tz="UTC")
    row = {"asked_at": moment, "source": "a", "job_id": "1", "target": "walltime"}
    rows = [
        {**row, "model_version": "1", "shadow": True, "known_revision": 7, "point": 1.5},
        {**row, "model_version": "2", "shadow": None, "known_revision": None, "point": None},
    ]
    with store.begin() as connection:
        add_predictions(connection, pd.DataFrame(rows))
    table = pa.Table.from_batches(export_batches(store, "predictions"))
    assert table.column("shadow").to_pylist() == [True, None]
    assert table.column("known_revision").to_pylist() == [7, None]
    assert table.column("asked_at").to_pylist() == [moment.to_pydatetime()] * 2
