"""Model card: what a model set was trained on, how it was configured and how it validated."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.errors import GridcastError
from models.histories.features import NOT_AVAILABLE
from models.refiner.clusters import By

CARD_VERSION = 2
"""Version of the JSON form; cards before 2 carry no number and nothing about single sources."""


class CardError(GridcastError, ValueError):
    """The JSON is no usable model card; the message is one sentence that says why."""


@dataclass(frozen=True)
class TrainingWindow:
    """First and last submission of the training jobs (ISO 8601), and latest outcome (µs, UTC)."""

    first_submission: str
    last_submission: str
    until_us: int

    @property
    def until(self) -> pd.Timestamp:
        """When the latest outcome that the training used became available."""
        return pd.Timestamp(self.until_us, unit="us", tz="UTC")

    @staticmethod
    def of(jobs: pd.DataFrame, available_at: npt.NDArray[np.int64]) -> TrainingWindow:
        """Describe ``jobs`` whose outcomes became available at ``available_at`` (int64[n], µs)."""
        submitted = pd.to_datetime(jobs["submitted_at"], utc=True)
        available = available_at[available_at != NOT_AVAILABLE]
        return TrainingWindow(
            submitted.min().isoformat(),
            submitted.max().isoformat(),
            int(available.max()) if len(available) else 0,
        )

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {
            "from": self.first_submission,
            "until": self.last_submission,
            "until_us": self.until_us,
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> TrainingWindow:
        """Read what ``to_json`` wrote."""
        return TrainingWindow(str(values["from"]), str(values["until"]), int(values["until_us"]))


@dataclass(frozen=True)
class SourceData:
    """What one source contributed to a training: how many jobs, and from when to when."""

    jobs: int
    window: TrainingWindow


@dataclass(frozen=True)
class ModelCard:
    """How a model set came to be; immutable, stored as ``card.json`` beside the model."""

    created_at: str
    """When the training ended (ISO 8601, UTC)."""
    rows: int
    """Number of jobs in the training."""
    window: TrainingWindow
    """First and last submission of these jobs, and when the latest outcome became available."""
    sources: tuple[str, ...] = ()
    """Sources that had training jobs."""
    by_source: Mapping[str, SourceData] = field(default_factory=dict)
    """Number of jobs and window of each source."""
    selected_sources: tuple[str, ...] = ()
    """Sources that a person chose to train on; empty where it was all of them."""
    levels: tuple[str, ...] = ()
    """Levels of the histories: the fields of their keys, from fine to coarse."""
    optional_fields: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """Facts and labels of jobs that were tried, by target: whether each is used, and by which share
    it lowered the CRPS of the histories on later windows of the training data."""
    features: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Inputs of the refiner by target."""
    settings: Mapping[str, Any] = field(default_factory=dict)
    """Settings of the mixture by target and of CatBoost, and the most rows that a refiner reads."""
    thresholds: Mapping[str, Sequence[float]] = field(default_factory=dict)
    """Thresholds of the classes by target, in its unit."""
    cluster_by: By | None = None
    """What clusters are made by: group, site, similar users, or nothing."""
    clusters: Mapping[str, Sequence[Mapping[str, Any]]] = field(default_factory=dict)
    """By target, a row a cluster: its jobs, the losses of its own and of the global refiner on
    later windows, and the one that answers."""
    metrics: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    """Validation errors by target, each job predicted as of its submission."""
    version: str = ""
    """Version in MLflow's registry; empty before it is registered."""
    card_version: int = CARD_VERSION
    """Version of this form."""

    @property
    def targets(self) -> tuple[str, ...]:
        """The predicted quantities, the most important first."""
        return tuple(self.clusters)

    def window_of(self, source: str) -> TrainingWindow | None:
        """Return what the training had of ``source``; None if nothing.

        A card older than version 2 knows one window for all of its sources.
        """
        if data := self.by_source.get(source):
            return data.window
        return self.window if not self.by_source and source in self.sources else None

    def trained_until(self, source: str) -> pd.Timestamp | None:
        """When the latest outcome of ``source`` in the training became available, if any did."""
        window = self.window_of(source)
        return window.until if window else None

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        by_source = {
            name: {"jobs": data.jobs, **data.window.to_json()}
            for name, data in self.by_source.items()
        }
        return asdict(self) | {
            "window": self.window.to_json(),
            "sources": list(self.sources),
            "by_source": by_source,
            "selected_sources": list(self.selected_sources),
            "levels": list(self.levels),
        }

    @staticmethod
    def from_json(values: Mapping[str, Any]) -> ModelCard:
        """Read a card of any version; raises CardError where it has no training window."""
        try:
            window = TrainingWindow.from_json(values["window"])
            by_source = {
                name: SourceData(int(data["jobs"]), TrainingWindow.from_json(data))
                for name, data in values.get("by_source", {}).items()
            }
        except (KeyError, TypeError, ValueError):
            raise CardError("the model's card names no training window: train it again") from None
        # An older card does not say whether its sources were chosen: they are kept.
        selected = values.get("selected_sources", values.get("sources", ()))
        fields = {name for name in ModelCard.__dataclass_fields__ if name in values}
        return ModelCard(
            **{
                "created_at": "",
                "rows": 0,
                "card_version": 1,
                **{name: values[name] for name in fields},
                "window": window,
                "sources": tuple(values.get("sources", ())),
                "by_source": by_source,
                "selected_sources": tuple(selected),
                "levels": tuple(values.get("levels", ())),
            }
        )


def data_by_source(
    jobs: pd.DataFrame, available_at: npt.NDArray[np.int64]
) -> dict[str, SourceData]:
    """Describe what each source contributed to the training ``jobs``, by name."""
    if "source" not in jobs:
        return {}
    names = jobs["source"].astype("str").to_numpy()
    return {
        name: SourceData(
            int((names == name).sum()),
            TrainingWindow.of(jobs[names == name], available_at[names == name]),
        )
        for name in sorted(set(names[jobs["source"].notna().to_numpy()]))
    }
