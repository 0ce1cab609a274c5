"""Rows of the store as Arrow batches, for files that others read."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import pyarrow as pa
from sqlalchemy import Engine, select

from jobs.store.database import read_connection
from jobs.store.frames import Moment, as_microseconds, read_batches
from jobs.store.tables import attempts, jobs, predictions, transfers

EXPORTED = {
    table.name: (table, moment)
    for table, moment in (
        (jobs, "submitted_at"),
        (attempts, "submitted_at"),
        (transfers, "submitted_at"),
        (predictions, "asked_at"),
    )
}
"""What can be exported: the table of each kind, and the time by which it is selected and sorted."""


def export_batches(
    engine: Engine,
    kind: str,
    *,
    sources: Sequence[str] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> Iterator[pa.RecordBatch]:
    """Read all records of a kind, by time, source and id, without holding them all in memory.

    Args:
        engine: the store.
        kind: ``jobs``, ``attempts``, ``transfers`` or ``predictions``.
        sources: only records of these sources.
        since: only records submitted (predictions: made) at this time or later.
        until: only records submitted (predictions: made) before this time.

    Returns:
        Batches of one schema, at least one (which may be empty): texts, float64, flags, and times
        as timestamps in microseconds, UTC.
    """
    table, moment = EXPORTED[kind]
    query = select(*(column for column in table.columns if column.name != "revision"))
    if sources is not None:
        query = query.where(table.c.source.in_(list(sources)))
    if since is not None:
        query = query.where(table.c[moment] >= as_microseconds(since))
    if until is not None:
        query = query.where(table.c[moment] < as_microseconds(until))
    order = dict.fromkeys((moment, *(column.name for column in table.primary_key)))
    with read_connection(engine) as connection:
        yield from read_batches(connection, query.order_by(*(table.c[name] for name in order)))
