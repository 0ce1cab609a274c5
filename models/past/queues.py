"""Queues: who waited and who ran when a job was submitted, and how long the latest had waited, as it was known then."""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import encode_jobs
from models.past.load import key_of, microseconds, seconds
from models.past.surroundings import CurrentSurroundings, Events, Interval, with_surroundings

QUEUE = ("source", "site", "queue")
PLACES: dict[str, tuple[str, ...]] = {
    "system": ("source", "site"),
    "queue": QUEUE,
    "own": ("source", "user"),
}
"""Whose state is told: all of a site, the job's queue, the user's own jobs."""
KINDS = (
    "waiting", "waiting_work", "waited", "running", "running_work", "running_left", "ran", "running_cores", "begun", "last_wait", "waits",
)  # fmt: skip
"""Jobs that wait, their work, how long they have waited; jobs that run, their work, what is left of it, how long they have run, their
cores; jobs that came in the last hour; the last wait that ended, and a moving average of these."""
STATE = tuple(f"{place}_{kind}" for place in PLACES for kind in KINDS)
LATELY = 3600.0


def waits(jobs: pd.DataFrame) -> Array:
    """Seconds from submission to start (float64[n], NaN where it has not started)."""
    return seconds(jobs["started_at"]) - seconds(jobs["submitted_at"])


LONGEST_RUN = 10 * 86400.0
"""Seconds after which a run of no stated length that nobody saw end is taken to be over."""
OVERTIME = 2.0
"""The share of its request after which a run that nobody saw end is taken to be over: its report was lost."""
LONGEST_WAIT = 30 * 86400.0
"""Seconds after which a job that nobody saw start is taken to be gone."""


def with_queues(jobs: pd.DataFrame) -> pd.DataFrame:
    """``jobs`` in order of submission, with the columns of STATE: work is what was asked for, in seconds of cores.

    That a job waits is known from its submission until its start, that it runs from its start until its end; a run is not known to be
    shorter than was asked for before it ends. None waits longer than LONGEST_WAIT, or runs longer than OVERTIME times its request.
    """
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    return with_surroundings(
        jobs, queue_events(jobs), {place: key_of(jobs, fields) for place, fields in PLACES.items()}
    )


def queues_now(jobs: pd.DataFrame) -> CurrentSurroundings:
    """What a job that comes now would see of the queues of ``jobs``, the same columns as ``with_queues`` has."""
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    return CurrentSurroundings.of(
        encode_jobs(jobs, {name for fields in PLACES.values() for name in fields}),
        queue_events(jobs),
        PLACES,
    )


def queue_events(jobs: pd.DataFrame) -> Events:
    """What ``jobs``, in order of submission, do to their queues."""
    at, begin, end = (seconds(jobs[name]) for name in ("submitted_at", "started_at", "ended_at"))
    asked, cores = (
        jobs[name].to_numpy(dtype=np.float64) for name in ("requested_walltime", "requested_cores")
    )
    return queues_in(
        at,
        begin,
        end,
        asked,
        cores,
        microseconds(jobs["submitted_at"]),
        microseconds(jobs["started_at"]),
    )


def queues_in(
    at: Array,
    begin: Array,
    end: Array,
    asked: Array,
    cores: Array,
    submitted: Array,
    started: Array,
) -> Events:
    """``queue_events`` of arrays: seconds of submission, start and end, requested walltime (s) and cores, and the first two again in
    microseconds (int64[n], NOT_AVAILABLE for not yet)."""
    cores = np.nan_to_num(cores, nan=1.0)
    work = np.nan_to_num(asked) * cores
    # What ended without a start never ran, and no longer waits.
    off = np.fmin(np.where(np.isnan(begin), end, begin), at + LONGEST_WAIT)
    over = np.fmin(end, begin + np.where(asked > 0, OVERTIME * asked, LONGEST_RUN))
    # A wait of no length is known only after the instant.
    known = np.maximum(started, submitted + 1)
    queued = Interval(
        ("waiting", "waiting_work", None, "waited", None), at, off, work, np.zeros(len(at))
    )
    runs = Interval(
        ("running", "running_work", "running_left", "ran", "running_cores"),
        begin,
        over,
        work,
        cores,
    )
    return Events(at, submitted, known, begin - at, (queued, runs), LATELY, "last_wait", "waits")
