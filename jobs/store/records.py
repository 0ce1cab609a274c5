"""Records in the store: jobs, and transfers, which are stored in the same way."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, Connection, Engine, Select, delete, func, select

from infra.aliases import Flags
from jobs.owners import NotOwnedError, Owners
from jobs.schema import JOB, Record
from jobs.store import audit
from jobs.store.attempts import update_attempts
from jobs.store.claims import (
    claim,
    drop_claims,
    in_days,
    key_moments,
    last_revision,
    next_revision,
    stored_conditions,
    update_claims,
)
from jobs.store.database import read_connection
from jobs.store.frames import (
    Moment,
    as_microseconds,
    conditions_by_source,
    microseconds,
    read_rows,
    write_rows,
)
from jobs.store.merging import (
    RECYCLED_MARK,
    align_outcomes,
    differs,
    is_other_attempt,
    merge,
    merge_repeated,
    separate_recycled,
    stage,
)
from jobs.store.retention import retention_start
from jobs.store.tables import KEYS, RECORDS


@dataclass(frozen=True)
class AddResult:
    """What became of a batch, in distinct jobs.

    ``ended`` are the stored rows of the jobs that ended with this batch, all of one ``revision``.
    ``outdated`` counts, of the unchanged, unknown jobs from before the start of retention;
    ``attempts`` the reports of earlier runs of jobs that ran again.
    """

    added: int
    updated: int
    unchanged: int
    revision: int
    ended: pd.DataFrame = field(repr=False, compare=False)
    outdated: int = 0
    attempts: int = 0


def add_jobs(
    connection: Connection,
    jobs: pd.DataFrame,
    record: Record = JOB,
    owners: Owners | None = None,
) -> AddResult:
    """Store jobs, each merged with what is stored of it (see ``jobs.store.merging``).

    Adding the same rows again changes nothing. The caller's transaction (``with engine.begin()``)
    makes it all or nothing. It has one call for each kind of record: all writers claim the jobs of
    a call in one order, and those of two calls could wait for each other.

    Args:
        connection: the caller's transaction.
        jobs: conformed and checked rows (see ``jobs.schema``).
        record: the kind of record.
        owners: whose jobs may be added and changed; None: everybody's.

    Raises:
        NotOwnedError: a job, as reported or as stored, belongs to others.
    """
    table, identity = RECORDS[record.name], list(record.identity)
    reports = jobs[list(record.columns)].reset_index(drop=True)
    stored, has_keys = _claim_and_read(connection, reports, record)
    variants = partial(_variants, connection, record)
    named = separate_recycled(reports, stored, variants, record)
    if named is not reports:
        stored, has_keys = _claim_and_read(connection, named, record)
    jobs = merge_repeated(named, record).reset_index(drop=True)
    # The stored row of each job, -1 for none.
    stored_row = np.full(len(jobs), -1)
    if len(stored):
        keys = pd.MultiIndex.from_frame(jobs[identity])
        stored_row = pd.MultiIndex.from_frame(stored[identity]).get_indexer(keys)
    is_new = stored_row < 0
    is_recent = (jobs["submitted_at"] >= retention_start(connection)).to_numpy(bool)
    new, outdated = _rows(jobs, is_new & is_recent), _rows(jobs, is_new & ~is_recent)
    reported = _rows(jobs, ~is_new)
    before = stored.iloc[stored_row[~is_new]].set_axis(reported.index)
    if owners is not None and not (owners.own(jobs).all() and owners.own(before).all()):
        raise NotOwnedError(f"a job does not belong to {owners}; nothing was kept")
    ended, changed = _rows(new, new["ended_at"].notna().to_numpy(bool)), np.empty(0, bool)
    if len(reported):
        after = merge(before, reported, record)
        changed = differs(before, after, record)
        is_earlier = is_other_attempt(before, after)
        ended_now = (stage(after) == 3) & ((stage(before) < 3) | is_earlier)
        ended = pd.concat([ended, after[ended_now]]).sort_index()

    revision = next_revision(connection, table) if len(ended) else 0
    new_rows = new.assign(revision=revision * new["ended_at"].notna())
    write_rows(connection, table, new_rows, overwrite=True, new=True)
    drop_claims(connection, table, outdated)
    outcomes, earlier_attempts = new, 0
    if len(reported):
        outcomes = pd.concat([new, after])
        # A corrected submission may belong to another month (see ``jobs.store.partitions``).
        moved = before[changed & (before["submitted_at"] != after["submitted_at"])]
        of_days = in_days(table, microseconds(moved["submitted_at"]))
        for condition in conditions_by_source(connection, table, moved):
            connection.execute(delete(table).where(*condition, *of_days))
        rows = after.assign(revision=before["revision"].mask(ended_now, revision))
        write_rows(connection, table, rows[changed], overwrite=True)
    if has_keys or len(named) > len(jobs):
        update_claims(connection, table, outcomes)
    if len(reported) or len(named) > len(jobs):
        earlier = named[is_other_attempt(named, align_outcomes(named, outcomes, record))]
        earlier_attempts = len(earlier)
        if record is JOB:
            runs = pd.concat([earlier, before[is_earlier]]) if len(reported) else earlier
            update_attempts(
                connection, runs, outcomes, after[changed] if len(reported) else outcomes.iloc[:0]
            )
    return AddResult(
        len(new),
        int(changed.sum()),
        int((~changed).sum()) + len(outdated),
        revision,
        ended.reset_index(drop=True),
        len(outdated),
        earlier_attempts,
    )


def add_counted(
    connection: Connection,
    jobs: pd.DataFrame,
    action: str,
    name: str,
    record: Record = JOB,
    owners: Owners | None = None,
) -> AddResult:
    """Store jobs as ``add_jobs`` does, and count those that changed in the audit log.

    Args:
        connection: the caller's transaction.
        jobs: conformed and checked rows.
        action: the action of the audit log.
        name: the object of the audit log.
        record: the kind of record.
        owners: whose jobs may be added and changed; None: everybody's.
    """
    added = add_jobs(connection, jobs, record, owners)
    if changed := added.added + added.updated:
        audit.count(connection, action, name, records=changed)
    return added


def _rows(frame: pd.DataFrame, mask: Flags) -> pd.DataFrame:
    """The rows of a mask; the frame itself for all of them."""
    return frame if mask.all() else frame[mask]


def _claim_and_read(
    connection: Connection, jobs: pd.DataFrame, record: Record
) -> tuple[pd.DataFrame, bool]:
    """Claim the jobs of reports for this transaction.

    Returns:
        Their stored rows, and whether there were keys of some of them.
    """
    table = RECORDS[record.name]
    moments = claim(connection, table, jobs)
    frames = [
        read_rows(connection, select(table).where(*condition, *in_days(table, moments)))
        for condition in conditions_by_source(connection, table, jobs)
        if moments is None or len(moments)
    ]
    frames = [frame for frame in frames if len(frame)]
    stored = pd.concat(frames, ignore_index=True) if frames else jobs.iloc[:0]
    return stored, moments is not None and len(moments) > 0


def _variants(connection: Connection, record: Record, source: str, job_id: str) -> pd.DataFrame:
    """The rows of jobs that had an id again (see ``separate_recycled``)."""
    table, name = RECORDS[record.name], record.identity[1]
    begin = f"{job_id}{RECYCLED_MARK}"
    # The next character after the mark bounds the names that begin with it.
    end = f"{job_id}{chr(ord(RECYCLED_MARK) + 1)}"

    def of_variants(columns: Any) -> tuple[ColumnElement[bool], ...]:
        return columns.source == source, columns[name] >= begin, columns[name] < end

    moments = key_moments(connection, table, *of_variants(KEYS[table.name].c))
    query = select(table).where(*of_variants(table.c), *in_days(table, moments))
    return read_rows(connection, query)


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
    """Read jobs, by (submitted_at, source, job_id), in the schema's types.

    Args:
        engine: the store.
        sources: only jobs of these sources.
        since: only jobs submitted at this time or later.
        until: only jobs submitted before this time.
        ended: only jobs that have ended (True) or have not (False).
        columns: the columns to read; default all.
        limit: at most that many, the first.
        record: the kind of record.
        having: only jobs with these values, by column.
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
    query = query.order_by(table.c.submitted_at, table.c.source, table.c[record.identity[1]])
    identity = {name: value for name, value in (having or {}).items() if name in record.identity}
    with read_connection(engine) as connection:
        if record.identity[1] in identity:
            keys = KEYS[table.name].c
            of_keys = (keys[name] == value for name, value in identity.items())
            query = query.where(*in_days(table, key_moments(connection, table, *of_keys)))
        return read_rows(connection, query.limit(limit))


def read_latest(
    engine: Engine, count: int, record: Record = JOB, open_for: float = 0.0
) -> pd.DataFrame:
    """Read the records submitted last, after older ones that are still open.

    Args:
        engine: the store.
        count: how many of the latest to read, ended or not.
        record: the kind of record.
        open_for: also read those without an end that were submitted at most so many seconds before.
    """
    table = RECORDS[record.name]
    query = (
        select(table.c.submitted_at)
        .order_by(table.c.submitted_at.desc())
        .offset(count - 1)
        .limit(1)
    )
    with read_connection(engine) as connection:
        since = connection.execute(query).scalar()
    if since is None:
        return read_jobs(engine, record=record)
    begin = pd.Timestamp(since, unit="us", tz="UTC")
    still_open = read_jobs(
        engine, since=begin - pd.Timedelta(open_for, "s"), until=begin, ended=False, record=record
    )
    latest = read_jobs(engine, since=begin, record=record)
    return pd.concat([still_open, latest], ignore_index=True) if len(still_open) else latest


def read_newest(
    engine: Engine,
    count: int,
    source: str | None = None,
    columns: Sequence[str] | None = None,
) -> pd.DataFrame:
    """Read the jobs submitted last, the newest first.

    Args:
        engine: the store.
        count: at most that many.
        source: only of this source.
        columns: the columns to read; default all.
    """
    table = RECORDS[JOB.name]
    query = select(*(table.c[name] for name in columns or JOB.columns))
    if source is not None:
        query = query.where(table.c.source == source)
    query = query.order_by(table.c.submitted_at.desc(), table.c.job_id).limit(count)
    with read_connection(engine) as connection:
        return read_rows(connection, query)


def read_unique_contexts(
    engine: Engine,
    fields: Sequence[str],
    *,
    since: Moment,
    sources: Sequence[str] | None = None,
    limit: int | None = None,
) -> pd.DataFrame:
    """Read the distinct values of ``fields``, the commonest first.

    Args:
        engine: the store.
        fields: the columns to group by.
        since: only jobs submitted at this time or later.
        sources: only jobs of these sources.
        limit: at most that many, the commonest.

    Returns:
        ``fields``, ``submitted_at`` of the latest job, the number of ``jobs``, and the ``longest``
        run time (s) of those that ended.
    """
    table, jobs = RECORDS[JOB.name], func.count().label("jobs")
    columns = [table.c[name] for name in fields]
    latest = func.max(table.c.submitted_at).label("submitted_at")
    longest = func.max(table.c.walltime).label("longest")
    query = select(*columns, latest, jobs, longest).where(
        table.c.submitted_at >= as_microseconds(since)
    )
    if sources is not None:
        query = query.where(table.c.source.in_(list(sources)))
    query = query.group_by(*columns).order_by(jobs.desc(), *columns).limit(limit)
    with read_connection(engine) as connection:
        return read_rows(connection, query, submitted_at="time", jobs="count", longest="number")


def read_highest_requests(engine: Engine, source: str) -> pd.DataFrame:
    """Read the highest requests of each user's programs over all stored jobs of a source.

    Args:
        engine: the store.
        source: the source.

    Returns:
        ``user``, ``program`` (or ``job_name`` where there is none), the highest
        ``requested_memory`` (bytes) and ``requested_walltime`` (s).
    """
    columns = RECORDS[JOB.name].c
    names = columns.user, func.coalesce(columns.program, columns.job_name)
    highest = (
        func.max(columns[name]).label(name) for name in ("requested_memory", "requested_walltime")
    )
    query = select(names[0], names[1].label("program"), *highest)
    with read_connection(engine) as connection:
        return read_rows(
            connection,
            query.where(columns.source == source).group_by(*names),
            program="text",
            requested_memory="number",
            requested_walltime="number",
        )


def read_ended(engine: Engine, after: int = 0, record: Record = JOB) -> pd.DataFrame:
    """Read the jobs whose end the store learned after a revision, by ended_at.

    Beside the schema's columns there is ``revision``; its largest value is the ``after`` of the
    next call: no smaller one is committed later. Revisions after that of a transaction in progress
    are left out until it ends.

    Args:
        engine: the store.
        after: a revision.
        record: the kind of record.
    """
    table = RECORDS[record.name]
    query = select(*(table.c[name] for name in record.columns), table.c.revision).where(
        # A job that ended and was queued again keeps its revision but has no end.
        table.c.revision > after,
        table.c.ended_at.is_not(None),
    )
    with read_connection(engine) as connection:
        query = query.where(table.c.revision <= last_revision(connection, table))
        # Sorted here: for an order by ended_at SQLite would read all jobs that ever ended.
        rows = read_rows(connection, query.order_by(table.c.revision))
    return rows.sort_values("ended_at", kind="stable", ignore_index=True)


def read_ended_at(engine: Engine, moments: Iterable[int]) -> pd.DataFrame:
    """Read source, job_id, user, group and ended_at of the jobs that ended at ``moments``.

    ``moments`` are microseconds since 1970; the rows are sorted by source and job_id.
    """
    table = RECORDS[JOB.name]
    columns = (table.c[name] for name in ("source", "job_id", "user", "group", "ended_at"))
    ends = sorted(set(moments))
    # No later partition has such a job.
    query = select(*columns).where(
        table.c.ended_at.in_(ends), table.c.submitted_at <= max(ends, default=0)
    )
    with read_connection(engine) as connection:
        return read_rows(connection, query.order_by(table.c.source, table.c.job_id))


def read_owners(connection: Connection, identities: pd.DataFrame) -> pd.DataFrame:
    """Read source, job_id, user and group of the stored ones of some jobs.

    Args:
        connection: a connection.
        identities: rows with source and job_id.
    """
    table = RECORDS[JOB.name]
    columns = [table.c[name] for name in ("source", "job_id", "user", "group")]
    frames = [
        read_rows(connection, select(*columns).where(*condition))
        for condition in stored_conditions(connection, table, identities)
    ]
    return pd.concat(frames) if frames else pd.DataFrame(columns=[c.name for c in columns])


def first_ended_of(engine: Engine, revision: int) -> tuple[str, str, int] | None:
    """Source, job_id and ended_at (microseconds since 1970) of the first job of a revision.

    None where the revision has no job.
    """
    table = RECORDS[JOB.name]
    # Without the offset PostgreSQL may scan all jobs by source and job_id for one of the revision.
    rows = (
        select(table.c.source, table.c.job_id, table.c.ended_at)
        .where(table.c.revision == revision, table.c.ended_at.is_not(None))
        .offset(0)
        .subquery()
    )
    query = select(rows).order_by(rows.c.source, rows.c.job_id).limit(1)
    with read_connection(engine) as connection:
        row = connection.execute(query).first()
    return None if row is None else (str(row[0]), str(row[1]), int(row[2]))


def has_ended_after(engine: Engine, after: int, record: Record = JOB) -> bool:
    """Whether ``read_ended`` may have something after ``after``, in a tenth of its time.

    Args:
        engine: the store.
        after: a revision.
        record: the kind of record.
    """
    return read_revision(engine, record) > after


def read_revision(engine: Engine, record: Record = JOB) -> int:
    """The newest revision that can be followed, 0 where no record has ended."""
    with read_connection(engine) as connection:
        return last_revision(connection, RECORDS[record.name])


def count_jobs(engine: Engine, record: Record = JOB) -> pd.DataFrame:
    """Count the jobs of each source.

    Returns source, jobs, ended, first_submitted_at, last_submitted_at and last_ended_at.
    """
    table = RECORDS[record.name]
    computed = {
        "jobs": ("count", func.count()),
        "ended": ("count", func.count(table.c.ended_at)),
        "first_submitted_at": ("time", func.min(table.c.submitted_at)),
        "last_submitted_at": ("time", func.max(table.c.submitted_at)),
        "last_ended_at": ("time", func.max(table.c.ended_at)),
    }
    query = select(
        table.c.source, *(column.label(name) for name, (_, column) in computed.items())
    ).group_by(table.c.source)
    kinds = {name: kind for name, (kind, _) in computed.items()}
    with read_connection(engine) as connection:
        return read_rows(connection, query.order_by(table.c.source), **kinds)
