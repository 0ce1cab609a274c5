"""Newcomers: jobs whose user or program had no outcome when they were submitted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Flags
from jobs.coded_jobs import NOT_AVAILABLE
from models.past.load import key_of, microseconds


def is_newcomer(jobs: pd.DataFrame, field: str, outcome_time: str = "ended_at") -> Flags:
    """Whether no job of the same source and ``field`` value had ended at each job's submission.

    Args:
        jobs: The jobs in any order.
        field: Such as ``user`` or ``program``.
        outcome_time: The field that says when an outcome is available.

    Returns:
        bool[n], False for jobs that do not report the field.

    >>> jobs = pd.DataFrame({"source": "a", "user": ["x", "x", None]})
    >>> at = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta([0, 2, 3], unit="h")
    >>> jobs = jobs.assign(submitted_at=at, ended_at=at + pd.Timedelta("1h"))
    >>> is_newcomer(jobs, "user").tolist()
    [True, False, False]
    """
    if field not in jobs:
        return np.zeros(len(jobs), dtype=np.bool_)
    keys, at = key_of(jobs, ("source", field)), microseconds(jobs["submitted_at"])
    available_at = microseconds(jobs[outcome_time])
    # The outcome of a job of no length is available only after the instant of submission.
    known = available_at != NOT_AVAILABLE
    available_at = np.where(known, np.maximum(available_at, at + 1), NOT_AVAILABLE)
    first = np.full(int(keys.max(initial=-1)) + 1, NOT_AVAILABLE)
    np.minimum.at(first, keys, available_at)
    return np.asarray((first[keys] > at) & jobs[field].notna().to_numpy())
