"""DataFrames to database rows and back, by raw driver rows: a Row object a record costs more than the query."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime
from itertools import islice
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import Column, Connection, Select, Table

from jobs.schema import TIME_TYPE

Moment = datetime | pd.Timestamp

ROWS_AT_ONCE = 5_000  # more at once takes twice as long: Python's garbage collector walks the rows
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC")
_ARROW = {"text": pa.string(), "json": pa.string(), "number": pa.float64(), "time": pa.int64(), "count": pa.int64(), "flag": pa.bool_()}


def write_rows(connection: Connection, table: Table, frame: pd.DataFrame, overwrite: bool) -> None:
    """Insert the rows of ``frame``; a row whose key is there is overwritten, or left as it is."""
    if frame.empty:
        return
    kinds = {column.name: column.info["kind"] for column in table.columns if column.name in frame}
    write_values(connection, table, {name: _values(frame[name], kind) for name, kind in kinds.items()}, overwrite)


def write_values(connection: Connection, table: Table, values: Mapping[str, Sequence[Any]], overwrite: bool) -> None:
    """``write_rows`` for Python values by column, as the driver takes them: times in microseconds, None for what is missing."""
    columns = [column for column in table.columns if column.name in values]
    rows = zip(*(values[column.name] for column in columns), strict=True)
    statement = _insert(connection, table, columns, overwrite)
    while chunk := list(islice(rows, ROWS_AT_ONCE)):
        connection.exec_driver_sql(statement, chunk)


def _insert(connection: Connection, table: Table, columns: Sequence[Column[Any]], overwrite: bool) -> str:
    quote = connection.dialect.identifier_preparer.quote
    names = [quote(column.name) for column in columns]
    keys = [quote(column.name) for column in table.primary_key]
    others = [name for name in names if name not in keys]
    mark = "?" if connection.dialect.name == "sqlite" else "%s"
    action = "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in others) if overwrite and others else "NOTHING"
    marks = ", ".join([mark] * len(names))
    return f"INSERT INTO {table.name} ({', '.join(names)}) VALUES ({marks}) ON CONFLICT ({', '.join(keys)}) DO {action}"


def _values(series: pd.Series, kind: str) -> list[Any]:
    """Python values of a column, with None for what is missing."""
    values: list[Any]
    missing = series.isna().to_numpy()
    if missing.all():
        return [None] * len(series)
    if kind == "time":
        values = _microseconds(series).tolist()
    elif kind == "json":
        values = [None if gone else json.dumps(value) for value, gone in zip(series, missing, strict=True)]
    elif kind == "text":
        # PostgreSQL stores no NUL; a job's fields were checked for it, an answer's and a rejected line were not.
        values = pc.replace_substring(pa.array(series.astype("str"), from_pandas=True), "\0", "\ufffd").to_pylist()
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
            table = table.set_column(position, names[position], table.column(position).cast(pa.timestamp("us", "UTC")))
    frame: pd.DataFrame = table.to_pandas(split_blocks=True, self_destruct=True)
    for name, kind in zip(names, kinds, strict=True):
        if kind == "json":
            frame[name] = pd.Series(
                [json.loads(text) if isinstance(text, str) else None for text in frame[name]], index=frame.index, dtype=object
            )
    return frame


def _batches(partitions: Iterator[Sequence[Any]], arrow: pa.Schema, kinds: list[str]) -> Iterator[pa.RecordBatch]:
    for rows in partitions:
        values = [
            [None if value is None else bool(value) for value in column] if kind == "flag" else column
            for column, kind in zip(zip(*rows, strict=True), kinds, strict=True)
        ]
        yield pa.RecordBatch.from_arrays([pa.array(v, t) for v, t in zip(values, arrow.types, strict=True)], schema=arrow)
