"""Tasks in the store: how their ends were foreseen over time, and the thresholds that operators set."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, Select, func, select, update

from jobs.store.database import reading
from jobs.store.frames import Moment, as_microseconds, read_rows, write_rows
from jobs.store.tables import task_predictions as table
from jobs.store.tables import task_thresholds as thresholds


def add_task_predictions(connection: Connection, predictions: pd.DataFrame) -> None:
    """Keep what was foreseen of tasks, with the columns of ``tables.task_predictions``; a task and time already there is left as it is."""
    write_rows(connection, table, predictions, overwrite=False)


def latest_tasks(engine: Engine, since: Moment | None = None) -> pd.DataFrame:
    """The newest row of each task that was looked at since a moment, by task."""
    newest = select(table.c.task, func.max(table.c.asked_at).label("asked_at")).group_by(table.c.task)
    if since is not None:
        newest = newest.where(table.c.asked_at >= as_microseconds(since))
    return _rows_at(engine, newest)


def first_tasks(engine: Engine) -> pd.DataFrame:
    """The oldest row of each task, by task: what was foreseen when it was first looked at."""
    return _rows_at(engine, select(table.c.task, func.min(table.c.asked_at).label("asked_at")).group_by(table.c.task))


def _rows_at(engine: Engine, times: Select[Any]) -> pd.DataFrame:
    found = times.subquery()
    query = select(table).join(found, (table.c.task == found.c.task) & (table.c.asked_at == found.c.asked_at)).order_by(table.c.task)
    with reading(engine) as connection:
        return read_rows(connection, query)


def task_history(engine: Engine, task: str) -> pd.DataFrame:
    """Every row of one task, by time."""
    with reading(engine) as connection:
        return read_rows(connection, select(table).where(table.c.task == task).order_by(table.c.asked_at))


def untold_tasks(engine: Engine) -> pd.DataFrame:
    """The newest row of each task as far as it is open or new, where the production system has not taken it yet."""
    found = latest_tasks(engine)
    return found[found["told_at"].isna()].reset_index(drop=True)


def mark_told(connection: Connection, task: str, asked_at: Moment, told_at: Moment) -> None:
    """Note that the production system took what was foreseen of a task."""
    row = (table.c.task == task) & (table.c.asked_at == as_microseconds(asked_at))
    connection.execute(update(table).where(row).values(told_at=as_microseconds(told_at)))


def set_threshold(connection: Connection, group: str, name: str, value: float, by: str, at: datetime) -> None:
    """Set a threshold of a group, or of ``all``; what was set before is kept."""
    row = {"set_at": pd.Timestamp(at), "group": group, "name": name, "value": value, "set_by": by}
    write_rows(connection, thresholds, pd.DataFrame([row]), overwrite=True)


def read_thresholds(engine: Engine) -> pd.DataFrame:
    """Every threshold that was ever set: set_at, group, name, value, set_by, by time."""
    with reading(engine) as connection:
        return read_rows(connection, select(thresholds).order_by(thresholds.c.set_at, thresholds.c.group, thresholds.c.name))
