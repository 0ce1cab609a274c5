"""Notes of the champion in files, since to ask the registry takes seconds, or nobody answers there.

MLflow alone takes two seconds to import. A command that only reads the champion asks it once, and
then again whenever the file of its database has changed.
"""

from __future__ import annotations

import json
import time
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import Any

from infra.settings import Settings
from models.releases import registry
from models.releases.versions import Version

SETTLED_NS = 1_000_000_000
"""A file that changed so lately may change again without another time of its change, ns."""


def find_champion(settings: Settings) -> Version | None:
    """Return ``registry.champion``, from a note where its database has not changed since.

    Raises RegistryError.
    """
    note, database = settings.folder("mlflow") / "noted-champion.json", _database_state(settings)
    if database and _read(note).get("database") == database:
        return recall(note)
    version = registry.champion(settings)
    if version and database and database == _database_state(settings):
        remember(note, version, database=database)
    return version


def _database_state(settings: Settings) -> list[Any] | None:
    """The times of change and sizes of MLflow's local database; None if unsettled or elsewhere."""
    prefix = "sqlite:///"
    if not settings.tracking_url.startswith(prefix):
        return None
    state: list[Any] = [settings.tracking_url, settings.model_name]
    for suffix in ("", "-wal"):
        try:
            status = Path(settings.tracking_url.removeprefix(prefix) + suffix).stat()
        except OSError:
            state.append(None)
            continue
        if time.time_ns() - status.st_mtime_ns < SETTLED_NS:
            return None
        state.append([status.st_mtime_ns, status.st_size, status.st_ino])
    return state


def remember(note: Path, version: Version, **about: Any) -> None:
    """Note a version in a file, and what else is to be remembered."""
    created_at = version.created_at.isoformat()
    values = {**asdict(version), "created_at": created_at, "tags": dict(version.tags), **about}
    draft = note.with_suffix(".new")
    draft.write_text(json.dumps(values))
    draft.replace(note)


def recall(note: Path) -> Version | None:
    """Return the version of a note, None if there is none or it cannot be read."""
    values = _read(note)
    values.pop("database", None)
    try:
        created_at = datetime.fromisoformat(values["created_at"])
        return Version(**{**values, "aliases": tuple(values["aliases"]), "created_at": created_at})
    except (ValueError, TypeError, KeyError):
        return None


def _read(note: Path) -> dict[str, Any]:
    try:
        values = json.loads(note.read_text())
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
