"""The demo: the whole loop once, with the real components, on generated jobs that end now.

What had ended nine days ago is ingested and trained on. The days since are replayed as a broker
would live them: jobs are predicted when they are submitted, and reported when they have ended. The
jobs that are still open are stored as a collector would store them, and the task watch looks at the
last day again. ``gridcast demo`` runs it in a data folder of its own (``demo``).
"""

from __future__ import annotations

import itertools
import logging
import signal
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC
from secrets import token_urlsafe
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from flows.demo_feed import BATCH_ROWS, batches, keep_jobs_to_come, to_queries, to_rows
from flows.ingest import ingest
from flows.monitor import monitor
from flows.train import train
from infra import components
from infra.aliases import Progress
from infra.processes import port_conflict
from infra.settings import Settings, prepare_environment
from infra.temporary import running
from jobs.schema import COLUMNS
from jobs.store import open_store
from jobs.workload.demonstration import SEED, DemonstrationLog, demonstration_log
from jobs.writers import write_jobs
from monitoring.decay.champion import watch_champion
from monitoring.tasks.watch import TaskWatch
from services.client import Gridcast
from services.http.callers import own_token

if TYPE_CHECKING:
    from sqlalchemy import Engine

COMPARED = {
    "candidate": "error of Gridcast",
    "median-10": "error of the median of the last 10",
    "request": "error of the user's request",
}
STARTUP_SECONDS = 600
"""How long Prefect's server may take to start, on a busy machine."""
CALLS = 20
PORTS = range(20_000, 30_000)
"""Of the predictor; systems give ports above to connections, before the predictor listens."""
WATCHED_HOURS = (18, 12, 10, 8, 7, 6, 5, 4, 3, 2, 1, 0)
"""How long ago the task watch looks at the tasks, the earliest first."""


def demo(progress: Progress) -> list[dict[str, Any]]:
    """Run the loop on an empty store; returns a row a fact: ``what``, ``value``, ``note``."""
    from prefect.context import SyncClientContext
    from prefect.settings import (
        PREFECT_API_AUTH_STRING,
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
        PREFECT_SERVER_API_AUTH_STRING,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS,
        temporary_settings,
    )

    settings = prepare_environment()
    # The progress is reported; the runs are on Prefect's page all the same.
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.WARNING)
    # Without a server each flow starts one of its own, unless one client is kept for all.
    # Other accounts of the machine reach that server: it asks for a login.
    login = f"gridcast:{token_urlsafe(32)}"
    own_server = {
        PREFECT_SERVER_ALLOW_EPHEMERAL_MODE: True,
        PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS: STARTUP_SECONDS,
        PREFECT_API_AUTH_STRING: login,
        PREFECT_SERVER_API_AUTH_STRING: login,
    }
    with temporary_settings(own_server), _ended_by_sigterm(), SyncClientContext.get_or_create():
        return _run_loop(settings, progress)


@contextmanager
def _ended_by_sigterm() -> Iterator[None]:
    """End as at Ctrl-C while the context lasts, so that the servers of the demo are stopped."""

    def end(*_: object) -> None:
        sys.exit(128 + signal.SIGTERM)

    before = signal.signal(signal.SIGTERM, end)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _run_loop(settings: Settings, progress: Progress) -> list[dict[str, Any]]:
    progress("generating a month of jobs", 0.02)
    log = demonstration_log(pd.Timestamp.now(tz=UTC))
    has_ended = log.jobs["ended_at"] <= log.trained_until
    folder = settings.folder("tmp")
    progress(f"ingesting {has_ended.sum():,} jobs that ended by {log.trained_until:%d %B}", 0.05)
    ingested: Any = ingest([str(write_jobs(log.jobs[has_ended], folder / "generated.csv.gz"))])
    progress("training a model and comparing it with simple rules", 0.1)
    trained: Any = train(why="the demo")
    label, later = f"{settings.model_name}-{trained['version']}", log.jobs[~has_ended]
    engine = open_store(settings.store_url)
    progress("starting the predictor", 0.45)
    with predictor(settings) as address:
        token = own_token(settings, "predict", "report")
        broker = Gridcast(address, token=token, timeout=30)
        progress(f"predicting {BATCH_ROWS:,} jobs, {CALLS} times", 0.55)
        latency = time_calls(broker, later.head(BATCH_ROWS))
        progress("replaying the days since: predicting, then reporting ended jobs", 0.6)
        for night, share in replay_days(broker, log):
            progress(f"replaying the days since: {night:%d %B}", 0.6 + 0.2 * share)
            watch_champion(engine, label, night.to_pydatetime())
        broker.close()
    open_jobs = log.as_of(log.now).loc[lambda jobs: jobs["ended_at"].isna()]
    progress(f"storing {len(open_jobs)} jobs that wait or run", 0.82)
    ingest([str(write_jobs(open_jobs, folder / "open.csv.gz"))])
    progress("looking for drift and decay", 0.84)
    monitored: Any = monitor()
    progress("watching the tasks of the last day", 0.92)
    states = watch_tasks(engine, settings, log.now)
    keep_jobs_to_come(settings, log)
    progress("done", 1.0)
    [file] = ingested
    reported = int((later["ended_at"] <= log.now).sum())
    listed = ", ".join(f"{count} {state}" for state, count in states.items())
    decay = monitored["decay"]
    return [
        _fact("jobs ingested", file["added"], f"generated, seed {SEED}: those of 18 days"),
        _fact("jobs reported", reported, "by a broker, as they ended in the 11 days since"),
        *_errors(trained["rows"]),
        _fact(f"{BATCH_ROWS:,} jobs in one call", latency, f"ms, median of {CALLS} JSON calls"),
        _fact("champion", label, trained["why"]),
        _fact("drift", monitored["verdict"], monitored["sentence"]),
        _fact("decay", "found" if decay.startswith("Decay") else "none", decay),
        _fact("tasks of the last day", sum(states.values()), listed),
        *(_fact("report", "Evidently", page) for page in monitored["pages"]),
    ]


def watch_tasks(engine: Engine, settings: Settings, now: pd.Timestamp) -> dict[str, int]:
    """Let the task watch look at the tasks of the last day, as it does while ``up`` runs.

    Args:
        engine: The store.
        settings: The settings.
        now: The present.

    Returns:
        How many tasks are in each state.
    """
    watch = TaskWatch(engine, settings)
    for hours in WATCHED_HOURS:
        described = watch.update((now - pd.Timedelta(hours=hours)).to_pydatetime())
        watch.fitted_at = now  # one fit of the models of tasks is enough for a day
    counts = described["state"][described["kind"] == "task"].value_counts()
    return {str(state): int(count) for state, count in counts.items()}


def _fact(label: str, value: Any, note: str) -> dict[str, Any]:
    return {"what": label, "value": value, "note": note}


def _errors(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The errors of the candidate and of the baselines on jobs later than its training."""
    for row in rows:
        if row["target"] == "walltime" and row["predictor"] in COMPARED:
            note = f"mean absolute error of walltime [s] on {row['jobs']:,} later jobs"
            yield _fact(COMPARED[row["predictor"]], row["mae"], note)


@contextmanager
def predictor(settings: Settings) -> Iterator[str]:
    """Run the predictor on a free port as a process of its own; yields its address once ready."""
    settings.make_token()
    for port in np.random.default_rng().permutation(PORTS).tolist():
        component = components.predictor(settings.model_copy(update={"predictor_port": port}), {})
        if not port_conflict(component):
            break
    with running(settings, component):
        yield component.address


def time_calls(broker: Gridcast, jobs: pd.DataFrame) -> float:
    """Measure the median time in ms of CALLS JSON calls with ``jobs``, as the client sees it."""
    rows, seconds = to_queries(jobs), []
    for _ in range(CALLS):
        began = time.perf_counter()
        broker.predict(rows, keep=False)
        seconds.append(time.perf_counter() - began)
    return round(float(np.median(seconds)) * 1000, 1)


def replay_days(broker: Gridcast, log: DemonstrationLog) -> Iterator[tuple[pd.Timestamp, float]]:
    """Predict each day's jobs, then report those that ended; yields its end and the share done."""
    jobs, begin = log.jobs, log.trained_until
    nights = [*pd.date_range(begin, log.now, freq="D")[1:], log.now]
    for number, (day, night) in enumerate(itertools.pairwise([begin, *nights])):
        submitted = jobs[(jobs["submitted_at"] > day) & (jobs["submitted_at"] <= night)]
        ended = jobs[(jobs["ended_at"] > day) & (jobs["ended_at"] <= night)]
        for batch in batches(submitted):
            broker.predict(to_queries(batch))
        for batch in batches(ended):
            broker.report(to_rows(batch, COLUMNS))
        yield night, (number + 1) / len(nights)
