"""Triggers of retraining: decayed predictions, or drift of a field that the model uses."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

from jobs.coded_jobs import in_microseconds
from jobs.store import count_jobs, read_measurements
from models.engine.model_card import ModelCard
from models.releases.versions import Version, jobs_by_source
from monitoring.decay import detection as decay
from monitoring.decay.champion import DecayReport
from monitoring.drift.report import DriftReport

if TYPE_CHECKING:
    from sqlalchemy import Engine

DRIFT_TRIGGERS = ("walltime", "cpu_time", "peak_memory", "read_bytes", "written_bytes")
"""Fields whose drift is a reason to retrain."""


def reason_to_retrain(
    engine: Engine,
    card: ModelCard,
    decay_report: DecayReport,
    drift: DriftReport,
    latest: Version,
    now: datetime,
    cooldown: float,
) -> str:
    """Say why to train now; empty where there is no reason.

    Decay counts by ``decay.training_trigger``, as in a rehearsal. Drift counts if it is of an
    outcome or of a field that the model uses, and not seen by the last training.

    Args:
        engine: The store.
        card: The champion's card.
        decay_report: The decay of the champion.
        drift: The drift of the recent jobs.
        latest: The newest version.
        now: The present.
        cooldown: The least time between two trainings (s).
    """
    trained = latest.created_at
    if (now - trained).total_seconds() < cooldown:
        return ""
    ended, new = _count_jobs(engine, card, latest)
    new += int(read_measurements(engine, "jobs", kind="retention", since=trained)["value"].sum())
    if alarm := decay.training_trigger(
        decay_report.alarms,
        in_microseconds(now),
        in_microseconds(trained),
        new,
        ended,
        int(cooldown * 1e6),
    ):
        return f"decay: {alarm}"
    relevant = [name for name in drift.drifted if name in DRIFT_TRIGGERS or _is_used(name, card)]
    before = _drifted_before(engine, trained) if relevant else ()
    fresh = [name for name in relevant if name not in before]
    return f"drift of {', '.join(fresh)}" if drift.verdict == "drift" and fresh else ""


def _count_jobs(engine: Engine, card: ModelCard, latest: Version) -> tuple[int, int]:
    """Count the ended jobs of the champion's sources, and those that are new to ``latest``.

    Jobs of a source that the champion was not trained on are no reason to train it again.
    """
    counts = count_jobs(engine).set_index("source")["ended"]
    counts = counts[counts.index.isin(card.sources)] if card.sources else counts
    ended, trained = int(counts.sum()), jobs_by_source(latest)
    if trained is None:
        return ended, ended - int(latest.tags.get("jobs", 0))
    new = [int(jobs) - trained.get(str(source), 0) for source, jobs in counts.items()]
    return ended, sum(max(0, count) for count in new)


def _is_used(name: str, card: ModelCard) -> bool:
    keys = {key for level in card.levels for key in level.split("+")}
    return name in keys or any(name in names for names in card.features.values())


def _drifted_before(engine: Engine, trained: datetime) -> Sequence[str]:
    verdicts = read_measurements(engine, "verdict", kind="drift", until=trained, latest=1)
    return verdicts["details"].iloc[0].get("drifted", ()) if len(verdicts) else ()
