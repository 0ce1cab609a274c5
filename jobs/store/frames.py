"""DataFrames to database rows and back, by raw driver rows: a Row object a record costs more than the query."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv
from sqlalchemy import Column, Connection, Select, Table

from jobs.schema import TIME_TYPE
from jobs.store.database import displayed_url, failure
from jobs.store.partitions import key_of, make_months, parted_by

Moment = datetime | pd.Timestamp

ROWS_AT_ONCE = 5_000  # more at once takes twice as long: Python's garbage collector walks the rows
WORTH_A_COPY = 500
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
_ARROW = {
    "text": pa.string(),
    "json": pa.string(),
    "number": pa.float64(),
    "time": pa.int64(),
    "count": pa.int64(),
    "flag": pa.bool_(),
}


def write_rows(
    connection: Connection, table: Table, frame: pd.DataFrame, overwrite: bool, new: bool = False
) -> None:
    """Insert the rows of ``frame``; a row whose key is there is overwritten, or left as it is. ``new``: the caller knows that none is."""
    if frame.empty:
        return
    kinds = {column.name: column.info["kind"] for column in table.columns if column.name in frame}
    write_values(
        connection,
        table,
        {name: _values(frame[name], kind) for name, kind in kinds.items()},
        overwrite,
        new,
    )


def write_values(
    connection: Connection,
    table: Table,
    values: Mapping[str, Sequence[Any]],
    overwrite: bool,
    new: bool = False,
) -> None:
    """``write_rows`` for Python values by column, as the driver takes them: times in microseconds, None for what is missing."""
    columns = [column for column in table.columns if column.name in values]
    if moment := parted_by(connection, table):
        make_months(connection, table, values[moment])
    if connection.dialect.name == "postgresql" and len(values[columns[0].name]) >= WORTH_A_COPY:
        if new:
            _copy(connection, table.name, columns, values)
        else:
            _merge(connection, table, columns, values, overwrite)
        return
    rows = zip(*(values[column.name] for column in columns), strict=True)
    statement = _insert(connection, table, columns, overwrite)
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        connection.exec_driver_sql(statement, chunk)


def _insert(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], overwrite: bool
) -> str:
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    marks = ", ".join([mark] * len(columns))
    action = _on_conflict(connection, table, columns, overwrite)
    return f"INSERT INTO {table.name} ({_quoted(connection, columns)}) VALUES ({marks}) {action}"


def _quoted(connection: Connection, columns: Iterable[Column[Any]]) -> str:
    return ", ".join(
        connection.dialect.identifier_preparer.quote(column.name) for column in columns
    )


def _on_conflict(
    connection: Connection, table: Table, columns: Sequence[Column[Any]], overwrite: bool
) -> str:
    quote = connection.dialect.identifier_preparer.quote
    key = key_of(connection, table)
    others = [
        quote(column.name) for column in columns if column.name not in {one.name for one in key}
    ]
    action = (
        "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in others)
        if overwrite and others
        else "NOTHING"
    )
    return f"ON CONFLICT ({_quoted(connection, key)}) DO {action}"


def _merge(
    connection: Connection,
    table: Table,
    columns: Sequence[Column[Any]],
    values: Mapping[str, Sequence[Any]],
    overwrite: bool,
) -> None:
    """The same by COPY into a table of this transaction, and from there."""
    names, draft = _quoted(connection, columns), f"{table.name}_copied"
    connection.exec_driver_sql(
        f"CREATE TEMP TABLE IF NOT EXISTS {draft} (LIKE {table.name} INCLUDING DEFAULTS) ON COMMIT DROP"
    )
    _copy(connection, draft, columns, values)
    action = _on_conflict(connection, table, columns, overwrite)
    connection.exec_driver_sql(
        f"INSERT INTO {table.name} ({names}) SELECT {names} FROM {draft} {action}"
    )
    connection.exec_driver_sql(f"TRUNCATE {draft}")


def _copy(
    connection: Connection,
    name: str,
    columns: Sequence[Column[Any]],
    values: Mapping[str, Sequence[Any]],
) -> None:
    """Put rows into a table by COPY: PostgreSQL takes them several times as fast."""
    arrays = [pa.array(values[column.name], _ARROW[column.info["kind"]]) for column in columns]
    # What is there is quoted, even if it is empty; what is missing is nothing at all.
    how, out = (
        csv.WriteOptions(include_header=False, quoting_style="all_valid"),
        pa.BufferOutputStream(),
    )
    csv.write_csv(pa.table(arrays, [column.name for column in columns]), out, how)
    driver = connection.connection.cursor()
    try:
        with driver.copy(
            f"COPY {name} ({_quoted(connection, columns)}) FROM STDIN (FORMAT csv)"
        ) as copy:
            copy.write(out.getvalue())
    except (
        connection.dialect.loaded_dbapi.Error
    ) as error:  # SQLAlchemy does not see what goes past it
        raise failure(error, displayed_url(connection.engine)) from error
    finally:
        driver.close()


def _values(series: pd.Series, kind: str) -> list[Any]:
    """Python values of a column, with None for what is missing."""
    values: list[Any]
    missing = series.isna().to_numpy()
    if missing.all():
        return [None] * len(series)
    if kind == "time":
        values = _microseconds(series).tolist()
    elif kind == "json":
        values = [
            None if gone else json.dumps(value) for value, gone in zip(series, missing, strict=True)
        ]
    elif kind == "text":
        # PostgreSQL stores no NUL; a job's fields were checked for it, an answer's and a rejected line were not.
        values = pc.replace_substring(
            pa.array(series.astype("str"), from_pandas=True), "\0", "\ufffd"
        ).to_pylist()
    else:
        values = list(series.tolist())
    if missing.any():
        for position in np.flatnonzero(missing).tolist():
            values[position] = None
    return values


def as_microseconds(moment: Moment) -> int:
    """A moment as the store keeps it; one without a time zone is taken as UTC."""
    stamp = pd.Timestamp(moment)
    stamp = stamp.tz_localize("UTC") if stamp.tzinfo is None else stamp
    return int((stamp - _EPOCH) // pd.Timedelta(microseconds=1))


def _microseconds(times: pd.Series) -> np.ndarray[Any, np.dtype[np.int64]]:
    """Times as microseconds since 1970 in UTC; a missing time is the smallest int64."""
    if not pd.api.types.is_datetime64_any_dtype(times):
        times = pd.to_datetime(times, utc=True)
    times = times.dt.tz_localize("UTC") if times.dt.tz is None else times
    return times.astype(TIME_TYPE).to_numpy("datetime64[us]").view(np.int64)


def read_rows(connection: Connection, query: Select[Any], **computed: str) -> pd.DataFrame:
    """Run ``query`` and give its rows as a DataFrame in the types of ``jobs.schema``; ``computed`` names the kinds of computed columns."""
    names = [column.name for column in query.selected_columns]
    kinds = [computed.get(column.name) or column.info["kind"] for column in query.selected_columns]
    result = connection.execute(query, execution_options={"stream_results": True})
    arrow = pa.schema([(name, _ARROW[kind]) for name, kind in zip(names, kinds, strict=True)])
    table = pa.Table.from_batches(_batches(result.partitions(ROWS_AT_ONCE), arrow, kinds), arrow)
    for position, kind in enumerate(kinds):
        if kind == "time":
            table = table.set_column(
                position, names[position], table.column(position).cast(pa.timestamp("us", "UTC"))
            )
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    for name, kind in zip(names, kinds, strict=True):
        if kind == "json":
            frame[name] = pd.Series(
                [json.loads(text) if isinstance(text, str) else None for text in frame[name]],
                index=frame.index,
                dtype=object,
            )
    return frame


def _batches(
    partitions: Iterator[Sequence[Any]], arrow: pa.Schema, kinds: list[str]
) -> Iterator[pa.RecordBatch]:
    for rows in partitions:
        values = [
            [None if value is None else bool(value) for value in column]
            if kind == "flag"
            else column
            for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)
        ]
        yield pa.RecordBatch.from_arrays(
            [pa.array(v, t) for v, t in zip(values, arrow.types, strict=True)], schema=arrow
        )
