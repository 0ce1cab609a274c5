"""Succession: one training at a time, and the way back from a champion that does worse than the one before it."""

from __future__ import annotations

import fcntl
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

import pandas as pd

from infra.errors import GridcastError
from infra.settings import Settings
from jobs.store import read_jobs
from models.releases import registry
from models.releases.alias_moves import RETRAINED, THEIRS, TRAINED, TYPED
from models.releases.comparison import difference, live_through, outcomes
from models.releases.release import FEWEST_LATER, MOST_LATER, load
from models.releases.versions import Version

if TYPE_CHECKING:
    from sqlalchemy import Engine

BY = "rolled back by Gridcast"


class BusyError(GridcastError):
    """Another training runs."""


@contextmanager
def alone(settings: Settings) -> Iterator[None]:
    """Train alone on this data folder; raises BusyError at once where another trains. The claim dies with its process."""
    with (settings.folder("tmp") / "training.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise BusyError("another training runs: this one is left to it") from None
        yield


def look_back(engine: Engine, settings: Settings) -> Version | None:
    """Give the place back to the version before the champion where it did surely better on the jobs that neither had seen.

    Both live through the jobs submitted since the champion was trained, the newest MOST_LATER at most. Returns the version that serves
    again, None where the champion stays: too few such jobs, no sure difference, a person's choice or a pinned version. Raises
    RegistryError, or ModelError where one of the two cannot be loaded.
    """
    champion = registry.settle(settings)
    if (
        champion is None
        or "replaces" not in champion.tags
        or not _chosen_by_flow(champion)
        or registry.pinned(settings)
    ):
        return None
    before = registry.get(int(champion.tags["replaces"]), settings)
    new, old = load(champion, settings), load(before, settings)
    since = pd.Timestamp(int(new.card["window"]["until_us"]), unit="us", tz="UTC")
    jobs = read_jobs(engine, sources=new.card.get("sources") or None, ended=True)
    asked = (
        jobs[jobs["submitted_at"] > since]
        .sort_values("submitted_at", kind="stable")
        .tail(MOST_LATER)
    )
    target = next(iter(new.targets))
    if len(asked) < FEWEST_LATER or target not in old.targets:
        return None
    truth = outcomes(asked, since, target)
    mine, theirs = (live_through(one, jobs, asked)[target] for one in (new, old))
    found = difference(truth, mine, theirs)
    if found.low <= 0:
        return None
    why = f"on {len(truth):,} jobs since its training the mean absolute error of {target} was {found} than that of {before.label}"
    return registry.rollback(by=BY, why=why, expected=champion.version, settings=settings)


def _chosen_by_flow(champion: Version) -> bool:
    """Whether the champion was promoted by its score; what a person chose is left to persons."""
    by = champion.tags.get("promoted_by", THEIRS)
    return by.startswith((TRAINED, RETRAINED, TYPED))
