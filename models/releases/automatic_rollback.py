"""Succession: one training at a time, and the way back from a champion that does worse than the one before it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from infra.errors import GridcastError
from infra.settings import Settings
from jobs.store import read_jobs
from models.engine.backtest import predict_in_time
from models.releases import registry
from models.releases.alias_moves import (
    BY_PERSON_IN_MLFLOW,
    BY_RETRAIN_FLOW,
    BY_TRAIN_COMMAND,
    BY_TRAIN_FLOW,
)
from models.releases.comparison import difference, outcomes
from models.releases.release import MAX_EVALUATION_JOBS, MIN_EVALUATION_JOBS, load_model_set
from models.releases.versions import Version

if TYPE_CHECKING:
    from sqlalchemy import Engine

ROLLED_BACK_BY = "rolled back by Gridcast"


class BusyError(GridcastError):
    """Another training runs."""


@contextmanager
def training_lock(settings: Settings) -> Iterator[None]:
    """Train training_lock on this data folder; raises BusyError at once where another trains. The claim dies with its process."""
    with (settings.folder("tmp") / "training.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError("another training runs: this one is left to it") from None
        yield


def roll_back_if_worse(engine: Engine, settings: Settings) -> Version | None:
    """Give the place back to the version before the champion where it did surely better on the jobs that neither had seen.

    Both live through the jobs submitted since the champion was trained, the newest MAX_EVALUATION_JOBS at most. Returns the version that serves
    again, None where the champion stays: too few such jobs, no sure difference, a person's choice or a pinned version. Raises
    RegistryError, or ModelError where one of the two cannot be loaded.
    """
    champion = registry.reconcile(settings)
    if (
        champion is None
        or "replaces" not in champion.tags
        or not _chosen_by_flow(champion)
        or registry.pinned(settings)
    ):
        return None
    before = registry.get(int(champion.tags["replaces"]), settings)
    new, old = load_model_set(champion, settings), load_model_set(before, settings)
    since = new.card.window.until
    jobs = read_jobs(engine, sources=new.card.sources or None, ended=True)
    asked = (
        jobs[jobs["submitted_at"] > since]
        .sort_values("submitted_at", kind="stable")
        .tail(MAX_EVALUATION_JOBS)
    )
    target = next(iter(new.targets))
    if len(asked) < MIN_EVALUATION_JOBS or target not in old.targets:
        return None
    truth = outcomes(asked, since, target)
    mine, theirs = (predict_in_time(one, jobs, asked)[target] for one in (new, old))
    found = difference(truth, mine, theirs)
    if found.low <= 0:
        return None
    why = f"on {len(truth):,} jobs since its training the mean absolute error of {target} was {found} than that of {before.label}"
    return registry.rollback(
        by=ROLLED_BACK_BY, why=why, expected=champion.version, settings=settings
    )


def _chosen_by_flow(champion: Version) -> bool:
    """Whether the champion was promoted by its score; what a person chose is left to persons."""
    by = champion.tags.get("promoted_by", BY_PERSON_IN_MLFLOW)
    return by.startswith((BY_TRAIN_FLOW, BY_RETRAIN_FLOW, BY_TRAIN_COMMAND))
