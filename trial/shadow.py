"""A trial on live jobs: collect, predict each job before its end, and write the page each night.

Nothing of the batch system is changed, and no caller receives these predictions: they are logged as
shadow predictions and compared with the outcomes that are collected later.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.errors import InputError
from jobs.collectors import collect, collector_named
from jobs.store import add_predictions, open_store, read_jobs, read_predictions
from models.python_api import Forecaster
from scheduling.machine import MachineError, machine_of
from scheduling.trace import TraceError
from trial.page import write_page
from trial.results import Trial
from trial.study import LEAST_JOBS, run_trial

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from infra.settings import Settings

VERSION = "trial"
"""The model version under which predictions are logged."""
TARGETS = ("walltime", "peak_memory")
HISTORY = timedelta(days=90)
"""How far back the system is read when a trial begins."""


@dataclass(frozen=True)
class ShadowTrial:
    """A trial under way; times are ISO 8601, UTC.

    Attributes:
        system: The collector.
        where: Which of several systems.
        began_at: When it began.
        until: When it ends.
        page: The file that is written each night.
        sources: Of the collected jobs.
        written_on: The day on which the page was written last, empty before.
        done: Whether it was over when the page was written last.
        risk: The share of jobs that a time limit may kill.
    """

    system: str
    where: str
    began_at: str
    until: str
    page: str
    sources: tuple[str, ...] = ()
    written_on: str = ""
    risk: float = 0.01
    done: bool = False

    @property
    def begin(self) -> datetime:
        """When it began."""
        return datetime.fromisoformat(self.began_at)

    def is_over(self, now: datetime) -> bool:
        """Whether it has ended."""
        return now >= datetime.fromisoformat(self.until)


def parse_length(text: str) -> timedelta:
    """The length of a trial from a text such as 7d or 12h; raises InputError for another.

    >>> parse_length("7d").days
    7
    """
    number, unit = text[:-1], text[-1:]
    try:
        length = timedelta(hours=float(number) * {"d": 24, "h": 1}[unit])
    except (KeyError, ValueError, OverflowError):
        length = timedelta(0)
    if not timedelta(hours=1) <= length <= timedelta(days=366):
        raise InputError(f"--shadow takes a length such as 7d or 12h, up to 366d, not {text!r}")
    return length


def start(
    settings: Settings,
    system: str,
    where: str,
    length: timedelta,
    page: Path,
    risk: float = 0.01,
) -> ShadowTrial:
    """Note that a trial begins now; one that is under way ends.

    Args:
        settings: Where the data folder is.
        system: The collector.
        where: Which of several systems.
        length: How long it lasts.
        page: The file that is written each night.
        risk: The share of jobs that a time limit may kill.

    Raises:
        InputError: The collector needs to be told where, and is not.
    """
    now = datetime.now(UTC)
    collector = collector_named(system)
    if collector.needs and not where:
        raise InputError(f"the collector {system} needs {collector.needs}: say it by --where")
    trial = ShadowTrial(
        collector.name,
        where,
        now.isoformat(timespec="seconds"),
        (now + length).isoformat(timespec="seconds"),
        str(page.absolute()),
        risk=risk,
    )
    _save(settings, trial)
    return trial


def current(settings: Settings) -> ShadowTrial | None:
    """The trial that was begun last, None before the first."""
    path = _path(settings)
    if not path.exists():
        return None
    fields = json.loads(path.read_text(encoding="utf-8"))
    return ShadowTrial(**fields | {"sources": tuple(fields["sources"])})


def _path(settings: Settings) -> Path:
    return settings.folder("reports") / "shadow-trial.json"


def _save(settings: Settings, trial: ShadowTrial) -> None:
    path = _path(settings)
    temporary = path.with_suffix(".part")
    temporary.write_text(json.dumps(asdict(trial)), encoding="utf-8")
    temporary.replace(path)


def step(settings: Settings, trial: ShadowTrial, now: datetime | None = None) -> dict[str, Any]:
    """Collect, predict what is new, and write the page if it is a new day or the trial is over.

    Args:
        settings: Where store and data folder are.
        trial: As from ``current``.
        now: The present.

    Returns:
        ``collected`` and ``predicted`` (jobs), and ``page``, None unless it was written.
    """
    now = now or datetime.now(UTC)
    engine = open_store(settings.store_url)
    since = None if trial.sources else trial.begin - HISTORY
    done = collect(engine, trial.system, trial.where, since=since, until=now)
    trial = replace(trial, sources=tuple(sorted({*trial.sources, *done.sources})))
    predicted = predict_new(engine, trial, now) if trial.sources else 0
    page = None
    if trial.sources and (trial.written_on != f"{now:%Y-%m-%d}" or trial.is_over(now)):
        page = rewrite(engine, trial, now)
        trial = replace(trial, written_on=f"{now:%Y-%m-%d}", done=trial.is_over(now))
    _save(settings, trial)
    return {
        "collected": done.read,
        "predicted": predicted,
        "page": None if page is None else str(page),
    }


def predict_new(engine: Engine, trial: ShadowTrial, now: datetime) -> int:
    """Predict the jobs submitted since the trial began that have not ended and were not predicted.

    Args:
        engine: The store.
        trial: The trial.
        now: The present.

    Returns:
        How many they are.
    """
    waiting = read_jobs(engine, sources=list(trial.sources), since=trial.begin, ended=False)
    logged = _logged(engine, trial)
    keys = pd.MultiIndex.from_frame(waiting[["source", "job_id"]])
    new = waiting[~keys.isin(pd.MultiIndex.from_frame(logged[["source", "job_id"]]))]
    if new.empty:
        return 0
    history = read_jobs(engine, sources=list(trial.sources), until=now, ended=True)
    predictions = Forecaster(TARGETS).learn(history).predict(new)
    with engine.begin() as connection:
        for target in TARGETS:
            columns = {
                name: predictions[f"{target}{end}"].to_numpy()
                for name, end in (
                    ("point", ""),
                    ("median", "_median"),
                    ("low", "_low"),
                    ("high", "_high"),
                )
            }
            rows = pd.DataFrame(columns).assign(
                asked_at=pd.Timestamp(now),
                source=new["source"].to_numpy(),
                job_id=new["job_id"].to_numpy(),
                target=target,
                model_version=VERSION,
                known_revision=0,  # of a job that has not ended
                shadow=True,
            )
            add_predictions(connection, rows)
    return len(new)


def _logged(engine: Engine, trial: ShadowTrial) -> pd.DataFrame:
    """The logged predictions of a trial, with what the jobs needed where they have ended."""
    columns = ("ended_at", "walltime", "peak_memory", "submitted_at")
    rows = read_predictions(engine, since=trial.begin, columns=columns)
    return rows[(rows["model_version"] == VERSION) & rows["source"].isin(trial.sources)]


def live_rows(engine: Engine, trial: ShadowTrial) -> list[dict[str, Any]]:
    """A row a target: jobs predicted before their end, and how far these predictions held."""
    logged = _logged(engine, trial)
    rows = []
    for target in TARGETS:
        of_target = logged[logged["target"] == target]
        ended = of_target[of_target["ended_at"].notna() & of_target[target].notna()]
        actual, point = ended[target].to_numpy(np.float64), ended["point"].to_numpy(np.float64)
        rows.append(
            {
                "target": target,
                "predicted": len(of_target),
                "ended": len(ended),
                "coverage_90": float(ended[target].between(ended["low"], ended["high"]).mean())
                if len(ended)
                else None,
                "mae": float(np.abs(point - actual).mean()) if len(ended) else None,
            }
        )
    return rows


def rewrite(
    engine: Engine,
    trial: ShadowTrial,
    now: datetime,
    write: Callable[..., Path] = write_page,
) -> Path | None:
    """Judge all collected jobs anew and write the page; None while there are too few.

    Args:
        engine: The store.
        trial: The trial.
        now: The present.
        write: Writes the page.
    """
    jobs = read_jobs(engine, sources=list(trial.sources), until=now)
    if int(jobs["ended_at"].notna().sum()) < LEAST_JOBS:
        return None
    try:
        machine = machine_of(jobs)
    except (MachineError, TraceError):
        machine = None
    done: Trial = run_trial(jobs, machine, f"{trial.system}, live", trial.risk)
    return write(done, Path(trial.page), live=live_rows(engine, trial))
