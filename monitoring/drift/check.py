"""The look at the recent jobs that a person or a schedule asks for: windows from the store, the report, its numbers kept."""

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
from monitoring.drift.report import KEEP, DriftReport, report
from monitoring.drift.windows import CATEGORIES

if TYPE_CHECKING:
    from sqlalchemy import Engine

RECENT = timedelta(days=7)
LEAST_RECENT = 1000
"""Where RECENT holds fewer jobs, so many of the newest are looked at instead."""
LONGEST_REFERENCE = timedelta(days=180)
"""What was ordinary longer before the champion was trained is no yardstick."""


def monitor(
    engine: Engine,
    card: ModelCard,
    folder: Path,
    *,
    model: str = "",
    recent: timedelta = RECENT,
    sampling: Sampling | None = None,
    measured_at: datetime | None = None,
    keep: int = KEEP,
) -> DriftReport:
    """Compare the jobs that ended since the champion was trained (the last ``recent`` of them) with its training window.

    ``card`` is the champion's (``ModelSet.card``), ``model`` its label; pages go into ``folder``, numbers into the store under the
    kinds drift, missing and accuracy. Running it again does no harm.
    """
    reference, current = windows(engine, card, recent)
    predictions = answers(engine, current["ended_at"].min()) if len(current) else None
    if predictions is not None and card.sources:
        predictions = predictions[predictions["source"].isin(card.sources)]
    about = f"{model} trained on {', '.join(card.sources[:3])}.".strip()
    found = report(
        reference,
        current,
        folder=folder,
        predictions=predictions,
        sampling=sampling,
        measured_at=measured_at,
        about=about,
        keep=keep,
    )
    with engine.begin() as connection:
        add_measurements(connection, found.measurements)
    return found


def windows(
    engine: Engine, card: ModelCard, recent: timedelta = RECENT
) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The jobs that had ended when the model of ``card`` was trained, and the recent ones of those that ended since."""
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
    since = max(pd.Timestamp(window.first_submission), trained_until - LONGEST_REFERENCE)
    columns = [*OF_KIND["number"], *CATEGORIES, "task_id", "submitted_at", "ended_at"]
    sources = [source] if source else None
    jobs = read_jobs(engine, since=since, sources=sources, ended=True, columns=columns)
    later = jobs[jobs["ended_at"] > trained_until]
    last = later[later["ended_at"] >= later["ended_at"].max() - recent]
    if len(last) < LEAST_RECENT:
        last = later.sort_values("ended_at", kind="stable").tail(LEAST_RECENT)
    return jobs[jobs["ended_at"] <= trained_until], last


def answers(engine: Engine, since: datetime) -> pd.DataFrame:
    """The first answer given about each job that ended from ``since`` on, a row a target, beside the ``actual`` outcome.

    An answer given when the end of its job was known here already foresaw nothing and is left out, and so is a challenger's, which
    nobody saw. What was known is told by the store's revisions and not by clocks: a log that is lived through again was asked about
    long after its dates.
    """
    first = _foreseen(
        read_predictions(engine, ended_since=since, columns=(*OF_KIND["number"], "revision"))
    )
    actual = np.full(len(first), np.nan)
    # Only what was answered: a target of another subject is made from fields that jobs do not have.
    for name in TARGETS.keys() & set(first["target"]):
        asked = (first["target"] == name).to_numpy()
        actual[asked] = TARGETS[name].value(first[asked])
    return first.assign(actual=actual)


def first_answers(engine: Engine, label: str, target: str, columns: Sequence[str]) -> pd.DataFrame:
    """The first answer of version ``label`` about each job, ended or not, with ``columns`` and the numbers of the job.

    Left out is what ``answers`` leaves out, so that of what had ended here before it was asked about nothing is judged.
    """
    logged = read_predictions(
        engine, target=target, columns=(*OF_KIND["number"], *columns, "revision")
    )
    return _foreseen(logged[logged["model_version"] == label])


def _foreseen(logged: pd.DataFrame) -> pd.DataFrame:
    # A job that has not ended has revision 0, which is before everything.
    told = (logged["revision"] > 0) & (logged["revision"] <= logged["known_revision"])
    return (
        logged[~told & ~logged["shadow"].eq(True)]
        .drop_duplicates(["source", "job_id", "target"])
        .reset_index(drop=True)
    )
