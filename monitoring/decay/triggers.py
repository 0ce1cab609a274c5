"""Triggers: why a model should be trained anew, if it should: its predictions decayed, or the jobs drifted in what matters."""

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

OUTCOMES = ("walltime", "cpu_time", "peak_memory", "read_bytes", "written_bytes")


def reason_to_retrain(
    engine: Engine,
    card: ModelCard,
    decay_report: DecayReport,
    drift: DriftReport,
    latest: Version,
    now: datetime,
    cooldown: float,
) -> str:
    """Why to train now, in a sentence, empty where there is no reason; ``latest`` is the newest version, ``cooldown`` in s.

    A demand by decay is that of ``decay.training_trigger``, the same as in a rehearsal. Drift matters where it is of an outcome or of
    a field that the model looks at, and where the last training has not seen it: what was tried is not tried again each hour.
    """
    trained = latest.created_at
    if (now - trained).total_seconds() < cooldown:
        return ""
    known, new = _count_news(engine, card, latest)
    new += int(read_measurements(engine, "jobs", kind="retention", since=trained)["value"].sum())
    if alarm := decay.training_trigger(
        decay_report.alarms,
        in_microseconds(now),
        in_microseconds(trained),
        new,
        known,
        int(cooldown * 1e6),
    ):
        return f"decay: {alarm}"
    matter = [name for name in drift.drifted if name in OUTCOMES or _looked_at(name, card)]
    seen = _drifted_before(engine, trained) if matter else ()
    fresh = [name for name in matter if name not in seen]
    return f"drift of {', '.join(fresh)}" if drift.verdict == "drift" and fresh else ""


def _count_news(engine: Engine, card: ModelCard, latest: Version) -> tuple[int, int]:
    """Count the jobs of the champion's sources that have ended, and those new to ``latest``.

    Jobs of a source that the champion was not trained on are no reason to train it again.
    """
    counts = count_jobs(engine).set_index("source")["ended"]
    counts = counts[counts.index.isin(card.sources)] if card.sources else counts
    trained = jobs_by_source(latest)
    if trained is None:
        return int(counts.sum()), int(counts.sum()) - int(latest.tags.get("jobs", 0))
    return int(counts.sum()), sum(
        max(0, int(jobs) - trained.get(str(source), 0)) for source, jobs in counts.items()
    )


def _looked_at(name: str, card: ModelCard) -> bool:
    keys = {part for level in card.levels for part in level.split("+")}
    return name in keys or any(name in names for names in card.features.values())


def _drifted_before(engine: Engine, trained: datetime) -> Sequence[str]:
    verdicts = read_measurements(engine, "verdict", kind="drift", until=trained, latest=1)
    return verdicts["details"].iloc[0].get("drifted", ()) if len(verdicts) else ()
