"""Earlier attempts of jobs in the store: ended runs that are not their job's outcome.

Of a job that was preempted, evicted, lost with its node or queued again, the last run is the
outcome (see ``jobs.store.merging``); each earlier one is a row of ``attempts``, in whatever order
the reports arrive.
"""

from __future__ import annotations

import pandas as pd
from sqlalchemy import Connection, Engine, and_, delete, or_, select

from jobs.schema import JOB, conform
from jobs.store.database import read_connection
from jobs.store.frames import as_microseconds, conditions_by_source, read_rows, write_rows
from jobs.store.merging import align_outcomes, is_other_attempt, merge_runs
from jobs.store.tables import ATTEMPT_FIELDS, attempts

_IDENTITY = list(JOB.identity)
_KEY = [*_IDENTITY, "ended_at"]
_BATCH = 200
"""Rows that one statement deletes: databases limit the depth of its expression."""


def update_attempts(
    connection: Connection, earlier: pd.DataFrame, outcomes: pd.DataFrame, changed: pd.DataFrame
) -> None:
    """Store earlier runs of jobs; a stored one again changes nothing.

    Args:
        connection: the caller's transaction, which has claimed the jobs.
        earlier: reports of ended runs that are not their job's outcome, any number of each run.
        outcomes: the stored row of each job.
        changed: those of ``outcomes`` that were stored before and differ now: a stored attempt may
            be the same run.
    """
    concerned = pd.concat([earlier[_IDENTITY], changed[_IDENTITY]]).drop_duplicates()
    if concerned.empty:
        return
    stored = _read(connection, concerned)
    still_earlier = conform(stored[is_other_attempt(stored, align_outcomes(stored, outcomes))])
    merged = merge_runs(pd.concat([still_earlier, earlier[list(JOB.columns)]], ignore_index=True))
    merged = merged[list(ATTEMPT_FIELDS)]
    hashes = pd.util.hash_pandas_object(stored, index=False)
    write_rows(
        connection,
        attempts,
        merged[~pd.util.hash_pandas_object(merged, index=False).isin(hashes)],
        overwrite=True,
    )
    keys = pd.MultiIndex.from_frame(merged[_KEY])
    gone = stored[~pd.MultiIndex.from_frame(stored[_KEY]).isin(keys)]
    for start in range(0, len(gone), _BATCH):
        rows = gone.iloc[start : start + _BATCH]
        conditions = [
            and_(
                attempts.c.source == source,
                attempts.c.job_id == job_id,
                attempts.c.ended_at == as_microseconds(ended_at),
            )
            for source, job_id, ended_at in zip(*(rows[name] for name in _KEY), strict=True)
        ]
        connection.execute(delete(attempts).where(or_(*conditions)))


def read_attempts(engine: Engine, jobs: pd.DataFrame) -> pd.DataFrame:
    """Read the earlier attempts of jobs, by source, job_id and ended_at.

    Args:
        engine: the store.
        jobs: rows with ``source`` and ``job_id``.
    """
    with read_connection(engine) as connection:
        rows = _read(connection, jobs)
    return rows.sort_values(_KEY, kind="stable", ignore_index=True)


def _read(connection: Connection, jobs: pd.DataFrame) -> pd.DataFrame:
    frames = [
        read_rows(connection, select(attempts).where(*condition))
        for condition in conditions_by_source(connection, attempts, jobs)
    ]
    frames = [frame for frame in frames if len(frame)]
    empty = conform(pd.DataFrame())[list(ATTEMPT_FIELDS)]
    return pd.concat(frames, ignore_index=True) if frames else empty
