"""The jobs of a log as a replay takes them: usable ones in order of submission, others counted."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Floats
from infra.errors import InputError
from scheduling.state import JOB, Records

if TYPE_CHECKING:
    from scheduling.machine import Machine

UNSTATED = 7 * 86400.0
"""The request of a job without a requested walltime, s; such a job is not killed."""


class TraceError(InputError):
    """The log has no job that can be replayed; the message is one sentence."""


@dataclass(frozen=True)
class Trace:
    """Jobs in order of submission, as arrays; times in s since the first submission.

    ``jobs`` are their records; ``request`` is the requested walltime (``UNSTATED`` if none),
    ``length`` the run time in a replay, ``killed`` whether that is less than in the log, ``pool``
    the index of the pool. Of a job that has not ended a predictor may use the record without
    outcomes, the request and the cores, never ``length`` or ``killed``.
    """

    jobs: pd.DataFrame
    submitted: Floats
    request: Floats
    length: Floats
    killed: np.ndarray
    cores: np.ndarray
    memory: Floats
    pool: np.ndarray
    left_out: Counter[str]

    def __len__(self) -> int:
        return len(self.jobs)

    def take(self, rows: np.ndarray) -> Trace:
        """The trace of some rows, in the same time."""
        arrays = {
            name: getattr(self, name)[rows]
            for name in ("submitted", "request", "length", "killed", "cores", "memory", "pool")
        }
        return Trace(self.jobs.iloc[rows].reset_index(drop=True), **arrays, left_out=self.left_out)

    def records(self) -> Records:
        """The jobs as the kernel holds them, before anything happened."""
        records = np.zeros(len(self), dtype=JOB)
        for name in ("submitted", "length", "request", "memory", "cores"):
            records[name] = getattr(self, name)
        for name in ("rank", "fit", "finish", "started", "ended", "expected"):
            records[name] = np.nan
        records["first_reservation"] = records["reservation"] = np.nan
        return records


def check_run_times(jobs: pd.DataFrame) -> None:
    """Raise TraceError where no job reports a run time, so that there is nothing to replay."""
    if (jobs["walltime"] > 0).any():
        return
    if not len(jobs):
        raise TraceError("the log has no jobs, so there is nothing to replay")
    lacking = "reports a run time" if jobs["ended_at"].notna().any() else "has ended"
    raise TraceError(
        f"none of the {len(jobs):,} jobs of the log {lacking}, so there is nothing to replay"
    )


def trace_of(jobs: pd.DataFrame, machine: Machine, *, kill: bool = True) -> Trace:
    """Prepare ``jobs`` for a replay on ``machine``.

    Cores are those the job was given, else those it requested, else one.

    Args:
        jobs: Conformed records.
        machine: The pools.
        kill: A job is killed when its requested walltime is over.

    Raises:
        TraceError: No job can be replayed.
    """
    check_run_times(jobs)
    jobs = jobs.sort_values("submitted_at", kind="stable").reset_index(drop=True)
    cores = jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
    indices = {pool.name: index for index, pool in enumerate(machine.pools)}
    pool = machine.pool_names(jobs).map(indices)
    most_cores = pool.map({index: pool.cores for index, pool in enumerate(machine.pools)})
    most_memory = pool.map({index: pool.memory for index, pool in enumerate(machine.pools)})
    memory = jobs["requested_memory"].fillna(0.0)
    reasons = np.full(len(jobs), "", dtype=object)
    for reason, applies in (
        ("it never ran: no walltime above 0", ~(jobs["walltime"] > 0)),
        ("its site is no pool of the machine", pool.isna()),
        ("it needs more cores than a host has", cores > most_cores),
        ("it needs more memory than a host has", memory > most_memory),
    ):
        reasons[(reasons == "") & applies.to_numpy()] = reason
    usable = reasons == ""
    if not usable.any():
        raise TraceError(f"no job of the log can be replayed: {reasons[0]}")
    replayed = jobs[usable].reset_index(drop=True)
    since = replayed["submitted_at"] - replayed["submitted_at"].iloc[0]
    runtime = replayed["walltime"].to_numpy(dtype=float)
    request = replayed["requested_walltime"].to_numpy(dtype=float)
    is_stated = request > 0
    length = np.where(is_stated & kill, np.minimum(runtime, request), runtime)
    return Trace(
        jobs=replayed,
        submitted=since.dt.total_seconds().to_numpy(),
        request=np.where(is_stated, request, UNSTATED),
        length=length,
        killed=length < runtime,
        cores=cores[usable].to_numpy().round().astype(np.int64),
        memory=memory[usable].to_numpy(dtype=float),
        pool=pool[usable].to_numpy(dtype=np.int64),
        left_out=Counter(reasons[~usable].tolist()),
    )


def field_texts(jobs: pd.DataFrame, field: str, missing: str = "") -> pd.Series[Any]:
    """The values of a field as texts, with ``missing`` for those that a job does not have.

    Args:
        jobs: The jobs.
        field: The name of the field.
        missing: The text of missing values.
    """
    values = jobs[field].astype(object)
    return values.where(values.notna(), missing).astype(str)
