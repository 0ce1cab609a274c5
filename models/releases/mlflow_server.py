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

    return PrivatePages(app, defaults=PAGE_DEFAULTS)
