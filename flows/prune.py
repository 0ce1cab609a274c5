"""Prune: months that ended longer ago than the site wants them go; unless it says so, none does."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from infra.settings import Settings, prepare_environment
from jobs import store


@flow(
    name="prune",
    flow_run_name="prune",
    description="Drop the months that ended longer ago than GRIDCAST_RETENTION_MONTHS says.",
)
def prune() -> Any:
    """Drop what is older than GRIDCAST_RETENTION_MONTHS from the store; how many rows went, by table."""
    done = drop(prepare_environment())
    if done.since is None:
        return Completed(message="GRIDCAST_RETENTION_MONTHS is 0: all is kept")
    said = f"Rows dropped: jobs are kept from {done.since:%Y-%m-%d} on."
    create_table_artifact(
        [{"table": name, "rows": rows} for name, rows in done.rows.items()],
        key="prune",
        description=said,
    )
    return done.rows


@task(task_run_name="drop old months", **TASK_OPTIONS)
def drop(settings: Settings) -> store.PruneResult:
    """Drop them; a month that somebody reads is tried again."""
    return store.prune(store.open_store(settings.store_url), settings.retention_months)
