"""Backup and restore of the job store and of MLflow's registry with its artifacts.

Tables are Parquet files (``jobs.store.copies``), so that a backup of SQLite can be restored into
PostgreSQL, and the other way round. Prefect's database is left out: ``gridcast up`` registers its
flows again, and the results of its runs are in the store.
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
from jobs.store import audit, connect, copies, open_store
from jobs.store.database import VERSION_TABLE
from models.releases import registry

if TYPE_CHECKING:
    from sqlalchemy import Engine

FORMAT = 1
MANIFEST = "backup.json"
FILLED = ("runs", "registered_models", "model_versions")
"""Tables of MLflow that are empty before its first use."""

Rows = list[dict[str, Any]]


class BackupError(GridcastError):
    """A backup cannot be used; the message says which and why."""


def back_up(settings: Settings, target: Path) -> Rows:
    """Write the store, MLflow's tables and its artifacts, with a SHA-256 of each file.

    The backup appears complete or not at all. Others may read and write meanwhile: each database
    is copied as of one moment, the store first.

    Args:
        settings: What to back up.
        target: One file if it ends in .tar, else a folder.

    Returns:
        A row a table, and one of MLflow.

    Raises:
        InputError: ``target`` exists, or its folder does not.
        StoreError: The store cannot be read.
        RegistryError: MLflow cannot be read.
    """
    if target.exists():
        raise InputError(
            f"{target} is there already, and a backup overwrites nothing: choose another name"
        )
    if not target.absolute().parent.is_dir():
        raise InputError(f"there is no folder {target.absolute().parent} to put a backup into")
    with TemporaryDirectory(dir=target.absolute().parent, prefix=".gridcast-backup-") as draft:
        folder = Path(draft) / "backup"
        contents: dict[str, Any] = {
            "store": _dumped(open_store(settings.store_url), folder / "store")
        }
        if database := _registry(settings):
            # The rows before the files, each of which is written before the row that names it.
            contents["mlflow"] = _dumped(database, folder / "mlflow") | {
                "artifacts": _artifacts(settings).as_uri()
            }
            shutil.copytree(_artifacts(settings), folder / "artifacts")
        contents["files"] = {name: digest(folder / name) for name in _files(folder)}
        head = {"format": FORMAT, "taken_at": datetime.now(UTC).isoformat(timespec="seconds")}
        (folder / MANIFEST).write_text(json.dumps(head | contents, indent=1))
        if target.suffix == ".tar":
            with tarfile.open(Path(draft) / target.name, "w") as packed:
                packed.add(folder, "backup")
            folder = Path(draft) / target.name
        _sync(folder)
        folder.replace(target)
    return _rows(contents, settings)


def restore(settings: Settings, source: Path) -> Rows:
    """Restore a backup into an empty store and an empty MLflow of any kind of database.

    All checksums are checked first. After an error nothing has changed.

    Args:
        settings: Where to restore.
        source: What ``back_up`` wrote.

    Returns:
        A row a table, and one of MLflow.

    Raises:
        InputError: ``source`` is no backup.
        BackupError: It is damaged, or MLflow is not empty.
        StoreError: The store is not empty.
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
        audit.record(
            connection, "restore", str(source), after=f"as of {manifest.get('taken_at', '?')}"
        )
        return _rows(manifest, settings)


def _dumped(database: Engine, folder: Path) -> dict[str, Any]:
    try:
        return {"versions": copies.versions(database), "rows": copies.dump(database, folder)}
    finally:
        database.dispose()


def _registry(settings: Settings) -> Engine | None:
    """MLflow's database, its tables made; None where it is a server with a database of its own."""
    if settings.tracking_url.startswith("http"):
        return None
    registry.versions(settings)  # MLflow makes its tables at its first use
    return connect(settings.tracking_url)


def _artifacts(settings: Settings) -> Path:
    return settings.folder("mlflow/artifacts")


def _check_registry(database: Engine, versions: dict[str, str], settings: Settings) -> None:
    where = f"MLflow at {settings.displayed_tracking_url}"
    if copies.count_rows(database, FILLED) or any(_artifacts(settings).iterdir()):
        raise BackupError(f"{where} is not empty: a backup is restored into an empty one only")
    if (own := copies.versions(database)) != versions:
        raise BackupError(
            f"{where} has tables of version {own.get('alembic_version')}, the backup of "
            f"{versions.get('alembic_version')}: restore it with the Gridcast that made it, and "
            "update then"
        )


@contextmanager
def _copied(files: Path, into: Path) -> Iterator[None]:
    """A copy of ``files`` in the empty folder ``into``, removed if what follows fails."""
    try:
        shutil.copytree(files, into, dirs_exist_ok=True)
        yield
    except BaseException:
        shutil.rmtree(into)
        raise


@contextmanager
def _unpacked(source: Path) -> Iterator[Path]:
    """The folder of a backup; a packed one is unpacked into a temporary folder."""
    if source.is_dir():
        yield source
        return
    with TemporaryDirectory(dir=source.absolute().parent, prefix=".gridcast-restore-") as draft:
        try:
            with tarfile.open(source) as packed:
                packed.extractall(draft, filter="data")
        except (tarfile.TarError, OSError) as error:
            raise InputError(f"{source} is no backup that can be read: {error}") from None
        yield Path(draft) / "backup"


def _checked(folder: Path, source: Path) -> dict[str, Any]:
    try:
        manifest: dict[str, Any] = json.loads((folder / MANIFEST).read_text())
        files, form = dict(manifest["files"]), manifest["format"]
    except (OSError, ValueError, KeyError, TypeError):
        raise InputError(f"{source} is no backup: it has no readable {MANIFEST}") from None
    if form != FORMAT:
        raise InputError(f"{source} has format {form}, this Gridcast reads format {FORMAT}")
    present = {*_files(folder)} - {MANIFEST}
    for name in sorted(present ^ files.keys()):
        raise BackupError(
            f"{source} {'has a file of its own' if name in present else 'lacks its file'}, {name}"
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
    for entry in [path, *path.rglob("*")]:
        handle = os.open(entry, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)


def _rows(contents: dict[str, Any], settings: Settings) -> Rows:
    """A row a table of the store, and one of MLflow."""
    rows = [
        {"part": f"store: {name}", "rows": count, "note": ""}
        for name, count in contents["store"]["rows"].items()
    ]
    count, note = 0, ""
    if "mlflow" not in contents or settings.tracking_url.startswith("http"):
        note = (
            f"left out: MLflow at {settings.displayed_tracking_url} is a server, "
            "whose database is backed up where it runs"
        )
    else:
        artifacts = sum(name.startswith("artifacts/") for name in contents["files"])
        count, note = sum(contents["mlflow"]["rows"].values()), f"with {artifacts:,} artifacts"
    return [*rows, {"part": "MLflow", "rows": count, "note": note}]
