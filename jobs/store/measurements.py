"""Measured values in the store: drift, missing fields, accuracy, evaluations, alerts."""

from __future__ import annotations

import pandas as pd
from sqlalchemy import Connection, Engine, select

from jobs.store.database import read_connection
from jobs.store.frames import Moment, as_microseconds, index_key, read_rows, write_rows
from jobs.store.tables import measurements as table

COLLECTED = "collected"
"""The kind of the positions of collectors, by system and place; ``details`` name their sources."""


def add_measurements(connection: Connection, measurements: pd.DataFrame) -> None:
    """Store measured values: measured_at, kind, name, value, and optionally segment and details.

    ``segment`` defaults to ``all``; ``details`` is anything that JSON holds. A value of the same
    kind, name, segment and time is stored once.
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
    """Read measured values, by time.

    Args:
        engine: the store.
        name: only values of this name.
        kind: only values of this kind.
        segment: only values of this segment.
        since: only values measured at this time or later.
        until: only values measured before this time.
        latest: at most that many, the newest.
    """
    query = select(table)
    for column, value in ((table.c.name, name), (table.c.kind, kind), (table.c.segment, segment)):
        if value is not None:
            query = query.where(column == index_key(column, value))
    if since is not None:
        query = query.where(table.c.measured_at >= as_microseconds(since))
    if until is not None:
        query = query.where(table.c.measured_at < as_microseconds(until))
    query = query.order_by(
        table.c.measured_at.desc(), table.c.kind.desc(), table.c.name.desc(), table.c.segment.desc()
    ).limit(latest)
    with read_connection(engine) as connection:
        return read_rows(connection, query).iloc[::-1].reset_index(drop=True)
