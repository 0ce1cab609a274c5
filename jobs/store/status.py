"""How a store stands, without touching it: which tables it has, what its clock says, and how new its newest record is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sqlalchemy import func, inspect, select, text

from jobs.store.database import HEAD, connect, displayed_url, read_connection, version_of
from jobs.store.tables import jobs


@dataclass(frozen=True)
class StoreStatus:
    """``where`` a store is, the ``version`` of its tables (None: it has none), that of this Gridcast, its clock, its newest record."""

    where: str
    version: str | None
    head: str
    clock: datetime | None
    newest: datetime | None


def store_status(url: str) -> StoreStatus:
    """Look at the store at ``url`` as it is: nothing is made or migrated. Raises StoreError."""
    engine = connect(url)
    try:
        if engine.dialect.name == "sqlite" and not Path(engine.url.database or "").is_file():
            return StoreStatus(
                displayed_url(engine), None, HEAD, None, None
            )  # opening it would make it
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
            newest = max((moment for moment in row if moment is not None), default=None)
            found = None if newest is None else datetime.fromtimestamp(newest / 1e6, UTC)
            return StoreStatus(displayed_url(engine), version_of(connection), HEAD, clock, found)
    finally:
        engine.dispose()
