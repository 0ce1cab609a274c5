"""Promote: a version that a person chose becomes champion, if it works."""

from __future__ import annotations

from typing import Any

from prefect import flow, get_run_logger, runtime, task
from prefect.artifacts import create_markdown_artifact

from flows.retrying import TASK_OPTIONS
from infra.links import version_page
from infra.settings import Settings, prepare_environment
from models.releases import champion
from models.releases.versions import Version


def run_name() -> str:
    """Name the run after what it promotes."""
    version = runtime.flow_run.parameters.get("version")
    return "promote: the challenger" if version is None else f"promote: version {version}"


@flow(
    name="promote",
    flow_run_name=run_name,
    description="Make a version (default: the challenger) champion, if it loads and answers.",
)
def promote(
    version: int | None = None, by: str = "operator", why: str = "chosen by a person"
) -> dict[str, Any]:
    """Verify the version in a child process, then move the alias; the champion itself stays.

    Args:
        version: Its number; default: the challenger.
        by: Who promotes.
        why: The reason, kept with the version.
    """
    promoted = move(version, by, why, prepare_environment())
    settings = prepare_environment()
    head = (
        f"{promoted.label} is champion, promoted by {promoted.tags['promoted_by']}: "
        f"{promoted.tags['promoted_why']}"
    )
    get_run_logger().info(head)
    page = version_page(settings, promoted.name, promoted.version)
    create_markdown_artifact(
        f"{head} ([MLflow]({page}))\n\n{promoted.card}",
        key="promote",
        description=f"{promoted.label} is champion",
    )
    return {
        "version": promoted.version,
        "by": promoted.tags["promoted_by"],
        "why": promoted.tags["promoted_why"],
    }


@task(task_run_name="verify and promote", **TASK_OPTIONS)
def move(version: int | None, by: str, why: str, settings: Settings) -> Version:
    """Verify the version and move the alias.

    Args:
        version: The version's number; None: the challenger.
        by: Who does it.
        why: The reason.
        settings: The settings.
    """
    return champion.promote(version, settings, by=by, why=why)
