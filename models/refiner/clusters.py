"""Clusters of jobs that may have a model of their own: by a field, or by k-means of their users."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.coded_jobs import CodedJobs, encode_column

By = Literal["group", "site", "queue", "program", "kmeans"]
GLOBAL = "global"
KINDS = 6


@dataclass(frozen=True)
class Clusters:
    """An assignment of jobs to clusters.

    Attributes:
        by: The field whose values are clusters, or ``kmeans`` for kinds of user.
        kinds: The kind of each user.
        per_source: Whether a value in two sources is two clusters, as where logs name their own
            groups.
    """

    by: By | None = None
    kinds: dict[str, str] = field(default_factory=dict)
    per_source: bool = False

    @property
    def field(self) -> str | None:
        """The field by whose value jobs are assigned."""
        return "user" if self.by == "kmeans" else self.by

    def assign(self, jobs: pd.DataFrame | CodedJobs) -> npt.NDArray[Any]:
        """Return the cluster of each job (object[n] of text); GLOBAL where it has none."""
        if self.field is None or self.field not in jobs:
            return np.full(len(jobs), GLOBAL, dtype=object)
        column: Any = (
            jobs[self.field] if isinstance(jobs, CodedJobs) else encode_column(jobs[self.field])
        )
        names = [
            self.kinds.get(value, GLOBAL) if self.by == "kmeans" else f"{self.field} {value}"
            for value in column.values
        ]
        clusters = np.array([*names, GLOBAL], dtype=object)
        if not self.per_source or "source" not in jobs:
            return clusters[column.codes]
        source: Any = (
            jobs["source"] if isinstance(jobs, CodedJobs) else encode_column(jobs["source"])
        )
        labels = [
            [name if name == GLOBAL else f"{origin}: {name}" for name in clusters]
            for origin in (*source.values, "no source")
        ]
        return np.array(labels, dtype=object)[source.codes, column.codes]

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return {"by": self.by, "kinds": self.kinds, "per_source": self.per_source}

    @staticmethod
    def from_json(text: dict[str, Any]) -> Clusters:
        """Read what ``to_json`` wrote, also before it said ``per_source``."""
        return Clusters(text["by"], dict(text["kinds"]), bool(text.get("per_source")))


def answering_clusters(clusters: npt.NDArray[Any], own: Collection[str]) -> npt.NDArray[Any]:
    """Return whose refiner answers each job: its cluster's where ``own`` has it, else GLOBAL."""
    if set(own) <= {GLOBAL}:
        return np.full(len(clusters), GLOBAL, dtype=object)
    return np.array([name if name in own else GLOBAL for name in clusters], dtype=object)


def most_informative_field(jobs: pd.DataFrame) -> str:
    """Return the first of group, site, queue and program with several values, else the source."""
    names = ("group", "site", "queue", "program")
    return next((name for name in names if name in jobs and jobs[name].nunique() > 1), "source")


def default_cluster_by(jobs: pd.DataFrame) -> By:
    """Return the default of clusters: by group, else by site, else by k-means.

    A field counts where the jobs name more than one value of it.
    """
    for name in ("group", "site"):
        if name in jobs and jobs[name].nunique() > 1:
            return name
    return "kmeans"


def find_clusters(jobs: pd.DataFrame, values: npt.NDArray[np.float64], by: By | None) -> Clusters:
    """Find clusters.

    Args:
        jobs: Jobs that ended.
        values: Their outcomes (float64[n]).
        by: A field, or ``kmeans`` to group users by the means of their jobs; None for none.
    """
    if by != "kmeans":
        return Clusters(by)
    from sklearn.cluster import KMeans
    from sklearn.preprocessing import StandardScaler

    profile = pd.DataFrame({"user": jobs["user"], "value": np.log2(np.maximum(values, 1.0))})
    for name in ("requested_cores", "requested_walltime", "requested_memory", "input_bytes"):
        if jobs[name].notna().any():
            profile[name] = np.log2(jobs[name].clip(lower=1.0))
    grouped = profile[profile["value"].notna()].groupby("user")
    users = (
        grouped.mean()
        .join(grouped["value"].std().rename("spread"))
        .join(pd.Series(np.log2(grouped.size()), name="jobs"))
    )
    users = users.fillna(users.mean()).fillna(0.0)
    if len(users) < 2 * KINDS:
        return Clusters(by)
    scaled = StandardScaler().fit_transform(users.to_numpy())
    kinds = KMeans(KINDS, n_init=4, random_state=0).fit_predict(scaled)
    return Clusters(
        by, {str(user): f"kind {kind}" for user, kind in zip(users.index, kinds, strict=True)}
    )
