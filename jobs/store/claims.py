"""Several writers at once: who may write a job, and in which order revisions can be followed.

On PostgreSQL a transaction claims the jobs that it reports: it inserts their keys in order, which
waits for another transaction that inserted one of them, and locks the keys that were there. A key
also has the submission time, so that a look-up reads only the partitions concerned; a key may be
left over from a job that is not stored any more. SQLite admits one writer, and its keys stay empty.

Revisions are numbers of a sequence, so they are committed in another order than they were taken.
Before a transaction takes one it locks the number that was taken last (shared, until its end), and
a reader goes up to the lowest number locked so: every smaller revision is committed or never will
be. ``pg_snapshot_xmin`` would not do, since a long transaction in any database of the server holds
it back, and transaction numbers begin anew when a database is copied to another server.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.compute as pc
from sqlalchemy import (
    ARRAY,
    BigInteger,
    ColumnElement,
    Connection,
    Table,
    Text,
    and_,
    bindparam,
    false,
    or_,
    select,
    text,
)

from infra.aliases import Integers
from jobs.store.database import StoreError, share_writers
from jobs.store.frames import conditions_by_source, copies_rows, copy_rows, to_arrow
from jobs.store.retention import newest_revision
from jobs.store.tables import KEYS, RECORDS

_TAKEN = {table.name: (0x6772 + number) << 48 for number, table in enumerate(RECORDS.values())}
"""The advisory lock of revision 0 of each table; that of revision n is n more."""
MAX_RANGES = 30
"""Ranges of days in one condition."""
_HAD_KEYS = "the last batch had keys already"
_UNIQUE_VIOLATION = "23505"


def claim(connection: Connection, table: Table, jobs: pd.DataFrame) -> Integers | None:
    """Let no other transaction write these jobs until this one ends.

    Args:
        connection: the caller's transaction.
        table: the table of the records.
        jobs: reports, any number of each job.

    Returns:
        The submission times (microseconds since 1970) of those that may be stored, None if they
        are unknown: any may be stored.
    """
    share_writers(connection)
    if connection.dialect.name != "postgresql":
        return None
    keys, (source, name, moment) = KEYS[table.name], _names(table)
    # All writers insert in one order, so that none waits for another that waits for it.
    rows = _arrow_keys(table, jobs[[source, name, moment]].drop_duplicates([source, name]))
    rows = rows.take(pc.sort_indices(rows, [(source, "ascending"), (name, "ascending")]))
    if _copy_keys(connection, keys.name, rows):
        return np.empty(0, np.int64)
    arrays = _arrays(rows)
    inserted = connection.execute(
        _with_rows(
            f"INSERT INTO {keys} ({source}, {name}, {moment}) SELECT source, name, moment "
            "FROM {rows} ON CONFLICT DO NOTHING"
        ),
        arrays,
    ).rowcount
    connection.info[_HAD_KEYS] = inserted < len(rows)
    if inserted == len(rows):
        return np.empty(0, np.int64)
    stored = connection.execute(
        _with_rows(
            f"SELECT key.{moment} FROM {keys} AS key JOIN {{rows}} ON {_same_job(table)} "
            f"ORDER BY key.{source}, key.{name} FOR UPDATE OF key"
        ),
        arrays,
    )
    return np.fromiter(stored.scalars(), np.int64)


def _copy_keys(connection: Connection, keys: str, rows: pa.Table) -> bool:
    """Insert keys by COPY, at a third of the cost of an insertion that admits stored ones.

    It is tried where the last batch of this connection had new jobs only.

    Returns:
        Whether they were inserted: none of them was there.
    """
    if connection.info.get(_HAD_KEYS) or not copies_rows(connection, len(rows)):
        return False
    try:
        with connection.begin_nested():
            copy_rows(connection, keys, dict(zip(rows.column_names, rows.columns, strict=True)))
    except StoreError as error:
        if getattr(error.__cause__, "sqlstate", "") != _UNIQUE_VIOLATION:
            raise
        return False
    return True


def update_claims(connection: Connection, table: Table, jobs: pd.DataFrame) -> None:
    """Keep the submission times of claimed jobs, as they are stored.

    Args:
        connection: the caller's transaction.
        table: the table of the records.
        jobs: the stored rows.
    """
    moment = _names(table)[2]
    statement = f"UPDATE {{keys}} AS key SET {moment} = rows.moment FROM {{rows}}"
    _change(connection, table, jobs, statement, f" AND key.{moment} <> rows.moment")


def drop_claims(connection: Connection, table: Table, jobs: pd.DataFrame) -> None:
    """Forget the keys of claimed jobs that are not stored.

    Args:
        connection: the caller's transaction.
        table: the table of the records.
        jobs: their reports.
    """
    _change(connection, table, jobs, "DELETE FROM {keys} AS key USING {rows}")


def fill_claims(connection: Connection, table: Table) -> None:
    """Make the keys of a table, and the sequence of its revisions, those of its rows."""
    if connection.dialect.name != "postgresql":
        return
    keys, names = KEYS[table.name], ", ".join(_names(table))
    connection.exec_driver_sql(f"DELETE FROM {keys}")
    connection.exec_driver_sql(f"INSERT INTO {keys} ({names}) SELECT {names} FROM {table.name}")
    connection.execute(
        text(
            f"SELECT setval('{_sequence(table)}', greatest(last_value, :newest)) "
            f"FROM {_sequence(table)}"
        ),
        {"newest": newest_revision(connection, table)},
    )


def stored_conditions(
    connection: Connection, table: Table, jobs: pd.DataFrame
) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """For each source of ``jobs`` that has some, the conditions that select their stored rows.

    Only the partitions that the keys name are read.

    Args:
        connection: a connection.
        table: the table of the records.
        jobs: rows with source and id.
    """
    keys = KEYS[table.name]
    of_keys = conditions_by_source(connection, keys, jobs)
    for condition, key_condition in zip(
        conditions_by_source(connection, table, jobs), of_keys, strict=True
    ):
        moments = key_moments(connection, table, *key_condition)
        if moments is None or len(moments):
            yield *condition, *in_days(table, moments)


def key_moments(
    connection: Connection, table: Table, *conditions: ColumnElement[bool]
) -> Integers | None:
    """The submission times (microseconds since 1970) of some keys; None where there are no keys.

    Args:
        connection: a connection.
        table: the table of the records.
        conditions: on the columns of the table of keys.
    """
    if connection.dialect.name != "postgresql":
        return None
    moment = KEYS[table.name].c[_names(table)[2]]
    stored = connection.execute(select(moment).where(*conditions)).scalars()
    return np.fromiter(stored, np.int64)


def in_days(table: Table, moments: Integers | None) -> tuple[ColumnElement[bool], ...]:
    """The condition that a record was submitted on a day of ``moments``; none where unknown."""
    if moments is None:
        return ()
    if not len(moments):
        return (false(),)
    column = table.c[_names(table)[2]]
    days = np.unique(moments.view("datetime64[us]").astype("datetime64[D]"))
    # Days that follow each other are one range; of too many ranges one range has all.
    gaps = np.flatnonzero(np.diff(days) > np.timedelta64(1, "D"))
    gaps = gaps if len(gaps) < MAX_RANGES else gaps[:0]
    begins, ends = days[np.r_[0, gaps + 1]], days[np.r_[gaps, len(days) - 1]] + 1
    bounds = (day.astype("datetime64[us]").astype(np.int64).tolist() for day in (begins, ends))
    ranges = (and_(column >= begin, column < end) for begin, end in zip(*bounds, strict=True))
    return (or_(*ranges),)


def next_revision(connection: Connection, table: Table) -> int:
    """The revision of what this transaction learns; see the module."""
    if connection.dialect.name != "postgresql":
        return newest_revision(connection, table) + 1
    sequence = _sequence(table)
    # The lock comes first: the expressions of a selection are evaluated from left to right.
    locked = f"pg_advisory_xact_lock_shared(:taken + last_value), nextval('{sequence}')"
    row = connection.execute(
        text(f"SELECT {locked} FROM {sequence}"), {"taken": _TAKEN[table.name]}
    )
    return int(row.one()[1])


def last_revision(connection: Connection, table: Table) -> int:
    """The revision up to which all are committed, or never will be.

    What is read in a later statement of the same connection has all of them.
    """
    if connection.dialect.name != "postgresql":
        return newest_revision(connection, table)
    # In this order: who takes a number up to the newest one has locked a smaller one before.
    newest = connection.execute(text(f"SELECT last_value FROM {_sequence(table)}")).scalar_one()
    lock = "(CAST(classid AS bigint) << 32) + CAST(objid AS bigint)"
    in_progress = connection.execute(
        text(
            f"SELECT min({lock}) FROM pg_locks WHERE locktype = 'advisory' AND objsubid = 1 "
            "AND database = (SELECT oid FROM pg_database WHERE datname = current_database()) "
            f"AND {lock} BETWEEN :taken AND :taken + :newest"
        ),
        {"taken": _TAKEN[table.name], "newest": newest},
    ).scalar()
    return int(newest if in_progress is None else in_progress - _TAKEN[table.name])


def _sequence(table: Table) -> str:
    return f"{KEYS[table.name].name.removesuffix('_keys')}_revisions"


def _names(table: Table) -> tuple[str, str, str]:
    """The columns of a table of keys: source, id and submission time."""
    source, name, moment = (column.name for column in KEYS[table.name].columns)
    return source, name, moment


def _same_job(table: Table) -> str:
    source, name, _ = _names(table)
    return f"key.{source} = rows.source AND key.{name} = rows.name"


def _change(
    connection: Connection, table: Table, jobs: pd.DataFrame, statement: str, condition: str = ""
) -> None:
    """Change the keys of jobs.

    Args:
        connection: the caller's transaction.
        table: the table of the records.
        jobs: the rows or reports.
        statement: changes ``{keys}``, called key, by ``{rows}``.
        condition: of a change, beside the job's.
    """
    if connection.dialect.name == "postgresql" and not jobs.empty:
        statement = statement.replace("{keys}", KEYS[table.name].name)
        where = f" WHERE {_same_job(table)}{condition}"
        connection.execute(_with_rows(statement + where), _arrays(_arrow_keys(table, jobs)))


def _with_rows(statement: str) -> Any:
    rows = "unnest(:sources, :names, :moments) AS rows (source, name, moment)"
    return text(statement.replace("{rows}", rows)).bindparams(
        bindparam("sources", type_=ARRAY(Text)),
        bindparam("names", type_=ARRAY(Text)),
        bindparam("moments", type_=ARRAY(BigInteger)),
    )


def _arrow_keys(table: Table, jobs: pd.DataFrame) -> pa.Table:
    """The keys of rows or reports."""
    kinds = ("text", "text", "time")
    names = _names(table)
    return pa.table(
        {name: to_arrow(jobs[name], kind) for name, kind in zip(names, kinds, strict=True)}
    )


def _arrays(keys: pa.Table) -> dict[str, list[Any]]:
    names = ("sources", "names", "moments")
    return dict(zip(names, (column.to_pylist() for column in keys.columns), strict=True))
