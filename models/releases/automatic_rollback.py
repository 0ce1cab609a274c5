"""Automatic rollback to the version before a champion that is worse, and the training lock."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd
from filelock import FileLock, Timeout

from infra.errors import GridcastError
from infra.settings import Settings
from jobs.store import read_jobs
from models.engine.backtest import predict_in_time
from models.engine.model_card import ModelCard
from models.releases import registry
from models.releases.alias_moves import (
    BY_CANARY,
    BY_PERSON_IN_MLFLOW,
    BY_RETRAIN_FLOW,
    BY_TRAIN_COMMAND,
    BY_TRAIN_FLOW,
)
from models.releases.candidate import MAX_EVALUATION_JOBS, MIN_EVALUATION_JOBS
from models.releases.comparison import difference, outcomes
from models.releases.verification import load_model_set
from models.releases.versions import Version

if TYPE_CHECKING:
    from sqlalchemy import Engine

ROLLED_BACK_BY = "rolled back by Gridcast"


class BusyError(GridcastError):
    """Another training runs."""


@contextmanager
def training_lock(settings: Settings) -> Iterator[None]:
    """Hold the training lock of this data folder, which is freed when its process ends.

    Raises BusyError at once where another training holds it.
    """
    lock = FileLock(settings.folder("tmp") / "training.lock", mode=0o600, blocking=False)
    try:
        lock.acquire()
    except Timeout:
        raise BusyError("another training runs: this one is left to it") from None
    try:
        yield
    finally:
        lock.release()


def roll_back_if_worse(engine: Engine, settings: Settings) -> Version | None:
    """Return to the version before the champion where that is surely better on jobs new to both.

    Both predict the jobs submitted since the champion was trained on their sources, the newest
    MAX_EVALUATION_JOBS at most.

    Returns:
        The version that serves again; None where the champion stays: too few such jobs, no sure
        difference, a person's choice, a pinned version, or no earlier version left.

    Raises:
        RegistryError: MLflow cannot be reached.
        ModelError: One of the two cannot be loaded.
    """
    champion = registry.reconcile(settings)
    if champion is None or not _chosen_by_flow(champion) or registry.pinned(settings):
        return None
    before = registry.find(int(champion.tags.get("replaces", 0)), settings)
    if before is None:
        return None
    new, old = load_model_set(champion, settings), load_model_set(before, settings)
    jobs = read_jobs(engine, sources=new.card.sources or None, ended=True)
    later = (
        jobs[_new_to(new.card, jobs)]
        .sort_values("submitted_at", kind="stable")
        .tail(MAX_EVALUATION_JOBS)
    )
    target = next(iter(new.targets))
    if len(later) < MIN_EVALUATION_JOBS or target not in old.targets:
        return None
    truth = outcomes(later, target)
    points = [predict_in_time(model_set, jobs, later)[target] for model_set in (new, old)]
    excess = difference(truth, *points, sources=later["source"])
    if excess.low <= 0:
        return None
    why = (
        f"on {len(truth):,} jobs since its training the mean absolute error of {target} was "
        f"{excess} than that of {before.label}"
    )
    return registry.rollback(
        by=ROLLED_BACK_BY, why=why, expected=champion.version, settings=settings
    )


def _new_to(card: ModelCard, jobs: pd.DataFrame) -> pd.Series:
    """Mask of the jobs submitted since the model was trained on their source."""
    until = pd.to_datetime(jobs["source"].map(card.trained_until), utc=True)
    return jobs["submitted_at"] > until


def _chosen_by_flow(champion: Version) -> bool:
    """Tell whether the champion was promoted by its score, and not by a person."""
    by = champion.tags.get("promoted_by", BY_PERSON_IN_MLFLOW)
    return by.startswith((BY_TRAIN_FLOW, BY_RETRAIN_FLOW, BY_TRAIN_COMMAND, BY_CANARY))
