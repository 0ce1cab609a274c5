"""A store of any earlier Gridcast, with rows of all it knew, becomes today's and has lost none of them; on both databases."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    Connection,
    Double,
    Integer,
    MetaData,
    inspect,
    select,
    text,
)

import infra.migrations
from jobs.schema import conform
from jobs.store import (
    add_jobs,
    connect,
    open_store,
    read_ended,
    read_jobs,
    read_measurements,
    read_predictions,
)
from jobs.store.copies import dump, load_store, versions
from jobs.store.database import HEAD, VERSION_TABLE, migrate
from jobs.store.partitions import (
    MONTHLY,
    create_partitions,
    is_partitioned,
    key_columns,
    partitions,
)
from jobs.store.tables import KEYS, metadata

ROWS = 3
STORES = Path(__file__).parent / "stores"
"""Rows of stores that demos of earlier commits filled."""


def earlier() -> Iterator[str]:
    """Every revision before today's, the oldest first."""
    config = Config()
    config.set_main_option("script_location", str(Path(infra.migrations.__path__[0])))
    yield from sorted(
        script.revision
        for script in ScriptDirectory.from_config(config).walk_revisions()
        if script.revision != HEAD
    )


def filled(url: str, revision: str) -> dict[str, list[dict[str, Any]]]:
    """Make a store as it was at ``revision`` and put rows into each of its tables; gives them back by table."""
    engine = connect(url)
    with engine.begin() as connection:
        migrate(connection, url, revision)
        tables = reflected(connection)
        rows = {
            name: [
                {column.name: value(column, number) for column in table.columns}
                for number in range(ROWS)
            ]
            for name, table in tables.items()
        }
        for name, table in tables.items():
            if is_partitioned(connection, table):
                create_partitions(connection, table, [row[MONTHLY[name]] for row in rows[name]])
            connection.execute(table.insert(), rows[name])
        if revision >= "0014" and engine.dialect.name == "postgresql":
            for record in ("job", "transfer"):  # as their writers took the revisions of the rows
                connection.execute(text(f"SELECT setval('{record}_revisions', {ROWS - 1})"))
    engine.dispose()
    return rows


def reflected(connection: Connection) -> dict[str, Any]:
    reflected_tables, parts = MetaData(), partitions(connection)
    reflected_tables.reflect(connection, only=lambda name, _: name not in parts)
    return {name: table for name, table in reflected_tables.tables.items() if name != VERSION_TABLE}


def value(column: Column[Any], number: int) -> object:
    """Something that the column takes, another in each row; nothing in the last row where nothing may be there."""
    if number == ROWS - 1 and column.nullable:
        return None
    if column.name == "revision":
        return (number + 1) % ROWS  # the last has not ended
    if isinstance(column.type, Boolean):
        return number % 2 == 1
    if isinstance(column.type, BigInteger | Integer):
        return (
            1_767_225_600_000_000 + number - 1
        )  # from the last of a month to the second of the next
    if isinstance(column.type, Double):
        return number + 0.25
    return {"kind": "task", "status": "completed", "details": "{}"}.get(
        column.name, f"{column.name} {number}"
    )


@pytest.mark.parametrize("revision", [*earlier()])
def test_a_store_of_an_earlier_schema_is_brought_up_to_date_with_all_its_rows(
    store_url: str, revision: str, tmp_path: Path
) -> None:
    rows = filled(store_url, revision)
    assert len(rows) >= 4
    was = connect(store_url)
    dump(was, tmp_path / "backup")
    assert versions(was) == {VERSION_TABLE: revision}
    was.dispose()

    engine = open_store(store_url)

    check(engine, rows)
    # And so is a backup that was taken then, restored now.
    with engine.begin() as connection:
        for table in reversed(metadata.sorted_tables):
            connection.execute(table.delete())
        load_store(connection, tmp_path / "backup", revision)
    # Keys are not in it: on PostgreSQL they are those of the stored rows, on SQLite there are none.
    derived = {table.name for table in KEYS.values()}
    check(engine, {name: expected for name, expected in rows.items() if name not in derived})
    engine.dispose()


def check_values(connection: Connection, table: Any, expected: list[dict[str, Any]]) -> None:
    """The table holds the rows of before, value by value, and no others."""
    columns = [table.c[column] for column in expected[0]]
    rows = [dict(row) for row in connection.execute(select(*columns)).mappings()]
    assert sorted(rows, key=str) == sorted(expected, key=str), table.name


def check(engine: Any, rows: dict[str, list[dict[str, Any]]]) -> None:
    """The tables are today's, hold ``rows``, and take more."""
    with engine.connect().execution_options(reads=True) as connection:
        tables = reflected(connection)
        assert {
            name: {column.name for column in table.columns} for name, table in tables.items()
        } == {
            name: {column.name for column in table.columns}
            for name, table in metadata.tables.items()
        }
        for name, expected in rows.items():
            check_values(connection, tables[name], expected)
            keys = inspect(engine).get_pk_constraint(name)["constrained_columns"]
            assert keys == [
                column.name for column in key_columns(connection, metadata.tables[name])
            ]
            months = (
                {"2025_12", "2026_01"}
                if name in MONTHLY and connection.dialect.name == "postgresql"
                else set()
            )
            assert {
                partition.removeprefix(f"{name}_") for partition in partitions(connection, name)
            } == months
    assert len(read_jobs(engine)) == ROWS
    assert len(read_ended(engine)) == ROWS - 1
    later = conform(
        pd.DataFrame(
            [
                {
                    "job_id": "later",
                    "source": "made",
                    "submitted_at": "2026-01-02",
                    "ended_at": "2026-01-03",
                }
            ]
        )
    )
    with engine.begin() as connection:
        assert add_jobs(connection, later).added == 1
        assert add_jobs(connection, later).unchanged == 1
        connection.execute(
            metadata.tables["jobs"].delete().where(metadata.tables["jobs"].c.job_id == "later")
        )


@pytest.mark.parametrize("file", sorted(STORES.glob("*.json")), ids=lambda file: file.stem)
def test_a_store_that_an_earlier_demo_filled_is_read_with_every_value(
    store_url: str, file: Path
) -> None:
    earlier = json.loads(file.read_text(encoding="utf-8"))
    rows = {
        name: [dict(zip(table["columns"], row, strict=True)) for row in table["rows"]]
        for name, table in earlier["tables"].items()
    }
    engine = connect(store_url)
    with engine.begin() as connection:
        migrate(connection, store_url, earlier["revision"])
        for name, table in reflected(connection).items():
            if is_partitioned(connection, table):
                create_partitions(connection, table, [row[MONTHLY[name]] for row in rows[name]])
            if rows[name]:
                connection.execute(table.insert(), rows[name])
    engine.dispose()

    engine = open_store(store_url)

    with engine.connect().execution_options(reads=True) as connection:
        tables = reflected(connection)
        for name, expected in rows.items():
            if expected:
                check_values(connection, tables[name], expected)
    # Today's readers give the same values, and the same jobs again change nothing.
    jobs = conform(pd.DataFrame(rows["jobs"]).assign(**times(rows["jobs"])))
    with engine.begin() as connection:
        assert add_jobs(connection, jobs).unchanged == len(jobs)
    index = ["source", "job_id"]
    pd.testing.assert_frame_equal(
        conform(read_jobs(engine)).set_index(index).sort_index()[jobs.columns.drop(index)],
        jobs.set_index(index).sort_index(),
    )
    assert len(read_ended(engine)) == jobs["ended_at"].notna().sum()
    for read, name in ((read_measurements, "measurements"), (read_predictions, "predictions")):
        frame = read(engine)
        assert len(frame) == len(rows[name])
        for column in {"value", "point", "low", "high", "name", "segment"} & {*frame.columns}:
            expected_values = sorted(str(row[column]) for row in rows[name])
            assert sorted(map(str, frame[column])) == expected_values, column
    engine.dispose()


def times(rows: list[dict[str, Any]]) -> dict[str, pd.Series]:
    """The columns of times, which are stored in µs."""
    return {
        column: pd.to_datetime(pd.Series([row[column] for row in rows]), unit="us", utc=True)
        for column in ("submitted_at", "started_at", "ended_at")
    }
