"""Retrain: train as the champion was trained, when enough is new, and promote what is better."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from flows.train import report_release, run_step
from infra.settings import Settings, prepare_environment
from jobs.store import count_jobs, open_store
from models.releases.alias_moves import BY_RETRAIN_FLOW
from models.releases.automatic_rollback import BusyError, roll_back_if_worse, training_lock
from models.releases.pipeline import Release, TrainingOptions, TrainingPipeline
from models.releases.registry import CHALLENGER
from models.releases.versions import Version
from monitoring import alerts
from monitoring.canary import DECIDED, approval_sentence


@flow(
    name="retrain",
    flow_run_name="retrain: {why}",
    description="Train again as the champion was, compare on later jobs, promote if better.",
)
def retrain(why: str = "on schedule") -> Any:
    """Train, compare and promote; nothing where too few jobs are new to compare by."""
    settings = prepare_environment()
    if not count_ended(settings):
        return Completed(message="no job in the store has ended yet")
    try:
        with training_lock(settings):
            return _retrain(settings, why)
    except BusyError as busy:
        return Completed(message=str(busy))


def _retrain(settings: Settings, why: str) -> Any:
    if restored := roll_back(settings):
        reason = restored.tags["promoted_why"]
        text = f"**{restored.label} serves again**: {reason}"
        get_run_logger().info(text)
        create_markdown_artifact(text, key="train", description=text)
        return {"version": restored.version, "promoted": True, "why": f"rolled back: {reason}"}
    options = TrainingOptions(why=why, by=BY_RETRAIN_FLOW, only_if_comparable=True)
    pipeline = TrainingPipeline(open_store(settings.store_url), settings, options)
    release = pipeline.run(run_step)
    if release is None:
        sentence = pipeline.comparison.sentence
        create_markdown_artifact(
            f"**Not retrained**: {sentence}", key="train", description=sentence
        )
        return Completed(message=sentence)
    report_release(release, settings)
    if not release.is_new:
        return Completed(message=release.why)
    notify_of_release(release, settings)
    return {"version": release.version.version, "promoted": release.promoted, "why": release.why}


@task(task_run_name="is the champion worse than the one before?", **TASK_OPTIONS)
def roll_back(settings: Settings) -> Version | None:
    """Return to the version before the champion where that predicted surely better since."""
    engine = open_store(settings.store_url)
    restored = roll_back_if_worse(engine, settings)
    if restored:
        sentence = f"{restored.label} serves again: {restored.tags['promoted_why']}"
        alerts.notify(engine, settings, {"rollback": sentence}, datetime.now(UTC))
    return restored


@task(task_run_name="send the decision", **TASK_OPTIONS)
def notify_of_release(release: Release, settings: Settings) -> None:
    """Send that a candidate was refused or waits; a promotion ends these alerts."""
    version = release.version
    if release.promoted:
        wrong = DECIDED
    elif CHALLENGER in version.aliases and settings.canary:
        wrong = {"canary": ""}  # the trial of the one before is over
    elif CHALLENGER in version.aliases:
        wrong = {"retraining": approval_sentence(version, release.why, settings)}
    else:
        wrong = {"retraining": f"{version.label} does not serve: {release.why}"}
    alerts.notify(open_store(settings.store_url), settings, wrong, datetime.now(UTC))


@task(task_run_name="count the jobs", **TASK_OPTIONS)
def count_ended(settings: Settings) -> int:
    """Count the stored jobs that have ended."""
    return int(count_jobs(open_store(settings.store_url))["ended"].sum())
