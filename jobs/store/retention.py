"""Deletion from the store: of whole past months, where a site asks for it, and of a source.

Retention keeps what was submitted since the first day of a month, some months before this one.
That moment is stored, as a measurement of kind ``retention``, so that every writer knows it: an
unknown job of an earlier time is not stored, however often it is reported. Jobs that have not
ended, and those of the newest revision, are never dropped. Each month, or batch of rows, is one
transaction with the count of deleted rows; an interrupted call is completed by the next.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
    MetaData,
    Table,
    and_,
    delete,
    exists,
    func,
    or_,
    select,
    text,
    tuple_,
)

from jobs.store import audit
from jobs.store.database import lock_writers, read_connection
from jobs.store.frames import as_microseconds, write_rows
from jobs.store.measurements import COLLECTED
from jobs.store.merging import FINISHED
from jobs.store.partitions import delete_from_partition, partition_column, partitions_before
from jobs.store.tables import (
    KEYS,
    RECORDS,
    attempts,
    jobs,
    measurements,
    predictions,
    rejects,
    task_predictions,
    transfers,
)
from jobs.store.tables import audit as audit_table

KIND, SINCE, DROPPED = "retention", "kept since", "dropped source"
"""The kind of the notes below, and two of their names."""
AGE_COLUMNS = {
    jobs: "submitted_at",
    attempts: "submitted_at",
    transfers: "submitted_at",
    predictions: "asked_at",
    rejects: "seen_at",
    task_predictions: "asked_at",
}
"""What retention deletes, and by which time.

Attempts go with their job. All predictions of a task, chain or request are deleted together, by
the latest of them. The audit log is kept longer.
"""
BATCH_ROWS = 10_000
LOCK_TIMEOUT = "3s"
"""A month that is being read is not waited for longer: all readers and writers would wait too."""


@dataclass(frozen=True)
class PruneResult:
    """The start of retention (None: everything is kept), and the deleted rows by table."""

    since: datetime | None
    rows: dict[str, int] = field(default_factory=dict)


def retention_start(connection: Connection) -> pd.Timestamp:
    """The moment before which no unknown job is stored; the earliest moment where all are."""
    seconds = _latest_note(connection, SINCE)
    return (
        pd.Timestamp.min.tz_localize("UTC")
        if seconds is None
        else pd.Timestamp(seconds, unit="s", tz="UTC")
    )


def prune(engine: Engine, months: int, now: datetime | None = None) -> PruneResult:
    """Delete what is older than this month and the ``months`` before it.

    Args:
        engine: the store.
        months: full months to keep; 0 keeps all, and stores older jobs again from then on.
        now: the present; default the clock.

    Raises:
        StoreError: if somebody is reading a month to be dropped (a backup, a training); nothing of
            that month was deleted.
    """
    now = now or datetime.now(UTC)
    since = _first_day(now, months) if months else None
    with _write_connection(engine) as connection:
        seconds = since.timestamp() if since else None
        before = _latest_note(connection, SINCE)
        if before != seconds:
            moments = (_day(before), _day(seconds))
            audit.record(connection, "retention", SINCE, before=moments[0], after=moments[1])
            _note(connection, SINCE, seconds, now)
    if since is None:
        return PruneResult(None)
    before = as_microseconds(since)
    rows = {table.name: _prune_table(engine, table, before, now) for table in AGE_COLUMNS}
    with _write_connection(engine) as connection:
        oldest = _first_day(now, max(months, audit.LEAST_MONTHS))
        is_old = audit_table.c.last_at < as_microseconds(oldest)
        rows[audit_table.name] = connection.execute(delete(audit_table).where(is_old)).rowcount
        if rows[audit_table.name]:
            audit.count(connection, "retention", audit_table.name, records=rows[audit_table.name])
    return PruneResult(since, rows)


def drop_source(engine: Engine, source: str, now: datetime | None = None) -> dict[str, int]:
    """Delete all that is stored of a source, in one transaction.

    These are its jobs and their attempts, transfers, logged predictions and predictions of tasks,
    and the positions of collectors that stored some of it, so that they read it from the beginning.
    Rejected lines stay: they belong to files. The numbers of the deleted revisions are not used
    again.

    Args:
        engine: the store.
        source: name of the source.
        now: the present; default the clock.

    Returns:
        The number of deleted rows by table.
    """
    with _write_connection(engine) as connection:
        revisions = {table: newest_revision(connection, table) for table in RECORDS.values()}
        rows = {
            table.name: connection.execute(delete(table).where(table.c.source == source)).rowcount
            for table in (jobs, attempts, transfers, predictions, task_predictions)
        }
        for keys in KEYS.values():
            connection.execute(delete(keys).where(keys.c.source == source))
        rows[measurements.name] = _drop_positions(connection, source)
        for table, revision in revisions.items():
            if newest_revision(connection, table) < revision:
                _note(connection, _revision_name(table), revision, now)
        if any(rows.values()):
            deleted = ", ".join(f"{count:,} {name}" for name, count in rows.items() if count)
            audit.record(connection, "drop-source", source, before=deleted, records=rows[jobs.name])
            _note(connection, DROPPED, float(rows[jobs.name]), now, segment=source)
    return rows


def _drop_positions(connection: Connection, source: str) -> int:
    """Delete the positions of collectors of a source, or of unknown sources; their number."""
    of_kind = measurements.c.kind == COLLECTED
    position = (measurements.c.name, measurements.c.segment)
    newest = select(*position, func.max(measurements.c.measured_at)).where(of_kind)
    deleted = 0
    for name, segment, moment in connection.execute(newest.group_by(*position)).all():
        rows = and_(of_kind, measurements.c.name == name, measurements.c.segment == segment)
        query = select(measurements.c.details).where(rows, measurements.c.measured_at == moment)
        details = json.loads(connection.execute(query).scalar() or "{}")
        if source in details.get("sources", [source]):
            deleted += connection.execute(delete(measurements).where(rows)).rowcount
    return deleted


def dropped_at(engine: Engine) -> datetime | None:
    """When a source was last dropped from the store; None if never."""
    query = select(func.max(measurements.c.measured_at)).where(
        measurements.c.kind == KIND, measurements.c.name == DROPPED
    )
    with read_connection(engine) as connection:
        moment = connection.execute(query).scalar()
    return None if moment is None else datetime.fromtimestamp(moment / 1e6, UTC)


def newest_revision(connection: Connection, table: Table) -> int:
    """The newest revision that records of a table ever had, 0 where none has ended."""
    newest = connection.execute(select(func.max(table.c.revision))).scalar() or 0
    return int(max(newest, _latest_note(connection, _revision_name(table)) or 0))


def _revision_name(table: Table) -> str:
    return f"revision of {table.name}"


def _first_day(now: datetime, months: int) -> datetime:
    """The first of a month, ``months`` months before that of ``now``."""
    year, month = divmod(now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1 - months, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def _day(seconds: float | None) -> str:
    return f"{datetime.fromtimestamp(seconds, UTC):%Y-%m-%d}" if seconds else "all is kept"


def _latest_note(connection: Connection, name: str) -> float | None:
    query = select(measurements.c.value).where(
        measurements.c.kind == KIND, measurements.c.name == name
    )
    value: float | None = connection.execute(
        query.order_by(measurements.c.measured_at.desc()).limit(1)
    ).scalar()
    return value


def _note(
    connection: Connection,
    name: str,
    value: float | None,
    now: datetime | None,
    segment: str = "all",
) -> None:
    moment = now or datetime.now(UTC)
    row = {"measured_at": moment, "kind": KIND, "name": name, "segment": segment, "value": value}
    write_rows(
        connection, measurements, pd.DataFrame([row]).astype({"value": float}), overwrite=True
    )


@contextmanager
def _write_connection(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        lock_writers(connection)
        yield connection


def _prune_table(engine: Engine, table: Table, before: int, now: datetime) -> int:
    """Delete the old rows of a table, by month or batch; returns their number."""
    with read_connection(engine) as connection:
        is_whole = partition_column(connection, table) is None
        months = None if is_whole else partitions_before(connection, table, before)
    deleted = 0
    while months is None or months:
        with _write_connection(engine) as connection:
            condition = _pruned(connection, table, before)
            if months:
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
                month = months.pop(0)
                if table.name in KEYS:
                    _delete_keys(connection, table, month, condition)
                count = delete_from_partition(connection, table, month, condition)
            else:
                count = _delete_batch(connection, table, condition(table))
            deleted += count
            if count:
                audit.count(connection, "retention", table.name, records=count)
                _note(connection, table.name, deleted, now)
            elif months is None:
                break
    return deleted


def _delete_keys(
    connection: Connection,
    table: Table,
    month: str,
    condition: Callable[[Table], ColumnElement[bool]],
) -> None:
    """Delete the keys of rows that will be deleted from a month."""
    keys, rows = KEYS[table.name], table.to_metadata(MetaData(), name=month)
    same = (keys.c[column.name] == rows.c[column.name] for column in keys.primary_key)
    connection.execute(delete(keys).where(*same, condition(rows)))


def _delete_batch(connection: Connection, table: Table, condition: ColumnElement[bool]) -> int:
    key = table.primary_key.columns
    return connection.execute(
        delete(table).where(tuple_(*key).in_(select(*key).where(condition).limit(BATCH_ROWS)))
    ).rowcount


def _pruned(
    connection: Connection, table: Table, before: int
) -> Callable[[Table], ColumnElement[bool]]:
    """Which rows of a table, or of a partition of it, to delete."""
    moment = AGE_COLUMNS[table]
    if table in RECORDS.values():
        newest = max(newest_revision(connection, table), 1)
        return lambda rows: and_(
            rows.c[moment] < before,
            rows.c.revision < newest,
            or_(rows.c.ended_at.is_not(None), rows.c.status.in_(FINISHED)),
        )
    if table is attempts:
        job = exists().where(*(jobs.c[name] == table.c[name] for name in ("source", "job_id")))
        return lambda rows: ~job
    if table is task_predictions:
        later = table.alias()
        has_later = exists().where(
            *(later.c[name] == table.c[name] for name in ("kind", "source", "task")),
            later.c[moment] >= before,
        )
        return lambda rows: and_(rows.c[moment] < before, ~has_later)
    return lambda rows: rows.c[moment] < before
