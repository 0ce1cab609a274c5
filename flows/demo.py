"""The demo: the whole loop once, with the real components, on generated jobs.

The log is cut at a day: what had ended by then is ingested and trained on. The days after it are
replayed as a broker would live them: jobs are predicted when they are submitted, and reported when
they have ended. ``gridcast demo`` runs it in a data folder of its own (``demo``).
"""

from __future__ import annotations

import itertools
import logging
import socket
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pandas as pd

from flows.ingest import ingest
from flows.monitor import monitor
from flows.train import train
from infra import components
from infra.aliases import Progress
from infra.settings import Settings, prepare_environment
from infra.temporary import running
from jobs.schema import COLUMNS, OF_KIND, OUTCOMES
from jobs.workload import START, Change, generate
from jobs.writers import write_jobs
from services.client import Gridcast
from services.http.authentication import token_with_scopes

JOBS, DAYS, SEED = 20_000, 30, 1
CUT = START + pd.Timedelta(days=22)
PLANTED = Change("slow_program", day=25, factor=3.0)
"""A change after the cut, for the drift report to find."""
COMPARED = {
    "candidate": "error of Gridcast",
    "median-10": "error of the median of the last 10",
    "request": "error of the user's request",
}
BATCH_ROWS, CALLS = 1000, 20


def demo(progress: Progress) -> list[dict[str, Any]]:
    """Run the loop; returns a row a fact: ``what``, ``value``, ``note``. Can be run again."""
    settings = prepare_environment()
    # The progress bar is enough here; the runs are on Prefect's page all the same.
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.WARNING)
    progress("generating jobs", 0.02)
    jobs = generate(JOBS, DAYS, SEED, changes=[PLANTED]).jobs.assign(source="demo")
    has_ended = jobs["ended_at"] <= CUT
    log = write_jobs(jobs[has_ended], settings.folder("tmp") / "generated.csv.gz")
    later = jobs[~has_ended]
    progress("ingesting the log", 0.08)
    ingested: Any = ingest([str(log)])
    progress("training", 0.2)
    trained: Any = train(why="the demo")
    progress("starting the predictor", 0.5)
    with predictor(settings) as address:
        token = token_with_scopes(settings.tokens.get_secret_value(), "predict", "report")
        broker = Gridcast(address, token=token, timeout=30)
        progress(f"predicting {BATCH_ROWS:,} jobs", 0.6)
        latency = time_calls(broker, later.head(BATCH_ROWS))
        for day, share in replay_days(broker, later):
            text = f"replaying {day:%d %B}: predicting, then reporting ended jobs"
            progress(text, 0.65 + 0.2 * share)
        broker.close()
    progress("looking for drift", 0.88)
    monitored: Any = monitor()
    [file] = ingested
    up = f"after GRIDCAST_HOME={settings.home} gridcast up"
    mlflow, prefect = (
        f"http://{settings.host}:{port}" for port in (settings.mlflow_port, settings.prefect_port)
    )
    return [
        _fact(
            "jobs ingested",
            file["added"] + file["unchanged"],
            f"generated, seed {SEED}; {file['rejected']} records rejected",
        ),
        _fact(
            "finished jobs reported", len(later), "by the broker's client, after the log was cut"
        ),
        *_errors(trained["rows"]),
        _fact(f"{BATCH_ROWS:,} jobs in one call", latency, f"ms, median of {CALLS} JSON calls"),
        _fact("drift", monitored["verdict"], monitored["sentence"]),
        _fact("champion", f"{settings.model_name}-{trained['version']}", trained["why"]),
        *(_fact("report", "Evidently", page) for page in monitored["pages"]),
        _fact("MLflow", mlflow, f"{up}: the champion, its card, tables and plots"),
        _fact("Prefect", prefect, f"{up}: the flows that ran just now"),
    ]


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
    with socket.socket() as probe:
        probe.bind((settings.host, 0))
        port = probe.getsockname()[1]
    component = components.predictor(settings.model_copy(update={"predictor_port": port}), {})
    with running(settings, component):
        yield component.address


def time_calls(broker: Gridcast, jobs: pd.DataFrame) -> float:
    """Measure the median time in ms of CALLS JSON calls with ``jobs``, as the client sees it."""
    rows, seconds = to_queries(jobs), []
    for _ in range(CALLS):
        began = time.perf_counter()
        broker.predict(rows)
        seconds.append(time.perf_counter() - began)
    return round(float(np.median(seconds)) * 1000, 1)


def replay_days(broker: Gridcast, jobs: pd.DataFrame) -> Iterator[tuple[pd.Timestamp, float]]:
    """Predict each day's jobs, then report those that ended; yields each day and the share done."""
    days = pd.date_range(CUT, jobs["ended_at"].max().ceil("D"), freq="D")
    for number, (day, night) in enumerate(itertools.pairwise(days)):
        yield day, number / len(days)
        submitted = jobs[(jobs["submitted_at"] >= day) & (jobs["submitted_at"] < night)]
        ended = jobs[(jobs["ended_at"] > day) & (jobs["ended_at"] <= night)]
        for batch in _batches(submitted):
            broker.predict(to_queries(batch))
        for batch in _batches(ended):
            broker.report(to_rows(batch, COLUMNS))


def _batches(jobs: pd.DataFrame) -> Iterator[pd.DataFrame]:
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
