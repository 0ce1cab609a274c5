"""Train: a model set from the stored jobs, judged on later jobs, published, and promoted where it is better."""

from __future__ import annotations

from typing import Any

import pandas as pd
from prefect import flow, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.fitting import refiner_fitting
from flows.retrying import TASK_OPTIONS
from infra.settings import Settings, prepare_environment
from jobs.store import open_store
from models.engine import training
from models.engine.model_set import ModelSet
from models.quantities.classes import parse_thresholds
from models.refiner.clusters import By
from models.refiner.selection import Fits
from models.releases import alias_moves as moves
from models.releases import automatic_rollback as succession
from models.releases import release
from models.releases.versions import Version


@flow(
    name="train",
    flow_run_name="train: {why}",
    description="Train, judge on later jobs, publish, promote if better.",
)
def train(
    targets: list[str] | None = None,
    cluster_by: By | None = None,
    sources: list[str] | None = None,
    why: str = "asked for",
) -> dict[str, Any]:
    """Train on all stored jobs (or those of ``sources``) and publish the result; the first version and a better one are promoted.

    What is not told of targets and clusters is as the champion's. Raises BusyError where another training runs.
    """
    settings = prepare_environment()
    with succession.training_lock(settings):
        return _train(
            settings, *release.training_options(settings, targets, cluster_by), sources, why
        )


def _train(
    settings: Settings,
    names: tuple[str, ...],
    cluster_by: By | None,
    sources: list[str] | None,
    why: str,
) -> dict[str, Any]:
    jobs = read_jobs(settings, sources)
    with refiner_fitting(settings, cluster_by) as fits:
        judgement = judge(jobs, names, cluster_by, settings, fits)
        model_set = fit(jobs, names, cluster_by, fits)
    version = publish(model_set, jobs, judgement, settings, why)
    decided = decide(version, judgement, settings)
    show(decided, settings)
    return {
        "version": version.version,
        "promoted": decided.promoted,
        "why": decided.why,
        "rows": decided.rows,
    }


@task(task_run_name="read the jobs", **TASK_OPTIONS)
def read_jobs(settings: Settings, sources: list[str] | None) -> pd.DataFrame:
    """Read the jobs that have ended."""
    return release.training_jobs(open_store(settings.store_url), sources)


@task(task_run_name="judge on later jobs", **TASK_OPTIONS)
def judge(
    jobs: pd.DataFrame,
    targets: tuple[str, ...],
    cluster_by: By | None,
    settings: Settings,
    fits: Fits,
) -> release.Judgement:
    """Train on the earlier jobs and compare on the later ones."""
    return release.judge(jobs, targets, cluster_by, settings, fits=fits)


@task(task_run_name="train on all jobs", **TASK_OPTIONS)
def fit(
    jobs: pd.DataFrame, targets: tuple[str, ...], cluster_by: By | None, fits: Fits
) -> ModelSet:
    """Train on all jobs."""
    return training.train(
        jobs,
        targets=targets,
        cluster_by=cluster_by,
        thresholds=parse_thresholds(prepare_environment().thresholds),
        fits=fits,
    )


@task(task_run_name="publish", **TASK_OPTIONS)
def publish(
    model_set: ModelSet,
    jobs: pd.DataFrame,
    judgement: release.Judgement,
    settings: Settings,
    why: str,
) -> Version:
    """Register the model set with its evidence, and keep the comparison in the store."""
    version = release.publish(model_set, jobs, judgement, settings, why=why)
    release.store_comparison(open_store(settings.store_url), version, judgement)
    return version


@task(task_run_name="decide", **TASK_OPTIONS)
def decide(
    version: Version,
    judgement: release.Judgement,
    settings: Settings,
    by: str = moves.BY_TRAIN_FLOW,
) -> release.Release:
    """Promote, refuse, or leave it to a person."""
    return release.decide(version, judgement, settings, by=by)


def show(decided: release.Release, settings: Settings) -> None:
    """What an operator reads: the decision and the card, and the way to MLflow's page."""
    head = "is champion" if decided.promoted else "does not serve"
    create_markdown_artifact(
        decided.version.card,
        key="train",
        description=f"**{decided.version.label} {head}**: {decided.why}",
    )
    if settings.mlflow_url.startswith("http"):
        page = f"{settings.mlflow_url}/#/models/{decided.version.name}/versions/{decided.version.version}"
        create_link_artifact(
            page,
            f"{decided.version.label} in MLflow",
            key="train-mlflow",
            description="Metrics, tables and plots.",
        )
