"""Refused lines and records in the store, with their reasons."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pandas as pd
from sqlalchemy import Connection, Engine, select

from jobs.store.database import read_connection
from jobs.store.frames import read_rows, write_rows
from jobs.store.tables import rejects as table

LONGEST_REASON = 500
LONGEST_RAW = 2000


class Refused(Protocol):
    """A line or record number in a file, why it was refused, and its text."""

    @property
    def line(self) -> int: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def raw(self) -> str: ...  # noqa: D102


def add_rejects(
    connection: Connection,
    file: str | Path,
    rejects: Iterable[Refused],
    seen_at: datetime | None = None,
    window: str = "",
) -> None:
    """Keep the refused lines of ``file`` (by its absolute path); a line refused before for the same reason is not kept twice.

    Of a ``window`` of a longer record, kept under that name, a text that another one had and that was refused alike is not kept again.
    """
    rows = [
        (reject.line, _clean(reject.reason, LONGEST_REASON), _clean(reject.raw, LONGEST_RAW))
        for reject in rejects
    ]
    if window and rows:
        among = table.c.raw.in_(sorted({raw for _, _, raw in rows}))
        known = {
            (reason, raw)
            for reason, raw in connection.execute(select(table.c.reason, table.c.raw).where(among))
        }
        rows = [row for row in rows if row[1:] not in known]
    frame = pd.DataFrame(rows, columns=["line", "reason", "raw"])
    frame = frame.assign(
        file=_clean(window or str(Path(file).absolute()), LONGEST_RAW),
        seen_at=pd.Timestamp(seen_at or datetime.now(UTC)),
    )
    write_rows(connection, table, frame, overwrite=False)


def _clean(text: str, longest: int) -> str:
    """Cut to length and storable: what is not UTF-8 becomes a question mark."""
    return text[:longest].encode("utf-8", "replace").decode("utf-8")


def read_rejects(
    engine: Engine, *, file: str | Path | None = None, limit: int | None = None
) -> pd.DataFrame:
    """Read refused lines (file, line, reason, raw, seen_at), by file and line; of one ``file``, or of all."""
    query = select(table).order_by(table.c.file, table.c.line, table.c.reason).limit(limit)
    if file is not None:
        query = query.where(table.c.file == _clean(str(Path(file).absolute()), LONGEST_RAW))
    with read_connection(engine) as connection:
        return read_rows(connection, query)
