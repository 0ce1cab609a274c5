"""What a shard learns of the outcomes of other shards' users: coarse histories only."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from infra.aliases import Flags, Integers
from infra.shards import slots_of
from jobs.coded_jobs import Coded, CodedJobs, encode_jobs
from models.histories.features import NOT_AVAILABLE, Contexts, Levels
from models.histories.mixture import Mixture

USER = "user"
"""The field that divides jobs among shards."""


def job_slots(jobs: CodedJobs | pd.DataFrame) -> Integers:
    """The slot of each job's user (int64[n])."""
    if USER not in jobs:
        return slots_of((), np.full(len(jobs), -1))
    users: Coded = (
        encode_jobs(jobs, (USER,))[USER] if isinstance(jobs, pd.DataFrame) else jobs[USER]
    )
    return slots_of(users.values, users.codes)


def user_levels(levels: Levels) -> Flags:
    """Which levels have histories of one user each (bool[levels])."""
    return np.array([USER in level.fields for level in levels.levels], dtype=np.bool_)


def without_user_levels(contexts: Contexts, levels: Levels, mixture: Mixture) -> Contexts:
    """Return contexts without keys of users' histories, but for a new owner's first outcome.

    How far new owners' first outcomes spread is learned from the owners of all shards.

    Args:
        contexts: Jobs of other shards' users, in order of availability.
        levels: Their levels.
        mixture: Has the owners whose first outcome was learned.
    """
    owners, keys = contexts.keys[:, levels.owner].copy(), contexts.keys.copy()
    by_user = user_levels(levels)
    keys[:, by_user] = 0
    if by_user[levels.owner]:
        is_first = np.zeros(len(contexts), dtype=np.bool_)
        is_first[np.unique(owners, return_index=True)[1]] = True
        rows = np.flatnonzero(is_first)
        latest = np.full(len(rows), NOT_AVAILABLE)
        counts = mixture.ended_counts(replace(contexts.take(rows), at=latest))[:, levels.owner]
        rows = rows[counts == 0]
        keys[rows, levels.owner] = owners[rows]
    return replace(contexts, keys=keys)
