"""The time of monitoring 10,000 open tasks of 1,000,000 jobs, and of the list of tasks.

uv run python benchmarks/tasks.py
"""

from __future__ import annotations

import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pandas as pd

from infra.settings import Settings
from jobs.schema import conform
from jobs.store import add_jobs
from services.dashboard import tasks as listing
from services.dashboard.values import as_json
from services.task_watch.service import TaskWatchService

NOW = pd.Timestamp("2026-01-20", tz="UTC")
ENDED = 0.3


def make(tasks: int, wide: int, seed: int = 1) -> pd.DataFrame:
    """Jobs of tasks that were defined in the last three days, three of ten ended."""
    draw = np.random.default_rng(seed)
    rows = tasks * wide
    task = np.repeat(np.arange(tasks), wide)
    submitted = NOW - pd.to_timedelta((draw.random(tasks) * 3 * 86400)[task].round(), unit="s")
    user = draw.integers(0, 300, tasks)[task]
    walltime = np.exp(draw.normal(8 + user % 7 / 3, 0.5, rows)).round()
    ended = (draw.random(rows) < ENDED) & (submitted + pd.to_timedelta(walltime, unit="s") <= NOW)
    end = (submitted + pd.to_timedelta(walltime, unit="s")).where(ended)
    frame = pd.DataFrame(
        {
            "job_id": np.arange(rows).astype(str),
            "task_id": [f"task-{k}" for k in task],
            "source": "made",
        }
    )
    frame = frame.assign(
        user=[f"user{k}" for k in user],
        group=[f"vo{k % 9}" for k in user],
        site=[f"site{k}" for k in draw.integers(0, 100, rows)],
    )
    frame = frame.assign(
        submitted_at=submitted,
        started_at=submitted,
        ended_at=end,
        walltime=np.where(ended, walltime, np.nan),
    )
    return conform(frame.assign(status=np.where(ended, "completed", "running")))


def main(tasks: int = 10_000, wide: int = 100) -> None:
    """Print the table."""
    with tempfile.TemporaryDirectory() as home:
        service = TaskWatchService(Settings(home=Path(home)), clock=lambda: NOW.to_pydatetime())
        jobs = make(tasks, wide)
        for start in range(0, len(jobs), 50_000):
            with service.engine.begin() as connection:
                add_jobs(connection, jobs.iloc[start : start + 50_000])
        for name in ("first look, models fitted", "next look"):
            began, spent = time.perf_counter(), time.process_time()
            service.update()
            # On a shared machine the processor's time says more than the clock.
            print(
                f"{name:30} {time.perf_counter() - began:8.1f} s, of the processor {time.process_time() - spent:6.1f} s",
                flush=True,
            )
        tasks_now, times = service.latest.read()[0], []
        for page in range(50):
            began = time.perf_counter()
            as_json(listing.tasks(tasks_now, {"page": str(page), "text": "user1"}))
            times.append(time.perf_counter() - began)
        print(
            f"{'a page of the list, slowest':30} {1e3 * max(times):8.1f} ms of {len(tasks_now):,} tasks"
        )
        service.engine.dispose()


if __name__ == "__main__":
    main(*(int(word) for word in sys.argv[1:]))
