"""OpenLineage events of ingest, train, promote and predict, to a file or a server.

The only importer of OpenLineage's client. Events name log files, sources and versions of the model,
and never an owner of jobs or who promoted. A file or server that fails costs a line in the log.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit, urlunsplit
from uuid import uuid4

from infra.settings import Settings

log = logging.getLogger(__name__)

PRODUCER = "https://gridcast.invalid/lineage"
"""Names us in events; OpenLineage asks for a URL. The domain resolves nowhere (RFC 2606)."""
TIMEOUT = 3.0
"""Seconds for a server to take an event: the flow waits for it."""
JOB_NAMESPACE, FILES = "gridcast", "file"


@dataclass(frozen=True)
class Dataset:
    """A dataset of an event, with its version where it has one."""

    namespace: str
    name: str
    version: str = ""


@dataclass
class LineageRun:
    """What a run read and wrote; ``is_sent`` is False where no events are wanted."""

    is_sent: bool
    inputs: list[Dataset] = field(default_factory=list)
    outputs: list[Dataset] = field(default_factory=list)


def log_file(path: str | Path) -> Dataset:
    """A log or table by its name alone: folders are often named after their owner."""
    return Dataset(FILES, Path(path).name)


def stored_jobs(settings: Settings, source: str, version: str = "") -> Dataset:
    """The stored jobs of a source.

    Args:
        settings: The store.
        source: The source.
        version: The store's revision.

    >>> stored_jobs(Settings(database_url="postgresql://ada:secret@db:5432/grid"), "lcg")
    Dataset(namespace='postgresql://db:5432', name='grid.jobs.lcg', version='')
    """
    url = urlsplit(settings.store_url)
    if url.hostname is None:
        return Dataset(FILES, f"jobs.db.jobs.{source}", version)
    scheme = url.scheme.partition("+")[0]
    server = f"{scheme}://{url.hostname}:{url.port or 5432}"
    return Dataset(server, f"{url.path.strip('/')}.jobs.{source}", version)


def model_version(settings: Settings, number: int, alias: str = "") -> Dataset:
    """A version of the registered model; with an alias what that names, in this version.

    Args:
        settings: The registry and the name of the model.
        number: The version's number.
        alias: The alias.
    """
    url = urlsplit(settings.tracking_url)
    namespace = f"mlflow://{url.hostname}:{url.port}" if url.hostname else "mlflow"
    return Dataset(namespace, "@".join(filter(None, (settings.model_name, alias))), str(number))


@contextmanager
def lineage(settings: Settings, job: str) -> Iterator[LineageRun]:
    """Send an event when a job begins, and one when it completes or fails.

    Args:
        settings: Where events go (GRIDCAST_LINEAGE); empty: nowhere.
        job: What runs: ingest, train, promote, rollback or predict.

    Yields:
        What it reads and writes, to be filled in.
    """
    address = settings.lineage.get_secret_value()
    run = LineageRun(bool(address))
    if not address:
        yield run
        return
    emitter = _Emitter(address, job)
    emitter.send("START", run)
    try:
        yield run
    except BaseException:
        emitter.send("FAIL", run)
        raise
    emitter.send("COMPLETE", run)


class _Emitter:
    """Sends the events of one run; after a failure no more of them."""

    def __init__(self, address: str, job: str) -> None:
        self._address, self._job, self._run_id = address, job, str(uuid4())
        self._transport: Any = None
        self._has_failed = False

    def send(self, state: str, run: LineageRun) -> None:
        """Send one event; a failure is a line in the log."""
        if self._has_failed:
            return
        try:
            self._transport = self._transport or _transport(self._address)
            self._transport.emit(self._event(state, run))
        except Exception as error:
            self._has_failed = True
            log.warning(
                "no lineage of this %s: %s did not take the event (%s)",
                self._job,
                _displayed(self._address),
                type(error).__name__,
            )

    def _event(self, state: str, run: LineageRun) -> Any:
        from openlineage.client.event_v2 import (
            InputDataset,
            Job,
            OutputDataset,
            Run,
            RunEvent,
            RunState,
        )

        return RunEvent(
            eventTime=datetime.now(UTC).isoformat(),
            eventType=RunState[state],
            run=Run(self._run_id),
            job=Job(JOB_NAMESPACE, self._job),
            inputs=_as(InputDataset, run.inputs),
            outputs=_as(OutputDataset, run.outputs),
            producer=PRODUCER,
        )


def _as(kind: Any, datasets: Sequence[Dataset]) -> list[Any]:
    from openlineage.client.facet_v2 import dataset_version_dataset

    return [
        kind(
            dataset.namespace,
            dataset.name,
            facets={
                "version": dataset_version_dataset.DatasetVersionDatasetFacet(
                    datasetVersion=dataset.version, producer=PRODUCER
                )
            }
            if dataset.version
            else {},
        )
        for dataset in dict.fromkeys(datasets)
    ]


def _transport(address: str) -> Any:
    """The client's transport to a file (lines of JSON) or server; a password is its API key."""
    url = urlsplit(address)
    if url.scheme not in ("http", "https"):
        from openlineage.client.transport.file import FileConfig, FileTransport

        return FileTransport(FileConfig(log_file_path=address, append=True))
    from openlineage.client.transport.http import HttpConfig, HttpTransport

    options: dict[str, Any] = {
        "url": _displayed(address),
        "timeout": TIMEOUT,
        "retry": {"total": 0, "read": 0, "connect": 0},
    }
    if url.password:
        options["auth"] = {"type": "api_key", "apiKey": url.password}
    return HttpTransport(HttpConfig.from_dict(options))


def _displayed(address: str) -> str:
    """An address without user and password.

    >>> _displayed("https://gridcast:secret@lineage.example.org:5000/")
    'https://lineage.example.org:5000/'
    """
    url = urlsplit(address)
    return urlunsplit(url._replace(netloc=url.netloc.rpartition("@")[2]))
