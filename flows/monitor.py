"""Monitor: recent jobs against the champion's training window."""

from __future__ import annotations

from typing import Any

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.champion import current
from flows.retrying import STEP
from infra.settings import Settings, prepare_environment
from jobs.store import open_store
from models import release
from models.versions import Version
from monitoring.drift import DriftReport
from monitoring.watch import monitor as look


@flow(name="monitor", flow_run_name="monitor", description="Evidently's report of recent jobs against the champion's training window.")
def monitor() -> Any:
    """Compare the jobs that ended since the champion was trained with its training window; pages and numbers are kept."""
    settings = prepare_environment()
    champion = current(settings)
    if champion is None:
        return Completed(message="there is no champion yet: nothing to compare with")
    found = watch(champion, settings)
    pages = "\n".join(f"- `{page}`" for page in found.pages) or "- none"
    create_markdown_artifact(f"Pages of Evidently:\n\n{pages}", key="monitor", description=f"**{found.verdict}**: {found.sentence}")
    return {"verdict": found.verdict, "sentence": found.sentence, "pages": [str(page) for page in found.pages]}


@task(task_run_name="compare the windows", **STEP)
def watch(champion: Version, settings: Settings) -> DriftReport:
    """Make the report and keep its numbers."""
    card = release.load(champion, settings).card
    return look(open_store(settings.store_url), card, settings.folder("reports"), model=champion.label)
