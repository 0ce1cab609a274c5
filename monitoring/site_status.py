"""The state of a site: accuracy, decay, drift, promotions and collectors.

Metrics, ``gridcast status`` and ``gridcast doctor`` all report what is read here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Literal

import pandas as pd

from infra.settings import Settings
from jobs.collectors import last_collected
from jobs.store import read_measurements
from models.quantities.targets import TARGETS
from models.releases import registry

if TYPE_CHECKING:
    from sqlalchemy import Engine

State = Literal["ok", "watch", "wrong"]

LATE_COLLECTION = timedelta(hours=1)
"""Age of the newest collected record from which a collector is late; it runs each ten minutes."""
STALE_MEASUREMENTS = timedelta(hours=3)
"""Age from which measurements are stale; the monitor runs each hour."""
COVERAGE_GOAL, COVERAGE_TOLERANCE = 0.9, 0.07
MAX_PROMOTIONS = 20
_NUMBERS = {"mae": "error", "baseline_mae": "baseline_error", "coverage_90": "coverage"}


@dataclass(frozen=True)
class Finding:
    """The state of one thing, a summary, and a remedy unless it is ``ok``.

    Only ``wrong`` needs a person now.
    """

    subject: str
    state: State
    summary: str
    remedy: str = ""

    def to_json(self) -> dict[str, str]:
        """As the rows of ``gridcast doctor``."""
        return {
            "what": self.subject,
            "state": self.state,
            "found": self.summary,
            "do": self.remedy,
        }


@dataclass(frozen=True)
class Accuracy:
    """The latest accuracy of a target: MAE, that of the best baseline, and coverage of ranges."""

    target: str
    error: float | None = None
    baseline_error: float | None = None
    coverage: float | None = None


@dataclass(frozen=True)
class Verdict:
    """The latest verdict on decay or drift: how many alarms or columns, and a sentence."""

    count: int
    sentence: str
    measured_at: datetime


@dataclass(frozen=True)
class Promotion:
    """A promotion: of which version, when and why."""

    version: str
    at: datetime
    why: str


@dataclass(frozen=True)
class Collection:
    """A batch system that is collected from, and until when it was read (None: never)."""

    system: str
    where: str
    until: datetime | None


@dataclass(frozen=True)
class SiteStatus:
    """The state of a site at ``read_at``; promotions are the newest, latest first."""

    read_at: datetime
    accuracies: tuple[Accuracy, ...] = ()
    decay: Verdict | None = None
    drift: Verdict | None = None
    promotions: tuple[Promotion, ...] = ()
    collections: tuple[Collection, ...] = ()


def read_site_status(engine: Engine, settings: Settings, now: datetime) -> SiteStatus:
    """Read the state of a site from the store and the registry.

    Args:
        engine: The store.
        settings: The registry, and what is collected.
        now: The present.

    Raises:
        StoreError: The store does not answer.
    """
    collections = last_collected(engine, settings.collect.get_secret_value())
    return SiteStatus(
        now,
        _accuracies(engine),
        _verdict(engine, "decay"),
        _verdict(engine, "drift"),
        _promotions(settings),
        tuple(Collection(*collection) for collection in collections),
    )


def _accuracies(engine: Engine) -> tuple[Accuracy, ...]:
    """The latest numbers; decay counts open jobs as ended ones will be, so its numbers win."""
    numbers: dict[str, dict[str, float]] = {}
    for kind in ("accuracy", "decay"):
        rows = read_measurements(engine, kind=kind, segment="all", latest=200)
        for name, value in zip(rows["name"], rows["value"], strict=True):
            target, _, measure = name.rpartition(" ")
            if target in TARGETS and measure in _NUMBERS and pd.notna(value):
                numbers.setdefault(target, {})[_NUMBERS[measure]] = float(value)
    return tuple(Accuracy(target, **numbers[target]) for target in TARGETS if target in numbers)


def _verdict(engine: Engine, kind: str) -> Verdict | None:
    rows = read_measurements(engine, "verdict", kind=kind, latest=1)
    if rows.empty:
        return None
    row = rows.iloc[0]
    sentence = str((row["details"] or {}).get("sentence", ""))
    return Verdict(int(row["value"]), sentence, row["measured_at"].to_pydatetime())


def _promotions(settings: Settings) -> tuple[Promotion, ...]:
    """The newest promotions; none while the registry does not answer, which others report."""
    try:
        versions = registry.versions(settings)
    except registry.RegistryError:
        return ()
    promotions = [
        Promotion(
            version.label,
            datetime.fromisoformat(version.tags["promoted_at"]).astimezone(UTC),
            version.tags.get("promoted_why", ""),
        )
        for version in versions
        if "promoted_at" in version.tags
    ]
    promotions.sort(key=lambda promotion: promotion.at, reverse=True)
    return tuple(promotions[:MAX_PROMOTIONS])


# -- as rows of doctor and status


def site_findings(status: SiteStatus) -> Iterator[Finding]:
    """The findings about predictions, decay, drift and collectors; none of what is not there."""
    for accuracy in status.accuracies:
        yield _accuracy_finding(accuracy)
    for subject, verdict in (("decay", status.decay), ("drift", status.drift)):
        if verdict:
            yield _verdict_finding(subject, verdict, status.read_at)
    for collection in status.collections:
        yield _collection_finding(collection, status.read_at)


def _accuracy_finding(accuracy: Accuracy) -> Finding:
    subject, parts, state = f"accuracy of {accuracy.target}", [], "ok"
    unit = TARGETS[accuracy.target].unit
    if accuracy.error is not None:
        parts.append(f"mean absolute error {accuracy.error:,.4g} {unit}")
    if accuracy.error is not None and accuracy.baseline_error is not None:
        parts[-1] += f", of the best baseline {accuracy.baseline_error:,.4g} {unit}"
        state = "watch" if accuracy.error > accuracy.baseline_error else state
    if accuracy.coverage is not None:
        parts.append(f"90 % ranges held {accuracy.coverage:.0%} of the outcomes")
        if abs(accuracy.coverage - COVERAGE_GOAL) > COVERAGE_TOLERANCE:
            state = "watch"
    remedy = "gridcast monitor says since when; gridcast train trains a new version"
    summary = "; ".join(parts)
    return (
        Finding(subject, "watch", summary, remedy)
        if state == "watch"
        else Finding(subject, "ok", summary)
    )


def _verdict_finding(subject: str, verdict: Verdict, now: datetime) -> Finding:
    age = now - verdict.measured_at
    if age > STALE_MEASUREMENTS:
        hours = age / timedelta(hours=1)
        summary = f"measured {hours:,.1f} h ago: {verdict.sentence}"
        return Finding(subject, "watch", summary, "the flow monitor measures it each hour")
    if verdict.count:
        remedy = "gridcast train; it is retrained by itself where the flow monitor runs"
        return Finding(subject, "watch", verdict.sentence, remedy)
    return Finding(subject, "ok", verdict.sentence)


def _collection_finding(collection: Collection, now: datetime) -> Finding:
    subject = f"collector {collection.system}"
    subject += "" if collection.where == "all" else f" {collection.where}"
    remedy = f"gridcast collect {collection.system} says why"
    if collection.until is None:
        return Finding(subject, "watch", "nothing was collected yet", remedy)
    age = now - collection.until
    summary = f"read until {collection.until:%Y-%m-%d %H:%M} UTC"
    if age > LATE_COLLECTION:
        summary += f", {age / timedelta(hours=1):,.1f} h ago"
        return Finding(subject, "watch", summary, remedy)
    return Finding(subject, "ok", summary)
