"""Job records in the store, and records of other kinds, of which all is true that is said of jobs."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field

import pandas as pd
from sqlalchemy import (
    ARRAY,
    ColumnElement,
    Connection,
    Engine,
    Select,
    Table,
    Text,
    any_,
    delete,
    func,
    literal,
    select,
)

from jobs.schema import JOB, Record
from jobs.store.database import lock_writers, read_connection
from jobs.store.frames import Moment, as_microseconds, read_rows, write_rows
from jobs.store.merging import differs, merge, merge_repeated, stage
from jobs.store.retention import retention_start
from jobs.store.tables import RECORDS


@dataclass(frozen=True)
class AddResult:
    """What became of a batch, in distinct jobs; ``ended`` are the rows as stored of those that ended by it, of one ``revision``.

    ``outdated``, of the unchanged, are unknown jobs of a time that is not kept any more (see ``jobs.store.retention``).
    """

    added: int
    updated: int
    unchanged: int
    revision: int
    ended: pd.DataFrame = field(repr=False, compare=False)
    outdated: int = 0


def add_jobs(connection: Connection, jobs: pd.DataFrame, record: Record = JOB) -> AddResult:
    """Store conformed and sorted-out ``jobs``, merging each with what is known of it (see ``jobs.store.merging``).

    Adding the same rows again changes nothing. The caller's transaction (``with engine.begin()``) makes it all or nothing.
    """
    # Held until the commit, so that whoever reads a revision has every smaller one.
    lock_writers(connection)
    table, identity = RECORDS[record.name], list(record.identity)
    jobs = merge_repeated(jobs[list(record.columns)].reset_index(drop=True), record).reset_index(
        drop=True
    )
    keys = pd.MultiIndex.from_frame(jobs[identity])
    stored = _stored(connection, jobs, record)
    # Which stored row belongs to each job, -1 for none.
    place = pd.MultiIndex.from_frame(stored[identity]).get_indexer(keys)
    kept = jobs["submitted_at"] >= retention_start(connection)
    new, outdated = jobs[(place < 0) & kept], int(((place < 0) & ~kept).sum())
    known = jobs[place >= 0]
    before = stored.iloc[place[place >= 0]].set_axis(known.index)
    after = merge(before, known, record)
    changed = differs(before, after, record)
    ended_now = (stage(after) == 3) & (stage(before) < 3)
    ended = pd.concat([new[new["ended_at"].notna()], after[ended_now]]).sort_index()

    revision = _newest_revision(connection, table) + 1 if len(ended) else 0
    told = new.dropna(axis="columns", how="all").assign(revision=revision * new["ended_at"].notna())
    write_rows(connection, table, told, overwrite=True, new=True)
    _take_out(
        connection, before[changed & (before["submitted_at"] != after["submitted_at"])], record
    )
    write_rows(
        connection,
        table,
        after.assign(revision=before["revision"].mask(ended_now, revision))[changed],
        overwrite=True,
    )
    unchanged = int((~changed).sum()) + outdated
    return AddResult(
        len(new), int(changed.sum()), unchanged, revision, ended.reset_index(drop=True), outdated
    )


def _newest_revision(connection: Connection, table: Table) -> int:
    return int(connection.execute(select(func.max(table.c.revision))).scalar() or 0)


def _stored(connection: Connection, jobs: pd.DataFrame, record: Record) -> pd.DataFrame:
    parts = [
        read_rows(connection, select(RECORDS[record.name]).where(*these))
        for these in _these(connection, jobs, record)
    ]
    parts = [part for part in parts if len(part)]
    return pd.concat(parts, ignore_index=True) if parts else jobs.iloc[:0].assign(revision=0)


def _take_out(connection: Connection, moved: pd.DataFrame, record: Record) -> None:
    """Take out rows whose submission is corrected: they may belong into another month now (see ``jobs.store.partitions``)."""
    for these in _these(connection, moved, record):
        connection.execute(delete(RECORDS[record.name]).where(*these))


def _these(
    connection: Connection, jobs: pd.DataFrame, record: Record
) -> Iterator[tuple[ColumnElement[bool], ...]]:
    """For each source of ``jobs``, what is true of their rows and no others."""
    table, (_, name) = RECORDS[record.name], record.identity
    for source, ids in jobs.groupby("source", sort=False)[name]:
        yield table.c.source == source, _among(connection, table.c[name], ids.tolist())


def _among(
    connection: Connection, column: ColumnElement[str], ids: list[str]
) -> ColumnElement[bool]:
    """Whether the ``column`` is one of ``ids``, all in one parameter: each database has a limit of its own on their number."""
    if connection.dialect.name == "postgresql":
        return column == any_(literal(ids, ARRAY(Text)))
    return column.in_(select(func.json_each(json.dumps(ids)).table_valued("value").c.value))


def read_jobs(
    engine: Engine,
    *,
    sources: Sequence[str] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
    ended: bool | None = None,
    columns: Sequence[str] | None = None,
    limit: int | None = None,
    record: Record = JOB,
    having: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Read jobs submitted from ``since`` to before ``until``, by (submitted_at, source, job_id).

    ``ended`` keeps only those that have ended, or only the others, ``having`` those with these values; ``columns`` (default all) come in
    the schema's types.
    """
    table = RECORDS[record.name]
    names = list(record.columns) if columns is None else list(columns)
    query: Select[tuple[object, ...]] = select(*(table.c[name] for name in names))
    if sources is not None:
        query = query.where(table.c.source.in_(list(sources)))
    for name, value in (having or {}).items():
        query = query.where(table.c[name] == value)
    if since is not None:
        query = query.where(table.c.submitted_at >= as_microseconds(since))
    if until is not None:
        query = query.where(table.c.submitted_at < as_microseconds(until))
    if ended is not None:
        query = query.where(table.c.ended_at.is_not(None) if ended else table.c.ended_at.is_(None))
    query = query.order_by(table.c.submitted_at, table.c.source, table.c[record.identity[1]]).limit(
        limit
    )
    with read_connection(engine) as connection:
        return read_rows(connection, query)


def read_latest(
    engine: Engine, count: int, record: Record = JOB, open_for: float = 0.0
) -> pd.DataFrame:
    """The ``count`` records submitted last, in the order of ``read_jobs``; before them those not seen to end that were submitted at most
    ``open_for`` s earlier."""
    table = RECORDS[record.name]
    newest = (
        select(table.c.submitted_at)
        .order_by(table.c.submitted_at.desc())
        .offset(count - 1)
        .limit(1)
    )
    with read_connection(engine) as connection:
        since = connection.execute(newest).scalar()
    if since is None:
        return read_jobs(engine, record=record)
    begin = pd.Timestamp(since, unit="us", tz="UTC")
    still = read_jobs(
        engine, since=begin - pd.Timedelta(open_for, "s"), until=begin, ended=False, record=record
    )
    last = read_jobs(engine, since=begin, record=record)
    return pd.concat([still, last], ignore_index=True) if len(still) else last


def read_unique_contexts(
    engine: Engine,
    fields: Sequence[str],
    *,
    since: Moment,
    sources: Sequence[str] | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """The kinds of job submitted since a moment, the commonest first: ``fields``, ``submitted_at`` of the latest, how many ``jobs``,
    and the ``longest`` run time (s) of those that ended.
    """
    table, jobs = RECORDS[JOB.name], func.count().label("jobs")
    columns = [table.c[name] for name in fields]
    latest, longest = (
        func.max(table.c.submitted_at).label("submitted_at"),
        func.max(table.c.walltime).label("longest"),
    )
    query = select(*columns, latest, jobs, longest).where(
        table.c.submitted_at >= as_microseconds(since)
    )
    if sources is not None:
        query = query.where(table.c.source.in_(list(sources)))
    query = query.group_by(*columns).order_by(jobs.desc(), *columns).limit(limit)
    with read_connection(engine) as connection:
        return read_rows(connection, query, submitted_at="time", jobs="count", longest="number")


def read_ended(engine: Engine, after: int = 0, record: Record = JOB) -> pd.DataFrame:
    """Read the jobs of which the store learned after revision ``after`` that they ended, by ended_at.

    Beside the schema's columns ``revision``, whose largest value is what to ask for next: none that is smaller comes later.
    """
    table = RECORDS[record.name]
    query = select(*(table.c[name] for name in record.columns), table.c.revision).where(
        table.c.revision > after
    )
    with read_connection(engine) as connection:
        # Asked for by ended_at, SQLite would go through all that ever ended.
        found = read_rows(connection, query.order_by(table.c.revision))
    return found.sort_values("ended_at", kind="stable", ignore_index=True)


def read_ended_at(engine: Engine, moments: Iterable[int]) -> pd.DataFrame:
    """The jobs that ended at one of ``moments`` (microseconds since 1970): source, job_id, ended_at, by source and job_id."""
    table = RECORDS[JOB.name]
    query = select(table.c.source, table.c.job_id, table.c.ended_at).where(
        table.c.ended_at.in_(sorted(set(moments)))
    )
    with read_connection(engine) as connection:
        return read_rows(connection, query.order_by(table.c.source, table.c.job_id))


def first_ended_of(engine: Engine, revision: int) -> tuple[str, str, int] | None:
    """Source, job_id and ended_at (microseconds since 1970) of the first job of a revision, None where there is none."""
    table = RECORDS[JOB.name]
    # Without the offset PostgreSQL may go through all jobs by source and job_id until it meets one of the revision.
    its = (
        select(table.c.source, table.c.job_id, table.c.ended_at)
        .where(table.c.revision == revision)
        .offset(0)
        .subquery()
    )
    with read_connection(engine) as connection:
        row = connection.execute(select(its).order_by(its.c.source, its.c.job_id).limit(1)).first()
    return None if row is None else (str(row[0]), str(row[1]), int(row[2]))


def has_ended_after(engine: Engine, after: int, record: Record = JOB) -> bool:
    """Whether ``read_ended`` would find any: a tenth of its time where it would not."""
    table = RECORDS[record.name]
    with read_connection(engine) as connection:
        return _newest_revision(connection, table) > after


def count_jobs(engine: Engine, record: Record = JOB) -> pd.DataFrame:
    """Jobs a source: source, jobs, ended, first_submitted_at, last_submitted_at, last_ended_at."""
    table = RECORDS[record.name]
    query = (
        select(
            table.c.source,
            func.count().label("jobs"),
            func.count(table.c.ended_at).label("ended"),
            func.min(table.c.submitted_at).label("first_submitted_at"),
            func.max(table.c.submitted_at).label("last_submitted_at"),
            func.max(table.c.ended_at).label("last_ended_at"),
        )
        .group_by(table.c.source)
        .order_by(table.c.source)
    )
    with read_connection(engine) as connection:
        return read_rows(
            connection,
            query,
            jobs="count",
            ended="count",
            first_submitted_at="time",
            last_submitted_at="time",
            last_ended_at="time",
        )
