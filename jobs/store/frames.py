"""DataFrames to database rows and back.

Rows are plain driver tuples: a Row object per record costs more than the query.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from functools import cache
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    Select,
    Table,
    Text,
    any_,
    func,
    literal,
    select,
)

from infra.aliases import Integers
from jobs.schema import TIME_TYPE
from jobs.store.database import busy_seconds, displayed_url, failure
from jobs.store.partitions import create_partitions, key_columns, partition_column

Moment = datetime | pd.Timestamp
Values = Sequence[Any]
"""A column: Python values or an Arrow array."""

BATCH_ROWS = 5_000  # more at once takes twice as long: Python's garbage collector walks the rows
MIN_COPY_ROWS = 500
KEY_BYTES = 2_560
"""Bytes of UTF-8 that the free texts of a key may have together; PostgreSQL indexes 2,704 a row."""
SHORT_KEYS = ("kind", "target")
"""Texts of keys that are never from outside, and short."""
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
_ARROW = {
    "text": pa.string(),
    "labels": pa.string(),
    "json": pa.string(),
    "number": pa.float64(),
    "time": pa.int64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
}


def write_rows(
    connection: Connection, table: Table, frame: pd.DataFrame, overwrite: bool, new: bool = False
) -> None:
    """Insert the rows of a DataFrame.

    Args:
        connection: the caller's transaction.
        table: the table to write to.
        frame: its columns by name; those that the table does not have are ignored.
        overwrite: whether a row whose key is stored replaces it or is left out.
        new: whether the caller knows that no key is stored yet.
    """
    if frame.empty:
        return
    kinds = {column.name: column.info["kind"] for column in table.columns if column.name in frame}
    arrays = {name: to_arrow(frame[name], kind) for name, kind in kinds.items()}
    if new:
        arrays = {name: array for name, array in arrays.items() if array.null_count < len(array)}
    write_values(connection, table, arrays, overwrite, new)


def write_values(
    connection: Connection,
    table: Table,
    values: Mapping[str, Values],
    overwrite: bool,
    new: bool = False,
) -> None:
    """Insert rows given by column: times in microseconds, None or null for missing.

    Args:
        connection: the caller's transaction.
        table: the table to write to.
        values: one sequence per column, all of the same length.
        overwrite: whether a row whose key is stored replaces it or is left out.
        new: whether the caller knows that no key is stored yet.
    """
    columns = [column for column in table.columns if column.name in values]
    values = {column.name: _indexable(column, values[column.name]) for column in columns}
    if moment := partition_column(connection, table):
        create_partitions(connection, table, values[moment])
    if copies_rows(connection, len(values[columns[0].name])):
        arrays = {
            column.name: pa.array(values[column.name], _ARROW[column.info["kind"]])
            if not isinstance(values[column.name], pa.Array)
            else values[column.name]
            for column in columns
        }
        if new:
            copy_rows(connection, table.name, arrays)
        else:
            _merge(connection, table, columns, arrays, overwrite)
        return
    lists = (
        column.to_pylist() if isinstance(column, pa.Array) else column for column in values.values()
    )
    rows = zip(*lists, strict=True)
    statement = _insert_statement(connection, table, columns, overwrite)
    while chunk := list(islice(rows, BATCH_ROWS)):
        connection.exec_driver_sql(statement, chunk)


def conditions_by_source(
    connection: Connection, table: Table, jobs: pd.DataFrame
) -> Iterator[tuple[ColumnElement[bool], ColumnElement[bool]]]:
    """For each source of ``jobs``, the conditions that select the rows of its jobs.

    Args:
        connection: a connection.
        table: a table whose key begins with a source and an id.
        jobs: rows with these two columns.
    """
    source, name = list(table.primary_key)[:2]
    for value, ids in jobs.groupby(source.name, sort=False)[name.name]:
        yield source == value, is_one_of(connection, name, ids.tolist())


def index_key(column: Column[Any], text: str) -> str:
    """``text`` as the store keeps it in a key: shortened to what an index takes.

    A text that is too long ends in a digest of all of it, so that two stay two.
    """
    data, limit = text.encode("utf-8", "replace"), _key_limit(column.table)
    if len(data) <= limit:
        return text
    digest = "#" + hashlib.sha256(data).hexdigest()[:16]
    return data[: limit - len(digest)].decode("utf-8", "ignore") + digest


@cache
def _key_limit(table: Table) -> int:
    """Bytes of UTF-8 that each free text of a table's key may have; numbers take eight each."""
    texts = [column for column in table.primary_key if column.info["kind"] == "text"]
    return KEY_BYTES // sum(column.name not in SHORT_KEYS for column in texts)


def _indexable(column: Column[Any], values: Values) -> Values:
    """The values of a column; the texts of a key are shortened where an index could refuse them."""
    if column.info["kind"] != "text" or not column.primary_key:
        return values
    # Four such texts fit in any key, with four bytes a character.
    if isinstance(values, pa.Array):
        if (pc.max(pc.utf8_length(values)).as_py() or 0) * 16 <= KEY_BYTES:
            return values
        values = values.to_pylist()
    elif max(map(len, values), default=0) * 16 <= KEY_BYTES:
        return values
    return [index_key(column, value) for value in values]


def _insert_statement(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], overwrite: bool
) -> str:
    placeholder = "?" if connection.dialect.name == "sqlite" else "%s"
    placeholders = ", ".join([placeholder] * len(columns))
    names, action = (
        _quoted(connection, columns),
        _on_conflict(connection, table, columns, overwrite),
    )
    return f"INSERT INTO {table.name} ({names}) VALUES ({placeholders}) {action}"


def _quoted(connection: Connection, columns: Iterable[Column[Any]]) -> str:
    return ", ".join(
        connection.dialect.identifier_preparer.quote(column.name) for column in columns
    )


def _on_conflict(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], overwrite: bool
) -> str:
    quote = connection.dialect.identifier_preparer.quote
    key = key_columns(connection, table)
    key_names = {column.name for column in key}
    assigned = [quote(column.name) for column in columns if column.name not in key_names]
    action = (
        "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in assigned)
        if overwrite and assigned
        else "NOTHING"
    )
    return f"ON CONFLICT ({_quoted(connection, key)}) DO {action}"


def _merge(
    connection: Connection,
    table: Table,
    columns: Sequence[Column[Any]],
    arrays: Mapping[str, pa.Array],
    overwrite: bool,
) -> None:
    """Insert by COPY into a temporary table of this transaction, and from there."""
    names, draft = _quoted(connection, columns), f"{table.name}_copied"
    connection.exec_driver_sql(
        f"CREATE TEMP TABLE IF NOT EXISTS {draft} "
        f"(LIKE {table.name} INCLUDING DEFAULTS) ON COMMIT DROP"
    )
    copy_rows(connection, draft, arrays)
    action = _on_conflict(connection, table, columns, overwrite)
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {draft} {action}"
    )
    connection.exec_driver_sql(f"TRUNCATE {draft}")


def copies_rows(connection: Connection, rows: int) -> bool:
    """Whether so many rows are inserted by COPY."""
    return connection.dialect.name == "postgresql" and rows >= MIN_COPY_ROWS


def copy_rows(connection: Connection, name: str, arrays: Mapping[str, pa.Array]) -> None:
    """Insert rows by COPY, which is several times as fast on PostgreSQL.

    Args:
        connection: the caller's transaction.
        name: name of the table.
        arrays: the columns by name.
    """
    # A present value is quoted, even if it is empty; a missing one is nothing at all.
    options = csv.WriteOptions(include_header=False, quoting_style="all_valid")
    out = pa.BufferOutputStream()
    csv.write_csv(pa.table(dict(arrays)), out, options)
    names = ", ".join(connection.dialect.identifier_preparer.quote(column) for column in arrays)
    statement = f"COPY {name} ({names}) FROM STDIN (FORMAT csv)"
    driver = connection.connection.cursor()
    try:
        with driver.copy(statement) as copy:
            copy.write(out.getvalue())
    except connection.dialect.loaded_dbapi.Error as error:  # not seen by SQLAlchemy
        where = displayed_url(connection.engine)
        raise failure(error, where, busy_seconds(connection), statement) from error
    finally:
        driver.close()


def to_arrow(series: pd.Series, kind: str) -> pa.Array:
    """A column as it is stored, null for what is missing."""
    if kind == "time":
        return pa.array(microseconds(series), pa.int64(), mask=series.isna().to_numpy(bool))
    if kind == "number":
        return pa.array(series.to_numpy(float, na_value=np.nan), from_pandas=True)
    if kind in ("text", "labels"):
        texts = pa.array(series if series.dtype == "str" else series.astype("str"))
        if isinstance(texts, pa.ChunkedArray):
            texts = texts.combine_chunks()
        # PostgreSQL stores no NUL; only fields of records have been checked for it before.
        return pc.replace_substring(texts, "\0", "\ufffd")
    if kind == "json":
        values = [
            None if is_missing else json.dumps(value)
            for value, is_missing in zip(series, series.isna(), strict=True)
        ]
        return pa.array(values, pa.string())
    return pa.array(series, _ARROW[kind], from_pandas=True)


def is_one_of(
    connection: Connection, column: ColumnElement[str], texts: list[str]
) -> ColumnElement[bool]:
    """Whether a column is one of some texts, as one parameter: databases limit their number.

    Args:
        connection: a connection of the database.
        column: the column.
        texts: the texts.
    """
    if connection.dialect.name == "postgresql":
        return column == any_(literal(texts, ARRAY(Text)))
    return column.in_(select(func.json_each(json.dumps(texts)).table_valued("value").c.value))


def as_microseconds(moment: Moment) -> int:
    """A moment as the store keeps it; one without a time zone is taken as UTC."""
    stamp = pd.Timestamp(moment)
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
    return int((stamp - _EPOCH) // pd.Timedelta(microseconds=1))


def microseconds(times: pd.Series) -> Integers:
    """Times as microseconds since 1970 in UTC; a missing time is the smallest int64."""
    if not pd.api.types.is_datetime64_any_dtype(times):
        times = pd.to_datetime(times, utc=True)
    times = times.dt.tz_localize("UTC") if times.dt.tz is None else times
    return times.astype(TIME_TYPE).to_numpy("datetime64[us]").view(np.int64)


def read_rows(connection: Connection, query: Select[Any], **computed: str) -> pd.DataFrame:
    """Run a query and return its rows in the types of ``jobs.schema``.

    Args:
        connection: a connection for reading, or the caller's transaction.
        query: a selection of columns of the store's tables, or of computed columns.
        computed: the kind of each computed column, by its name.
    """
    kinds = _kinds(query, computed)
    table = pa.Table.from_batches(read_batches(connection, query, **computed))
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    for name in (name for name, kind in kinds.items() if kind == "json"):
        frame[name] = pd.Series(
            [json.loads(text) if isinstance(text, str) else None for text in frame[name]],
            index=frame.index,
            dtype=object,
        )
    return frame


def read_batches(
    connection: Connection, query: Select[Any], **computed: str
) -> Iterator[pa.RecordBatch]:
    """Run a query and return its rows as Arrow batches, at least one (which may be empty).

    Only one batch is held at a time; ``json`` columns are text.

    Args:
        connection: a connection for reading, open until the last batch is taken.
        query: a selection of columns of the store's tables, or of computed columns.
        computed: the kind of each computed column, by its name.
    """
    kinds = _kinds(query, computed)
    schema = pa.schema(
        [
            (name, pa.timestamp("us", "UTC") if kind == "time" else _ARROW[kind])
            for name, kind in kinds.items()
        ]
    )
    result = connection.execute(query, execution_options={"stream_results": True})
    is_empty = True
    for rows in result.partitions(BATCH_ROWS):
        columns = zip(*rows, strict=True)
        arrays = [
            _array(column, kind) for column, kind in zip(columns, kinds.values(), strict=True)
        ]
        is_empty = False
        yield pa.RecordBatch.from_arrays(arrays, schema=schema)
    if is_empty:
        yield pa.RecordBatch.from_pylist([], schema=schema)


def _kinds(query: Select[Any], computed: Mapping[str, str]) -> dict[str, str]:
    return {
        column.name: computed.get(column.name) or column.info["kind"]
        for column in query.selected_columns
    }


def _array(values: Sequence[Any], kind: str) -> pa.Array:
    if kind == "flag":  # SQLite stores numbers
        values = [None if value is None else bool(value) for value in values]
    array = pa.array(values, _ARROW[kind])
    return array.cast(pa.timestamp("us", "UTC")) if kind == "time" else array
