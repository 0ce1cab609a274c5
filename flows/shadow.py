"""Shadow: the live trial of ``gridcast trial --shadow``, a step each ten minutes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_table_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from infra.settings import Settings, prepare_environment
from trial import shadow as live_trial


@flow(
    name="shadow",
    flow_run_name="shadow",
    description="Collect and predict for a live trial; write its page each night.",
)
def shadow() -> Any:
    """Do a step of the live trial, if one is under way; the page is written on each new day."""
    settings, now = prepare_environment(), datetime.now(UTC)
    trial = live_trial.current(settings)
    if trial is None:
        return Completed(
            message="no live trial was begun: gridcast trial --shadow 7d --collect slurm"
        )
    if trial.done:
        return Completed(message=f"the live trial ended on {trial.until}; its page: {trial.page}")
    done = take_step(settings, trial, now)
    get_run_logger().info("%s", done)
    create_table_artifact([done], key="shadow", description="The last step of the live trial.")
    return done


@task(task_run_name="collect, predict and write", **TASK_OPTIONS)
def take_step(settings: Settings, trial: live_trial.ShadowTrial, now: datetime) -> dict[str, Any]:
    """Collect, predict what is new, and write the page where it is due.

    Args:
        settings: The settings.
        trial: The trial under way.
        now: The present.
    """
    return live_trial.step(settings, trial, now)
