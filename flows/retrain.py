"""Retrain: train as the champion was trained, when enough has happened since, and promote what is better."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.champion import current
from flows.retrying import STEP
from flows.train import decide, fit, judge, publish, read_jobs, show
from infra.settings import Settings, prepare_environment
from jobs.store import count_jobs, open_store
from models import release


@flow(
    name="retrain", flow_run_name="retrain: {why}", description="Train again as the champion was, compare on later jobs, promote if better."
)
def retrain(why: str = "on schedule") -> Any:
    """Train, compare and promote; does nothing where too few jobs ended since the champion was trained to compare by."""
    settings = prepare_environment()
    if not count_ended(settings):
        return Completed(message="no job in the store has ended yet")
    champion = current(settings)
    card = release.load(champion, settings).card if champion else {}
    names, cluster_by = tuple(card.get("clusters", ["walltime"])), card.get("cluster_by")
    jobs = read_jobs(settings, card.get("sources"))
    judgement = judge(jobs, names, cluster_by, settings)
    if champion and judgement.better is None:
        create_markdown_artifact(f"**Not retrained**: {judgement.sentence}", key="train", description=judgement.sentence)
        return Completed(message=judgement.sentence)
    version = publish(fit(jobs, names, cluster_by), jobs, judgement, settings, why)
    decided = decide(version, judgement, settings)
    show(decided, settings)
    return {"version": version.version, "promoted": decided.promoted, "why": decided.why}


@task(task_run_name="count the jobs", **STEP)
def count_ended(settings: Settings) -> int:
    """How many jobs have ended."""
    return int(count_jobs(open_store(settings.store_url))["ended"].sum())
