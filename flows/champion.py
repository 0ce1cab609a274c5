"""The champion, as a task of the flows that need it."""

from __future__ import annotations

from prefect import task

from flows.retrying import TASK_OPTIONS
from infra.settings import Settings
from models.releases import registry
from models.releases.versions import Version


@task(task_run_name="the champion", **TASK_OPTIONS)
def current_champion(settings: Settings) -> Version | None:
    """Return the champion, if any; moves made in MLflow's page are recorded first."""
    return registry.reconcile(settings)
