"""Tasks in the store: how their ends were foreseen over time, and the thresholds that operators set."""

from __future__ import annotations

from datetime import datetime

import pandas as pd
from sqlalchemy import ColumnElement, Connection, Engine, and_, func, select, update

from jobs.store.database import read_connection
from jobs.store.frames import Moment, as_microseconds, read_rows, write_rows
from jobs.store.tables import task_predictions as table
from jobs.store.tables import task_thresholds as thresholds


def add_task_predictions(connection: Connection, predictions: pd.DataFrame) -> None:
    """Keep what was foreseen of tasks, with the columns of ``tables.task_predictions``; a task and time already there is left as it is."""
    write_rows(connection, table, predictions, overwrite=False)


def latest_task_predictions(engine: Engine, kind: str = "task") -> pd.DataFrame:
    """The newest row of each task, or of each chain or request, by name."""
    return _rows_at(engine, func.max(table.c.asked_at), table.c.kind == kind)


def first_task_predictions(engine: Engine, kind: str = "task") -> pd.DataFrame:
    """The oldest row of each task, or of each chain or request, by name: what was foreseen when it was first looked at."""
    return _rows_at(engine, func.min(table.c.asked_at), table.c.kind == kind)


def _rows_at(
    engine: Engine, moment: ColumnElement[int], which: ColumnElement[bool] | None = None
) -> pd.DataFrame:
    times = select(table.c.kind, table.c.task, moment.label("asked_at")).group_by(
        table.c.kind, table.c.task
    )
    found = (times if which is None else times.where(which)).subquery()
    same = and_(*(table.c[name] == found.c[name] for name in ("kind", "task", "asked_at")))
    with read_connection(engine) as connection:
        return read_rows(
            connection, select(table).join(found, same).order_by(table.c.task, table.c.kind)
        )


def task_history(engine: Engine, task: str, kind: str = "task") -> pd.DataFrame:
    """Every row of one task, chain or request, by time."""
    with read_connection(engine) as connection:
        return read_rows(
            connection,
            select(table)
            .where(table.c.task == task, table.c.kind == kind)
            .order_by(table.c.asked_at),
        )


def unnotified_tasks(engine: Engine) -> pd.DataFrame:
    """The newest row of each task, chain and request, where the production system has not taken it yet."""
    found = _rows_at(engine, func.max(table.c.asked_at))
    return found[found["told_at"].isna()].reset_index(drop=True)


def mark_notified(
    connection: Connection, kind: str, task: str, asked_at: Moment, told_at: Moment
) -> None:
    """Note that the production system took what was foreseen of a task, chain or request."""
    row = (
        (table.c.kind == kind)
        & (table.c.task == task)
        & (table.c.asked_at == as_microseconds(asked_at))
    )
    connection.execute(update(table).where(row).values(told_at=as_microseconds(told_at)))


def set_threshold(
    connection: Connection, group: str, name: str, value: float, by: str, at: datetime
) -> None:
    """Set a threshold of a group, or of ``all``; what was set before is kept."""
    row = {"set_at": pd.Timestamp(at), "group": group, "name": name, "value": value, "set_by": by}
    write_rows(connection, thresholds, pd.DataFrame([row]), overwrite=True)


def read_thresholds(engine: Engine) -> pd.DataFrame:
    """Every threshold that was ever set: set_at, group, name, value, set_by, by time."""
    with read_connection(engine) as connection:
        return read_rows(
            connection,
            select(thresholds).order_by(thresholds.c.set_at, thresholds.c.group, thresholds.c.name),
        )
