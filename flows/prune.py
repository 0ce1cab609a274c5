"""Prune: drop the months that ended longer ago than the site keeps them."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
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
    """Drop what is older than GRIDCAST_RETENTION_MONTHS; returns the dropped rows by table."""
    done = drop(prepare_environment())
    if done.since is None:
        return Completed(message="GRIDCAST_RETENTION_MONTHS is 0: all is kept")
    get_run_logger().info("dropped before %s: %s", f"{done.since:%Y-%m-%d}", done.rows)
    description = f"Rows dropped: jobs are kept from {done.since:%Y-%m-%d} on."
    create_table_artifact(
        [{"table": name, "rows": rows} for name, rows in done.rows.items()],
        key="prune",
        description=description,
    )
    return done.rows


@task(task_run_name="drop old months", **TASK_OPTIONS)
def drop(settings: Settings) -> store.PruneResult:
    """Drop old months; one that is being read is tried again."""
    return store.prune(store.open_store(settings.store_url), settings.retention_months)
