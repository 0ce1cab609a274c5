"""The drift check of a schedule or a person: windows from the store, the report, its metrics."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jobs.schema import OF_KIND
from jobs.store import add_measurements, read_jobs, read_predictions
from models.engine.model_card import ModelCard
from models.quantities.targets import TARGETS
from monitoring.drift.effect_sizes import Sampling
from monitoring.drift.report import MAX_PAGES, DriftReport, report
from monitoring.drift.windows import CATEGORIES

if TYPE_CHECKING:
    from sqlalchemy import Engine

RECENT = timedelta(days=7)
MIN_RECENT_JOBS = 1000
"""Where RECENT holds fewer jobs, so many of the newest are used instead."""
LONGEST_REFERENCE = timedelta(days=180)
"""Jobs from longer before the training are no reference."""


def monitor(
    engine: Engine,
    card: ModelCard,
    folder: Path,
    *,
    model: str = "",
    recent: timedelta = RECENT,
    sampling: Sampling | None = None,
    measured_at: datetime | None = None,
    keep: int = MAX_PAGES,
) -> DriftReport:
    """Compare the jobs that ended since the champion was trained with its training window.

    The metrics are stored under the kinds drift, missing and accuracy; running it again is
    harmless.

    Args:
        engine: The store.
        card: The champion's card.
        folder: Where the pages go.
        model: The champion's label.
        recent: How much of the time since the training is compared.
        sampling: The rows that are compared.
        measured_at: The time of the metrics, by default now.
        keep: How many pages stay in the folder.
    """
    reference, current = windows(engine, card, recent)
    predictions = answers(engine, current["ended_at"].min()) if len(current) else None
    if predictions is not None and card.sources:
        predictions = predictions[predictions["source"].isin(card.sources)]
    drift = report(
        reference,
        current,
        folder=folder,
        predictions=predictions,
        sampling=sampling,
        measured_at=measured_at,
        about=f"{model} trained on {', '.join(card.sources[:3])}.".strip(),
        keep=keep,
    )
    with engine.begin() as connection:
        add_measurements(connection, drift.measurements)
    return drift


def windows(
    engine: Engine, card: ModelCard, recent: timedelta = RECENT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """Read the two windows of jobs, of the sources that the model was trained on.

    Args:
        engine: The store.
        card: The model's card.
        recent: How much of the time since the training is read.

    Returns:
        The jobs that had ended at the training, and the recent ones that ended since.
    """
    sources: tuple[str | None, ...] = card.sources or (None,)
    pairs = [_windows_of(engine, card, source, recent) for source in sources]
    reference, last = (pd.concat(frames, ignore_index=True) for frames in zip(*pairs, strict=True))
    return reference, last


def _windows_of(
    engine: Engine, card: ModelCard, source: str | None, recent: timedelta
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The two windows of one source, whose jobs may be of other years than another's."""
    window = (card.window_of(source) if source else None) or card.window
    trained_until = window.until
    jobs = read_jobs(
        engine,
        sources=[source] if source else None,
        since=max(pd.Timestamp(window.first_submission), trained_until - LONGEST_REFERENCE),
        ended=True,
        columns=[*OF_KIND["number"], *CATEGORIES, "task_id", "submitted_at", "ended_at"],
    )
    later = jobs[jobs["ended_at"] > trained_until]
    last = later[later["ended_at"] >= later["ended_at"].max() - recent]
    if len(last) < MIN_RECENT_JOBS:
        last = later.sort_values("ended_at", kind="stable").tail(MIN_RECENT_JOBS)
    return jobs[jobs["ended_at"] <= trained_until], last


def answers(engine: Engine, since: datetime) -> pd.DataFrame:
    """Read the first answer about each job that ended from ``since`` on, with its outcome.

    Answers that already knew the outcome, and a challenger's, are left out. What an answer knew
    follows from the store's revisions, not from clocks: a log that is replayed is predicted long
    after its dates.

    Returns:
        A row a job and target, with the ``actual`` outcome.
    """
    columns = (*OF_KIND["number"], "submitted_at", "started_at", "revision")
    first = _predictions_only(read_predictions(engine, ended_since=since, columns=columns))
    actual = np.full(len(first), np.nan)
    # A target of another subject is made from fields that jobs do not have.
    for name in TARGETS.keys() & set(first["target"]):
        rows = (first["target"] == name).to_numpy()
        actual[rows] = TARGETS[name].value(first[rows])
    return first.assign(actual=actual)


def first_answers(engine: Engine, label: str, target: str, columns: Sequence[str]) -> pd.DataFrame:
    """Read the first answer of a version about each job, ended or not.

    Args:
        engine: The store.
        label: The version.
        target: What was predicted.
        columns: Fields of the job to add, beside its numbers.

    Returns:
        A row a job, without what ``answers`` leaves out.
    """
    names = (*OF_KIND["number"], *columns, "revision")
    logged = read_predictions(engine, target=target, columns=names)
    return _predictions_only(logged[logged["model_version"] == label])


def _predictions_only(logged: pd.DataFrame) -> pd.DataFrame:
    # A job that has not ended has revision 0, which is before everything.
    knew_outcome = (logged["revision"] > 0) & (logged["revision"] <= logged["known_revision"])
    own = logged[~knew_outcome & ~logged["shadow"].eq(True)]
    return own.drop_duplicates(["source", "job_id", "target"]).reset_index(drop=True)
