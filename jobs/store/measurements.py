"""Measured numbers in the store: drift, missing, accuracy, evaluation."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import Connection, Engine, select

from jobs.store.database import read_connection
from jobs.store.frames import Moment, as_microseconds, read_rows, write_rows
from jobs.store.tables import measurements as table


def add_measurements(connection: Connection, measurements: pd.DataFrame) -> None:
    """Keep numbers: measured_at, kind, name, value, and if known segment (default ``all``) and details (anything that JSON holds).

    A number of the same kind, name, segment and time is kept once.
    """
    segment = measurements["segment"].fillna("all") if "segment" in measurements else "all"
    write_rows(connection, table, measurements.assign(segment=segment), overwrite=False)


def read_measurements(
    engine: Engine,
    name: str | None = None,
    *,
    kind: str | None = None,
    segment: str | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    latest: int | None = None,
) -> pd.DataFrame:
    """Read numbers measured from ``since`` to before ``until``, by time; ``latest`` keeps that many of the newest."""
    query = select(table)
    for column, wanted in ((table.c.name, name), (table.c.kind, kind), (table.c.segment, segment)):
        if wanted is not None:
            query = query.where(column == wanted)
    if since is not None:
        query = query.where(table.c.measured_at >= as_microseconds(since))
    if until is not None:
        query = query.where(table.c.measured_at < as_microseconds(until))
    query = query.order_by(
        table.c.measured_at.desc(), table.c.kind.desc(), table.c.name.desc(), table.c.segment.desc()
    ).limit(latest)
    with read_connection(engine) as connection:
        return read_rows(connection, query).iloc[::-1].reset_index(drop=True)
