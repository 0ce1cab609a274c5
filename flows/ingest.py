"""Ingest: job logs into the store."""

from __future__ import annotations

import itertools
import time
from pathlib import Path
from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from infra.errors import InputError
from infra.settings import Settings, prepare_environment
from jobs.ingest import IngestResult, ReadArguments, ingest_files, read_arguments
from jobs.store import open_store

SETTLE_SECONDS = 60.0
"""A file of the inbox that changed since may still be being written."""


def run_name() -> str:
    """Name the run after the files that it reads."""
    files = runtime.flow_run.parameters.get("files")
    return (
        f"ingest: {', '.join(Path(name).name for name in files)}" if files else "ingest: the inbox"
    )


@flow(
    name="ingest",
    flow_run_name=run_name,
    description="Read job logs into the store; without files, those of the inbox.",
)
def ingest(
    files: list[str] | None = None,
    log_format: str | None = None,
    source: str | None = None,
    mapping: list[str] | None = None,
    map_file: str | None = None,
    timezone: str = "UTC",
) -> Any:
    """Read ``files`` into the store; without any, the inbox, whose files move to done or refused.

    Reading a file again changes nothing. The run fails at the end, when all others are stored, if
    a file could not be read.

    Args:
        files: Paths of logs; default: the inbox of the data folder.
        log_format: Format; default: recognised from each file.
        source: Name of the system; default: what the file says, or its name.
        mapping: Columns of a table as ``gridcast ingest --map`` takes them.
        map_file: A TOML file of these.
        timezone: Zone of times that carry none.
    """
    settings = prepare_environment()
    arguments = read_arguments(log_format, mapping, map_file, timezone)
    waiting = inbox_files(settings) if files is None else [Path(name) for name in files]
    if not waiting:
        return Completed(message=f"no file waits in {settings.folder('inbox')}")
    results = [read(path, source, arguments) for path in waiting]
    rows = []
    log = get_run_logger()
    for result in results:
        log.info(result.describe())
        row = {name: value for name, value in result.row().items() if name != "notes"}
        rows.append(row | {"error": result.error or ""})
    create_table_artifact(
        rows,
        key="ingest",
        description="What was stored of each file; `gridcast rejects` shows the refused records.",
    )
    if files is None:
        for result in results:
            folder = settings.folder("inbox/refused" if result.error else "inbox/done")
            target = free_path(folder, result.file.name)
            result.file.replace(target)
            log.info("%s is moved to %s", result.file.name, target)
    errors = [result.error for result in results if result.error]
    if errors:
        raise InputError("; ".join(errors))
    return rows


@task(task_run_name="read {path.name}", **TASK_OPTIONS)
def read(path: Path, source: str | None, arguments: ReadArguments) -> IngestResult:
    """Read one file.

    Args:
        path: The file.
        source: The source of its records; None: as the file says.
        arguments: How it is read.
    """
    engine = open_store(prepare_environment().store_url)
    return ingest_files(engine, [path], source=source, **arguments)[0]


def inbox_files(settings: Settings) -> list[Path]:
    """List the files of the inbox that are no longer being written, by name."""
    now = time.time()
    files = [
        path
        for path in settings.folder("inbox").iterdir()
        if path.is_file() and not path.name.startswith(".")
    ]
    return sorted(path for path in files if now - path.stat().st_mtime >= SETTLE_SECONDS)


def free_path(folder: Path, name: str) -> Path:
    """Return a path in ``folder`` that overwrites nothing: ``log.csv``, else ``log-2.csv``, ….

    >>> free_path(Path("/nowhere"), "log.csv.gz").name
    'log.csv.gz'
    """
    stem, dot, suffixes = name.partition(".")
    names = (f"{stem}-{number}{dot}{suffixes}" for number in itertools.count(2))
    return next(
        folder / free for free in itertools.chain((name,), names) if not (folder / free).exists()
    )
