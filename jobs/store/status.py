"""The state of a store, read without changing it: version, clock and newest record."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, inspect, select, text

from jobs.store.database import HEAD, connect, displayed_url, read_connection, version_of
from jobs.store.tables import jobs


@dataclass(frozen=True)
class StoreStatus:
    """The state of a store.

    ``version`` is that of its tables (None: it has none), ``head`` the one of this Gridcast,
    ``clock`` the database server's time (None on SQLite).
    """

    where: str
    version: str | None
    head: str
    clock: datetime | None
    newest: datetime | None


def store_status(url: str) -> StoreStatus:
    """Read the state of the store at ``url``, which is neither made nor migrated.

    Raises:
        StoreError: if the database cannot be reached or read.
    """
    engine = connect(url)
    try:
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
            return StoreStatus(displayed_url(engine), None, HEAD, None, None)  # connecting makes it
        with read_connection(engine) as connection:
            clock = (
                connection.execute(text("SELECT clock_timestamp()")).scalar()
                if engine.dialect.name == "postgresql"
                else None
            )
            ends = (func.max(jobs.c.submitted_at), func.max(jobs.c.ended_at))
            row = (
                connection.execute(select(*ends)).one()
                if inspect(connection).has_table(jobs.name)
                else ()
            )
            latest = max((moment for moment in row if moment is not None), default=None)
            newest = None if latest is None else datetime.fromtimestamp(latest / 1e6, UTC)
            return StoreStatus(displayed_url(engine), version_of(connection), HEAD, clock, newest)
    finally:
        engine.dispose()
