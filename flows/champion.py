"""The champion, as a step of every flow that looks at it."""

from __future__ import annotations

from prefect import task

from flows.retrying import TASK_OPTIONS
from infra.settings import Settings
from models.releases import registry
from models.releases.versions import Version


@task(task_run_name="the champion", **TASK_OPTIONS)
def current_champion(settings: Settings) -> Version | None:
    """The champion, None before the first; what a person did in MLflow's page is recorded as theirs."""
    return registry.reconcile(settings)
