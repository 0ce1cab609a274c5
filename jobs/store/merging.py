"""What is kept when the same job is reported twice, in whatever order the reports arrive.

The report that knows the later stage wins: ended before finished without a time, before running, before waiting. Of two
that both ended, the one that ended first wins, as if they had arrived in order; a tie goes to the greater outcome. The
winner gives the submission time and the whole outcome, so that these always agree with each other. What was asked for is
the winner's too, and where the winner does not say, the other's. So a known fact of an ended job is never overwritten by a
report that is older, that repeats it, or that ended later.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import pandas as pd

from jobs.schema import JOB, STATUSES, Record

FINISHED = ("completed", "failed", "cancelled", "timeout", "out_of_memory", "preempted")
# Of two statuses of the same stage the one that says more wins.
_STATUS_RANK = {
    "unknown": 0,
    **{status: rank for rank, status in enumerate(STATUSES, 1) if status != "unknown"},
}

Signs = np.ndarray[Any, np.dtype[np.int8]]


def merge_repeated(jobs: pd.DataFrame, record: Record = JOB) -> pd.DataFrame:
    """One row a (source, job_id) of ``jobs``, its reports merged; the order of first appearance is kept."""
    key, columns = list(record.identity), list(record.columns)
    while (repeated := jobs.duplicated(key, keep=False)).any():
        rank = jobs[repeated].groupby(key, sort=False).cumcount()
        # Pair by pair: a job reported n times takes log2(n) rounds.
        pair = jobs[repeated].assign(_pair=rank // 2)
        first, second = pair[rank % 2 == 0], pair[rank % 2 == 1]
        places = pd.MultiIndex.from_frame(first[[*key, "_pair"]]).get_indexer(
            pd.MultiIndex.from_frame(second[[*key, "_pair"]])
        )
        partners = first.iloc[places]
        merged = merge(partners[columns], second[columns].set_axis(partners.index), record)
        jobs = jobs.drop(index=second.index)
        jobs.loc[merged.index] = merged
    return jobs


def _together(record: Record) -> tuple[str, ...]:
    """Fields that are taken from one report, never mixed."""
    return ("submitted_at", *record.outcomes)


def merge(left: pd.DataFrame, right: pd.DataFrame, record: Record = JOB) -> pd.DataFrame:
    """Merge two conformed frames row by row; row i of both is a report of the same job, and the frames share an index."""
    columns, count = list(record.columns), len(left)
    if not count:
        return left[columns]
    right_wins = _compare(left, right, record) > 0
    # Whole rows are taken at once: column by column it would be most of what a report of one job costs.
    both, rows = pd.concat([left[columns], right[columns]], ignore_index=True), np.arange(count)
    winner, other = (
        both.take(rows + count * which).set_axis(left.index) for which in (right_wins, ~right_wins)
    )
    for name in (name for name in columns if name not in _together(record)):
        lacking = winner[name].isna() & other[name].notna()
        if lacking.any():
            winner[name] = winner[name].where(~lacking, other[name])
    return winner


def stage(jobs: pd.DataFrame) -> Signs:
    """How much each report knows: 0 waiting, 1 running, 2 finished at an unknown time, 3 ended."""
    started = jobs["started_at"].notna() | (jobs["status"] == "running")
    finished = jobs["status"].isin(FINISHED)
    known = np.where(jobs["ended_at"].notna(), 3, np.where(finished, 2, np.where(started, 1, 0)))
    return known.astype(np.int8)


def _compare(left: pd.DataFrame, right: pd.DataFrame, record: Record) -> Signs:
    """+1 where the right report wins, -1 where the left one does, 0 where their outcomes are the same."""
    sign = np.sign(stage(right) - stage(left))
    sign = np.where(sign == 0, _sign(right["ended_at"], left["ended_at"]), sign)
    for name in ("started_at", record.elapsed, *_together(record)):
        if sign.all():
            break
        sign = np.where(sign == 0, _sign(left[name], right[name]), sign)
    return sign.astype(np.int8)


def _sign(left: pd.Series, right: pd.Series) -> Signs:
    """+1 where right is the greater, -1 where left is; a missing value is the least."""
    if left.name == "status":
        left, right = left.map(_STATUS_RANK), right.map(_STATUS_RANK)
    known = right.notna().astype(np.int8).to_numpy() - left.notna().astype(np.int8).to_numpy()
    if pd.api.types.is_datetime64_any_dtype(left):
        left, right = left.dt.as_unit("us"), right.dt.as_unit("us")
    greater = (right > left).fillna(False).to_numpy(bool)
    less = (right < left).fillna(False).to_numpy(bool)
    return np.where(known != 0, known, greater.astype(np.int8) - less.astype(np.int8)).astype(
        np.int8
    )


def differs(
    left: pd.DataFrame, right: pd.DataFrame, record: Record = JOB
) -> np.ndarray[Any, np.dtype[np.bool_]]:
    """Which rows of two aligned frames are not the same in every column."""
    unlike = np.zeros(len(left), bool)
    if not len(left):
        return unlike
    for name in record.columns:
        both_missing = (left[name].isna() & right[name].isna()).to_numpy()
        unlike |= ~(both_missing | (left[name] == right[name]).fillna(False).to_numpy(bool))
    return unlike
