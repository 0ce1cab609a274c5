"""The prediction log in the store: what was answered, for joining with what then happened."""

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
    """Log answers, a row a job and a target, with the columns of ``jobs.store.tables.predictions``; logging one again changes nothing.

    Plain values by column (see ``write_values``) cost a predictor, which answers meanwhile, a fraction of what a DataFrame does.
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
    """Read answers given from ``since`` to before ``until``, by (asked_at, source, job_id, target, model_version).

    ``columns`` adds those fields of the job itself, missing where the store does not know it; ``ended`` keeps the answers about
    jobs that have ended (or have not, or are unknown), ``ended_since`` and ``ended_until`` those about jobs that ended then.
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
