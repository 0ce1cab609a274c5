"""Moves of the alias ``champion``, each explained: by a flow, a person here, or MLflow's page.

The registered model notes to which version the alias was moved last, before and after each move.
An alias at another version was moved by a person in MLflow's page; one at the version that a move
was going to was interrupted by a crash, and the rest of that move is completed.
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
BY_CANARY = "the canary's outcomes"
"""Who promotes by comparison; what anybody else promotes was chosen by a person."""
WHO_MAY_DECIDE = (
    "A token with the scope approve or admin promotes or withdraws it on the page; who logs in to "
    "MLflow with the scope admin gives it the alias champion there; on the machine gridcast "
    "promote and gridcast withdraw do it."
)
"""Who may decide about a challenger: on the page, in alerts and as a tag in MLflow."""


def move(
    client: Any,
    wanted: Version,
    current: Version | None,
    *,
    by: str,
    why: str,
    is_rollback: bool = False,
) -> None:
    """Move the alias to another version, explained first.

    Args:
        client: MLflow's client.
        wanted: Where the alias goes.
        current: The champion before, if any.
        by: Who moves it.
        why: The reason.
        is_rollback: Whether ``wanted`` is what ``current`` had replaced, and replaces nothing anew.
    """
    if current is not None and not is_rollback:
        tag(client, wanted, replaces=str(current.version))
    tag(client, wanted, promoted_by=by, promoted_why=why, promoted_at=now())
    client.set_registered_model_tag(wanted.name, CHAMPION_BECOMES, str(wanted.version))
    client.set_registered_model_alias(wanted.name, CHAMPION, str(wanted.version))
    _complete(client, wanted, current, why)


def _complete(client: Any, champion: Version, retired: Version | None, why: str) -> None:
    """Record after a move which version is champion, and of the one before when it served."""
    tag(client, champion, state="champion")
    if retired is not None:
        period = f"{retired.tags.get('promoted_at', '?')} to {now()}"
        tag(
            client,
            retired,
            state="retired",
            retired_at=now(),
            retired_for=str(champion.version),
            retired_why=why,
            served="; ".join(filter(None, (retired.tags.get("served"), period))),
        )
    client.set_registered_model_tag(champion.name, CHAMPION_IS, str(champion.version))


def reconcile(
    client: Any,
    champion: Version,
    find: Callable[[str], Version | None],
    record_move: Callable[[Version | None], None],
) -> bool:
    """Record what is not recorded of the alias at ``champion``.

    Args:
        client: MLflow's client.
        champion: The version that the alias names.
        find: Returns the version of a number; None where somebody deleted it.
        record_move: Called with the champion before where a person moved the alias in MLflow.

    Returns:
        Whether there was anything to record.
    """
    noted = client.get_registered_model(champion.name).tags
    recorded = noted.get(CHAMPION_IS)
    if recorded == str(champion.version):
        return False
    # A registry of a release that noted no moves: an explained champion is as it should be.
    is_explained = bool(champion.tags.get("promoted_by") and champion.tags.get("promoted_why"))
    if recorded is None and CHAMPION_BECOMES not in noted and is_explained:
        return False
    before = find(recorded) if recorded else None
    why = champion.tags.get("promoted_why", "")
    if noted.get(CHAMPION_BECOMES) != str(champion.version):
        record_move(before)
        why = "the alias was moved by hand"
        replaced = {"replaces": str(before.version)} if before else {}
        tag(
            client,
            champion,
            promoted_by=BY_PERSON_IN_MLFLOW,
            promoted_why=why,
            promoted_at=now(),
            **replaced,
        )
        client.set_registered_model_tag(champion.name, CHAMPION_BECOMES, str(champion.version))
    _complete(client, champion, before, why)
    return True


def read_version(row: Any, aliases: tuple[str, ...] | None = None) -> Version:
    """Return MLflow's version as ours; ``aliases`` where its row does not have them."""
    aliases = tuple(row.aliases) if aliases is None else aliases
    tags = dict(row.tags)
    # The alias is the truth: a person may have moved it in MLflow's page, which sets no tag.
    state = "champion" if CHAMPION in aliases else tags.get("state", "unfinished")
    return Version(
        row.name,
        int(row.version),  # a number from SQLite, a text over HTTP
        row.run_id,
        "retired" if state == "champion" and CHAMPION not in aliases else state,
        aliases,
        datetime.fromtimestamp(row.creation_timestamp / 1000, UTC),
        row.source,
        tags,
        row.description or "",
    )


def tag(client: Any, version: Version, **tags: str) -> None:
    """Set tags of a version."""
    for key, value in tags.items():
        client.set_model_version_tag(version.name, str(version.version), key, value)


def now() -> str:
    """The time, as tags have it."""
    return datetime.now(UTC).isoformat(timespec="seconds")


@contextmanager
def lock(settings: Settings) -> Iterator[None]:
    """Let one process at a time move the alias; the lock is freed when its process ends."""
    with FileLock(settings.folder("mlflow") / "alias.lock", mode=0o600):
        yield


def by_alias(client: Any, name: str, alias: str) -> Version | None:
    """The version of a model that an alias names; None where there is none.

    Args:
        client: MLflow's client.
        name: The model.
        alias: The alias.
    """
    # One request, since a predictor makes it every three seconds.
    return _version_or_none(client.get_model_version_by_alias, name, alias)


def find_version(client: Any, name: str, number: str) -> Version | None:
    """The version of a model with a number; None where there is none.

    Args:
        client: MLflow's client.
        name: The model.
        number: The number.
    """
    return _version_or_none(client.get_model_version, name, number)


def _version_or_none(read: Callable[..., Any], *names: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return read_version(read(*names))
    except MlflowException as error:
        # No such model, alias or version.
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def aliases_of(client: Any, name: str) -> dict[int, tuple[str, ...]]:
    """The aliases of a model, by the number of the version that they name."""
    from mlflow.exceptions import MlflowException

    try:
        aliases = client.get_registered_model(name).aliases
    except MlflowException as error:
        if error.error_code == "RESOURCE_DOES_NOT_EXIST":
            return {}
        raise
    return {
        int(number): tuple(alias for alias, at in aliases.items() if at == number)
        for number in aliases.values()
    }
