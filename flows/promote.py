"""Promote: a version that a person chose becomes champion, if it works."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact

from flows.retrying import STEP
from infra.errors import InputError
from infra.settings import Settings, prepare_environment
from models import registry, release
from models.versions import Version


@flow(
    name="promote",
    flow_run_name="promote {version}",
    description="Make a version (default: the challenger) champion, if it loads and answers.",
)
def promote(version: int | None = None, by: str = "operator", why: str = "chosen by a person") -> dict[str, Any]:
    """Try the version out in a child process, then move the alias; promoting the champion again changes nothing."""
    settings = prepare_environment()
    chosen = find(version, settings)
    try_out(chosen, settings)
    promoted = move(chosen, by, why, settings)
    create_markdown_artifact(
        f"**{promoted.label} is champion**, promoted by {promoted.tags['promoted_by']}: {promoted.tags['promoted_why']}\n\n{promoted.card}",
        key="promote",
        description=f"{promoted.label} is champion",
    )
    return {"version": promoted.version, "by": promoted.tags["promoted_by"], "why": promoted.tags["promoted_why"]}


@task(**STEP)
def find(version: int | None, settings: Settings) -> Version:
    """The version of that number, or the challenger."""
    found = registry.challenger(settings) if version is None else registry.get(version, settings)
    if found is None:
        raise InputError("no challenger waits: name a version (gridcast history shows them)")
    return found


@task(**STEP)
def try_out(version: Version, settings: Settings) -> None:
    """Load it and ask it once in a process of its own."""
    release.verify(version, settings)


@task(**STEP)
def move(version: Version, by: str, why: str, settings: Settings) -> Version:
    """Move the alias."""
    return registry.promote(version.version, by=by, why=why, settings=settings)
