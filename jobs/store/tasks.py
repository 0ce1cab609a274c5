"""Tasks in the store: the predictions of their ends over time, and the operators' thresholds.

A task, chain or request is identified by its kind, its source and its name.
"""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select, update

from jobs.store import audit
from jobs.store.database import read_connection
from jobs.store.frames import Moment, as_microseconds, index_key, read_rows, write_rows
from jobs.store.tables import task_predictions as table
from jobs.store.tables import task_thresholds as thresholds

KEY = ("kind", "source", "task")
"""The columns that identify a task, chain or request."""


def stored_task_name(name: str) -> str:
    """The name of a task as the store keeps it: shortened where an index could refuse it."""
    return index_key(table.c.task, name)


def add_task_predictions(connection: Connection, predictions: pd.DataFrame) -> None:
    """Store predictions of tasks, with the columns of ``tables.task_predictions``.

    A row whose key and time are already stored is left unchanged.
    """
    if "source" not in predictions:
        predictions = predictions.assign(source="")
    write_rows(connection, table, predictions, overwrite=False)


def latest_task_predictions(engine: Engine, kind: str = "task") -> pd.DataFrame:
    """Read the newest prediction of each task (or chain or request), by name and source."""
    return _rows_at(engine, func.max(table.c.asked_at), table.c.kind == kind)


def first_task_predictions(engine: Engine, kind: str = "task") -> pd.DataFrame:
    """Read the oldest predicted end of each task (or chain or request), by name and source.

    Rows without an end, of tasks that stalled, do not count.
    """
    condition = (table.c.kind == kind) & table.c.median.is_not(None)
    return _rows_at(engine, func.min(table.c.asked_at), condition)


def _rows_at(
    engine: Engine, moment: ColumnElement[int], condition: ColumnElement[bool] | None = None
) -> pd.DataFrame:
    key = [table.c[name] for name in KEY]
    times = select(*key, moment.label("asked_at")).group_by(*key)
    chosen = (times if condition is None else times.where(condition)).subquery()
    same = and_(*(table.c[name] == chosen.c[name] for name in (*KEY, "asked_at")))
    query = select(table).join(chosen, same)
    with read_connection(engine) as connection:
        return read_rows(connection, query.order_by(table.c.task, table.c.kind, table.c.source))


def task_history(
    engine: Engine, task: str, kind: str = "task", source: str | None = None
) -> pd.DataFrame:
    """Read every prediction of one task, by time.

    Args:
        engine: the store.
        task: name of the task, chain or request.
        kind: ``task``, ``chain`` or ``request``.
        source: the source that it belongs to; None reads those of every source.
    """
    query = select(table).where(table.c.kind == kind, table.c.task == index_key(table.c.task, task))
    if source is not None:
        query = query.where(table.c.source == index_key(table.c.source, source))
    with read_connection(engine) as connection:
        return read_rows(connection, query.order_by(table.c.asked_at, table.c.source))


def unnotified_tasks(engine: Engine) -> pd.DataFrame:
    """Read the newest predictions that the production system has not accepted yet."""
    newest = _rows_at(engine, func.max(table.c.asked_at))
    return newest[newest["told_at"].isna()].reset_index(drop=True)


def mark_notified(
    connection: Connection,
    key: tuple[str, str, str],
    asked_at: Moment,
    notified_at: Moment,
) -> None:
    """Record that the production system accepted a prediction.

    Args:
        connection: the caller's transaction.
        key: kind, source and name of the task, chain or request.
        asked_at: time of the prediction.
        notified_at: when it was accepted.
    """
    conditions = [
        table.c[name] == index_key(table.c[name], value)
        for name, value in zip(KEY, key, strict=True)
    ]
    row = and_(*conditions, table.c.asked_at == as_microseconds(asked_at))
    connection.execute(update(table).where(row).values(told_at=as_microseconds(notified_at)))


def set_threshold(
    connection: Connection, group: str, name: str, value: float, by: str, at: datetime
) -> None:
    """Set a threshold; earlier values are kept.

    Args:
        connection: the caller's transaction.
        group: the group that it applies to, or ``all``.
        name: name of the threshold.
        value: its new value.
        by: who set it.
        at: when it was set.
    """
    earlier = select(thresholds.c.value).where(
        thresholds.c.group == index_key(thresholds.c.group, group), thresholds.c.name == name
    )
    before = connection.execute(earlier.order_by(thresholds.c.set_at.desc()).limit(1)).scalar()
    audit.record(
        connection,
        "threshold",
        f"{name} of {group}",
        before=before,
        after=value,
        why=f"set by {by}",
        by=by,
    )
    row = {"set_at": pd.Timestamp(at), "group": group, "name": name, "value": value, "set_by": by}
    write_rows(connection, thresholds, pd.DataFrame([row]), overwrite=True)


def read_thresholds(engine: Engine) -> pd.DataFrame:
    """Read every threshold ever set: set_at, group, name, value, set_by, by time."""
    with read_connection(engine) as connection:
        return read_rows(
            connection,
            select(thresholds).order_by(thresholds.c.set_at, thresholds.c.group, thresholds.c.name),
        )
