"""The demo: the whole loop once, with the real parts, on generated jobs, from a log file to Evidently's report.

The log is cut at a day: what had ended by then is ingested and trained on; the jobs after it are lived through a day at a
time, as a broker would: asked about when they are submitted, reported when they have ended.
"""

from __future__ import annotations

import itertools
import logging
import socket
import subprocess
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
from infra.errors import GridcastError
from infra.process_groups import stop
from infra.settings import Settings, environment_with, prepare_environment
from infra.supervision import is_responding
from jobs.schema import COLUMNS, OF_KIND, OUTCOMES
from jobs.workload import START, Change, generate
from jobs.writers import write_jobs
from services.client import Gridcast
from services.http.authentication import token_with_scopes

JOBS, DAYS, SEED = 20_000, 30, 1
CUT = START + pd.Timedelta(days=22)
PLANTED = Change("slow_program", day=25, factor=3.0)
"""After the cut, so that the report has something true to find."""
JUDGED = {
    "candidate": "error of Gridcast",
    "median-10": "error of the median of the last 10",
    "request": "error of the user's request",
}
BATCH, CALLS = 1000, 20
PATIENCE = 90.0


def demo(progress: Progress) -> list[dict[str, Any]]:
    """Run the loop and return what to show, a row a fact: ``what``, ``value``, ``note``. Can be run again at any time."""
    settings = prepare_environment()
    # The progress bar tells it better; the runs' states and artifacts are on Prefect's page all the same.
    for name in ("prefect", "prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).setLevel(logging.WARNING)
    progress("generating jobs", 0.02)
    # A source of its own: a log that is generated later has jobs of the same names, which would take the place of these.
    jobs = generate(JOBS, DAYS, SEED, changes=[PLANTED]).jobs.assign(source="demo")
    past, later = jobs[jobs["ended_at"] <= CUT], jobs[~(jobs["ended_at"] <= CUT)]
    log = write_jobs(past, settings.folder("demo") / "generated.csv.gz")
    progress("ingesting the log", 0.08)
    ingested: Any = ingest([str(log)])
    progress("training", 0.2)
    trained: Any = train(why="the demo")
    progress("starting the predictor", 0.5)
    with predictor(settings) as address:
        broker = Gridcast(
            address,
            token=token_with_scopes(settings.tokens.get_secret_value(), "predict", "report"),
            timeout=30,
        )
        progress("asking about 1,000 jobs", 0.6)
        latency = time_calls(broker, later.head(BATCH))
        for day, share in live_through(broker, later):
            progress(
                f"living through {day:%d %B}: asking, then reporting what ended", 0.65 + 0.2 * share
            )
        broker.close()
    progress("looking for drift", 0.88)
    watched: Any = monitor()
    stored = ingested[0]["added"] + ingested[0]["unchanged"]
    rows = [
        _fact(
            "jobs ingested",
            stored,
            f"generated, seed {SEED}; {ingested[0]['rejected']} records rejected",
        ),
        _fact(
            "finished jobs reported", len(later), "by the broker's client, after the log was cut"
        ),
        _fact(f"{BATCH:,} jobs in one call", latency, f"ms, median of {CALLS} JSON calls"),
        _fact("drift", watched["verdict"], watched["sentence"]),
        _fact("champion", f"{settings.model_name}-{trained['version']}", trained["why"]),
        *(_fact("report", "Evidently", page) for page in watched["pages"]),
        _fact(
            "MLflow",
            f"http://{settings.host}:{settings.mlflow_port}",
            "after gridcast up: the champion, its card, tables and plots",
        ),
        _fact(
            "Prefect",
            f"http://{settings.host}:{settings.prefect_port}",
            "after gridcast up: the flows that ran just now",
        ),
    ]
    return [*rows[:2], *_errors(trained["rows"]), *rows[2:]]


def _fact(what: str, value: Any, note: str) -> dict[str, Any]:
    return {"what": what, "value": value, "note": note}


def _errors(rows: list[dict[str, Any]]) -> Iterator[dict[str, Any]]:
    """The errors of the champion-to-be and of the baselines on jobs later than its training."""
    for row in rows:
        if row["target"] == "walltime" and row["predictor"] in JUDGED:
            note = f"mean absolute error of walltime [s] on {row['jobs']:,} later jobs"
            yield _fact(JUDGED[row["predictor"]], row["mae"], note)


@contextmanager
def predictor(settings: Settings) -> Iterator[str]:
    """The predictor on a free port as a process of its own; yields its address once it is ready."""
    with socket.socket() as door:
        door.bind((settings.host, 0))
        port = door.getsockname()[1]
    part = components.predictor(settings.model_copy(update={"predictor_port": port}), {})
    log = settings.folder("logs") / "demo-predictor.log"
    with log.open("ab") as out:
        process = subprocess.Popen(  # noqa: S603
            part.command, stdout=out, stderr=out, env=environment_with({}), start_new_session=True
        )
        try:
            deadline = time.monotonic() + PATIENCE
            while not is_responding(part):
                if time.monotonic() > deadline or process.poll() is not None:
                    raise GridcastError(f"the predictor did not become ready: its log is {log}")
                time.sleep(0.2)
            yield part.address
        finally:
            stop(process.pid, part.stop_signal, part.stop_seconds)
            process.wait()


def time_calls(broker: Gridcast, jobs: pd.DataFrame) -> float:
    """The median time in ms of CALLS JSON calls with ``jobs``, as the client sees it."""
    rows, seconds = asked(jobs), []
    for _ in range(CALLS):
        began = time.perf_counter()
        broker.predict(rows)
        seconds.append(time.perf_counter() - began)
    return round(float(np.median(seconds)) * 1000, 1)


def live_through(broker: Gridcast, jobs: pd.DataFrame) -> Iterator[tuple[pd.Timestamp, float]]:
    """Ask about each day's jobs, then report those that ended by its end; yields each day and the share done."""
    days = pd.date_range(CUT, jobs["ended_at"].max().ceil("D"), freq="D")
    for place, (day, night) in enumerate(itertools.pairwise(days)):
        yield day, place / len(days)
        submitted = jobs[(jobs["submitted_at"] >= day) & (jobs["submitted_at"] < night)]
        ended = jobs[(jobs["ended_at"] > day) & (jobs["ended_at"] <= night)]
        for part in _batches(submitted):
            broker.predict(asked(part))
        for part in _batches(ended):
            broker.report(told(part, COLUMNS))


def _batches(jobs: pd.DataFrame) -> Iterator[pd.DataFrame]:
    for start in range(0, len(jobs), BATCH):
        yield jobs.iloc[start : start + BATCH]


def asked(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """What a broker knows of jobs before they run."""
    return told(jobs, tuple(name for name in COLUMNS if name not in OUTCOMES))


def told(jobs: pd.DataFrame, columns: tuple[str, ...]) -> list[dict[str, Any]]:
    """Jobs as the client's rows: what is missing is left out, times are ISO 8601."""
    frame = jobs[list(columns)].copy()
    for name in OF_KIND["time"]:
        if name in frame:
            frame[name] = frame[name].dt.strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    return [
        {str(key): value for key, value in row.items() if pd.notna(value)}
        for row in frame.to_dict("records")
    ]
