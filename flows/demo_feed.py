"""The demo goes on: while it is up, its jobs are submitted, run and end as time passes.

A component of ``gridcast up --demo``. Each step predicts the jobs submitted since the last one,
reports those that ended to the predictor, and stores the others' states as a collector would.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from datetime import UTC
from pathlib import Path
from typing import Any

import pandas as pd

from infra import components
from infra.components import Component
from infra.settings import Settings, prepare_environment
from jobs.schema import COLUMNS, OF_KIND, OUTCOMES, conform
from jobs.store import add_jobs, open_store
from jobs.workload.demonstration import DemonstrationLog
from jobs.writers import write_jobs
from services.client import Gridcast
from services.http.callers import own_token

BATCH_ROWS = 1000
PAUSE = 20.0
"""Seconds between two steps."""
TIMES = ("submitted_at", "started_at", "ended_at")
STARTED = "the demo's jobs go on"


def main() -> None:
    """Step until the process is stopped; an error ends it, and it is started again."""
    settings = prepare_environment()
    token = own_token(settings, "predict", "report")
    jobs, until = read_jobs_to_come(settings)
    log = DemonstrationLog(jobs, until, until)
    print(f"{STARTED} from {until:%Y-%m-%d %H:%M} UTC on", flush=True)
    with Gridcast(settings.predictor_address, token=token, timeout=30) as broker:
        while True:
            now = pd.Timestamp.now(tz=UTC)
            advance(settings, broker, log, until, now)
            until = now
            until_path(settings).write_text(until.isoformat())
            time.sleep(PAUSE)


def advance(
    settings: Settings,
    broker: Gridcast,
    log: DemonstrationLog,
    since: pd.Timestamp,
    now: pd.Timestamp,
) -> None:
    """Predict and report what happened between two times; doing it again changes nothing.

    Args:
        settings: The settings.
        broker: The predictor's client.
        log: The demo's jobs.
        since: The last time that was reported.
        now: The present.
    """
    jobs = log.as_of(now)
    is_new = {name: jobs[name].gt(since) & jobs[name].le(now) for name in TIMES}
    ended = jobs[is_new["ended_at"]]
    for batch in batches(jobs[is_new["submitted_at"]]):
        broker.predict(to_queries(batch))
    changed = (is_new["submitted_at"] | is_new["started_at"]) & jobs["ended_at"].isna()
    if changed.any():
        with open_store(settings.store_url).begin() as connection:
            add_jobs(connection, jobs[changed])
    for batch in batches(ended):
        broker.report(to_rows(batch, COLUMNS))


def batches(jobs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    """Split jobs into calls of BATCH_ROWS."""
    for start in range(0, len(jobs), BATCH_ROWS):
        yield jobs.iloc[start : start + BATCH_ROWS]


def to_queries(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """Return what a broker knows of jobs before they run, as rows of the client."""
    return to_rows(jobs, tuple(name for name in COLUMNS if name not in OUTCOMES))


def to_rows(jobs: pd.DataFrame, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Return jobs as the client's rows: missing values are left out, times are ISO 8601."""
    frame = jobs[list(columns)].copy()
    for name in OF_KIND["time"]:
        if name in frame:
            frame[name] = frame[name].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return [
        {str(key): value for key, value in row.items() if pd.notna(value)}
        for row in frame.to_dict("records")
    ]


def keep_jobs_to_come(settings: Settings, log: DemonstrationLog) -> None:
    """Write the demo's jobs, also those to come, for ``up --demo``."""
    write_jobs(log.jobs, log_path(settings))
    until_path(settings).write_text(log.now.isoformat())


def read_jobs_to_come(settings: Settings) -> tuple[pd.DataFrame, pd.Timestamp]:
    """The demo's jobs, and the time until which they have been reported."""
    jobs = conform(pd.read_parquet(log_path(settings)))
    return jobs, pd.Timestamp(until_path(settings).read_text())


def log_path(settings: Settings) -> Path:
    """The file of the demo's jobs; there is none before ``gridcast demo`` has run."""
    return settings.folder("log") / "demo.parquet"


def until_path(settings: Settings) -> Path:
    """The file of the time until which the demo's jobs have been reported."""
    return settings.folder("log") / "reported-until"


def demo_components(settings: Settings) -> list[Component]:
    """The components of ``up``, and the one that lets the demo's jobs go on."""
    usual = components.local_components(settings)
    shared = next(component.environment for component in usual if component.name == "predictor")
    feed = Component(
        "demo-jobs",
        components.python("flows.demo_feed"),
        ready_log_text=STARTED,
        environment=shared,
        after=("predictor",),
    )
    return [*usual, feed]


if __name__ == "__main__":
    main()
