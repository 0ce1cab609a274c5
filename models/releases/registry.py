"""The registry: each model set is a version of one registered model in MLflow.

A version is one artifact directory of native CatBoost and JSON files, which Gridcast writes and
reads as plain files: it calls no flavour's loader, so nothing that a version names is executed. The
``MLmodel`` file beside them (``logged_model``) is for MLflow's page and ``mlflow.pyfunc``.

The alias ``champion`` is the only truth about what serves. Each move of it is explained by tags
that are written *before* the alias moves, so that a crash between the two leaves an explanation
without a move, never a move without an explanation. Any version, run or experiment may be deleted
in MLflow's page at any time.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from infra.lineage import lineage, model_version
from infra.settings import Settings, prepare_environment
from models.releases import alias_moves as moves
from models.releases.alias_moves import CHAMPION, PIN, WHO_MAY_DECIDE, lock, now
from models.releases.alias_moves import aliases_of as _aliases
from models.releases.alias_moves import by_alias as _by_alias
from models.releases.alias_moves import find_version as _find
from models.releases.alias_moves import read_version as _version
from models.releases.alias_moves import tag as _tag
from models.releases.audited_changes import audited as _audited
from models.releases.audited_changes import label as _label
from models.releases.audited_changes import record_move_by_hand
from models.releases.logged_model import write_mlmodel
from models.releases.mlflow_client import RegistryError as RegistryError
from models.releases.mlflow_client import experiment_of, mlflow_client
from models.releases.runs import (
    OpenRun,
    log_evidence,
    log_nested,
    log_numbers,
    origin_tags,
    training_run,
)
from models.releases.versions import Evidence, MetricPoint, Version

CHALLENGER, CHALLENGER_SINCE = "challenger", "challenger_since"
MODEL_NAME = "model"
"""The name of a run's logged model, under which its page shows the files."""


class OvertakenError(RegistryError):
    """The champion changed after the caller had decided; the version stays a candidate."""


def publish(
    folder: Path,
    evidence: Evidence,
    *,
    run: OpenRun | None = None,
    run_name: str | None = None,
    settings: Settings | None = None,
) -> Version:
    """Register a model set with its evidence, as a logged model of a run.

    A version begins as ``unfinished`` and becomes a ``candidate`` in the last step, so that one of
    a killed process is marked.

    Args:
        folder: The saved model set.
        evidence: Card, metrics, tables and plots.
        run: The training's run, which ends with it; default: one of its own.
        run_name: The name of a run of its own.
        settings: Whose registry; default: the environment's.

    Returns:
        The new version, which does not serve yet.

    Raises:
        RegistryError: MLflow cannot be reached.
    """
    settings = settings or prepare_environment()
    if run is None:
        name, began = run_name or "a version", datetime.now(UTC)
        with training_run(settings, name, "gridcast", began) as own_run:
            return publish(folder, evidence, run=own_run, settings=settings)
    with _audited(settings, "register", "a training") as (change, client, settings):
        from mlflow.entities import LoggedModelOutput

        experiment = experiment_of(client, settings)
        info = client.get_run(run.run_id).info
        if info.lifecycle_stage == "deleted":  # in MLflow's page, while the training went on
            client.restore_run(run.run_id)
        with TemporaryDirectory(dir=settings.folder("tmp")) as staging:
            copy = shutil.copytree(folder, Path(staging) / MODEL_NAME)
            write_mlmodel(copy, evidence)
            model = client.create_logged_model(
                experiment, MODEL_NAME, run.run_id, params=_texts(evidence.parameters)
            )
            client.log_model_artifacts(model.model_id, str(copy))
        client.finalize_logged_model(model.model_id, "READY")
        client.log_outputs(run.run_id, [LoggedModelOutput(model.model_id, 0)])
        log_evidence(client, run.run_id, evidence, model.model_id)
        log_nested(client, run.run_id, evidence.nested)
        _ensure_registered(client, settings.model_name)
        row = client.create_model_version(
            settings.model_name,
            source=model.artifact_location,
            run_id=run.run_id,
            tags={**evidence.tags, "state": "unfinished"},
            description=evidence.card,
            model_id=model.model_id,
        )
        registered = json.dumps([{"name": settings.model_name, "version": int(row.version)}])
        client.set_logged_model_tags(model.model_id, {"mlflow.modelVersions": registered})
        change.after = f"{settings.model_name}-{row.version}"
        run.stop_sampling()
        client.set_terminated(run.run_id, "FINISHED")
        client.set_model_version_tag(settings.model_name, str(row.version), "state", "candidate")
        return _version(client.get_model_version(settings.model_name, str(row.version)))


def log_measured(
    version: Version,
    values: Mapping[str, float],
    tags: Mapping[str, str],
    *,
    step: int,
    settings: Settings | None = None,
) -> None:
    """Log metrics that were measured of a version after its training, and tags of it.

    Raises RegistryError.

    Args:
        version: The version.
        values: The metrics of its run.
        tags: Tags of the version and its run.
        step: The step of the metrics.
        settings: Whose registry; default: the environment's.
    """
    from mlflow.entities import RunTag

    with mlflow_client(settings) as (client, settings):
        measured_at = datetime.now(UTC)
        points = [MetricPoint(name, value, measured_at, step) for name, value in values.items()]
        log_numbers(client, version.run_id, points)
        client.log_batch(version.run_id, tags=[RunTag(*item) for item in tags.items()])
        _tag(client, version, **tags)


def log_run(evidence: Evidence, *, run_name: str, settings: Settings | None = None) -> str:
    """Log evidence of no version, such as an evaluation of a log, as a run; returns its id.

    Raises RegistryError.

    Args:
        evidence: What is logged.
        run_name: The name of the run.
        settings: The settings; None: those of the environment.
    """
    with mlflow_client(settings) as (client, settings):
        run_id = str(
            client.create_run(
                experiment_of(client, settings), run_name=run_name, tags=origin_tags("gridcast")
            ).info.run_id
        )
        log_evidence(client, run_id, evidence)
        client.set_terminated(run_id, "FINISHED")
    return run_id


def champion(settings: Settings | None = None) -> Version | None:
    """Return the version that serves, None before the first promotion. Raises RegistryError."""
    with mlflow_client(settings) as (client, settings):
        return _by_alias(client, settings.model_name, CHAMPION)


def challenger(settings: Settings | None = None) -> Version | None:
    """Return the version that waits for a decision, or None. Raises RegistryError."""
    with mlflow_client(settings) as (client, settings):
        return _by_alias(client, settings.model_name, CHALLENGER)


def get(number: int, settings: Settings | None = None) -> Version:
    """Return the version of a number. Raises RegistryError where there is none."""
    with mlflow_client(settings) as (client, settings):
        return _version(client.get_model_version(settings.model_name, str(number)))


def find(number: int, settings: Settings | None = None) -> Version | None:
    """Return the version of a number, None where there is none. Raises RegistryError."""
    with mlflow_client(settings) as (client, settings):
        return _find(client, settings.model_name, str(number))


def versions(settings: Settings | None = None) -> list[Version]:
    """Return all versions, newest first. Raises RegistryError."""
    with mlflow_client(settings) as (client, settings):
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
    with mlflow_client(settings) as (client, settings):
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
        mlflow_client(settings) as (_, settings),
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


def set_challenger(
    version: Version, settings: Settings | None = None, *, by: str = "", why: str = ""
) -> None:
    """Put ``version`` up for a decision: the alias ``challenger``. Raises RegistryError.

    Args:
        version: The version.
        settings: Whose registry; default: the environment's.
        by: Who does it, where nobody is logged in.
        why: The reason, for the audit log.
    """
    with _audited(settings, CHALLENGER, by, why) as (change, client, settings):
        before = _by_alias(client, version.name, CHALLENGER)
        change.before, change.after = _label(before), version.label
        _tag(client, version, who_may_decide=WHO_MAY_DECIDE, **{CHALLENGER_SINCE: now()})
        client.set_registered_model_alias(version.name, CHALLENGER, str(version.version))


def challenger_since(version: Version, settings: Settings | None = None) -> datetime:
    """Return since when a version is challenger: from now on where nobody noted it.

    Raises RegistryError.
    """
    noted = version.tags.get(CHALLENGER_SINCE)
    if not noted:  # a person set the alias in MLflow's page
        noted = now()
        with mlflow_client(settings) as (client, settings):
            _tag(client, version, **{CHALLENGER_SINCE: noted})
    return datetime.fromisoformat(noted)


def withdraw(
    *, by: str, why: str, expected: int | None = None, settings: Settings | None = None
) -> Version:
    """Refuse the challenger: the alias is taken from it, and the reason is kept.

    Args:
        by: Who withdraws it.
        why: The reason.
        expected: The number of the challenger; None: any.
        settings: Whose registry; default: the environment's.

    Raises:
        OvertakenError: There is none, or another version is challenger meanwhile.
        RegistryError: MLflow cannot be reached.
    """
    with _audited(settings, "withdraw", by, why) as (change, client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHALLENGER)
        change.before = _label(current)
        if current is None or expected not in (None, current.version):
            state = f"{current.label} is challenger" if current else "there is no challenger"
            wanted = f", not version {expected}" if current else ""
            raise OvertakenError(f"{state}{wanted}: nothing is withdrawn")
        client.delete_registered_model_alias(current.name, CHALLENGER)
        _tag(
            client,
            current,
            state="refused",
            refused_why=why,
            refused_at=now(),
            refused_by=by,
            **{CHALLENGER_SINCE: ""},
        )
        return _version(client.get_model_version(current.name, str(current.version)))


def mark_refused(version: Version, *, why: str, settings: Settings | None = None) -> None:
    """Record that ``version`` lost its comparison, and why. Raises RegistryError.

    Args:
        version: The version.
        why: The reason.
        settings: The settings; None: those of the environment.
    """
    with _audited(settings, "refuse", why=why) as (change, client, settings):
        change.before = version.label
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
    with _audited(settings, "promote", by, why) as (change, client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        change.before = _label(current)
        change.after = f"{settings.model_name}-{version}"
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
        return _move(client, settings, wanted, current, by=by, why=why)


def rollback(*, by: str, why: str, expected: int = -1, settings: Settings | None = None) -> Version:
    """Return to the version that the champion (``expected``, if not -1) replaced.

    Raises RegistryError where there is none, or where it was deleted.

    Args:
        by: Who does it.
        why: The reason.
        expected: The number of the champion; -1: any.
        settings: The settings; None: those of the environment.
    """
    with _audited(settings, "rollback", by, why) as (change, client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        change.before = _label(current)
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
        change.after = wanted.label
        return _move(client, settings, wanted, current, by=by, why=why, is_rollback=True)


def reconcile(settings: Settings | None = None) -> Version | None:
    """Return the champion, once moves made in MLflow's page or interrupted are recorded.

    Raises RegistryError.
    """
    with mlflow_client(settings) as (client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        if current is not None:
            moves.reconcile(
                client,
                current,
                lambda number: _find(client, settings.model_name, number),
                lambda before: record_move_by_hand(settings, before, current),
            )
        return _by_alias(client, settings.model_name, CHAMPION)


def pin(*, by: str, why: str, settings: Settings | None = None) -> Version:
    """Keep the champion until ``unpin``; only MLflow's page still moves it.

    Args:
        by: Who does it.
        why: The reason.
        settings: The settings; None: those of the environment.
    """
    with _audited(settings, "pin", by, why) as (change, client, settings), lock(settings):
        current = _by_alias(client, settings.model_name, CHAMPION)
        if current is None:
            raise RegistryError("there is no champion to pin: promote one first")
        change.before, change.after = _pinned(client, current.name), current.label
        client.set_registered_model_tag(
            current.name, PIN, f"{current.label} is pinned by {by}: {why}"
        )
        return current


def unpin(settings: Settings | None = None) -> None:
    """Let the champion be replaced again, if it is pinned. Raises RegistryError."""
    with _audited(settings, "unpin") as (change, client, settings):
        change.before = _pinned(client, settings.model_name)
        if change.before:
            client.delete_registered_model_tag(settings.model_name, PIN)


def pinned(settings: Settings | None = None) -> str:
    """Say which version is pinned, by whom and why; empty where none is. Raises RegistryError."""
    with mlflow_client(settings) as (client, settings):
        return _pinned(client, settings.model_name)


def _pinned(client: Any, name: str) -> str:
    return (
        str(client.get_registered_model(name).tags.get(PIN, "")) if _aliases(client, name) else ""
    )


def _move(
    client: Any,
    settings: Settings,
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
    with lineage(settings, "rollback" if is_rollback else "promote") as run:
        run.inputs.append(model_version(settings, wanted.version))
        moves.move(client, wanted, current, by=by, why=why, is_rollback=is_rollback)
        run.outputs.append(model_version(settings, wanted.version, CHAMPION))
    _drop_challenger(client, wanted)
    return _version(client.get_model_version(wanted.name, str(wanted.version)))


def _drop_challenger(client: Any, version: Version) -> None:
    if _aliases(client, version.name).get(version.version, ()).count(CHALLENGER):
        client.delete_registered_model_alias(version.name, CHALLENGER)


def _texts(values: Mapping[str, object]) -> dict[str, str]:
    return {name: str(value) for name, value in values.items()}


def _ensure_registered(client: Any, name: str) -> None:
    from mlflow.exceptions import MlflowException

    try:
        client.create_registered_model(
            name, description="Gridcast: a version is one model set; the alias champion serves."
        )
    except MlflowException as error:
        if error.error_code != "RESOURCE_ALREADY_EXISTS":
            raise
