"""Moves of the alias ``champion``, each of them explained: by a flow, by a person here, or by a person in MLflow's page.

What was last moved to is noted on the registered model, before and after each move. An alias that stands elsewhere was moved by a
person in MLflow's page; one that stands where a move was going was cut short by a crash, and the rest of the move is made up.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from filelock import FileLock

from infra.settings import Settings
from models.releases.versions import Version

CHAMPION = "champion"
CHAMPION_BECOMES, CHAMPION_IS, PIN = "champion_going_to", "champion_stands_at", "pinned"
BY_PERSON_IN_MLFLOW = "a person, in MLflow's page"
BY_TRAIN_FLOW, BY_RETRAIN_FLOW, BY_TRAIN_COMMAND = "flow train", "flow retrain", "gridcast train"
"""Who promotes by the score; what anybody else promotes was chosen by a person."""


def move(
    client: Any, wanted: Version, current: Version | None, *, by: str, why: str, back: bool = False
) -> None:
    """Move the alias from ``current`` to ``wanted``, explained first; ``back``: to what it had replaced, which replaces nothing anew."""
    if current is not None and not back:
        tag(client, wanted.name, wanted.version, replaces=str(current.version))
    tag(client, wanted.name, wanted.version, promoted_by=by, promoted_why=why, promoted_at=now())
    client.set_registered_model_tag(wanted.name, CHAMPION_BECOMES, str(wanted.version))
    client.set_registered_model_alias(wanted.name, CHAMPION, str(wanted.version))
    _arrive(client, wanted, current, why)


def _arrive(client: Any, wanted: Version, left: Version | None, why: str) -> None:
    tag(client, wanted.name, wanted.version, state="champion")
    if left is not None:
        served = "; ".join(
            part
            for part in (left.tags.get("served"), f"{left.tags.get('promoted_at', '?')} to {now()}")
            if part
        )
        changes = {
            "state": "retired",
            "retired_at": now(),
            "retired_for": str(wanted.version),
            "retired_why": why,
            "served": served,
        }
        tag(client, left.name, left.version, **changes)
    client.set_registered_model_tag(wanted.name, CHAMPION_IS, str(wanted.version))


def reconcile(client: Any, current: Version, find: Callable[[str], Version | None]) -> bool:
    """Record what is not recorded of the alias standing at ``current``; says whether there was anything."""
    noted = client.get_registered_model(current.name).tags
    if noted.get(CHAMPION_IS) in (None, str(current.version)):
        return False
    left = find(noted[CHAMPION_IS])
    why = current.tags.get("promoted_why", "")
    if noted.get(CHAMPION_BECOMES) != str(current.version):
        why = "the alias was moved by hand"
        tag(
            client,
            current.name,
            current.version,
            promoted_by=BY_PERSON_IN_MLFLOW,
            promoted_why=why,
            promoted_at=now(),
            replaces=noted[CHAMPION_IS],
        )
        client.set_registered_model_tag(current.name, CHAMPION_BECOMES, str(current.version))
    _arrive(client, current, left, why)
    return True


def read_version(found: Any, aliases: tuple[str, ...] | None = None) -> Version:
    """MLflow's version as ours."""
    # A number from SQLite, a text over HTTP.
    aliases = tuple(found.aliases) if aliases is None else aliases
    tags = dict(found.tags)
    # The alias is the truth: a person may have moved it in MLflow's page, where no tag follows.
    state = "champion" if CHAMPION in aliases else tags.get("state", "unfinished")
    state = "retired" if state == "champion" and CHAMPION not in aliases else state
    created = datetime.fromtimestamp(found.creation_timestamp / 1000, UTC)
    return Version(
        found.name,
        int(found.version),
        found.run_id,
        state,
        aliases,
        created,
        found.source,
        tags,
        found.description or "",
    )


def tag(client: Any, name: str, version: int, **tags: str) -> None:
    """Set tags of a version."""
    for key, value in tags.items():
        client.set_model_version_tag(name, str(version), key, value)


def now() -> str:
    """The moment, as tags have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """One mover of the alias at a time on this data folder; the lock dies with its process."""
    with FileLock(settings.folder("mlflow") / "alias.lock"):
        yield
