"""Monitor: recent jobs against the champion's training window, and its predictions beside what came of them."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.champion import current_champion
from flows.retrain import retrain
from flows.retrying import TASK_OPTIONS
from infra.settings import Settings, prepare_environment
from jobs.store import open_store
from models.releases import registry
from models.releases.verification import load_model_set
from models.releases.versions import Version
from monitoring import alerts
from monitoring.decay.champion import DecayReport, watch_champion
from monitoring.decay.triggers import reason_to_retrain
from monitoring.drift.check import monitor as look
from monitoring.drift.report import DriftReport


@flow(
    name="monitor",
    flow_run_name="monitor",
    description="Recent jobs against the champion's training window, and its predictions beside the outcomes; retrains where they decayed.",
)
def monitor(act: bool = True) -> Any:
    """Look at drift and decay; keep pages and numbers, tell what is wrong, and with ``act`` retrain where there is reason to."""
    settings = prepare_environment()
    champion = current_champion(settings)
    if champion is None:
        return Completed(message="there is no champion yet: nothing to compare with")
    found, decay_report = watch(champion, settings), judge(champion, settings)
    why = reason(champion, decay_report, found, settings)
    told = tell(decay_report, found, settings)
    pages = "\n".join(f"- `{page}`" for page in found.pages) or "- none"
    text = f"{decay_report.sentence}\n\n{f'Retraining: {why}' if why else 'No reason to retrain.'}\n\nPages of Evidently:\n\n{pages}"
    create_markdown_artifact(
        text,
        key="monitor",
        description=f"**{found.verdict}**: {found.sentence} {decay_report.sentence}",
    )
    if why and act:
        retrain(why)
    return {
        "verdict": found.verdict,
        "sentence": found.sentence,
        "pages": [str(page) for page in found.pages],
        "decay": decay_report.sentence,
        "retrain": why,
        "told": told,
    }


@task(task_run_name="compare the windows", **TASK_OPTIONS)
def watch(champion: Version, settings: Settings) -> DriftReport:
    """Make the report and keep its numbers."""
    card = load_model_set(champion, settings).card
    return look(
        open_store(settings.store_url), card, settings.folder("reports"), model=champion.label
    )


@task(task_run_name="judge the predictions", **TASK_OPTIONS)
def judge(champion: Version, settings: Settings) -> DecayReport:
    """Set the champion's predictions beside the outcomes, and keep the numbers."""
    return watch_champion(open_store(settings.store_url), champion.label, datetime.now(UTC))


@task(task_run_name="is there reason to retrain?", **TASK_OPTIONS)
def reason(
    champion: Version, decay_report: DecayReport, drift: DriftReport, settings: Settings
) -> str:
    """Why to retrain, empty where there is no reason."""
    card, latest = load_model_set(champion, settings).card, registry.versions(settings)[0]
    cooldown = settings.cooldown_hours * 3600
    return reason_to_retrain(
        open_store(settings.store_url),
        card,
        decay_report,
        drift,
        latest,
        datetime.now(UTC),
        cooldown,
    )


@task(task_run_name="tell what is wrong", **TASK_OPTIONS)
def tell(decay_report: DecayReport, drift: DriftReport, settings: Settings) -> list[str]:
    """Send what is new or over."""
    wrong = {
        "decay": decay_report.sentence if decay_report.alarms else "",
        "drift": drift.sentence if drift.verdict == "drift" else "",
    }
    return alerts.notify(open_store(settings.store_url), settings, wrong, datetime.now(UTC))
