"""Queues: jobs waiting and running, and recent waits, as known when a job was submitted."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import encode_jobs
from models.past.load import key_of, microseconds, seconds
from models.past.surroundings import CurrentSurroundings, Events, Interval, with_surroundings

QUEUE = ("source", "site", "queue")
SCOPES: dict[str, tuple[str, ...]] = {
    "system": ("source", "site"),
    "queue": QUEUE,
    "own": ("source", "user"),
}
"""Scopes of the state: the whole site, the job's queue, the user's own jobs."""
KINDS = (
    "waiting",
    "waiting_work",
    "waited",
    "running",
    "running_work",
    "running_left",
    "ran",
    "running_cores",
    "begun",
    "last_wait",
    "waits",
)
"""Waiting jobs, their work and mean age; running jobs, their work, remaining work, mean age and
cores; jobs submitted in the last hour; the last completed wait, and a moving average of waits."""
STATE = tuple(f"{scope}_{kind}" for scope in SCOPES for kind in KINDS)
RECENT_SPAN = 3600.0


def waits(jobs: pd.DataFrame) -> Array:
    """Seconds from submission to start (float64[n], NaN where it has not started)."""
    return seconds(jobs["started_at"]) - seconds(jobs["submitted_at"])


LONGEST_RUN = 10 * 86400.0
"""Seconds after which a run without a request and without a recorded end is taken to be over."""
OVERTIME = 2.0
"""Multiple of its request after which a run without a recorded end is taken to be over."""
LONGEST_WAIT = 30 * 86400.0
"""Seconds after which a job without a recorded start is no longer taken to wait."""


def with_queues(jobs: pd.DataFrame) -> pd.DataFrame:
    """Sort jobs by submission and add the columns of STATE; work is requested core seconds.

    A job waits from its submission until its start and runs from its start until its end; before
    it ends, its run counts as long as requested. None waits longer than LONGEST_WAIT, or runs
    longer than OVERTIME times its request.
    """
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    return with_surroundings(
        jobs, queue_events(jobs), {scope: key_of(jobs, fields) for scope, fields in SCOPES.items()}
    )


def queues_now(jobs: pd.DataFrame) -> CurrentSurroundings:
    """The columns of ``with_queues`` for a job that is submitted now."""
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    return CurrentSurroundings.of(
        encode_jobs(jobs, {name for fields in SCOPES.values() for name in fields}),
        queue_events(jobs),
        SCOPES,
    )


def queue_events(jobs: pd.DataFrame) -> Events:
    """The queue events of ``jobs``, which are in order of submission."""
    at, begin, end = (seconds(jobs[name]) for name in ("submitted_at", "started_at", "ended_at"))
    requested, cores = (
        jobs[name].to_numpy(dtype=np.float64) for name in ("requested_walltime", "requested_cores")
    )
    return queues_in(
        at,
        begin,
        end,
        requested,
        cores,
        microseconds(jobs["submitted_at"]),
        microseconds(jobs["started_at"]),
    )


def queues_in(
    at: Array,
    begin: Array,
    end: Array,
    requested: Array,
    cores: Array,
    submitted: Array,
    started: Array,
) -> Events:
    """``queue_events`` from arrays, rows in order of submission.

    Args:
        at: Submission, s.
        begin: Start, s, NaN for not yet.
        end: End, s, NaN for not yet.
        requested: Requested walltime, s.
        cores: Requested cores.
        submitted: Submission, µs.
        started: Start, µs, NOT_AVAILABLE for not yet.
    """
    cores = np.nan_to_num(cores, nan=1.0)
    work = np.nan_to_num(requested) * cores
    # A job that ended without a start never ran, and no longer waits.
    left_queue = np.fmin(np.where(np.isnan(begin), end, begin), at + LONGEST_WAIT)
    over = np.fmin(end, begin + np.where(requested > 0, OVERTIME * requested, LONGEST_RUN))
    # A wait of length 0 is known only after that instant.
    available_at = np.maximum(started, submitted + 1)
    queued = Interval(
        ("waiting", "waiting_work", None, "waited", None), at, left_queue, work, np.zeros(len(at))
    )
    runs = Interval(
        ("running", "running_work", "running_left", "ran", "running_cores"),
        begin,
        over,
        work,
        cores,
    )
    return Events(
        at, submitted, available_at, begin - at, (queued, runs), RECENT_SPAN, "last_wait", "waits"
    )
