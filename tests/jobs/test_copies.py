"""Databases as files: what goes wrong while rows are put in is one sentence, and leaves nothing."""

from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow.parquet as pq
import pytest

from jobs.schema import conform
from jobs.store import StoreError, add_jobs, count_jobs
from jobs.store.copies import dump, load_store
from jobs.store.database import HEAD


@pytest.fixture
def copy(store: Any, tmp_path: Path) -> Path:
    """A copy of a store with three jobs, which is empty again."""
    jobs = pd.DataFrame(
        [
            {"job_id": str(number), "source": "made", "submitted_at": "2026-01-01"}
            for number in range(3)
        ]
    )
    with store.begin() as connection:
        add_jobs(connection, conform(jobs))
    assert dump(store, tmp_path / "copy")["jobs"] == 3
    with store.begin() as connection:
        connection.exec_driver_sql("DELETE FROM jobs")
    return tmp_path / "copy"


def put_back(store: Any, copy: Path) -> None:
    with store.begin() as connection:
        load_store(connection, copy, HEAD)


def test_rows_that_the_database_does_not_take_are_one_sentence_and_leave_nothing(
    store: Any, copy: Path
) -> None:
    rows = pq.read_table(copy / "jobs.parquet").to_pandas()
    rows.loc[2, "job_id"] = "0"  # the key of another
    rows.to_parquet(copy / "jobs.parquet", index=False)
    with pytest.raises(StoreError) as caught:
        put_back(store, copy)
    assert "\n" not in str(caught.value)
    assert "cannot be used" in str(caught.value)
    assert count_jobs(store).empty


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("cellar", "has no table cellar, of which the backup has rows"),
        ("jobs", "has no column cellar"),
    ],
)
def test_rows_that_have_no_place_are_named(store: Any, copy: Path, name: str, why: str) -> None:
    rows = pq.read_table(copy / "jobs.parquet")
    pq.write_table(rows.append_column("cellar", rows["job_id"]), copy / f"{name}.parquet")
    with pytest.raises(StoreError, match=why):
        put_back(store, copy)
    assert count_jobs(store).empty
