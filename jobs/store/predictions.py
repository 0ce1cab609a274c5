"""The prediction log in the store, to be joined with the outcomes of the predicted jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import pandas as pd
from sqlalchemy import Connection, Engine, and_, select

from jobs.store.database import read_connection
from jobs.store.frames import Moment, as_microseconds, read_rows, write_rows, write_values
from jobs.store.tables import jobs as jobs_table
from jobs.store.tables import predictions as table


def add_predictions(
    connection: Connection, predictions: pd.DataFrame | Mapping[str, Sequence[Any]]
) -> None:
    """Log predictions, one row per job and target, with the columns of ``tables.predictions``.

    Logging one again changes nothing. Plain values by column (see ``frames.write_values``) take a
    fraction of the time of a DataFrame, during which the predictor cannot answer.
    """
    if isinstance(predictions, pd.DataFrame):
        write_rows(connection, table, predictions, overwrite=False)
    else:
        write_values(connection, table, predictions, overwrite=False)


def read_predictions(
    engine: Engine,
    *,
    target: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    ended: bool | None = None,
    ended_since: Moment | None = None,
    ended_until: Moment | None = None,
    columns: Sequence[str] = (),
    limit: int | None = None,
) -> pd.DataFrame:
    """Read logged predictions, by (asked_at, source, job_id, target, model_version).

    Args:
        engine: the store.
        target: only predictions of this target.
        since: only predictions made at this time or later.
        until: only predictions made before this time.
        ended: only predictions of jobs that have ended (True), or have not or are unknown (False).
        ended_since: only predictions of jobs that ended at this time or later.
        ended_until: only predictions of jobs that ended before this time.
        columns: fields of the job to add, missing where the store does not have the job.
        limit: at most that many, the first.
    """
    same_job = and_(jobs_table.c.source == table.c.source, jobs_table.c.job_id == table.c.job_id)
    query = select(table, *(jobs_table.c[name] for name in columns if name not in table.c))
    query = query.select_from(table.outerjoin(jobs_table, same_job))
    if target is not None:
        query = query.where(table.c.target == target)
    if since is not None:
        query = query.where(table.c.asked_at >= as_microseconds(since))
    if until is not None:
        query = query.where(table.c.asked_at < as_microseconds(until))
    if ended is not None:
        query = query.where(
            jobs_table.c.ended_at.is_not(None) if ended else jobs_table.c.ended_at.is_(None)
        )
    if ended_since is not None:
        query = query.where(jobs_table.c.ended_at >= as_microseconds(ended_since))
    if ended_until is not None:
        query = query.where(jobs_table.c.ended_at < as_microseconds(ended_until))
    query = query.order_by(
        table.c.asked_at, table.c.source, table.c.job_id, table.c.target, table.c.model_version
    ).limit(limit)
    with read_connection(engine) as connection:
        return read_rows(connection, query)
