"""Addresses of the pages of the site, for alerts and artifacts of flows."""

from __future__ import annotations

from pathlib import Path

from infra.components import address, on_loopback
from infra.settings import Settings


def version_page(settings: Settings, name: str, number: int) -> str:
    """Return the address of a version's page in MLflow.

    Args:
        settings: Of the site.
        name: The registered model.
        number: The version's number.
    """
    server = settings.mlflow_url
    if not server.startswith("http"):
        server = address(on_loopback(settings), settings.mlflow_port)
    return f"{server}/#/models/{name}/versions/{number}"


def report_link(settings: Settings, report: Path) -> str:
    """A Markdown link to a report of Evidently, as the dashboard serves it."""
    return f"[{report}]({address(settings, settings.dashboard_port)}/reports/{report.name})"


def models_page(settings: Settings) -> str:
    """The address of the dashboard's page of models."""
    return f"{address(settings, settings.dashboard_port)}/models"
