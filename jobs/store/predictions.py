"""The prediction log in the store, to be joined with the outcomes of the predicted jobs."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from sqlalchemy import ColumnElement, Connection, Engine, and_, exists, func, or_, select

from jobs.store.claims import in_days, key_moments
from jobs.store.database import snapshot_connection
from jobs.store.frames import (
    Moment,
    as_microseconds,
    is_one_of,
    read_rows,
    write_rows,
    write_values,
)
from jobs.store.merging import RECYCLED_AFTER
from jobs.store.tables import KEYS
from jobs.store.tables import jobs as jobs_table
from jobs.store.tables import predictions as table


def add_predictions(
    connection: Connection, predictions: pd.DataFrame | Mapping[str, Sequence[Any]]
) -> None:
    """Log predictions, one row per job and target, with the columns of ``tables.predictions``.

    Logging one again changes nothing. Plain values by column (see ``frames.write_values``) take a
    fraction of the time of a DataFrame, during which the predictor cannot answer.
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
    """Read logged predictions, by (asked_at, source, job_id, target, model_version).

    Args:
        engine: the store.
        target: only predictions of this target.
        since: only predictions made at this time or later.
        until: only predictions made before this time.
        ended: only predictions of jobs that have ended (True), or have not or are unknown (False).
        ended_since: only predictions of jobs that ended at this time or later.
        ended_until: only predictions of jobs that ended before this time.
        columns: fields of the job to add, missing where the store does not have the job.
        limit: at most that many, the first.
    """
    same_job = and_(jobs_table.c.source == table.c.source, jobs_table.c.job_id == table.c.job_id)
    query = select(table, *(jobs_table.c[name] for name in columns if name not in table.c))
    logged, ends = [], []
    if target is not None:
        logged.append(table.c.target == target)
    if since is not None:
        logged.append(table.c.asked_at >= as_microseconds(since))
    if until is not None:
        logged.append(table.c.asked_at < as_microseconds(until))
    if ended is not None:
        query = query.where(
            jobs_table.c.ended_at.is_not(None) if ended else jobs_table.c.ended_at.is_(None)
        )
    if ended_since is not None:
        ends.append(jobs_table.c.ended_at >= as_microseconds(ended_since))
    if ended_until is not None:
        ends.append(jobs_table.c.ended_at < as_microseconds(ended_until))
    query = (
        query.where(*logged, *ends)
        .order_by(
            table.c.asked_at, table.c.source, table.c.job_id, table.c.target, table.c.model_version
        )
        .limit(limit)
    )
    with snapshot_connection(engine) as connection:
        days: tuple[ColumnElement[bool], ...] = ()
        if since is not None or until is not None:
            days = _days_of_jobs(connection, *logged)
        elif ended_since is not None:
            # The index of ends is read in each partition, rows in those of these days alone.
            submissions = connection.execute(select(jobs_table.c.submitted_at).where(*ends))
            moments = np.fromiter(submissions.scalars(), np.int64)
            days = in_days(jobs_table, moments)
        joined = table.outerjoin(jobs_table, and_(same_job, *days))
        return read_rows(connection, query.select_from(joined))


def _days_of_jobs(
    connection: Connection, *conditions: ColumnElement[bool]
) -> tuple[ColumnElement[bool], ...]:
    """The condition that a job was submitted on a day of those of some predictions.

    Args:
        connection: a connection to one moment of the store: a corrected submission moves a job.
        conditions: which predictions.
    """
    keys = KEYS[jobs_table.name].c
    of_job = (keys[name] == table.c[name] for name in ("source", "job_id"))
    has_prediction = exists().where(*of_job, *conditions)
    return in_days(jobs_table, key_moments(connection, jobs_table, has_prediction))


_IS_PREDICTION = and_(
    # Missing in rows of earlier versions; a job that has not ended has revision 0.
    or_(
        table.c.known_revision.is_(None),
        jobs_table.c.revision == 0,
        jobs_table.c.revision > table.c.known_revision,
    ),
    table.c.shadow.is_not(True),
)
"""Made before the job's end was known, and given to a caller."""


def _may_be_of(submitted_at: int) -> ColumnElement[bool]:
    """Whether a prediction may be of a job: those of long before are of another of that id."""
    longest = int(RECYCLED_AFTER / pd.Timedelta("1us"))
    return table.c.asked_at >= int(submitted_at) - longest


_BY_JOB = (table.c.source, table.c.job_id, table.c.target, table.c.asked_at)


def read_predictions_of(
    engine: Engine, source: str, job_ids: Sequence[str], targets: Sequence[str] = ()
) -> pd.DataFrame:
    """Read the predictions of some jobs made before their end was known, by job, target and time.

    Args:
        engine: the store.
        source: the source of the jobs.
        job_ids: the jobs, some hundreds at most.
        targets: only predictions of these targets; default all.
    """
    same_job = and_(jobs_table.c.source == table.c.source, jobs_table.c.job_id == table.c.job_id)
    query = select(table).select_from(table.join(jobs_table, same_job))
    keys = KEYS[jobs_table.name].c
    with snapshot_connection(engine) as connection:
        of_keys = is_one_of(connection, keys.job_id, list(job_ids))
        moments = key_moments(connection, jobs_table, keys.source == source, of_keys)
        of_jobs = is_one_of(connection, table.c.job_id, list(job_ids))
        query = query.where(table.c.source == source, of_jobs, _IS_PREDICTION)
        query = query.where(*in_days(jobs_table, moments))
        if moments is not None and len(moments):
            query = query.where(_may_be_of(moments.min()))
        if targets:
            query = query.where(table.c.target.in_(list(targets)))
        return read_rows(connection, query.order_by(*_BY_JOB))


def read_predicted_and_actual(
    engine: Engine,
    targets: Sequence[str],
    columns: Sequence[str],
    *,
    since: Moment,
    until: Moment,
    limit: int,
    having: Mapping[str, str] | None = None,
) -> pd.DataFrame:
    """Read the predictions of the jobs that ended last, made before their ends were known.

    Args:
        engine: the store.
        targets: only predictions of these targets.
        columns: fields of the job to add.
        since: only jobs that ended at this time or later.
        until: only jobs that ended before this time.
        limit: at most that many jobs, the latest, are looked at.
        having: of these only the jobs with these values, by column.

    Returns:
        Each job's first prediction of a target, by the job's end.
    """
    latest = (
        select(jobs_table)
        .where(jobs_table.c.ended_at >= as_microseconds(since))
        .where(jobs_table.c.ended_at < as_microseconds(until))
        .where(jobs_table.c.submitted_at < as_microseconds(until))  # no later partition
        .order_by(jobs_table.c.ended_at.desc())
        .limit(limit)
        .subquery()
    )
    job = latest.c
    made_before = or_(table.c.known_revision.is_(None), job.revision > table.c.known_revision)
    same_job = and_(job.source == table.c.source, job.job_id == table.c.job_id)
    query = (
        select(table, *(job[name] for name in columns if name not in table.c))
        .select_from(latest.join(table, same_job))
        .where(table.c.target.in_(list(targets)), made_before, table.c.shadow.is_not(True))
    )
    for name, value in (having or {}).items():
        query = query.where(job[name] == value)
    query = query.order_by(job.ended_at, *_BY_JOB)
    kinds = {name: jobs_table.c[name].info["kind"] for name in columns}
    with snapshot_connection(engine) as connection:
        first = connection.execute(select(func.min(job.submitted_at))).scalar()
        rows = read_rows(connection, query.where(_may_be_of(first or 0)), **kinds)
    return rows.drop_duplicates(["source", "job_id", "target"], ignore_index=True)


def read_canary_answers(
    engine: Engine,
    canary: str,
    champion: str,
    columns: Sequence[str],
    *,
    since: Moment,
    limit: int,
) -> pd.DataFrame:
    """Read what the canary answered beside what the champion predicted of the same jobs then.

    Args:
        engine: the store.
        canary: the version that answered.
        champion: the version beside it.
        columns: fields of the job to add, missing where the store does not have the job.
        since: only answers given at this time or later.
        limit: at most that many rows, the first.

    Returns:
        Each job's first answer of a target that neither made knowing the job's end, by time, with
        the ``champion_point``.
    """
    theirs = table.alias("theirs")
    pair = and_(
        *(theirs.c[name] == table.c[name] for name in ("source", "job_id", "target", "asked_at"))
    )
    same_job = and_(jobs_table.c.source == table.c.source, jobs_table.c.job_id == table.c.job_id)
    made_before = [
        or_(
            jobs_table.c.revision.is_(None),
            jobs_table.c.revision == 0,
            jobs_table.c.revision > rows.c.known_revision,
        )
        for rows in (table, theirs)
    ]
    of_canary = (
        table.c.model_version == canary,
        table.c.shadow.is_not(True),
        table.c.asked_at >= as_microseconds(since),
    )
    names = ("source", "job_id", "target", "asked_at", "point")
    query = (
        select(
            *(table.c[name] for name in names),
            theirs.c.point.label("champion_point"),
            *(jobs_table.c[name] for name in columns if name not in table.c),
        )
        .where(*of_canary, *made_before)
        .where(theirs.c.model_version == champion, theirs.c.shadow.is_(True))
        .where(theirs.c.asked_at >= as_microseconds(since))
        .order_by(table.c.asked_at, table.c.source, table.c.job_id, table.c.target)
        .limit(limit)
    )
    with snapshot_connection(engine) as connection:
        days = _days_of_jobs(connection, *of_canary)
        pairs = table.join(theirs, pair).outerjoin(jobs_table, and_(same_job, *days))
        rows = read_rows(connection, query.select_from(pairs), champion_point="number")
    return rows.drop_duplicates(["source", "job_id", "target"], ignore_index=True)
