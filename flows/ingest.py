"""Ingest: job logs into the store."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from prefect import flow, runtime, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from infra.errors import InputError
from infra.settings import Settings, prepare_environment
from jobs.ingest import IngestResult, ReadArguments, ingest_files, read_arguments
from jobs.store import open_store

SETTLED = 60.0
"""Seconds for which a file of the inbox must not have changed: until then somebody may still be writing it."""


def run_name() -> str:
    """What is read, as an operator knows it."""
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
    """Read ``files`` into the store, or what lies in the inbox of the data folder, which is moved to done or refused.

    The others are the options of ``gridcast ingest``: a deployment's parameters, on Prefect's page, say how its inbox is read.
    Reading a file again changes nothing. Fails at the end, when all others are stored, if a file could not be read.
    """
    settings = prepare_environment()
    how = read_arguments(log_format, mapping, map_file, timezone)
    waiting = inbox(settings) if files is None else [Path(name) for name in files]
    if not waiting:
        return Completed(message=f"no file waits in {settings.folder('inbox')}")
    results = [read(path, source, how) for path in waiting]
    rows = [
        {name: value for name, value in one.row().items() if name != "notes"}
        | {"error": one.error or ""}
        for one in results
    ]
    create_table_artifact(
        rows,
        key="ingest",
        description="What became of each file; `gridcast rejects` shows the refused records.",
    )
    if files is None:
        for one in results:
            one.file.replace(
                settings.folder("inbox/refused" if one.error else "inbox/done") / one.file.name
            )
    errors = [one.error for one in results if one.error]
    if errors:
        raise InputError("; ".join(errors))
    return rows


@task(task_run_name="read {path.name}", **TASK_OPTIONS)
def read(path: Path, source: str | None, how: ReadArguments) -> IngestResult:
    """Read one file."""
    return ingest_files(open_store(prepare_environment().store_url), [path], source=source, **how)[
        0
    ]


def inbox(settings: Settings) -> list[Path]:
    """The files of the inbox that nobody is writing any more, by name."""
    now = time.time()
    files = [
        path
        for path in settings.folder("inbox").iterdir()
        if path.is_file() and not path.name.startswith(".")
    ]
    return sorted(path for path in files if now - path.stat().st_mtime >= SETTLED)
