"""Runs of MLflow: one spans a training and shows what an engineer decides by.

A run names the process that opened it, so that the next training closes what a dead one left open.
"""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version as library_version
from pathlib import Path
from platform import python_version
from tempfile import TemporaryDirectory
from typing import Any

import psutil

import models
from infra.settings import Settings
from models.releases.mlflow_client import experiment_of, mlflow_client
from models.releases.versions import Evidence, MetricPoint, NestedRun

LIBRARIES = ("gridcast", "catboost", "mlflow", "numpy", "pandas", "scikit-learn")
"""The libraries whose versions a run has as parameters."""
BATCH_METRICS, BATCH_PARAMETERS = 1000, 100
"""The most that MLflow takes in one request."""
MAX_PARAMETER = 6000
"""The longest value of a parameter that MLflow takes."""
SAMPLING_SECONDS = 5
"""The time between two samples of the machine's load while a training runs."""
PARENT_TAG = "mlflow.parentRunId"


def this_process() -> str:
    """How a run names the process that opened it."""
    return f"{socket.gethostname()}:{os.getpid()}"


def close_orphans(client: Any, experiment: str) -> None:
    """Close the runs that processes of this host left open when they died."""
    for run in client.search_runs([experiment], "attributes.status = 'RUNNING'"):
        host, _, pid = run.data.tags.get("process", "").partition(":")
        if host == socket.gethostname() and pid.isdigit() and not psutil.pid_exists(int(pid)):
            client.set_terminated(run.info.run_id, "KILLED")


@dataclass(frozen=True)
class OpenRun:
    """A run that is open, and the thread that samples the machine's load for it."""

    run_id: str
    monitor: Any

    def stop_sampling(self) -> None:
        """Stop the thread; a second call does nothing."""
        self.monitor.finish()


@contextmanager
def training_run(settings: Settings, name: str, by: str, began: datetime) -> Iterator[OpenRun]:
    """Open a run for a training; it is failed, killed or finished with the block.

    Raises RegistryError where MLflow cannot be reached at the beginning.

    Args:
        settings: Whose MLflow.
        name: The name of the run.
        by: Who trains: a command or a flow.
        began: When the training began.
    """
    with mlflow_client(settings) as (client, settings):
        from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

        experiment = experiment_of(client, settings)
        close_orphans(client, experiment)
        run = client.create_run(
            experiment,
            start_time=int(began.timestamp() * 1000),
            run_name=name,
            tags=origin_tags(by),
        )
        run_id = str(run.info.run_id)
        monitor = SystemMetricsMonitor(
            run_id, sampling_interval=SAMPLING_SECONDS, tracking_uri=settings.tracking_url
        )
        monitor.start()
    status, reason = "FINISHED", ""
    try:
        yield OpenRun(run_id, monitor)
    except BaseException as error:
        status = "FAILED" if isinstance(error, Exception) else "KILLED"
        reason = str(error) or type(error).__name__
        raise
    finally:
        monitor.finish()
        with suppress(Exception):  # the error of the training is the one to report
            if reason:
                client.set_tag(run_id, "failed_why", reason[:500])
            if client.get_run(run_id).info.status == "RUNNING":
                client.set_terminated(run_id, status)


def origin_tags(by: str) -> dict[str, str]:
    """Return the tags that say where a run was made: user, command, commit, host and process."""
    from mlflow.tracking.context.registry import resolve_tags

    tags = {name: value for name, value in resolve_tags().items() if "git" not in name}
    commit = git_commit()
    return {
        **tags,
        **({"mlflow.source.git.commit": commit} if commit else {}),
        "mlflow.source.name": by,
        "host": socket.gethostname(),
        "process": this_process(),
    }


def git_commit() -> str:
    """Return the commit that Gridcast runs from; empty where it was installed without Git."""
    root = Path(models.__file__).parents[1]
    if not (root / ".git").exists():
        return ""
    from mlflow.utils.git_utils import get_git_commit

    return get_git_commit(str(root)) or ""


def library_parameters() -> dict[str, str]:
    """Return the versions of Python and of LIBRARIES as parameters of a run."""
    versions = {name: library_version(name) for name in LIBRARIES}
    return {
        f"library.{name}": text for name, text in {"python": python_version(), **versions}.items()
    }


def log_evidence(client: Any, run_id: str, evidence: Evidence, model_id: str | None = None) -> None:
    """Log what a run shows: numbers, datasets, card, tables and figures; can be repeated.

    Args:
        client: MLflow's client.
        run_id: The run.
        evidence: What is logged.
        model_id: The logged model that the metrics are of, if any.
    """
    from mlflow.entities import RunTag

    now = datetime.now(UTC)
    numbers = [MetricPoint(name, float(value), now, 0) for name, value in evidence.metrics.items()]
    tables = [{"path": f"tables/{name}.json", "type": "table"} for name in evidence.tables]
    tags = {**evidence.tags, "mlflow.note.content": evidence.card}
    if tables:
        tags["mlflow.loggedArtifacts"] = json.dumps(tables)  # so that the page shows tables
    client.log_batch(run_id, tags=[RunTag(name, str(value)) for name, value in tags.items()])
    log_numbers(client, run_id, numbers, evidence.parameters, model_id)
    log_numbers(client, run_id, evidence.points)
    _log_datasets(client, run_id, evidence)
    with TemporaryDirectory() as staging:
        write_artifacts(Path(staging), evidence)
        client.log_artifacts(run_id, staging)


def log_numbers(
    client: Any,
    run_id: str,
    points: Sequence[MetricPoint],
    parameters: Mapping[str, object] | None = None,
    model_id: str | None = None,
) -> None:
    """Log metrics and parameters in as few requests as MLflow takes.

    Args:
        client: MLflow's client.
        run_id: The run.
        points: Values of metrics.
        parameters: Parameters by name.
        model_id: The logged model that the metrics are of, if any.
    """
    from mlflow.entities import Metric, Param

    metrics = [
        Metric(
            point.name, point.value, int(point.at.timestamp() * 1000), point.step, model_id=model_id
        )
        for point in points
    ]
    params = [Param(name, str(value)[:MAX_PARAMETER]) for name, value in (parameters or {}).items()]
    batches = max(-(-len(metrics) // BATCH_METRICS), -(-len(params) // BATCH_PARAMETERS))
    for number in range(batches):
        client.log_batch(
            run_id,
            metrics[number * BATCH_METRICS : (number + 1) * BATCH_METRICS],
            params[number * BATCH_PARAMETERS : (number + 1) * BATCH_PARAMETERS],
        )


def write_artifacts(folder: Path, evidence: Evidence) -> None:
    """Write the card, tables (JSON) and figures (PNG) into ``folder``."""
    (folder / "card.md").write_text(evidence.card)
    for name, content in (("tables", evidence.tables), ("plots", evidence.figures)):
        if content:
            (folder / name).mkdir()
    for name, table in evidence.tables.items():
        table.to_json(
            folder / "tables" / f"{name}.json", orient="split", index=False, date_format="iso"
        )
    for name, figure in evidence.figures.items():
        figure.savefig(folder / "plots" / f"{name}.png")


def _log_datasets(client: Any, run_id: str, evidence: Evidence) -> None:
    from mlflow.data.code_dataset_source import CodeDatasetSource
    from mlflow.entities import Dataset, DatasetInput, InputTag

    inputs = []
    for dataset in evidence.datasets:
        source = CodeDatasetSource({"store": "Gridcast's job store", **dataset.origin})
        columns = [
            {"name": name, "type": kind, "required": False}
            for name, kind in dataset.columns.items()
        ]
        entity = Dataset(
            dataset.name,
            dataset.digest,
            source._get_source_type(),
            source.to_json(),
            json.dumps({"mlflow_colspec": columns}),
            json.dumps({"num_rows": dataset.rows, **dataset.origin}),
        )
        inputs.append(DatasetInput(entity, [InputTag("mlflow.data.context", dataset.context)]))
    if inputs:
        client.log_inputs(run_id, inputs)


def log_nested(client: Any, parent_id: str, nested: Sequence[NestedRun]) -> None:
    """Log runs below another one, unless it has some already.

    Args:
        client: MLflow's client.
        parent_id: The run above.
        nested: The runs.
    """
    parent = client.get_run(parent_id)
    experiment = parent.info.experiment_id
    if not nested or client.search_runs([experiment], f"tags.`{PARENT_TAG}` = '{parent_id}'"):
        return
    origin = {
        name: value
        for name, value in parent.data.tags.items()
        if name in ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "process", "host")
    }
    for child in nested:
        run = client.create_run(
            experiment,
            start_time=int(child.began.timestamp() * 1000),
            run_name=child.name,
            tags={**origin, PARENT_TAG: parent_id, **child.tags},
        )
        points = [MetricPoint(name, value, child.ended, 0) for name, value in child.metrics.items()]
        log_numbers(client, run.info.run_id, points, child.parameters)
        client.set_terminated(run.info.run_id, "FINISHED", int(child.ended.timestamp() * 1000))
