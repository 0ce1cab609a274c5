"""Copies of whole databases as Parquet files, one file per table.

They are taken from SQLite or PostgreSQL and loaded into either. They serve the job store and
MLflow's database: the tables are those that the database has.
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
    Column,
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
from jobs.store.claims import fill_claims
from jobs.store.database import (
    VERSION_TABLE,
    StoreError,
    displayed_url,
    failure,
    lock_writers,
    migrate,
    read_connection,
    snapshot_connection,
    version_of,
)
from jobs.store.frames import index_key
from jobs.store.partitions import MONTHLY, create_partitions, is_partitioned, partitions
from jobs.store.tables import KEYS, RECORDS, audit
from jobs.store.tables import metadata as store_metadata
from jobs.transfers import TRANSFER

BATCH_ROWS = 50_000
VERSION_TABLES = (VERSION_TABLE, "alembic_version")
"""The tables of migrations: Gridcast's, and MLflow's."""
# The first that a column's type is an instance of.
_ARROW = (
    (Boolean, pa.bool_()),
    (Integer, pa.int64()),
    (Float, pa.float64()),
    (LargeBinary, pa.binary()),
    (Date, pa.date32()),
)


def dump(engine: Engine, folder: Path) -> dict[str, int]:
    """Write every table of a database into ``folder``, as of one moment.

    Returns the number of rows of each table.
    """
    folder.mkdir(parents=True)
    with read_connection(engine) as connection:
        left_out = {*VERSION_TABLES, *(table.name for table in KEYS.values())}
        tables = [table for table in _tables(connection) if table.name not in left_out]
    with snapshot_connection(engine) as connection:
        if engine.dialect.name == "postgresql":
            _lock_partitions(connection, tables)
        return {
            table.name: _dump_table(connection, table, folder / f"{table.name}.parquet")
            for table in tables
        }


def versions(engine: Engine) -> dict[str, str]:
    """The version in each table of migrations of a database."""
    with read_connection(engine) as connection:
        return {
            table.name: str(connection.execute(select(table.c.version_num)).scalar())
            for table in _tables(connection)
            if table.name in VERSION_TABLES
        }


def count_rows(engine: Engine, names: Sequence[str]) -> int:
    """The number of rows in the tables ``names`` together; a missing table counts as empty."""
    with read_connection(engine) as connection:
        tables = [table for table in _tables(connection) if table.name in names]
        return sum(
            connection.execute(select(func.count()).select_from(table)).scalar() or 0
            for table in tables
        )


def load(
    connection: Connection, folder: Path, convert_text: Callable[[str], str] = str
) -> dict[str, int]:
    """Replace all rows of the tables that ``dump`` wrote.

    Args:
        connection: the caller's transaction.
        folder: the folder of the copy.
        convert_text: applied to every text.

    Returns:
        The number of rows of each table.

    Raises:
        StoreError: if the database lacks one of the tables.
    """
    tables = {table.name: table for table in _tables(connection)}
    files = {path.stem: path for path in folder.glob("*.parquet")}
    if missing := sorted(files.keys() - tables.keys()):
        raise StoreError(
            f"{displayed_url(connection.engine)} has no table {missing[0]}, "
            "of which the backup has rows"
        )
    for name in reversed(tables):
        if name in files:
            connection.execute(tables[name].delete())
    return {
        name: _load_table(connection, table, files[name], convert_text)
        for name, table in tables.items()
        if name in files
    }


def load_store(connection: Connection, folder: Path, version: str) -> dict[str, int]:
    """Load a copy of a job store into an empty one, and migrate it.

    An empty store may have an audit log, which is kept.

    Args:
        connection: the caller's transaction.
        folder: the folder of the copy.
        version: the version of the copied tables.

    Returns:
        The number of rows of each table.

    Raises:
        StoreError: if the store has rows, or the copy is of a newer Gridcast.
    """
    where = displayed_url(connection.engine)
    lock_writers(connection)
    tables = [table for table in _tables(connection) if table.name in store_metadata.tables]
    changes = connection.execute(select(audit)).mappings().all()
    for table in tables:
        if (
            table.name not in {audit.name, *(keys.name for keys in KEYS.values())}
            and connection.execute(select(table).limit(1)).first() is not None
        ):
            raise StoreError(
                f"{where} is not empty (its table {table.name} has rows): "
                "a backup is restored into an empty store only"
            )
    if version_of(connection) != version:
        # The rows fit the tables of their own version; migrations then convert both.
        for table in reversed(tables):
            table.drop(connection)
        connection.execute(text(f"DROP TABLE IF EXISTS {VERSION_TABLE}"))
        migrate(connection, where, version)
    rows = load(connection, folder)
    migrate(connection, where)
    _check_identities(connection, where)
    for record_table in RECORDS.values():
        fill_claims(connection, record_table)
    stored = set(connection.execute(select(audit.c.change)).scalars())
    for change in changes:
        if change["change"] not in stored:
            connection.execute(audit.insert().values(**change))
    return rows


def _check_identities(connection: Connection, where: str) -> None:
    """Check that no record is stored twice, which partitioned tables do not guarantee."""
    for record in (JOB, TRANSFER):
        key = [RECORDS[record.name].c[name] for name in record.identity]
        duplicate = connection.execute(
            select(*key).group_by(*key).having(func.count() > 1).limit(1)
        ).first()
        if duplicate:
            source, name = duplicate
            raise StoreError(
                f"{where} cannot be used: "
                f"the backup has two records of the {record.name} {name} of {source}"
            )


def _tables(connection: Connection) -> list[Table]:
    """The tables of a database but for partitions, each after those that it refers to."""
    reflected, excluded = MetaData(), partitions(connection)
    reflected.reflect(connection, only=lambda name, _: name not in excluded)
    return list(reflected.sorted_tables)


def _lock_partitions(connection: Connection, tables: Sequence[Table]) -> None:
    """Let no month be dropped until the transaction ends, since that ignores its snapshot."""
    names = ", ".join(
        connection.dialect.identifier_preparer.format_table(table) for table in tables
    )
    if names:  # the first statement: the next one takes the snapshot
        connection.exec_driver_sql(f"LOCK TABLE {names} IN ACCESS SHARE MODE")


def _dump_table(connection: Connection, table: Table, file: Path) -> int:
    stored = [column for column in table.columns if column.computed is None]
    schema = pa.schema([(column.name, _arrow(column.type)) for column in stored])
    rows = 0
    result = connection.execute(
        select(*stored).order_by(*table.primary_key.columns),
        execution_options={"stream_results": True},
    )
    with pq.ParquetWriter(file, schema, compression="zstd") as writer:
        for batch in result.partitions(BATCH_ROWS):
            values = [
                [None if value is None else json.dumps(value) for value in cells]
                if isinstance(column.type, JSON)
                else list(cells)
                for column, cells in zip(stored, zip(*batch, strict=True), strict=True)
            ]
            writer.write_batch(
                pa.record_batch(
                    [pa.array(v, t) for v, t in zip(values, schema.types, strict=True)],
                    schema=schema,
                )
            )
            rows += len(batch)
    return rows


def _arrow(type_: Any) -> pa.DataType:
    return next((arrow for kind, arrow in _ARROW if isinstance(type_, kind)), pa.string())


def _load_table(
    connection: Connection, table: Table, file: Path, convert_text: Callable[[str], str]
) -> int:
    source = pq.ParquetFile(file)
    unknown = [name for name in source.schema_arrow.names if name not in table.columns]
    if unknown:
        raise StoreError(
            f"{displayed_url(connection.engine)} has no column {unknown[0]} "
            f"in its table {table.name}, of which the backup has values"
        )
    if is_partitioned(connection, table):
        moments = pq.read_table(file, columns=[MONTHLY[table.name]]).column(0)
        create_partitions(connection, table, moments.unique().to_pylist())
    convert = {
        name: _converter(table.columns[name], convert_text) for name in source.schema_arrow.names
    }
    batches = (
        zip(
            *(
                [convert[name](value) for value in batch.column(name).to_pylist()]
                for name in convert
            ),
            strict=True,
        )
        for batch in source.iter_batches(BATCH_ROWS)
    )
    _insert(connection, table, list(convert), (row for batch in batches for row in batch))
    _move_sequences(connection, table)
    return int(source.metadata.num_rows)


def _converter(column: Column[Any], convert_text: Callable[[str], str]) -> Callable[[Any], Any]:
    """Convert a stored value to what this database accepts.

    SQLite stores some flags as numbers, and indexes texts that are too long for PostgreSQL.
    """
    ours = store_metadata.tables.get(column.table.name)
    convert_number = (
        bool
        if isinstance(column.type, Boolean)
        else int
        if isinstance(column.type, Integer)
        else None
    )

    def convert(value: Any) -> Any:
        if isinstance(value, str):
            text = convert_text(value)
            return (
                index_key(ours.c[column.name], text)
                if ours is not None and column.primary_key
                else text
            )
        return value if value is None or convert_number is None else convert_number(value)

    return convert


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
                f"INSERT INTO {quote(table.name)} ({columns}) "
                f"VALUES ({', '.join('?' * len(names))})",
                rows,
            )
    except connection.dialect.loaded_dbapi.Error as error:  # not seen by SQLAlchemy
        raise failure(error, displayed_url(connection.engine)) from error
    finally:
        cursor.close()


def _move_sequences(connection: Connection, table: Table) -> None:
    """Let PostgreSQL number the next row after the loaded ones."""
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
