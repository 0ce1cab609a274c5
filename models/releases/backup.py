"""Backup and restore: the job store and MLflow's registry with its artifacts, as files that either database takes.

Tables are Parquet (``jobs.store.copies``), so that what was backed up from SQLite can be restored into PostgreSQL and the other way
round. Prefect's database is left out: its flows are registered anew by ``gridcast up``, and what its runs did is in the store.
"""

from __future__ import annotations

import json
import os
import shutil
import tarfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from infra.checksums import digest
from infra.errors import GridcastError, InputError
from infra.settings import Settings
from jobs.store import connect, copies, open_store
from jobs.store.database import VERSION_TABLE
from models.releases import registry

if TYPE_CHECKING:
    from sqlalchemy import Engine

FORMAT = 1
MANIFEST = "backup.json"
FILLED = ("runs", "registered_models", "model_versions")
"""Tables of MLflow that hold nothing before it is used."""

Rows = list[dict[str, Any]]


class BackupError(GridcastError):
    """A backup cannot be used; the message says which and why."""


def back_up(settings: Settings, target: Path) -> Rows:
    """Write the store, MLflow's tables and its artifacts to ``target``: one file if it ends in .tar, else a folder; a row a part.

    It appears whole or not at all, and carries a SHA-256 of each file. Others may read and write meanwhile: each database is taken as
    it stood at one moment, the store first. Raises InputError where ``target`` is there already, StoreError or RegistryError.
    """
    if target.exists():
        raise InputError(
            f"{target} is there already, and a backup overwrites nothing: choose another name"
        )
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.absolute().parent} to put a backup into")
    with TemporaryDirectory(dir=target.absolute().parent, prefix=".gridcast-backup-") as place:
        folder = Path(place) / "backup"
        told: dict[str, Any] = {"store": _dumped(open_store(settings.store_url), folder / "store")}
        if database := _registry(settings):
            # The rows before the files: whatever a row names was written before it.
            told["mlflow"] = _dumped(database, folder / "mlflow") | {
                "artifacts": _artifacts(settings).as_uri()
            }
            shutil.copytree(_artifacts(settings), folder / "artifacts")
        told["files"] = {name: digest(folder / name) for name in _files(folder)}
        head = {"format": FORMAT, "taken_at": datetime.now(UTC).isoformat(timespec="seconds")}
        (folder / MANIFEST).write_text(json.dumps(head | told, indent=1))
        if target.suffix == ".tar":
            with tarfile.open(Path(place) / target.name, "w") as packed:
                packed.add(folder, "backup")
            folder = Path(place) / target.name
        _sync(folder)
        folder.replace(target)
    return _told(told, settings)


def restore(settings: Settings, source: Path) -> Rows:
    """Put a backup into an empty store and an empty MLflow, whichever databases these are; a row a part.

    Every checksum is checked first. Raises InputError where ``source`` is no backup, BackupError where it is damaged or MLflow is not
    empty, StoreError where the store is not: then nothing has changed.
    """
    with _unpacked(source) as folder, ExitStack() as all_or_nothing:
        manifest = _checked(folder, source)
        if "mlflow" in manifest and (database := _registry(settings)):
            all_or_nothing.callback(database.dispose)
            _check_registry(database, manifest["mlflow"]["versions"], settings)
            all_or_nothing.enter_context(_copied(folder / "artifacts", _artifacts(settings)))
            before, now = manifest["mlflow"]["artifacts"], _artifacts(settings).as_uri()
            tables = all_or_nothing.enter_context(database.begin())
            copies.load(
                tables,
                folder / "mlflow",
                lambda text: now + text.removeprefix(before) if text.startswith(before) else text,
            )
        store = open_store(settings.store_url)
        all_or_nothing.callback(store.dispose)
        connection = all_or_nothing.enter_context(store.begin())
        copies.load_store(
            connection, folder / "store", manifest["store"]["versions"][VERSION_TABLE]
        )
        return _told(manifest, settings)


def _dumped(database: Engine, folder: Path) -> dict[str, Any]:
    try:
        return {"versions": copies.versions(database), "rows": copies.dump(database, folder)}
    finally:
        database.dispose()


def _registry(settings: Settings) -> Engine | None:
    """MLflow's database with its tables made, None where it is a server whose database others keep."""
    if settings.tracking_url.startswith("http"):
        return None
    registry.versions(settings)  # MLflow makes its tables when it is first asked
    return connect(settings.tracking_url)


def _artifacts(settings: Settings) -> Path:
    return settings.folder("mlflow/artifacts")


def _check_registry(database: Engine, versions: dict[str, str], settings: Settings) -> None:
    where = f"MLflow at {settings.displayed_tracking_url}"
    if copies.count_rows(database, FILLED) or any(_artifacts(settings).iterdir()):
        raise BackupError(f"{where} is not empty: a backup is restored into an empty one only")
    if (found := copies.versions(database)) != versions:
        raise BackupError(
            f"{where} has tables of version {found.get('alembic_version')}, the backup of {versions.get('alembic_version')}: "
            "restore it with the Gridcast that made it, and update then"
        )


@contextmanager
def _copied(files: Path, into: Path) -> Iterator[None]:
    """A copy of ``files`` in the empty folder ``into``, which is empty again where what follows fails."""
    try:
        shutil.copytree(files, into, dirs_exist_ok=True)
        yield
    except BaseException:
        shutil.rmtree(into)
        raise


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder of a backup, of a packed one in a temporary place."""
    if source.is_dir():
        yield source
        return
    with TemporaryDirectory(dir=source.absolute().parent, prefix=".gridcast-restore-") as place:
        try:
            with tarfile.open(source) as packed:
                packed.extractall(place, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{source} is no backup that can be read: {error}") from None
        yield Path(place) / "backup"


def _checked(folder: Path, source: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        files, form = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{source} is no backup: it has no readable {MANIFEST}") from None
    if form != FORMAT:
        raise InputError(f"{source} has format {form}, this Gridcast reads format {FORMAT}")
    found = {*_files(folder)} - {MANIFEST}
    for name in sorted(found ^ files.keys()):
        raise BackupError(
            f"{source} {'has a file of its own' if name in found else 'lacks its file'}, {name}"
        )
    for name, expected in files.items():
        if digest(folder / name) != expected:
            raise BackupError(f"{source} is damaged: the SHA-256 of its file {name} differs")
    return manifest


def _files(folder: Path) -> list[str]:
    """The files of a folder, by their paths in it."""
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file())


def _sync(path: Path) -> None:
    """Let a file, or all of a folder, reach the disk."""
    for each in [path, *path.rglob("*")]:
        handle = os.open(each, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _told(told: dict[str, Any], settings: Settings) -> Rows:
    rows = [
        {"part": f"store: {name}", "rows": count, "note": ""}
        for name, count in told["store"]["rows"].items()
    ]
    if "mlflow" not in told or settings.tracking_url.startswith("http"):
        others = f"left out: MLflow at {settings.displayed_tracking_url} is a server, and whoever runs it keeps its database"
        return [*rows, {"part": "MLflow", "rows": 0, "note": others}]
    artifacts = sum(name.startswith("artifacts/") for name in told["files"])
    return [
        *rows,
        {
            "part": "MLflow",
            "rows": sum(told["mlflow"]["rows"].values()),
            "note": f"with {artifacts:,} artifacts",
        },
    ]
