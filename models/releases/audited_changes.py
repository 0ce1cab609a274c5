"""Changes of the registered model that are recorded in the store's audit log."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from infra.actor import Actor, acting
from infra.errors import InputError
from infra.settings import Settings, prepare_environment
from jobs.store import audit
from models.engine.model_set import ModelError
from models.releases.alias_moves import BY_PERSON_IN_MLFLOW
from models.releases.mlflow_client import mlflow_client
from models.releases.versions import Version


def record_move_by_hand(settings: Settings, before: Version | None, champion: Version) -> None:
    """Record that somebody moved the alias in MLflow's page, before the registry's tags say so.

    Args:
        settings: Whose registry.
        before: The champion before.
        champion: The champion now.
    """
    name, url = settings.model_name, settings.store_url
    with (
        acting(Actor(BY_PERSON_IN_MLFLOW, "MLflow")),
        audit.recording(url, "promote", name, why="the alias was moved by hand") as change,
    ):
        change.before, change.after = label(before), champion.label


@contextmanager
def audited(
    settings: Settings | None, action: str, by: str = "", why: str = ""
) -> Iterator[tuple[audit.Change, Any, Settings]]:
    """MLflow's client for a change of the model, which is recorded in the audit log.

    Args:
        settings: Whose registry; default: the environment's.
        action: What is done.
        by: Who does it, where nobody is logged in.
        why: The reason.

    Raises:
        RegistryError: MLflow cannot be reached.
        StoreError: The change cannot be recorded; it must not be made.
    """
    settings = settings or prepare_environment()
    with (
        audit.recording(settings.store_url, action, settings.model_name, by=by, why=why) as change,
        mlflow_client(settings) as (client, settings),
    ):
        yield change, client, settings


@contextmanager
def recording_refusal(settings: Settings, action: str, by: str) -> Iterator[None]:
    """Record a change of the model that is refused before it begins, as of an unknown version.

    Args:
        settings: Whose registry.
        action: What is refused.
        by: Who wanted it, where nobody is logged in.
    """
    try:
        yield
    except (InputError, ModelError) as error:
        audit.record_refusal(settings.store_url, action, settings.model_name, str(error), by)
        raise


def label(version: Version | None) -> str | None:
    """The label of a version, if there is one."""
    return version.label if version else None
