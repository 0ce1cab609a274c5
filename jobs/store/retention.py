"""How long the store keeps what grows with the jobs: where a site asks for it, whole months of the past go, and stay away.

What is kept begins with the first day of a month, so many months before this one. That moment is itself in the store, a measurement of
kind ``retention``, so that every writer knows it: an unknown job of before is not stored, however often its window is told again. Never
dropped are jobs that have not ended, and those of the newest revision, by which the next is numbered. Each month, or batch of rows, is
a transaction with the count of what went; whatever is interrupted goes on with the next call.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime

import pandas as pd
from sqlalchemy import (
    ColumnElement,
    Connection,
    Engine,
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

from jobs.store.database import lock_writers, read_connection
from jobs.store.frames import as_microseconds, write_rows
from jobs.store.merging import FINISHED
from jobs.store.partitions import drop_month, months_before, parted_by
from jobs.store.tables import (
    RECORDS,
    jobs,
    measurements,
    predictions,
    rejects,
    task_predictions,
    transfers,
)

KIND, SINCE = "retention", "kept since"
AGEING = {
    jobs: "submitted_at",
    transfers: "submitted_at",
    predictions: "asked_at",
    rejects: "seen_at",
    task_predictions: "asked_at",
}
"""What goes with the months, and by which time; of a task, chain or request all goes together, when it was last looked at before."""
ROWS_AT_ONCE = 10_000
LOCK_TIMEOUT = "3s"
"""A month that somebody reads is not waited for longer: whoever reads or writes meanwhile waits behind."""


@dataclass(frozen=True)
class PruneResult:
    """Since when the store keeps jobs (None: all), and how many rows went, by table."""

    since: datetime | None
    rows: dict[str, int] = field(default_factory=dict)


def retention_start(connection: Connection) -> pd.Timestamp:
    """The moment before which no unknown job is stored any more, of long ago where all is kept."""
    seconds = _since(connection)
    return (
        pd.Timestamp.min.tz_localize("UTC")
        if seconds is None
        else pd.Timestamp(seconds, unit="s", tz="UTC")
    )


def prune(engine: Engine, months: int, now: datetime | None = None) -> PruneResult:
    """Drop what is older than this month and the ``months`` before it; 0 keeps all, and takes what is older again from then on.

    Raises StoreError where somebody reads a month that should go (a backup, a training): nothing of that month went.
    """
    now = now or datetime.now(UTC)
    since = _first_day(now, months) if months else None
    with _writing(engine) as connection:
        seconds = since.timestamp() if since else None
        if _since(connection) != seconds:
            _note(connection, SINCE, seconds, now)
    if since is None:
        return PruneResult(None)
    return PruneResult(
        since, {table.name: _drop(engine, table, as_microseconds(since), now) for table in AGEING}
    )


def _first_day(now: datetime, months: int) -> datetime:
    """The first of a month, so many before that of ``now``."""
    year, month = divmod(now.astimezone(UTC).year * 12 + now.astimezone(UTC).month - 1 - months, 12)
    return datetime(year, month + 1, 1, tzinfo=UTC)


def _since(connection: Connection) -> float | None:
    query = select(measurements.c.value).where(
        measurements.c.kind == KIND, measurements.c.name == SINCE
    )
    seconds: float | None = connection.execute(
        query.order_by(measurements.c.measured_at.desc()).limit(1)
    ).scalar()
    return seconds


def _note(connection: Connection, name: str, value: float | None, now: datetime) -> None:
    row = {"measured_at": now, "kind": KIND, "name": name, "segment": "all", "value": value}
    write_rows(
        connection, measurements, pd.DataFrame([row]).astype({"value": float}), overwrite=True
    )


@contextmanager
def _writing(engine: Engine) -> Iterator[Connection]:
    with engine.begin() as connection:
        lock_writers(connection)
        yield connection


def _drop(engine: Engine, table: Table, before: int, now: datetime) -> int:
    """Drop what goes of a table, a month or a batch at a time; returns how many rows went."""
    with read_connection(engine) as connection:
        months = months_before(connection, table, before) if parted_by(connection, table) else None
    gone = 0
    while months is None or months:
        with _writing(engine) as connection:
            going = _going(connection, table, before)
            if months:
                connection.execute(text(f"SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'"))
                went = drop_month(connection, table, months.pop(0), going)
            else:
                went = _drop_some(connection, table, going(table))
            gone += went
            if went:
                _note(connection, table.name, gone, now)
            elif months is None:
                break
    return gone


def _drop_some(connection: Connection, table: Table, going: ColumnElement[bool]) -> int:
    key = table.primary_key.columns
    return connection.execute(
        delete(table).where(tuple_(*key).in_(select(*key).where(going).limit(ROWS_AT_ONCE)))
    ).rowcount


def _going(
    connection: Connection, table: Table, before: int
) -> Callable[[Table], ColumnElement[bool]]:
    """Which rows of a table, or of a partition of it, are to go."""
    moment = AGEING[table]
    if table in RECORDS.values():
        newest = max(int(connection.execute(select(func.max(table.c.revision))).scalar() or 0), 1)
        return lambda part: and_(
            part.c[moment] < before,
            part.c.revision < newest,
            or_(part.c.ended_at.is_not(None), part.c.status.in_(FINISHED)),
        )
    if table is task_predictions:
        later = table.alias()
        looked_at = exists().where(
            later.c.kind == table.c.kind, later.c.task == table.c.task, later.c[moment] >= before
        )
        return lambda part: and_(part.c[moment] < before, ~looked_at)
    return lambda part: part.c[moment] < before
