"""Queues: who waited and who ran when a job was submitted, and how long the latest had waited, as it was known then."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from models.past.load import begun_lately, key_of, microseconds, seconds, under_way
from models.past.recent import recent

Array = npt.NDArray[Any]

QUEUE = ("source", "site", "queue")
PLACES: dict[str, tuple[str, ...]] = {"system": ("source", "site"), "queue": QUEUE, "own": ("source", "user")}
"""Whose state is told: all of a site, the job's queue, the user's own jobs."""
KINDS = (
    "waiting", "waiting_work", "waited", "running", "running_work", "running_left", "ran", "begun", "last_wait", "waits",
)  # fmt: skip
"""Jobs that wait, their work, how long they have waited; jobs that run, their work, what is left of it, how long they have run; jobs that
came in the last hour; the last wait that ended, and a moving average of these."""
STATE = tuple(f"{place}_{kind}" for place in PLACES for kind in KINDS)
LATELY = 3600.0


def waits(jobs: pd.DataFrame) -> Array:
    """Seconds from submission to start (float64[n], NaN where it has not started)."""
    return seconds(jobs["started_at"]) - seconds(jobs["submitted_at"])


def with_queues(jobs: pd.DataFrame) -> pd.DataFrame:
    """``jobs`` in order of submission, with the columns of STATE: work is what was asked for, in seconds of cores.

    That a job waits is known from its submission until its start, that it runs from its start until its end; a run is not known to be
    shorter than was asked for before it ends.
    """
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    at, begin, end = (seconds(jobs[name]) for name in ("submitted_at", "started_at", "ended_at"))
    cores = np.nan_to_num(jobs["requested_cores"].to_numpy(dtype=np.float64), nan=1.0)
    work = np.nan_to_num(jobs["requested_walltime"].to_numpy(dtype=np.float64)) * cores
    # What ended without a start never ran, and no longer waits.
    off = np.where(np.isnan(begin), end, begin)
    asked = microseconds(jobs["submitted_at"])
    known = microseconds(jobs["started_at"])
    # A wait of no length is known only after the instant.
    known = np.maximum(known, asked + 1)
    columns: dict[str, Array] = {}
    for place, fields in PLACES.items():
        keys = key_of(jobs, fields)
        queued = under_way(keys, at, at, off, work, np.zeros(len(at)))
        runs = under_way(keys, at, begin, end, work, cores)
        past = recent(keys, asked, known, waits(jobs), 1)
        told = (*queued[:, [0, 1, 3]].T, *runs.T, begun_lately(keys, at, LATELY), past.values[:, 0], past.average)
        columns |= {f"{place}_{kind}": values for kind, values in zip(KINDS, told, strict=True)}
    return jobs.assign(**columns)
