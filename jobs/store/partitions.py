"""Tables by month on PostgreSQL: a partition for each month, so that a month goes at once; SQLite keeps each table whole.

PostgreSQL wants the time of a partition in every key of its table, so that (source, job_id) is no key by itself there. What keeps a
job one row is the writers' lock: who stores records holds it from before he looks for them in all months until his commit, and takes
the row out of the month that a corrected submission leaves. A second table of keys would say the same twice, and would have to be
swept row by row where months are dropped.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable

import numpy as np
from sqlalchemy import Column, ColumnElement, Connection, MetaData, Table, func, select, text

from jobs.store.database import lock_writers
from jobs.store.tables import jobs, predictions, transfers

MONTHLY = {jobs.name: "submitted_at", transfers.name: "submitted_at", predictions.name: "asked_at"}
"""The tables that grow with the jobs, each with the time by which its rows are parted."""

_PARTITIONS = """
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE child.relispartition AND (CAST(:name AS text) IS NULL OR inhparent = to_regclass(:name))
"""


def parted_by(connection: Connection, table: Table) -> str | None:
    """The time by which a table is kept in months here, None where it is whole."""
    return MONTHLY.get(table.name) if connection.dialect.name == "postgresql" else None


def key_of(connection: Connection, table: Table) -> list[Column[object]]:
    """The columns of the key that this database keeps."""
    key, moment = list(table.primary_key), parted_by(connection, table)
    return key if moment is None or table.c[moment].primary_key else [*key, table.c[moment]]


def is_parted(connection: Connection, table: Table) -> bool:
    """Whether a table that is there is kept in months: one of an earlier store, or of another program, is not."""
    query = text(
        "SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(:name))"
    )
    return parted_by(connection, table) is not None and bool(
        connection.execute(query, {"name": table.name}).scalar()
    )


def partitions(connection: Connection, name: str | None = None) -> set[str]:
    """The partitions of one table, or of all that are there."""
    if connection.dialect.name != "postgresql":
        return set()
    return {str(row[0]) for row in connection.execute(text(_PARTITIONS), {"name": name})}


def make_months(connection: Connection, table: Table, moments: Iterable[int]) -> None:
    """Make the partitions that rows of these times (microseconds since 1970) go into, where they are not there yet."""
    if parted_by(connection, table) is None:
        return
    times = np.fromiter(moments, np.int64).view("datetime64[us]")
    months = {
        f"{table.name}_{str(month).replace('-', '_')}": month
        for month in np.unique(times.astype("datetime64[M]"))
    }
    if months.keys() <= partitions(connection, table.name):
        return
    lock_writers(connection)  # of two who miss the same month the second finds it made
    for name in sorted(months.keys() - partitions(connection, table.name)):
        start, end = (
            int(month.astype("datetime64[us]").astype(np.int64))
            for month in (months[name], months[name] + 1)
        )
        # One that is made first and attached then keeps no reader or writer of the other months waiting.
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE {table.name} ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})"
        )


def months_before(connection: Connection, table: Table, moment: int) -> list[str]:
    """The partitions of a table that hold nothing of ``moment`` (microseconds since 1970) or later, the oldest first."""
    until = np.datetime64(moment, "us").astype("datetime64[M]")
    found = {
        name: re.fullmatch(rf"{table.name}_(\d+)_(\d\d)", name)
        for name in partitions(connection, table.name)
    }
    return sorted(
        name
        for name, parts in found.items()
        if parts and np.datetime64(f"{parts[1]}-{parts[2]}", "M") < until
    )


def drop_month(
    connection: Connection, table: Table, name: str, going: Callable[[Table], ColumnElement[bool]]
) -> int:
    """Drop the rows of a partition that are to go, and itself where none stays; returns how many went."""
    part = table.to_metadata(MetaData(), name=name)
    gone = going(part)
    there, count = connection.execute(
        select(func.count(), func.count().filter(gone)).select_from(part)
    ).one()
    if count == there:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    elif count:
        # Deleted rows would keep their place on the disk: nothing comes into an old month that could take it.
        which = gone.compile(connection, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(
            f"CREATE TEMP TABLE staying ON COMMIT DROP AS SELECT * FROM {name} WHERE ({which}) IS NOT TRUE"
        )
        connection.exec_driver_sql(f"TRUNCATE {name}")
        connection.exec_driver_sql(f"INSERT INTO {name} SELECT * FROM staying")
    return int(count)
