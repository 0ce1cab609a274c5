"""The registry: each model set is a version of one registered model in MLflow.

The only importer of MLflow. A version is one artifact directory of native CatBoost and JSON files,
written and read as plain files: no flavour's loader is ever called, so nothing that a version names
can be executed. The ``MLmodel`` file beside them carries the signature and the input example for
MLflow's page and nothing else.

The alias ``champion`` is the only truth about what serves. Each move of it is explained by tags
that are written *before* the alias moves, so that a crash between the two leaves an explanation
without a move, never a move without an explanation. Any version, run or experiment may be deleted
in MLflow's page at any time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pandas as pd

from infra.errors import GridcastError
from infra.settings import Settings, prepare_environment
from jobs.schema import FIELDS, OUTCOMES
from models.releases import alias_moves as moves
from models.releases.alias_moves import CHAMPION, PIN, lock, now
from models.releases.alias_moves import read_version as _version
from models.releases.alias_moves import tag as _tag
from models.releases.runs import close_orphans, this_process
from models.releases.versions import Evidence, Version

CHALLENGER = "challenger"
MODEL_FOLDER = "model"
"""Where the model set lies among a run's artifacts."""


class RegistryError(GridcastError):
    """MLflow cannot be reached or refuses; the message is one sentence that names its address."""


class OvertakenError(RegistryError):
    """The champion changed after the caller had decided; the version stays a candidate."""


def publish(
    folder: Path,
    evidence: Evidence,
    *,
    run_name: str | None = None,
    settings: Settings | None = None,
) -> Version:
    """Register a model set with its evidence.

    A version begins as ``unfinished`` and becomes a ``candidate`` in the last step, so that one of
    a killed process is marked. Runs that ended processes left open are closed first.

    Args:
        folder: The saved model set.
        evidence: Card, metrics, tables and plots.
        run_name: The name of the run; default: MLflow's.
        settings: Whose registry; default: the environment's.

    Returns:
        The new version, which does not serve yet.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    with _mlflow(settings) as (client, settings):
        experiment = _experiment(client, settings)
        close_orphans(client, experiment)
        run = client.create_run(
            experiment, run_name=run_name, tags={**evidence.tags, "process": this_process()}
        )
        run_id = run.info.run_id
        try:
            _log(client, run_id, evidence)
            with TemporaryDirectory(dir=settings.folder("tmp")) as staging:
                copy = shutil.copytree(folder, Path(staging) / MODEL_FOLDER)
                _write_signature(copy, evidence)
                client.log_artifacts(run_id, str(copy), MODEL_FOLDER)
            _ensure_registered(client, settings.model_name)
            row = client.create_model_version(
                settings.model_name,
                source=f"{run.info.artifact_uri}/{MODEL_FOLDER}",
                run_id=run_id,
                tags={**evidence.tags, "state": "unfinished"},
                description=evidence.card,
            )
            client.set_terminated(run_id, "FINISHED")
            client.set_model_version_tag(
                settings.model_name, str(row.version), "state", "candidate"
            )
        except BaseException:
            with suppress(Exception):  # the first error is the one to report
                client.set_terminated(run_id, "FAILED")
            raise
        return _version(client.get_model_version(settings.model_name, str(row.version)))


def log_run(evidence: Evidence, *, run_name: str, settings: Settings | None = None) -> str:
    """Log evidence of no version, such as an evaluation of a log, as a run; returns its id.

    Raises RegistryError.

    Args:
        evidence: What is logged.
        run_name: The name of the run.
        settings: The settings; None: those of the environment.
    """
    with _mlflow(settings) as (client, settings):
        run_id = str(
            client.create_run(
                _experiment(client, settings), run_name=run_name, tags=dict(evidence.tags)
            ).info.run_id
        )
        _log(client, run_id, evidence)
        client.set_terminated(run_id, "FINISHED")
    return run_id


def champion(settings: Settings | None = None) -> Version | None:
    """Return the version that serves, None before the first promotion. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        return _by_alias(client, settings.model_name, CHAMPION)


def challenger(settings: Settings | None = None) -> Version | None:
    """Return the version that waits for a decision, or None. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        return _by_alias(client, settings.model_name, CHALLENGER)


def get(number: int, settings: Settings | None = None) -> Version:
    """Return the version of a number. Raises RegistryError where there is none."""
    with _mlflow(settings) as (client, settings):
        return _version(client.get_model_version(settings.model_name, str(number)))


def find(number: int, settings: Settings | None = None) -> Version | None:
    """Return the version of a number, None where there is none. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        return _find(client, settings.model_name, str(number))


def versions(settings: Settings | None = None) -> list[Version]:
    """Return all versions, newest first. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        aliases = _aliases(client, settings.model_name)
        rows: list[Version] = []
        token = None
        while True:
            page = client.search_model_versions(
                f"name = '{settings.model_name}'", max_results=1000, page_token=token
            )
            rows += [_version(row, aliases.get(int(row.version), ())) for row in page]
            token = page.token
            if not token:
                return sorted(rows, key=lambda row: -row.version)


def metrics(version: Version, settings: Settings | None = None) -> dict[str, float]:
    """Return the metrics on the run of ``version``. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        return dict(client.get_run(version.run_id).data.metrics)


def fetch(version: Version, *, fresh: bool = False, settings: Settings | None = None) -> Path:
    """Return the local folder of ``version``, downloaded once (again if ``fresh``).

    The caller checks the checksums. Raises RegistryError.

    Args:
        version: The version.
        fresh: Whether to download it again.
        settings: The settings; None: those of the environment.
    """
    settings = settings or prepare_environment()
    # With the run's id: another registry counts its versions from 1 again.
    target = settings.folder("models") / f"{version.label}-{version.run_id[:8]}"
    if target.is_dir() and not fresh:
        return target
    with (
        _mlflow(settings) as (_, settings),
        TemporaryDirectory(dir=settings.folder("tmp")) as staging,
    ):
        from mlflow.artifacts import download_artifacts

        files = download_artifacts(
            artifact_uri=version.source, dst_path=staging, tracking_uri=settings.tracking_url
        )
        shutil.rmtree(target, ignore_errors=True)
        # Renamed, so that a kill in between leaves no partial folder under the final name.
        shutil.copytree(files, Path(staging) / "complete").replace(target)
    return target


def set_challenger(version: Version, settings: Settings | None = None) -> None:
    """Put ``version`` up for a decision: the alias ``challenger``. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        client.set_registered_model_alias(version.name, CHALLENGER, str(version.version))


def mark_refused(version: Version, *, why: str, settings: Settings | None = None) -> None:
    """Record that ``version`` lost its comparison, and why. Raises RegistryError.

    Args:
        version: The version.
        why: The reason.
        settings: The settings; None: those of the environment.
    """
    with _mlflow(settings) as (client, settings):
        _tag(
            client,
            version,
            state="refused",
            refused_why=why,
            refused_at=now(),
        )
        _drop_challenger(client, version)


def promote(
    version: int, *, by: str, why: str, expected: int | None = -1, settings: Settings | None = None
) -> Version:
    """Make a version the champion and record by whom and why; the champion itself stays as it is.

    Args:
        version: Its number.
        by: Who promotes.
        why: The reason.
        expected: The champion that it was compared with (None: there was none; -1: any).
        settings: Whose registry; default: the environment's.

    Raises:
        OvertakenError: Another version became champion meanwhile; this one stays a candidate.
        RegistryError: MLflow cannot be reached, or the version was never finished.
    """
    with _mlflow(settings) as (client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        wanted = _version(client.get_model_version(settings.model_name, str(version)))
        if wanted.state == "unfinished":
            raise RegistryError(
                f"version {version} was never finished: its training was stopped; train again"
            )
        if current is not None and current.version == version:
            return current
        if expected != -1 and (current.version if current else None) != expected:
            champion = f"version {current.version}" if current else "no version"
            raise OvertakenError(
                f"{champion} is champion meanwhile, not {expected}: "
                f"{wanted.label} stays a candidate"
            )
        return _move(client, wanted, current, by=by, why=why)


def rollback(*, by: str, why: str, expected: int = -1, settings: Settings | None = None) -> Version:
    """Return to the version that the champion (``expected``, if not -1) replaced.

    Raises RegistryError where there is none, or where it was deleted.

    Args:
        by: Who does it.
        why: The reason.
        expected: The number of the champion; -1: any.
        settings: The settings; None: those of the environment.
    """
    with _mlflow(settings) as (client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        if current is None or "replaces" not in current.tags:
            raise RegistryError("there is no earlier champion to roll back to")
        if expected not in (-1, current.version):
            raise OvertakenError(
                f"{current.label} is champion meanwhile, not version {expected}: "
                "nothing is rolled back"
            )
        wanted = _find(client, settings.model_name, current.tags["replaces"])
        if wanted is None:
            raise RegistryError(
                f"version {current.tags['replaces']}, which {current.label} replaced, is deleted: "
                "promote another one (gridcast promote)"
            )
        return _move(client, wanted, current, by=by, why=why, is_rollback=True)


def reconcile(settings: Settings | None = None) -> Version | None:
    """Return the champion, once moves made in MLflow's page or interrupted are recorded.

    Raises RegistryError.
    """
    with _mlflow(settings) as (client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        if current is not None:
            moves.reconcile(
                client, current, lambda number: _find(client, settings.model_name, number)
            )
        return _by_alias(client, settings.model_name, CHAMPION)


def pin(*, by: str, why: str, settings: Settings | None = None) -> Version:
    """Keep the champion until ``unpin``; only MLflow's page still moves it.

    Args:
        by: Who does it.
        why: The reason.
        settings: The settings; None: those of the environment.
    """
    with _mlflow(settings) as (client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        if current is None:
            raise RegistryError("there is no champion to pin: promote one first")
        client.set_registered_model_tag(
            current.name, PIN, f"{current.label} is pinned by {by}: {why}"
        )
        return current


def unpin(settings: Settings | None = None) -> None:
    """Let the champion be replaced again, if it is pinned. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        if _pinned(client, settings.model_name):
            client.delete_registered_model_tag(settings.model_name, PIN)


def pinned(settings: Settings | None = None) -> str:
    """Say which version is pinned, by whom and why; empty where none is. Raises RegistryError."""
    with _mlflow(settings) as (client, settings):
        return _pinned(client, settings.model_name)


def _pinned(client: Any, name: str) -> str:
    return (
        str(client.get_registered_model(name).tags.get(PIN, "")) if _aliases(client, name) else ""
    )


def _move(
    client: Any,
    wanted: Version,
    current: Version | None,
    *,
    by: str,
    why: str,
    is_rollback: bool = False,
) -> Version:
    if current is not None and (pin := _pinned(client, wanted.name)):
        raise OvertakenError(
            f"{pin} (gridcast unpin frees it): {wanted.label} does not take its place"
        )
    moves.move(client, wanted, current, by=by, why=why, is_rollback=is_rollback)
    _drop_challenger(client, wanted)
    return _version(client.get_model_version(wanted.name, str(wanted.version)))


def _drop_challenger(client: Any, version: Version) -> None:
    if _aliases(client, version.name).get(version.version, ()).count(CHALLENGER):
        client.delete_registered_model_alias(version.name, CHALLENGER)


def _log(client: Any, run_id: str, evidence: Evidence) -> None:
    from mlflow.entities import Metric, Param

    now = int(datetime.now(UTC).timestamp() * 1000)
    numbers = [Metric(key, float(value), now, 0) for key, value in evidence.metrics.items()]
    client.log_batch(
        run_id, numbers, [Param(key, str(value)) for key, value in evidence.parameters.items()]
    )
    client.set_tag(run_id, "mlflow.note.content", evidence.card)
    client.log_text(run_id, evidence.card, "card.md")
    for name, table in evidence.tables.items():
        client.log_table(run_id, table, f"tables/{name}.json")
    for name, figure in evidence.figures.items():
        client.log_figure(run_id, figure, f"plots/{name}.png")


def _write_signature(folder: Path, evidence: Evidence) -> None:
    """Write ``MLmodel``, which has no flavour that a loader could load, and the input example."""
    from mlflow.models import Model, ModelSignature
    from mlflow.types import ColSpec, Schema

    types = {"text": "string", "number": "double", "time": "datetime"}
    fields = [field for field in FIELDS if field.name not in OUTCOMES]
    inputs = Schema(
        [ColSpec(types[field.kind], field.name, required=field.required) for field in fields]
    )
    example = None
    if evidence.inputs is not None:
        columns = [field.name for field in fields if field.name in evidence.inputs]
        text = evidence.inputs[columns].to_json(orient="split", index=False, date_format="iso")
        (folder / "input_example.json").write_text(text)
        example = {
            "artifact_path": "input_example.json",
            "type": "dataframe",
            "pandas_orient": "split",
        }
    outputs = None
    if evidence.outputs is not None:
        numeric = pd.api.types.is_numeric_dtype
        kinds = {
            name: "double" if numeric(evidence.outputs[name]) else "string"
            for name in evidence.outputs
        }
        outputs = Schema([ColSpec(kind, name) for name, kind in kinds.items()])
    Model(signature=ModelSignature(inputs, outputs), saved_input_example_info=example).save(
        str(folder / "MLmodel")
    )


def _experiment(client: Any, settings: Settings) -> str:
    experiment = client.get_experiment_by_name(settings.model_name)
    if experiment is not None:
        if experiment.lifecycle_stage == "deleted":  # in MLflow's page: its name stays taken
            client.restore_experiment(experiment.experiment_id)
        return str(experiment.experiment_id)
    # A server decides where artifacts are; without one they are beside its database, where
    # ``gridcast up`` finds them.
    local = not settings.tracking_url.startswith("http")
    where = (settings.folder("mlflow") / "artifacts").as_uri() if local else None
    return str(client.create_experiment(settings.model_name, artifact_location=where))


def _ensure_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description="Gridcast: a version is one model set; the alias champion serves."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise


def _by_alias(client: Any, name: str, alias: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        # One request, since a predictor makes it every three seconds.
        return _version(client.get_model_version_by_alias(name, alias))
    except MlflowException as error:
        if error.error_code in (
            "RESOURCE_DOES_NOT_EXIST",
            "INVALID_PARAMETER_VALUE",
        ):  # no such model, no such alias
            return None
        raise


def _find(client: Any, name: str, number: str) -> Version | None:
    from mlflow.exceptions import MlflowException

    try:
        return _version(client.get_model_version(name, number))
    except MlflowException as error:
        if error.error_code in ("RESOURCE_DOES_NOT_EXIST", "INVALID_PARAMETER_VALUE"):
            return None
        raise


def _aliases(client: Any, name: str) -> dict[int, tuple[str, ...]]:
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


@contextmanager
def _mlflow(settings: Settings | None) -> Iterator[tuple[Any, Settings]]:
    """A client of MLflow, and the settings; MLflow's errors become a RegistryError."""
    settings = settings or prepare_environment()
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils as database

    # Ten doubling waits, 100 s in all, before it says that a database is down.
    database.MAX_RETRY_COUNT = 3
    try:
        yield MlflowClient(settings.tracking_url, settings.tracking_url), settings
    except (MlflowException, OSError, database.sqlalchemy.exc.SQLAlchemyError) as error:
        raise RegistryError(
            f"MLflow at {settings.displayed_tracking_url} did not do it: {_sentence(error)}"
        ) from error


def _sentence(error: Exception) -> str:
    text = str(error)
    if "Max retries exceeded" in text or "Connection" in text:
        return "nobody answers there; is it running (gridcast status)?"
    with suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return text.splitlines()[0][:300] if text else type(error).__name__
