"""Retrain: train as the champion was trained, when enough has happened since, and promote what is better."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.champion import current_champion
from flows.fitting import refiner_fitting
from flows.retrying import TASK_OPTIONS
from flows.train import decide, fit, judge, publish, read_jobs, show
from infra.settings import Settings, prepare_environment
from jobs.store import count_jobs, open_store
from models.releases import alias_moves as moves
from models.releases import automatic_rollback as succession
from models.releases import release
from models.releases.versions import Version
from monitoring import alerts


@flow(
    name="retrain",
    flow_run_name="retrain: {why}",
    description="Train again as the champion was, compare on later jobs, promote if better.",
)
def retrain(why: str = "on schedule") -> Any:
    """Train, compare and promote; does nothing where too few jobs ended since the champion was trained to compare by."""
    settings = prepare_environment()
    if not count_ended(settings):
        return Completed(message="no job in the store has ended yet")
    try:
        with succession.training_lock(settings):
            return _retrain(settings, why)
    except succession.BusyError as busy:
        return Completed(message=str(busy))


def _retrain(settings: Settings, why: str) -> Any:
    if back := take_back(settings):
        text = f"**{back.label} serves again**: {back.tags['promoted_why']}"
        create_markdown_artifact(text, key="train", description=text)
        return {
            "version": back.version,
            "promoted": True,
            "why": f"rolled back: {back.tags['promoted_why']}",
        }
    champion = current_champion(settings)
    card = release.load_model_set(champion, settings).card if champion else None
    names, cluster_by = release.training_options(settings)
    jobs = read_jobs(settings, list(card.sources) if card else None)
    with refiner_fitting(settings, cluster_by) as fits:
        judgement = judge(jobs, names, cluster_by, settings, fits)
        if champion and judgement.better is None:
            create_markdown_artifact(
                f"**Not retrained**: {judgement.sentence}",
                key="train",
                description=judgement.sentence,
            )
            return Completed(message=judgement.sentence)
        model_set = fit(jobs, names, cluster_by, fits)
    version = publish(model_set, jobs, judgement, settings, why)
    decided = decide(version, judgement, settings, by=moves.BY_RETRAIN_FLOW)
    show(decided, settings)
    tell(decided, settings)
    return {"version": version.version, "promoted": decided.promoted, "why": decided.why}


@task(task_run_name="is the champion worse than the one before?", **TASK_OPTIONS)
def take_back(settings: Settings) -> Version | None:
    """Give the place back to the version before the champion where that did surely better since."""
    back = succession.roll_back_if_worse(open_store(settings.store_url), settings)
    if back:
        sentence = f"{back.label} serves again: {back.tags['promoted_why']}"
        alerts.notify(
            open_store(settings.store_url), settings, {"rollback": sentence}, datetime.now(UTC)
        )
    return back


@task(task_run_name="tell the decision", **TASK_OPTIONS)
def tell(decided: release.Release, settings: Settings) -> None:
    """Say that a candidate was refused or waits; a promotion ends both, and what was said of a rollback."""
    label, promoted = decided.version.label, decided.promoted
    wrong = {"retraining": "" if promoted else f"{label} does not serve: {decided.why}"}
    alerts.notify(
        open_store(settings.store_url),
        settings,
        wrong | ({"rollback": ""} if promoted else {}),
        datetime.now(UTC),
    )


@task(task_run_name="count the jobs", **TASK_OPTIONS)
def count_ended(settings: Settings) -> int:
    """How many jobs have ended."""
    return int(count_jobs(open_store(settings.store_url))["ended"].sum())
