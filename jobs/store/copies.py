"""Whole databases as Parquet files, a file a table: out of SQLite or PostgreSQL, and into either.

The files hold plain values, so that what was taken from one database can be put into the other. The same serves the job store and
MLflow's database: the tables are those that are found there.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
from sqlalchemy import (
    JSON,
    Boolean,
    Connection,
    Date,
    Engine,
    Float,
    Integer,
    LargeBinary,
    MetaData,
    Table,
    func,
    select,
    text,
)

from jobs.schema import JOB
from jobs.store.database import (
    VERSION_TABLE,
    StoreError,
    displayed_url,
    failure,
    lock_writers,
    migrate,
    read_connection,
    version_of,
)
from jobs.store.partitions import MONTHLY, is_parted, make_months, partitions
from jobs.store.tables import RECORDS
from jobs.store.tables import metadata as ours
from jobs.transfers import TRANSFER

ROWS_AT_ONCE = 50_000
VERSION_TABLES = (VERSION_TABLE, "alembic_version")
"""Where migrations note how far they are: Gridcast's, and those of MLflow."""
# Of a type and its heirs the first counts.
_ARROW = (
    (Boolean, pa.bool_()),
    (Integer, pa.int64()),
    (Float, pa.float64()),
    (LargeBinary, pa.binary()),
    (Date, pa.date32()),
)


def dump(engine: Engine, folder: Path) -> dict[str, int]:
    """Write every table of a database into ``folder``, as all stood at one moment; returns the rows of each."""
    folder.mkdir(parents=True)
    with read_connection(engine) as connection:
        tables = [table for table in _tables(connection) if table.name not in VERSION_TABLES]
    with read_connection(engine) as connection:
        if engine.dialect.name == "postgresql":
            connection.execution_options(isolation_level="REPEATABLE READ")
            _keep_whole(connection, tables)
        return {
            table.name: _write(connection, table, folder / f"{table.name}.parquet")
            for table in tables
        }


def versions(engine: Engine) -> dict[str, str]:
    """What each version table of a database says."""
    with read_connection(engine) as connection:
        return {
            table.name: str(connection.execute(select(table.c.version_num)).scalar())
            for table in _tables(connection)
            if table.name in VERSION_TABLES
        }


def rows_of(engine: Engine, names: Sequence[str]) -> int:
    """How many rows the tables ``names`` hold together; of a table that is not there none."""
    with read_connection(engine) as connection:
        tables = [table for table in _tables(connection) if table.name in names]
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar() or 0
            for table in tables
        )


def load(
    connection: Connection, folder: Path, change: Callable[[str], str] = str
) -> dict[str, int]:
    """Put what ``dump`` wrote in the place of all rows of the same tables, in the caller's transaction; returns the rows of each.

    ``change`` is applied to every text. Raises StoreError where a table is not there.
    """
    tables = {table.name: table for table in _tables(connection)}
    files = {path.stem: path for path in folder.glob("*.parquet")}
    if missing := sorted(files.keys() - tables.keys()):
        raise StoreError(
            f"{displayed_url(connection.engine)} has no table {missing[0]}, of which the backup has rows"
        )
    for name in reversed(tables):
        if name in files:
            connection.execute(tables[name].delete())
    return {
        name: _read(connection, table, files[name], change)
        for name, table in tables.items()
        if name in files
    }


def load_store(connection: Connection, folder: Path, version: str) -> dict[str, int]:
    """Put a dumped job store, whose tables were of ``version``, into an empty one and bring it up to date; returns the rows of each table.

    Raises StoreError where the store holds rows, or the backup is of a newer Gridcast.
    """
    where = displayed_url(connection.engine)
    lock_writers(connection)
    tables = [table for table in _tables(connection) if table.name in ours.tables]
    for table in tables:
        if connection.execute(select(table).limit(1)).first() is not None:
            raise StoreError(
                f"{where} is not empty (its table {table.name} has rows): a backup is restored into an empty store only"
            )
    if version_of(connection) != version:
        # The rows fit the tables of their own time; from there the migrations bring both to today's.
        for table in reversed(tables):
            table.drop(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
        migrate(connection, where, version)
    rows = load(connection, folder)
    migrate(connection, where)
    _check_identities(connection, where)
    return rows


def _check_identities(connection: Connection, where: str) -> None:
    """What is one row to those who write is one row, whether or not the database would say so."""
    for record in (JOB, TRANSFER):
        key = [RECORDS[record.name].c[name] for name in record.identity]
        twice = connection.execute(
            select(*key).group_by(*key).having(func.count() > 1).limit(1)
        ).first()
        if twice:
            raise StoreError(
                f"{where} cannot be used: the backup has two records of the {record.name} {twice[1]} of {twice[0]}"
            )


def _tables(connection: Connection) -> list[Table]:
    """The tables that are there, each after those that it refers to; a partition is a part of its table."""
    found, parts = MetaData(), partitions(connection)
    found.reflect(connection, only=lambda name, _: name not in parts)
    return list(found.sorted_tables)


def _keep_whole(connection: Connection, tables: Sequence[Table]) -> None:
    """Let no month be dropped until the transaction ends: its rows would be gone for those who began before, too."""
    names = ", ".join(
        connection.dialect.identifier_preparer.format_table(table) for table in tables
    )
    if names:  # the first statement: what is seen is decided by the next
        connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS SHARE MODE")


def _write(connection: Connection, table: Table, file: Path) -> int:
    kept = [column for column in table.columns if column.computed is None]
    schema = pa.schema([(column.name, _arrow(column.type)) for column in kept])
    rows = 0
    result = connection.execute(
        select(*kept).order_by(*table.primary_key.columns),
        execution_options={"stream_results": True},
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for part in result.partitions(ROWS_AT_ONCE):
            columns = zip(*part, strict=True)
            values = [
                [None if value is None else json.dumps(value) for value in found]
                if isinstance(column.type, JSON)
                else list(found)
                for column, found in zip(kept, columns, strict=True)
            ]
            writer.write_batch(
                pa.record_batch(
                    [pa.array(v, t) for v, t in zip(values, schema.types, strict=True)],
                    schema=schema,
                )
            )
            rows += len(part)
    return rows


def _arrow(type_: Any) -> pa.DataType:
    return next((arrow for kind, arrow in _ARROW if isinstance(type_, kind)), pa.string())


def _read(connection: Connection, table: Table, file: Path, change: Callable[[str], str]) -> int:
    source = pq.ParquetFile(file)
    unknown = [name for name in source.schema_arrow.names if name not in table.columns]
    if unknown:
        raise StoreError(
            f"{displayed_url(connection.engine)} has no column {unknown[0]} in its table {table.name}, of which the backup has values"
        )
    if is_parted(connection, table):
        moments = pq.read_table(file, columns=[MONTHLY[table.name]]).column(0)
        make_months(connection, table, moments.unique().to_pylist())
    convert = {
        name: _converter(table.columns[name].type, change) for name in source.schema_arrow.names
    }
    batches = (
        zip(
            *(
                [convert[name](value) for value in batch.column(name).to_pylist()]
                for name in convert
            ),
            strict=True,
        )
        for batch in source.iter_batches(ROWS_AT_ONCE)
    )
    _insert(connection, table, list(convert), (row for batch in batches for row in batch))
    _move_sequences(connection, table)
    return int(source.metadata.num_rows)


def _converter(type_: Any, change: Callable[[str], str]) -> Callable[[Any], Any]:
    """A stored value as this database takes it: SQLite has kept some flags as numbers, and PostgreSQL wants them as flags."""
    make: Callable[[Any], Any] = (
        bool
        if isinstance(type_, Boolean)
        else int
        if isinstance(type_, Integer)
        else lambda value: value
    )
    return lambda value: (
        None if value is None else change(value) if isinstance(value, str) else make(value)
    )


def _insert(
    connection: Connection, table: Table, names: Sequence[str], rows: Iterator[tuple[Any, ...]]
) -> None:
    quote = connection.dialect.identifier_preparer.quote
    columns = ", ".join(quote(name) for name in names)
    cursor = connection.connection.driver_connection.cursor()  # type: ignore[union-attr]
    try:
        if connection.dialect.name == "postgresql":
            with cursor.copy(f"COPY {quote(table.name)} ({columns}) FROM STDIN") as copy:
                for row in rows:
                    copy.write_row(row)
        else:
            cursor.executemany(
                f"INSERT INTO {quote(table.name)} ({columns}) VALUES ({', '.join('?' * len(names))})",
                rows,
            )
    except (
        connection.dialect.loaded_dbapi.Error
    ) as error:  # SQLAlchemy does not see what goes past it
        raise failure(error, displayed_url(connection.engine)) from error
    finally:
        cursor.close()


def _move_sequences(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number the next row after those that were put in."""
    if connection.dialect.name != "postgresql":
        return
    for column in table.primary_key.columns:
        if not isinstance(column.type, Integer):
            continue
        names: Mapping[str, str] = {
            "table": connection.dialect.identifier_preparer.quote(table.name),
            "column": column.name,
        }
        sequence = connection.execute(
            text("SELECT pg_get_serial_sequence(:table, :column)"), names
        ).scalar()
        newest = connection.execute(select(func.max(column))).scalar()
        if sequence is not None and (newest or 0) > 0:  # MLflow's first experiment has the number 0
            connection.execute(
                text("SELECT setval(CAST(:sequence AS regclass), :newest)"),
                {"sequence": sequence, "newest": newest},
            )
