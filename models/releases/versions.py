"""Values of the registry: a version of the model, and the evidence for it."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, NamedTuple

import pandas as pd

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STALE_AFTER = timedelta(days=30)
"""A model set older than this is stale: its histories go on learning, its refiners do not."""


class MetricPoint(NamedTuple):
    """A value of a metric at a time (UTC) and step."""

    name: str
    value: float
    at: datetime
    step: int


@dataclass(frozen=True)
class NestedRun:
    """A run below a training's: one target's model of one cluster."""

    name: str
    began: datetime
    ended: datetime
    parameters: Mapping[str, object]
    metrics: Mapping[str, float]
    tags: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class DatasetSummary:
    """A set of jobs that a training read.

    Attributes:
        name: Its name.
        digest: Of its contents, 12 hexadecimal digits.
        context: What it was used for: training or evaluation.
        rows: How many jobs.
        columns: The type of each field, as MLflow names types.
        origin: Sources and window.
    """

    name: str
    digest: str
    context: str
    rows: int
    columns: Mapping[str, str]
    origin: Mapping[str, str]


@dataclass(frozen=True)
class Evidence:
    """What an engineer reads on MLflow's page to decide about a version.

    ``card`` is Markdown. ``inputs`` is a few jobs as a broker sends them and ``outputs`` their
    predictions; they give the signature and the input example. A table becomes an artifact
    ``tables/<name>.json``, a figure ``plots/<name>.png``. ``points`` are metrics over time.
    """

    card: str
    metrics: Mapping[str, float] = field(default_factory=dict)
    parameters: Mapping[str, object] = field(default_factory=dict)
    tags: Mapping[str, str] = field(default_factory=dict)
    tables: Mapping[str, pd.DataFrame] = field(default_factory=dict)
    figures: Mapping[str, Figure] = field(default_factory=dict)
    inputs: pd.DataFrame | None = None
    outputs: pd.DataFrame | None = None
    points: Sequence[MetricPoint] = ()
    nested: Sequence[NestedRun] = ()
    datasets: Sequence[DatasetSummary] = ()


SOURCES_TAG = "jobs_by_source"
MAX_TAG = 4000


@dataclass(frozen=True)
class Version:
    """One version of the registered model: its state, when it was made (UTC), card and tags."""

    name: str
    version: int
    run_id: str
    state: str
    aliases: tuple[str, ...]
    created_at: datetime
    source: str
    tags: Mapping[str, str]
    card: str = ""

    @property
    def label(self) -> str:
        """The name of the model in its predictions.

        >>> Version("gridcast", 3, "", "candidate", (), datetime.now(UTC), "", {}).label
        'gridcast-3'
        """
        return f"{self.name}-{self.version}"

    @property
    def age(self) -> float:
        """Seconds since it was made."""
        return (datetime.now(UTC) - self.created_at).total_seconds()


def jobs_by_source(version: Version) -> dict[str, int] | None:
    """Return how many jobs of each source a version was trained on; None if it does not say."""
    try:
        counts = json.loads(version.tags[SOURCES_TAG])
    except (KeyError, ValueError):
        return None
    return {str(name): int(jobs) for name, jobs in counts.items()}


def sources_tag(jobs: Mapping[str, int]) -> dict[str, str]:
    """Return the tag that ``jobs_by_source`` reads; none where the sources are too many for one."""
    text = json.dumps(jobs, ensure_ascii=False)
    return {SOURCES_TAG: text} if len(text) <= MAX_TAG else {}
