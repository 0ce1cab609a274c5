"""MLflow's server, with pages that open on runs and models and reach no other host."""

from __future__ import annotations

from typing import Any

from infra.private_pages import PrivatePages

PAGE_DEFAULTS = {
    "mlflow.workflowType_v1": '"machine_learning"',
    "mlflow.settings.telemetry.enabled_v1": "false",
    "mlflow.telemetry.info.alert.dismissed_v1": "true",
    "mlflow.assistant.fab.autoOpenedOnFirstLoad_v1": "true",
}
"""What MLflow's page keeps in a browser: pages of model training, no usage data, no assistant."""


def create_app() -> Any:
    """MLflow's API and pages; for ``uvicorn --factory``, by the environment of the component."""
    from mlflow.server.fastapi_app import app

    refuse_artifact_locations()
    return PrivatePages(app, defaults=PAGE_DEFAULTS)


def refuse_artifact_locations() -> None:
    """Let this process's MLflow keep artifacts in its own folder only, whoever makes an experiment.

    A caller's folder could hold symbolic links, by which MLflow would hand out any file of its
    user.
    """
    from mlflow.exceptions import MlflowException
    from mlflow.server import handlers

    def refuse(_location: str, field_name: str) -> str:
        raise MlflowException.invalid_parameter_value(
            f"'{field_name}' is not taken: this server decides where artifacts are"
        )

    vars(handlers)["_validate_storage_location_uri"]  # fails where MLflow has renamed it
    handlers._validate_storage_location_uri = refuse
