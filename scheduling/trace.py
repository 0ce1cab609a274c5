"""The jobs of a log as a replay takes them: usable ones in order of submission, the others counted with their reason."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats
from infra.errors import InputError
from scheduling.machine import Machine
from scheduling.state import (
    JOB,
    Records,
)

UNSTATED = 7 * 86400.0
"""What a job without a requested walltime is taken to have asked for, in s; it is not killed then."""


class TraceError(InputError):
    """The log has no job that can be replayed; the message is one sentence."""


@dataclass(frozen=True)
class Trace:
    """Jobs in order of submission; arrays of one entry a job, times in s since the first submission.

    ``jobs`` are their records, ``request`` the walltime asked for (``UNSTATED`` if none), ``length`` how long they run in a
    replay, ``killed`` whether that is less than they ran in the log, ``pool`` the number of their pool. Of a job that has not
    ended a predictor may look at its record without outcomes, its request and cores, never at ``length`` or ``killed``.
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
        for name in (
            "rank",
            "fit",
            "finish",
            "started",
            "ended",
            "expected",
            "first_reservation",
            "reservation",
        ):
            records[name] = np.nan
        return records


def trace_of(jobs: pd.DataFrame, machine: Machine, *, kill: bool = True) -> Trace:
    """Prepare conformed ``jobs`` for a replay on ``machine``; with ``kill`` a job is killed when its requested walltime is over.

    Cores are those the job was given, else those it asked for, else one. Raises TraceError when no job can be replayed.
    """
    jobs = jobs.sort_values("submitted_at", kind="stable").reset_index(drop=True)
    cores = jobs["cores"].fillna(jobs["requested_cores"]).fillna(1.0)
    pools = {pool.name: number for number, pool in enumerate(machine.pools)}
    pool = machine.of(jobs).map(pools)
    biggest = pool.map({number: one.cores for number, one in enumerate(machine.pools)})
    roomiest = pool.map({number: one.memory for number, one in enumerate(machine.pools)})
    memory = jobs["requested_memory"].fillna(0.0)
    reasons = np.full(len(jobs), "", dtype=object)
    for reason, wrong in (
        ("it never ran: no walltime above 0", ~(jobs["walltime"] > 0)),
        ("its site is no pool of the machine", pool.isna()),
        ("it needs more cores than a host has", cores > biggest),
        ("it needs more memory than a host has", memory > roomiest),
    ):
        reasons[(reasons == "") & wrong.to_numpy()] = reason
    usable = reasons == ""
    if not usable.any():
        raise TraceError(
            f"no job of the log can be replayed: {reasons[0] if len(reasons) else 'it has no jobs'}"
        )
    kept = jobs[usable].reset_index(drop=True)
    submitted = (kept["submitted_at"] - kept["submitted_at"].iloc[0]).dt.total_seconds().to_numpy()
    runtime = kept["walltime"].to_numpy(dtype=float)
    asked = kept["requested_walltime"].to_numpy(dtype=float)
    stated = asked > 0
    length = np.minimum(runtime, asked) if kill else runtime
    length = np.where(stated, length, runtime)
    return Trace(
        jobs=kept,
        submitted=submitted,
        request=np.where(stated, asked, UNSTATED),
        length=length,
        killed=length < runtime,
        cores=cores[usable].to_numpy().round().astype(np.int64),
        memory=memory[usable].to_numpy(dtype=float),
        pool=pool[usable].to_numpy(dtype=np.int64),
        left_out=Counter(reasons[~usable].tolist()),
    )


def field_texts(jobs: pd.DataFrame, field: str, missing: str = "") -> pd.Series[Any]:
    """The values of a field as texts, with ``missing`` for those that a job does not have."""
    values = jobs[field].astype(object)
    return values.where(values.notna(), missing).astype(str)


def job_keys(trace: Trace, fields: tuple[str, ...]) -> list[Any]:
    """Each job's key: the values of some fields together."""
    if not fields:
        return [()] * len(trace)
    return list(zip(*(trace.jobs[name].astype(str).tolist() for name in fields), strict=True))
