"""The table of predictions in a local file; tests/adapters has its readers."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from infra.errors import InputError
from jobs.schema import conform, derive_fields
from jobs.store import add_jobs
from models.engine.forecaster import Forecaster
from services.client import Gridcast
from services.local_table import TableError, key, write_table
from services.request_policy import RequestPolicy
from tests.ports import free_port

NOW = datetime(2026, 3, 20, tzinfo=UTC)


def jobs(source: str = "site") -> pd.DataFrame:
    """Jobs of three users in the days before NOW, one odd program name, and an old job."""
    rows = [
        {
            "job_id": f"{user}{number}",
            "source": source,
            "user": user,
            "job_name": name,
            "queue": "short",
            "site": source,
        }
        | {
            "requested_walltime": 3600.0 if number % 2 else None,
            "requested_cores": 1.0,
            "walltime": seconds + number % 3,
        }
        | {
            "submitted_at": pd.Timestamp(NOW) - pd.Timedelta(hours=40 - number),
            "status": "completed",
        }
        for user, name, seconds in (
            ("ann", "re|co\tx", 600.0),
            ("bob", "sim", 60.0),
            ("zoë", "sim", 6000.0),
        )
        for number in range(30)
    ]
    old = [
        rows[0]
        | {
            "job_id": "old",
            "user": "gone",
            "submitted_at": pd.Timestamp(NOW) - pd.Timedelta(days=40),
        }
    ]
    frame = conform(pd.DataFrame([*old, *rows]))
    return derive_fields(frame.assign(started_at=frame["submitted_at"]))


class Asked:
    """A forecaster that is asked as a predictor is; it notes what it was asked."""

    def __init__(self, forecaster: Forecaster) -> None:
        self.forecaster = forecaster
        self.rows: list[dict[str, Any]] = []

    def predict(
        self, rows: list[dict[str, Any]], quantiles: Any = (), keep: bool = True
    ) -> list[dict[str, Any]]:
        assert not keep, "kinds of job are only thought of"
        self.rows += rows
        return self.forecaster.predict(
            conform(pd.DataFrame(rows)).assign(submitted_at=pd.Timestamp(NOW))
        ).to_dict("records")


@pytest.fixture
def asked(sqlite_store: Any) -> Any:
    with sqlite_store.begin() as connection:
        add_jobs(connection, jobs())
    forecaster = Forecaster()
    forecaster.learn(jobs())
    return Asked(forecaster)


def read(file: Path) -> tuple[list[str], dict[str, dict[str, str]]]:
    head, columns, *lines = file.read_text(encoding="utf-8").splitlines()
    return head.split("\t"), {
        cells[0]: dict(zip(columns.split("\t"), cells, strict=True))
        for cells in (line.split("\t") for line in lines)
    }


def test_each_kind_of_job_has_a_row_and_so_has_each_wider_key(
    sqlite_store: Any, asked: Any, tmp_path: Path
) -> None:
    written = write_table(sqlite_store, asked, tmp_path / "table.tsv", now=NOW)
    head, rows = read(written.file)
    assert head == [
        "gridcast-table 2",
        "1773964800",
        "2026-03-20T00:00:00Z",
        "none",
        str(len(rows)),
        *RequestPolicy().cells(),
    ]
    users = {"ann": "re%7Cco%09x", "bob": "sim", "zoë": "sim"}
    assert set(rows) == {
        *(
            f"job|{user}|{name}|-|short|{minutes}|1"
            for user, name in users.items()
            for minutes in ("-", "60")
        ),
        *(f"program|{user}|{name}" for user, name in users.items()),
        *(f"user|{user}" for user in users),
        *("any|re%7Cco%09x", "any|sim", "all"),
    }
    assert list(rows) == sorted(rows, key=str.encode)
    assert 600 <= float(rows["job|ann|re%7Cco%09x|-|short|60|1"]["walltime"]) <= 602
    assert 60 <= float(rows["user|bob"]["walltime"]) <= 62
    assert rows["job|bob|sim|-|short|60|1"]["longest"] == "62" and rows["all"]["longest"] == "6002"
    assert rows["all"]["jobs"] == "90" and rows["user|bob"]["new"] == "0"
    assert (
        "gridcast_table_written_timestamp_seconds 1773964800"
        in written.file.with_suffix(".prom").read_text()
    )
    assert any(
        row.get("user") == "bob" and not {"job_name", "requested_walltime"} & set(row)
        for row in asked.rows
    )
    assert any(row.get("job_name") == "sim" and "user" not in row for row in asked.rows)


def test_without_a_predictor_the_old_table_stands(
    sqlite_store: Any, asked: Any, tmp_path: Path
) -> None:
    file = write_table(sqlite_store, asked, tmp_path / "table.tsv", now=NOW).file
    before = file.read_bytes()
    with (
        Gridcast(f"http://127.0.0.1:{free_port()}", timeout=5) as nobody,
        pytest.raises(
            TableError, match=r"cannot be reached.*\(gridcast up starts it\); the old table stands"
        ),
    ):
        write_table(sqlite_store, nobody, file, now=NOW)
    assert file.read_bytes() == before
    assert {path.name for path in tmp_path.iterdir()} == {"table.tsv", "table.prom", "jobs.db"} | {
        path.name for path in tmp_path.glob("jobs.db-*")
    }


def test_of_several_sources_one_is_named(sqlite_store: Any, asked: Any, tmp_path: Path) -> None:
    with sqlite_store.begin() as connection:
        add_jobs(connection, jobs("other"))
    with pytest.raises(InputError, match="the store has jobs of other, site"):
        write_table(sqlite_store, asked, tmp_path / "table.tsv", now=NOW)
    assert (
        write_table(sqlite_store, asked, tmp_path / "table.tsv", source="other", now=NOW).jobs == 90
    )


def test_without_recent_jobs_no_table_is_written(sqlite_store: Any, tmp_path: Path) -> None:
    """As where GRIDCAST_HOME is of another folder: an empty table would replace a good one."""
    file = tmp_path / "table.tsv"
    predictor: Any = Asked(Forecaster())
    with pytest.raises(TableError, match=r"jobs.db has no job of any source .* no table is writ"):
        write_table(sqlite_store, predictor, file, now=NOW)
    assert not file.exists()
    file.write_text("a good table")
    with sqlite_store.begin() as connection:
        add_jobs(connection, jobs())
    with pytest.raises(TableError, match="no job of site submitted in the last 14 days"):
        write_table(sqlite_store, predictor, file, now=NOW + timedelta(days=60))
    assert file.read_text() == "a good table"
    assert {path.name for path in tmp_path.glob("table*")} == {"table.tsv"}


def test_a_key_is_one_word() -> None:
    assert key("job", "a b", "x|y\n", float("nan"), None) == "job|a%20b|x%7Cy%0A|-|-"


def test_jobs_of_one_and_a_half_cores_have_a_row_of_the_next_whole_number(
    sqlite_store: Any, asked: Any, tmp_path: Path
) -> None:
    fractional = jobs().assign(requested_cores=1.5)
    fractional["job_id"] = "f" + fractional["job_id"]
    with sqlite_store.begin() as connection:
        add_jobs(connection, fractional)
    _, rows = read(write_table(sqlite_store, asked, tmp_path / "table.tsv", now=NOW).file)
    assert {"job|bob|sim|-|short|60|1", "job|bob|sim|-|short|60|2"} <= set(rows)
