"""Train: the steps of ``models.releases.pipeline``, each as a task of Prefect."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact, create_markdown_artifact

from flows.retrying import TASK_OPTIONS
from infra.links import version_page
from infra.settings import Settings, prepare_environment
from jobs.store import open_store
from models.releases.alias_moves import BY_TRAIN_FLOW
from models.releases.automatic_rollback import training_lock
from models.releases.pipeline import ClusterBy, Release, TrainingOptions, TrainingPipeline


@flow(
    name="train",
    flow_run_name="train: {why}",
    description="Train, compare on later jobs, publish, promote if better.",
)
def train(
    targets: list[str] | None = None,
    cluster_by: ClusterBy | None = None,
    sources: list[str] | None = None,
    why: str = "asked for",
) -> dict[str, Any]:
    """Train on the stored jobs and publish the result; the first version and a better one serve.

    Args:
        targets: What to predict, the most important first; default: the champion's, or walltime.
        cluster_by: What tells clusters apart, "none" for one model; default: the champion's, or
            found from the fields of the jobs.
        sources: Only the jobs of these sources; default: the champion's choice, or all.
        why: The reason, kept with the version.

    Raises:
        BusyError: Another training runs.
    """
    settings = prepare_environment()
    options = TrainingOptions(
        tuple(targets or ()), cluster_by, tuple(sources or ()), why, BY_TRAIN_FLOW
    )
    pipeline = TrainingPipeline(open_store(settings.store_url), settings, options)
    with training_lock(settings):
        release = pipeline.run(run_step)
    assert release, "only a retraining may stop before its last step"  # noqa: S101
    report_release(release, settings)
    return {
        "version": release.version.version,
        "promoted": release.promoted,
        "why": release.why,
        "rows": release.rows,
    }


@task(task_run_name="{title}", **TASK_OPTIONS)
def run_step(title: str, step: Callable[[], None]) -> None:
    """Run one step of the training pipeline."""
    step()
    get_run_logger().info("done: %s", title)


def report_release(release: Release, settings: Settings) -> None:
    """Log what was trained and decided, and show it on Prefect's page with a link to MLflow's."""
    version, log = release.version, get_run_logger()
    for row in release.source_rows:
        log.info("%(source)s: %(jobs)d jobs, compared on %(compared_on)d later ones", row)
    head = "is champion" if release.promoted else "does not serve" if release.is_new else "stays"
    log.info("%s %s: %s", version.label, head, release.why)
    create_markdown_artifact(
        version.card, key="train", description=f"**{version.label} {head}**: {release.why}"
    )
    create_link_artifact(
        version_page(settings, version.name, version.version),
        f"{version.label} in MLflow",
        key="train-mlflow",
        description="Metrics, tables and plots.",
    )
