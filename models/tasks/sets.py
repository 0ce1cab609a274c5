"""Tasks as arrays in which the jobs of a task are adjacent.

A task is described completely when it is defined: its owner, its jobs and their sites. When each
job is submitted, starts and ends is not known then; functions with an instant ignore later events.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import NOT_AVAILABLE

BURST = 3600.0
"""Seconds after its first job in which a user's jobs to one group belong to one burst."""
SECOND = 1_000_000
FAILED = ("failed", "timeout", "out_of_memory")


@dataclass(frozen=True)
class Tasks:
    """Tasks in the order of their definition, and their jobs.

    ``jobs`` are sorted by task, then by submission; those of task k are ``first[k]`` up to
    ``first[k + 1]``. ``names``, ``users`` and ``groups`` object[tasks], "" for unknown;
    ``defined`` float64[tasks] and ``submitted``, ``started``, ``ended`` float64[jobs] in seconds
    since 1970, infinite for what has not happened; ``task`` int64[jobs]; ``site`` and ``host``
    object[jobs]; ``failed`` bool[jobs].
    """

    jobs: pd.DataFrame
    first: Array
    names: Array
    users: Array
    groups: Array
    defined: Array
    submitted: Array
    started: Array
    ended: Array
    task: Array
    site: Array
    host: Array
    failed: Array

    def __len__(self) -> int:
        return len(self.names)

    @property
    def sizes(self) -> Array:
        """How many jobs each task has (int64[tasks])."""
        return np.diff(self.first)

    @cached_property
    def job_ids(self) -> Array:
        """The ids of the jobs (object[jobs]), cached: converting a text column is slow."""
        return self.jobs["job_id"].to_numpy(object)

    @property
    def finished(self) -> Array:
        """When the last job of each task ended, infinite where one has not (float64[tasks])."""
        return np.maximum.reduceat(self.ended, self.first[:-1]) if len(self) else np.empty(0)

    def reached(self, progress: float) -> Array:
        """When the share ``progress`` of each task's jobs had ended; at 0 the definition.

        float64[tasks], infinite where it has not.
        """
        if progress <= 0:
            return self.defined
        by_end = self.ended[np.lexsort((self.ended, self.task))]
        return by_end[self.first[:-1] + np.ceil(progress * self.sizes).astype(np.int64) - 1]


def group_tasks(jobs: pd.DataFrame) -> Tasks:
    """Group jobs by task; in a log without task ids, a task is a burst.

    A burst is a user's jobs to one group within an hour of the first. Jobs without a ``task_id`` in
    a log that has some are left out.
    """
    named = jobs["task_id"].notna()
    ids = jobs["task_id"] if named.any() else bursts(jobs)
    jobs = jobs.assign(task_id=ids)[ids.notna()]
    codes, _ = pd.factorize(
        jobs["source"].fillna("").astype(str) + "\0" + jobs["task_id"].astype(str)
    )
    submitted = _seconds(jobs["submitted_at"])
    defined = np.full(codes.max(initial=-1) + 1, np.inf)
    np.minimum.at(defined, codes, submitted)
    rank = np.argsort(np.argsort(defined, kind="stable"), kind="stable")
    order = np.lexsort((submitted, rank[codes]))
    jobs, task, submitted = (
        jobs.iloc[order].reset_index(drop=True),
        rank[codes][order],
        submitted[order],
    )
    first = np.concatenate([np.flatnonzero(np.diff(task, prepend=-1)), [len(task)]]).astype(
        np.int64
    )
    heads = jobs.iloc[first[:-1]]
    ended = _seconds(jobs["ended_at"])
    # In a log without starts (LCG-2005), runs are taken to start at submission.
    started = np.where(
        np.isfinite(_seconds(jobs["started_at"])),
        _seconds(jobs["started_at"]),
        np.where(np.isfinite(ended), submitted, np.inf),
    )
    return Tasks(
        jobs=jobs,
        first=first,
        names=_texts(heads["task_id"]),
        users=_texts(heads["user"]),
        groups=_texts(heads["group"]),
        defined=np.sort(defined),
        submitted=submitted,
        started=started,
        ended=ended,
        task=task.astype(np.int64),
        site=_texts(jobs["site"]),
        host=_texts(jobs["host"]),
        failed=jobs["status"].isin(FAILED).to_numpy(bool),
    )


def bursts(jobs: pd.DataFrame) -> pd.Series[Any]:
    """The burst of each job, named by user, group and first submission (text, indexed as ``jobs``).

    >>> times = pd.to_datetime(["2026-01-01 00:00", "2026-01-01 00:59", "2026-01-01 01:00"])
    >>> jobs = pd.DataFrame({"user": "ada", "group": "atlas", "submitted_at": times})
    >>> bursts(jobs.assign(submitted_at=times.tz_localize("UTC"))).str[-6:].tolist()
    ['000000', '000000', '010000']
    """
    order = np.argsort(jobs["submitted_at"].to_numpy(), kind="stable")
    at, users, groups = _seconds(jobs["submitted_at"]), _texts(jobs["user"]), _texts(jobs["group"])
    opened: dict[tuple[str, str], float] = {}
    start = np.empty(len(jobs))
    for row in order:
        owner = users[row], groups[row]
        if at[row] - opened.get(owner, -np.inf) >= BURST:
            opened[owner] = at[row]
        start[row] = opened[owner]
    moments = pd.to_datetime(start, unit="s", utc=True).strftime("%Y%m%dT%H%M%S")
    return pd.Series(
        [f"{u or '-'}.{g or '-'}.{m}" for u, g, m in zip(users, groups, moments, strict=True)],
        index=jobs.index,
        dtype="str",
    )


def _texts(values: pd.Series[Any]) -> Array:
    return values.fillna("").astype(object).to_numpy()


def _seconds(values: pd.Series[Any]) -> Array:
    micros = values.dt.as_unit("us").to_numpy(dtype="datetime64[us]").view(np.int64)
    return np.where(micros == np.iinfo(np.int64).min, np.inf, micros / SECOND)


def microseconds(seconds: Array) -> Array:
    """Seconds to microseconds since 1970, NOT_AVAILABLE for infinite (int64, same shape)."""
    return np.where(
        np.isfinite(seconds),
        (np.nan_to_num(seconds, posinf=0.0) * SECOND).astype(np.int64),
        NOT_AVAILABLE,
    )
