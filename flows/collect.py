"""Collect: the accounting records of the site's batch systems, into the store."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from infra.errors import GridcastError
from infra.settings import prepare_environment
from jobs import collectors
from jobs.store import open_store


@flow(
    name="collect",
    flow_run_name="collect",
    description="Read what the batch systems in GRIDCAST_COLLECT accounted since the last time.",
)
def collect() -> Any:
    """Store the records of every system of GRIDCAST_COLLECT.

    A system that does not answer fails the run once the others are stored. The next run asks it
    for the same window, so that nothing is lost and nothing is stored twice.
    """
    named = collectors.named_systems(prepare_environment().collect.get_secret_value())
    if not named:
        return Completed(message="GRIDCAST_COLLECT names no batch system")
    log = get_run_logger()
    rows, wrong = [], []
    for system, where in named:
        try:
            done = bring(system, where)
        except GridcastError as error:
            wrong.append(str(error))
            log.error("%s: %s", system, error)
            continue
        log.info("%s: %s", system, done.row())
        rows.append(done.row() | {"notes": ", ".join(done.notes)})
        wrong += done.errors
    if rows:
        create_table_artifact(
            rows, key="collect", description="What each batch system accounted since the last time."
        )
    if wrong:
        raise GridcastError("; ".join(wrong))
    return rows


@task(task_run_name="collect from {system}", **TASK_OPTIONS)
def bring(system: str, where: str) -> collectors.CollectResult:
    """Collect from one system."""
    return collectors.collect(open_store(prepare_environment().store_url), system, where)
