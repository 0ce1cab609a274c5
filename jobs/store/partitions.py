"""Tables partitioned by month or day on PostgreSQL, so that a month can be dropped at once.

A month is divided into days where the month before it has become large. SQLite keeps each table
whole. PostgreSQL requires the partitioning time in every key of its table,
so (source, job_id) alone is no key there. A table of keys, in which a writer claims a job until its
commit, keeps the job to one row (see ``jobs.store.claims``): the row is deleted from the month that
a corrected submission leaves.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

import numpy as np
from sqlalchemy import (
    ARRAY,
    Column,
    ColumnElement,
    Connection,
    MetaData,
    Table,
    Text,
    bindparam,
    func,
    select,
    text,
)

from infra.aliases import Array
from jobs.store.database import lock_partitions
from jobs.store.tables import jobs, predictions, transfers

MONTHLY = {jobs.name: "submitted_at", transfers.name: "submitted_at", predictions.name: "asked_at"}
"""The tables that grow with the jobs, and the time that each is partitioned by."""

LARGE_MONTH_BYTES = 16 * 2**30
"""Bytes of a month's rows, without indexes, after which the next one is divided into days."""
_MONTH, _DAY = np.dtype("datetime64[M]"), np.dtype("datetime64[D]")

_PARTITIONS = """
    SELECT child.relname FROM pg_inherits JOIN pg_class AS child ON child.oid = inhrelid
    WHERE child.relispartition AND (CAST(:name AS text) IS NULL OR inhparent = to_regclass(:name))
"""


def partition_column(connection: Connection, table: Table) -> str | None:
    """The time by which this database partitions a table; None where the table is whole."""
    return MONTHLY.get(table.name) if connection.dialect.name == "postgresql" else None


def key_columns(connection: Connection, table: Table) -> list[Column[object]]:
    """The columns of a table's key in this database."""
    key, moment = list(table.primary_key), partition_column(connection, table)
    return key if moment is None or table.c[moment].primary_key else [*key, table.c[moment]]


def is_partitioned(connection: Connection, table: Table) -> bool:
    """Whether a stored table is partitioned: that of an earlier store, or of MLflow, is not."""
    query = text(
        "SELECT EXISTS (SELECT FROM pg_partitioned_table WHERE partrelid = to_regclass(:name))"
    )
    return partition_column(connection, table) is not None and bool(
        connection.execute(query, {"name": table.name}).scalar()
    )


def partitions(connection: Connection, name: str | None = None) -> set[str]:
    """The names of the partitions of one table, or of all tables."""
    if connection.dialect.name != "postgresql":
        return set()
    return {str(row[0]) for row in connection.execute(text(_PARTITIONS), {"name": name})}


def create_partitions(connection: Connection, table: Table, moments: Sequence[int]) -> None:
    """Create the missing partitions for new rows.

    Args:
        connection: the caller's transaction.
        table: the table of the rows.
        moments: their times, in microseconds since 1970.
    """
    if partition_column(connection, table) is None:
        return
    times = np.asarray(moments, np.int64).view("datetime64[us]")
    days = np.unique(times.astype("datetime64[D]"))
    if not _missing_partitions(connection, table, days):
        return
    lock_partitions(connection)  # of two that miss the same one the second finds it made
    for name, first in sorted(_missing_partitions(connection, table, days).items()):
        start, end = (
            int(moment.astype("datetime64[us]").astype(np.int64)) for moment in (first, first + 1)
        )
        # Created first and attached then, it blocks no reader or writer of the other partitions.
        connection.exec_driver_sql(f"CREATE TABLE {name} (LIKE {table.name} INCLUDING ALL)")
        connection.exec_driver_sql(
            f"ALTER TABLE {table.name} ATTACH PARTITION {name} FOR VALUES FROM ({start}) TO ({end})"
        )


def _missing_partitions(
    connection: Connection, table: Table, days: Array
) -> dict[str, np.datetime64]:
    """The partitions, by name, that lack of some days: each a month, or a day of a large one."""
    there = _first_days(connection, table)
    divided = {first.astype(_MONTH) for first in there.values() if first.dtype == _DAY}
    missing: dict[str, np.datetime64] = {}
    for month in np.unique(days.astype(_MONTH)):
        if _name(table, month) in there:
            continue
        if month in divided or _follows_large_month(connection, month, there):
            firsts = days[days.astype(_MONTH) == month]
        else:
            firsts = [month]
        missing |= {name: first for first in firsts if (name := _name(table, first)) not in there}
    return missing


def _follows_large_month(
    connection: Connection, month: np.datetime64, there: dict[str, np.datetime64]
) -> bool:
    """Whether the last month before one takes more than ``LARGE_MONTH_BYTES``."""
    months = {name: first.astype(_MONTH) for name, first in there.items()}
    last = max((earlier for earlier in months.values() if earlier < month), default=None)
    names = [name for name, earlier in months.items() if earlier == last]
    size = text("SELECT sum(pg_table_size(to_regclass(name))) FROM unnest(:names) AS name")
    size = size.bindparams(bindparam("names", type_=ARRAY(Text)))
    return int(connection.execute(size, {"names": names}).scalar() or 0) > LARGE_MONTH_BYTES


def _first_days(connection: Connection, table: Table) -> dict[str, np.datetime64]:
    """By name of each partition its month, or its day."""
    matches = (
        re.fullmatch(rf"{table.name}_(\d{{4}})_(\d\d)(?:_(\d\d))?", name)
        for name in partitions(connection, table.name)
    )
    return {
        match[0]: np.datetime64("-".join(filter(None, match.groups())))
        for match in matches
        if match
    }


def _name(table: Table, first: np.datetime64) -> str:
    return f"{table.name}_{str(first).replace('-', '_')}"


def partitions_before(connection: Connection, table: Table, moment: int) -> list[str]:
    """The names of the partitions that end before the month of a moment, the oldest first.

    Args:
        connection: a connection.
        table: the partitioned table.
        moment: microseconds since 1970.
    """
    until = np.datetime64(moment, "us").astype(_MONTH)
    there = _first_days(connection, table)
    return sorted(name for name, first in there.items() if first.astype(_MONTH) < until)


def delete_from_partition(
    connection: Connection,
    table: Table,
    name: str,
    condition: Callable[[Table], ColumnElement[bool]],
) -> int:
    """Delete rows of a partition, and drop it where none is left.

    Args:
        connection: the caller's transaction.
        table: the partitioned table.
        name: name of the partition.
        condition: which rows of a table to delete.

    Returns:
        The number of deleted rows.
    """
    partition = table.to_metadata(MetaData(), name=name)
    deleted = condition(partition)
    rows, count = connection.execute(
        select(func.count(), func.count().filter(deleted)).select_from(partition)
    ).one()
    if count == rows:
        connection.exec_driver_sql(f"DROP TABLE {name}")
    elif count:
        # Deleted rows would keep their disk space: no new rows come into an old month.
        where = deleted.compile(connection, compile_kwargs={"literal_binds": True})
        connection.exec_driver_sql(
            "CREATE TEMP TABLE staying ON COMMIT DROP AS "
            f"SELECT * FROM {name} WHERE ({where}) IS NOT TRUE"
        )
        connection.exec_driver_sql(f"TRUNCATE {name}")
        connection.exec_driver_sql(f"INSERT INTO {name} SELECT * FROM staying")
    return int(count)
