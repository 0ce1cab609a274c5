"""Monitor: recent jobs against the training window, the champion's predictions against outcomes."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.champion import current_champion
from flows.retrain import retrain
from flows.retrying import TASK_OPTIONS
from infra.links import report_link
from infra.settings import Settings, prepare_environment
from jobs.store import open_store
from models.engine.model_card import ModelCard
from models.releases import registry
from models.releases.verification import load_model_set
from models.releases.versions import Version
from monitoring import alerts
from monitoring.decay.champion import DecayReport, watch_champion
from monitoring.decay.triggers import reason_to_retrain
from monitoring.drift.check import monitor as check_drift
from monitoring.drift.report import DriftReport


@flow(
    name="monitor",
    flow_run_name="monitor",
    description="Recent jobs against the champion's training window, and its predictions against "
    "the outcomes; retrains where they decayed.",
)
def monitor(act: bool = True) -> Any:
    """Measure drift and decay, store pages and numbers, send alerts, and with ``act`` retrain."""
    settings = prepare_environment()
    champion = current_champion(settings)
    if champion is None:
        return Completed(message="there is no champion yet: nothing to compare with")
    card = load_model_set(champion, settings).card
    drift, decay = measure_drift(champion, card, settings), measure_decay(champion, card, settings)
    why = find_reason(card, decay, drift, settings)
    notified = notify(decay, drift, settings)
    pages = "\n".join(f"- {report_link(settings, page)}" for page in drift.pages) or "- none"
    decision = f"Retraining: {why}" if why else "No reason to retrain."
    log = get_run_logger()
    for sentence in (drift.sentence, decay.sentence, decision, *notified):
        log.info(sentence)
    create_markdown_artifact(
        f"{decay.sentence}\n\n{decision}\n\nPages of Evidently:\n\n{pages}",
        key="monitor",
        description=f"**{drift.verdict}**: {drift.sentence} {decay.sentence}",
    )
    if why and act:
        retrain(why)
    return {
        "verdict": drift.verdict,
        "sentence": drift.sentence,
        "pages": [str(page) for page in drift.pages],
        "decay": decay.sentence,
        "retrain": why,
        "notified": notified,
    }


@task(task_run_name="compare the windows", **TASK_OPTIONS)
def measure_drift(champion: Version, card: ModelCard, settings: Settings) -> DriftReport:
    """Compare recent jobs with the training window, and store the numbers.

    Args:
        champion: The champion.
        card: Its model card.
        settings: The settings.
    """
    engine = open_store(settings.store_url)
    return check_drift(engine, card, settings.folder("reports"), model=champion.label)


@task(task_run_name="compare predictions with outcomes", **TASK_OPTIONS)
def measure_decay(champion: Version, card: ModelCard, settings: Settings) -> DecayReport:
    """Compare the champion's predictions with the outcomes, and store the numbers.

    Args:
        champion: The champion.
        card: Its model card.
        settings: The settings.
    """
    engine = open_store(settings.store_url)
    return watch_champion(engine, champion.label, datetime.now(UTC), sources=card.sources)


@task(task_run_name="find a reason to retrain", **TASK_OPTIONS)
def find_reason(card: ModelCard, decay: DecayReport, drift: DriftReport, settings: Settings) -> str:
    """Return why to retrain; empty where there is no reason.

    Args:
        card: Its model card.
        decay: The measured decay.
        drift: The measured drift.
        settings: The settings.
    """
    return reason_to_retrain(
        open_store(settings.store_url),
        card,
        decay,
        drift,
        registry.versions(settings)[0],
        datetime.now(UTC),
        settings.cooldown_hours * 3600,
    )


@task(task_run_name="send alerts", **TASK_OPTIONS)
def notify(decay: DecayReport, drift: DriftReport, settings: Settings) -> list[str]:
    """Send what is newly wrong, and what is wrong no longer.

    Args:
        decay: The measured decay.
        drift: The measured drift.
        settings: The settings.
    """
    wrong = {
        "decay": decay.sentence if decay.alarms else "",
        "drift": drift.sentence if drift.verdict == "drift" else "",
    }
    return alerts.notify(open_store(settings.store_url), settings, wrong, datetime.now(UTC))
