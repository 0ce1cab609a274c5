"""Rejected lines and records in the store, with the reasons."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import Protocol

import pandas as pd
from sqlalchemy import Connection, Engine, select

from jobs.store.database import read_connection
from jobs.store.frames import index_key, read_rows, write_rows
from jobs.store.tables import rejects as table

LONGEST_REASON, LONGEST_RAW = 500, 2000
"""Characters of a reason and of a text that are stored."""


class RejectedLine(Protocol):
    """A line or record number of a file, why it was rejected, and its text."""

    @property
    def line(self) -> int: ...  # noqa: D102
    @property
    def reason(self) -> str: ...  # noqa: D102
    @property
    def raw(self) -> str: ...  # noqa: D102


def add_rejects(
    connection: Connection,
    file: str | Path,
    rejects: Iterable[RejectedLine],
    seen_at: datetime | None = None,
    window: str = "",
) -> None:
    """Store the rejected lines of a file; a line rejected before for the same reason is kept once.

    Args:
        connection: the caller's transaction.
        file: the file, stored as its absolute path.
        rejects: its rejected lines.
        seen_at: when they were rejected; default now.
        window: stored instead of ``file`` where the file is one window of a longer record; a text
            that another window had, rejected for the same reason, is not stored again.
    """
    rows = [
        (reject.line, _reason(reject.reason), _clean(reject.raw, LONGEST_RAW)) for reject in rejects
    ]
    if window and rows:
        query = select(table.c.reason, table.c.raw).where(
            table.c.raw.in_(sorted({raw for _, _, raw in rows}))
        )
        stored = {(reason, raw) for reason, raw in connection.execute(query)}
        rows = [row for row in rows if row[1:] not in stored]
    frame = pd.DataFrame(rows, columns=["line", "reason", "raw"])
    frame = frame.assign(
        file=_file(window or Path(file).absolute()),
        seen_at=pd.Timestamp(seen_at or datetime.now(UTC)),
    )
    write_rows(connection, table, frame, overwrite=False)


def stored_bytes(reject: RejectedLine) -> int:
    """The bytes that a reject's text takes in the store."""
    return len(_clean(reject.raw, LONGEST_RAW).encode())


def _clean(text: str, longest: int) -> str:
    """``text`` cut to length, with question marks for what is not UTF-8."""
    return text[:longest].encode("utf-8", "replace").decode("utf-8")


def _reason(text: str) -> str:
    return index_key(table.c.reason, _clean(text, LONGEST_REASON))


def _file(file: str | Path) -> str:
    return index_key(table.c.file, _clean(str(file), LONGEST_RAW))


def read_rejects(
    engine: Engine, *, file: str | Path | None = None, limit: int | None = None
) -> pd.DataFrame:
    """Read rejected lines (file, line, reason, raw, seen_at), by file and line.

    Args:
        engine: the store.
        file: only lines of this file.
        limit: at most that many, the first.
    """
    query = select(table).order_by(table.c.file, table.c.line, table.c.reason).limit(limit)
    if file is not None:
        query = query.where(table.c.file == _file(Path(file).absolute()))
    with read_connection(engine) as connection:
        return read_rows(connection, query)
