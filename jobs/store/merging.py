"""Merging of several reports of one job, in whatever order they arrive.

The report of the latest moment wins: the end of a job that ended, else its start, else its
submission. So the end of a run follows its start and submission, and a job that was preempted,
evicted or lost with its node and was queued or started again after that has no outcome until the
new attempt ends: the last attempt is the outcome. Of two reports of one moment the later
submission wins, then the later stage (ended, finished without a time, running, waiting), then the
greater outcome.

The winner gives the submission time and the whole outcome, so that these always agree with each
other. What was asked for is the winner's too, and where the winner has no value, the other's;
labels are merged so one by one.
Of a field that changes while a job waits (its priority) the value stays that came first of all
reports of one submission.

Batch systems give a job's id again to another job after months or years. Reports whose submissions
are ``RECYCLED_AFTER`` apart are of two jobs (see ``separate_recycled``).
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import pandas as pd

from jobs.labels import merge_labels
from jobs.schema import JOB, STATUSES, Record

FINISHED = ("completed", "failed", "cancelled", "timeout", "out_of_memory", "preempted")
# Of two statuses of the same stage the one that says more wins.
_STATUS_RANK = {
    "unknown": 0,
    **{status: rank for rank, status in enumerate(STATUSES, 1) if status != "unknown"},
}

RECYCLED_AFTER = pd.Timedelta(days=30)
"""Time from the end of a job (or its start or submission, if that is all) to the submission under
the same id that is another job's."""

RECYCLED_MARK = "@"
"""Between an id and the day of submission in the name of a job under a recycled id."""

Signs = np.ndarray[Any, np.dtype[np.int8]]


def separate_recycled(
    jobs: pd.DataFrame,
    stored: pd.DataFrame,
    variants: Callable[[str, str], pd.DataFrame] | None = None,
    record: Record = JOB,
) -> pd.DataFrame:
    """Give reports under a recycled id the names of their jobs: ``7``, ``7@2026-03-14``.

    Args:
        jobs: reports, any number of each job.
        stored: the rows stored under the same ids.
        variants: gives the rows stored under a source and names that begin with ``id@``.
        record: the kind of record.
    """
    key, name = list(record.identity), record.identity[1]
    affected = _recycled_in(jobs, key)
    if len(stored):
        stored_row = pd.MultiIndex.from_frame(stored[key]).get_indexer(
            pd.MultiIndex.from_frame(jobs[key])
        )
        both = jobs[stored_row >= 0]
        before = stored.iloc[stored_row[stored_row >= 0]].set_axis(both.index)
        affected |= set(both.loc[is_recycled(before, both), key].itertuples(index=False, name=None))
    if not affected:
        return jobs
    jobs = jobs.copy()
    keys = pd.Series(list(jobs[key].itertuples(index=False, name=None)), index=jobs.index)
    for source, job_id in affected:
        rows = jobs[keys == (source, job_id)].sort_values("submitted_at", kind="stable")
        same_id = [stored[(stored[key[0]] == source) & (stored[name] == job_id)]]
        same_id += [variants(source, job_id)] if variants else []
        spans = [
            [row.submitted_at, last, getattr(row, name)]
            for frame in same_id
            for row, last in zip(frame.itertuples(), _last_seen(frame), strict=True)
        ]
        for row, last in zip(rows.itertuples(), _last_seen(rows), strict=True):
            jobs.loc[row.Index, name] = _name_in(spans, job_id, row.submitted_at, last)
    return jobs


def _recycled_in(jobs: pd.DataFrame, key: list[str]) -> set[tuple[str, str]]:
    """The identities under which ``jobs`` has reports of several jobs."""
    repeated = jobs.duplicated(key, keep=False)
    if not repeated.any():
        return set()
    rows = jobs[repeated].sort_values([*key, "submitted_at"], kind="stable")
    keys = [rows[column] for column in key]
    last_seen = _last_seen(rows).groupby(keys, sort=False).cummax()
    gap = rows["submitted_at"] - last_seen.groupby(keys, sort=False).shift()
    return set(rows.loc[gap > RECYCLED_AFTER, key].itertuples(index=False, name=None))


def _name_in(spans: list[list[Any]], job_id: str, first: Any, last: Any) -> str:
    """The name of the job (first moment, last moment, name) near a report; a new one if none is."""
    for span in spans:
        if first - span[1] <= RECYCLED_AFTER and span[0] - last <= RECYCLED_AFTER:
            span[:2] = min(span[0], first), max(span[1], last)
            return str(span[2])
    name = (
        job_id
        if all(span[2] != job_id for span in spans)
        else f"{job_id}{RECYCLED_MARK}{first:%Y-%m-%d}"
    )
    spans.append([first, last, name])
    return name


def is_recycled(left: pd.DataFrame, right: pd.DataFrame) -> pd.Series[bool]:
    """Which rows of two aligned frames are reports of two jobs, of one id."""
    earlier = left["submitted_at"] <= right["submitted_at"]
    gap = (right["submitted_at"] - _last_seen(left)).where(
        earlier, left["submitted_at"] - _last_seen(right)
    )
    return gap > RECYCLED_AFTER


def _last_seen(jobs: pd.DataFrame) -> pd.Series[pd.Timestamp]:
    """The last moment that each report has of its job."""
    return jobs[["submitted_at", "started_at", "ended_at"]].max(axis=1)


def merge_repeated(
    jobs: pd.DataFrame, record: Record = JOB, key: Sequence[str] = ()
) -> pd.DataFrame:
    """One row a job of ``jobs``, its reports merged, in order of first appearance.

    Args:
        jobs: Conformed reports, any number of each job.
        record: The kind of record.
        key: The columns that tell rows apart; default: those of the record's identity.
    """
    key, columns = list(key or record.identity), list(record.columns)
    while (repeated := jobs.duplicated(key, keep=False)).any():
        rank = jobs[repeated].groupby(key, sort=False).cumcount()
        # Pair by pair: a job reported n times takes log2(n) rounds.
        pair = jobs[repeated].assign(_pair=rank // 2)
        first, second = pair[rank % 2 == 0], pair[rank % 2 == 1]
        positions = pd.MultiIndex.from_frame(first[[*key, "_pair"]]).get_indexer(
            pd.MultiIndex.from_frame(second[[*key, "_pair"]])
        )
        partners = first.iloc[positions]
        merged = merge(partners[columns], second[columns].set_axis(partners.index), record)
        jobs = jobs.drop(index=second.index)
        jobs.loc[merged.index, columns] = merged
    return jobs


def _together(record: Record) -> tuple[str, ...]:
    """Fields that are taken from one report, never mixed."""
    return ("submitted_at", *record.outcomes)


def merge(left: pd.DataFrame, right: pd.DataFrame, record: Record = JOB) -> pd.DataFrame:
    """Merge two conformed frames row by row.

    Row i of both is a report of the same job, and the frames share an index.

    Args:
        left: The stored rows.
        right: New reports of the same jobs, on the same index.
        record: The kind of record.
    """
    columns, count = list(record.columns), len(left)
    if not count:
        return left[columns]
    right_wins = _compare(left, right, record) > 0
    # Rows are taken at once: column by column would be most of the cost of a report of one job.
    both, rows = pd.concat([left[columns], right[columns]], ignore_index=True), np.arange(count)
    winner, loser = (
        both.take(rows + count * side).set_axis(left.index) for side in (right_wins, ~right_wins)
    )
    for name in (name for name in columns if name not in _together(record)):
        lacking = winner[name].isna() & loser[name].notna()
        if lacking.any():
            winner[name] = winner[name].where(~lacking, loser[name])
        if record.by_name[name].kind == "labels":
            unlike = (winner[name] != loser[name]) & loser[name].notna()
            for row in winner.index[unlike]:
                labels = str(loser.at[row, name]), str(winner.at[row, name])
                winner.at[row, name] = merge_labels(*labels)
    for name in record.first_reported:
        first = left[name].notna()
        if first.any():
            first &= left["submitted_at"] == right["submitted_at"]
            winner[name] = winner[name].mask(first, left[name])
    return winner


def align_outcomes(
    reports: pd.DataFrame, outcomes: pd.DataFrame, record: Record = JOB
) -> pd.DataFrame:
    """The row of ``outcomes`` of each report's job, on the reports' index; empty for none.

    Args:
        reports: Reports, any number of each job.
        outcomes: At most one row of each job.
        record: The kind of record.
    """
    key = list(record.identity)
    rows = pd.MultiIndex.from_frame(outcomes[key]).get_indexer(
        pd.MultiIndex.from_frame(reports[key])
    )
    return outcomes.reset_index(drop=True).reindex(rows).set_axis(reports.index)


def is_other_attempt(
    reports: pd.DataFrame, outcomes: pd.DataFrame
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which reports are of ended runs other than the one of their job's outcome.

    Two runs of a job are one after the other: reports of runs that overlap are of the same run, and
    correct each other. The ended run of a job that has no end now, since it was queued again, is
    another one. Row i of both is of the same job; without an outcome none is another run.
    """
    # A column without any time may have no time zone.
    start, end, last_start, last_end = (
        pd.to_datetime(frame[name], utc=True)
        for frame in (reports, outcomes)
        for name in ("started_at", "ended_at")
    )
    lacking = start.isna() & last_start.isna()
    start, last_start = start.fillna(end), last_start.fillna(last_end)
    apart = (start >= last_end) | (last_start >= end)
    queued_again = last_end.isna() & outcomes["submitted_at"].notna()
    is_earlier = queued_again | (apart & ~lacking & (end != last_end))
    return (end.notna() & is_earlier).to_numpy(bool)


def merge_runs(reports: pd.DataFrame) -> pd.DataFrame:
    """One row a run of the ended runs in ``reports``, by job and time; see ``is_other_attempt``."""
    key, moments = list(JOB.identity), reports[["started_at", "ended_at"]]
    runs = reports.assign(start=moments["started_at"].fillna(moments["ended_at"]))
    runs = runs.sort_values([*key, "start", "ended_at"], kind="stable", ignore_index=True)
    job = [runs[name] for name in key]
    ended_before = runs["ended_at"].groupby(job).cummax().groupby(job).shift()
    begins = (runs["start"] >= ended_before) & (runs["ended_at"] > ended_before)
    number = begins.astype(int).groupby(job).cumsum()
    merged = merge_repeated(runs[list(JOB.columns)].assign(run=number), key=(*key, "run"))
    return merged[list(JOB.columns)].reset_index(drop=True)


def stage(jobs: pd.DataFrame) -> Signs:
    """How much each report knows: 0 waiting, 1 running, 2 finished at an unknown time, 3 ended."""
    started = jobs["started_at"].notna() | (jobs["status"] == "running")
    finished = jobs["status"].isin(FINISHED)
    level = np.where(jobs["ended_at"].notna(), 3, np.where(finished, 2, np.where(started, 1, 0)))
    return level.astype(np.int8)


def _compare(left: pd.DataFrame, right: pd.DataFrame, record: Record) -> Signs:
    """+1 where the right report wins, -1 where the left one does, 0 where both say the same."""
    sign = _sign(_latest(left), _latest(right))
    sign = np.where(sign == 0, _sign(left["submitted_at"], right["submitted_at"]), sign)
    sign = np.where(sign == 0, np.sign(stage(right) - stage(left)), sign)
    for name in ("ended_at", "started_at", record.elapsed, *_together(record)):
        if sign.all():
            break
        sign = np.where(sign == 0, _sign(left[name], right[name]), sign)
    return sign.astype(np.int8)


def _latest(jobs: pd.DataFrame) -> pd.Series[pd.Timestamp]:
    """The moment of each report: the end, else the start or the submission, whichever is later."""
    begun = jobs[["submitted_at", "started_at"]].max(axis=1)
    return jobs["ended_at"].fillna(begun)


def _sign(left: pd.Series, right: pd.Series) -> Signs:
    """+1 where right is the greater, -1 where left is; a missing value is the least."""
    if left.name == "status":
        left, right = left.map(_STATUS_RANK), right.map(_STATUS_RANK)
    observed = right.notna().astype(np.int8).to_numpy() - left.notna().astype(np.int8).to_numpy()
    if pd.api.types.is_datetime64_any_dtype(left):
        left, right = left.dt.as_unit("us"), right.dt.as_unit("us")
    greater = (right > left).fillna(False).to_numpy(bool)
    less = (right < left).fillna(False).to_numpy(bool)
    return np.where(observed != 0, observed, greater.astype(np.int8) - less.astype(np.int8)).astype(
        np.int8
    )


def differs(
    left: pd.DataFrame, right: pd.DataFrame, record: Record = JOB
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of two aligned frames are not the same in every column.

    Args:
        left: Rows.
        right: Rows of the same jobs, on the same index.
        record: The kind of record.
    """
    unlike = np.zeros(len(left), bool)
    if not len(left):
        return unlike
    for name in record.columns:
        both_missing = (left[name].isna() & right[name].isna()).to_numpy()
        unlike |= ~(both_missing | (left[name] == right[name]).fillna(False).to_numpy(bool))
    return unlike
