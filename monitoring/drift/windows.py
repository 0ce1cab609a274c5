"""Two windows of jobs compared by column and cluster: what moved by more than is ordinary."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pandas as pd

from jobs.schema import OF_KIND
from monitoring.drift.effect_sizes import (
    NEW,
    OTHER_CODE,
    Codes,
    Distance,
    Sampling,
    Values,
    buckets,
    category_distance,
    largest_block_distance,
    largest_permuted_distance,
    missing_distance,
    number_distance,
)

MIN_JOBS = 100
"""Fewer jobs in a window, or values in a column, are not compared."""
MIN_EFFECT = 0.1
"""The least move that matters: a tenth of a standard deviation, of a Jensen-Shannon distance, or
of a share."""
MARGIN = 1.25
"""A move counts if it is so many times the largest that permuted bursts make."""
FEW_VALUES = 20
"""A number with no more distinct values is compared as a category: a request for 1, 2 or 4 GiB is a
choice, not a measure."""
CATEGORIES = ("user", "group", "project", "program", "queue", "site", "host", "status")

LEVELS = ("site", "group", "program", "user")
CLUSTERS = 10
"""Clusters of a level that are compared: those with the most recent jobs."""
CLUSTER_COLUMNS = ("walltime", "cpu_time", "peak_memory")
MIN_CLUSTER_EFFECT = 0.25
CLUSTER_SAMPLE = 2000


@dataclass(frozen=True)
class Column:
    """One column of both windows: log10(1 + value), or codes of ``names``."""

    name: str
    label: str
    distance: Distance
    reference: Values
    current: Values
    names: tuple[str, ...] = ()

    @property
    def method(self) -> str:
        """Evidently's name of the distance."""
        return "jensenshannon" if self.names else "wasserstein"

    def sampled(self, sampling: Sampling) -> tuple[list[object], list[object]]:
        """The sampled numbers of both windows, or the names of the sampled buckets."""
        windows = (
            buckets(self.reference, self.current) if self.names else (self.reference, self.current)
        )
        first, second = (values[sampling.rows(len(values))].tolist() for values in windows)
        if not self.names:
            return first, second
        named = dict(enumerate(self.names)) | {OTHER_CODE: "(other)", NEW: "(new)"}
        return [named[code] for code in first], [named[code] for code in second]


@dataclass(frozen=True)
class Finding:
    """How far one column lies from the reference.

    Of kind ``drift`` the value is the distance, of ``missing`` the change of the share of missing
    values. ``cluster`` is empty for all jobs.
    """

    kind: str
    column: str
    cluster: str
    value: float
    threshold: float
    details: dict[str, object] = field(default_factory=dict)

    @property
    def moved(self) -> bool:
        """Whether it moved by more than is ordinary and by enough to matter."""
        return self.value > self.threshold


def ended_jobs(jobs: pd.DataFrame) -> pd.DataFrame:
    """The jobs that have ended, in order of their end.

    A window of recent submissions would hold only the short jobs of those that will end.
    """
    return jobs[jobs["ended_at"].notna()].sort_values("ended_at", kind="stable")


def comparable(
    reference: pd.DataFrame, current: pd.DataFrame, sampling: Sampling
) -> Iterator[Column]:
    """Yield the columns of which both samples hold enough values.

    Args:
        reference: Jobs of one window.
        current: Jobs of the other.
        sampling: The rows that are compared.
    """
    for name in OF_KIND["number"]:
        if name in reference and name in current:
            first, second = (frame[name].to_numpy(dtype=float) for frame in (reference, current))
            if (
                min(
                    np.count_nonzero(~np.isnan(values[sampling.rows(len(values))]))
                    for values in (first, second)
                )
                < MIN_JOBS
            ):
                continue
            if pd.concat([reference[name], current[name]]).nunique() <= FEW_VALUES:
                yield _category(
                    name,
                    *(
                        frame[name].map("{:g}".format, na_action="ignore")
                        for frame in (reference, current)
                    ),
                )
            else:
                yield Column(
                    name, f"log10 {name}", number_distance, _logarithm(first), _logarithm(second)
                )
    for name in CATEGORIES:
        if (
            name in reference
            and name in current
            and reference[name].notna().any()
            and current[name].notna().any()
        ):
            yield _category(name, reference[name], current[name])


def _logarithm(values: Values) -> Values:
    return np.log10(1 + np.maximum(values, 0))


def _category(name: str, reference: pd.Series, current: pd.Series) -> Column:
    both = pd.concat([reference, current], ignore_index=True).astype(object)
    codes, names = pd.factorize(both.where(both.notna(), "(missing)"))
    return Column(
        name,
        name,
        category_distance,
        codes[: len(reference)],
        codes[len(reference) :],
        tuple(str(value) for value in names),
    )


@dataclass(frozen=True)
class _Comparison:
    """The part of a comparison that all columns share."""

    bursts: tuple[Codes, Codes]
    sampling: Sampling
    least: float
    cluster: str = ""

    def finding(
        self,
        kind: str,
        name: str,
        distance: Distance,
        reference: Values,
        current: Values,
        details: dict[str, object],
    ) -> Finding:
        """Measure the distance and its threshold; a small distance needs no test."""
        value = distance(reference, current, self.sampling)
        threshold = self.least
        if value > self.least:
            blocks = largest_block_distance(reference, len(current), distance, self.sampling)
            permuted = largest_permuted_distance(
                reference, current, self.bursts, distance, self.sampling
            )
            threshold = max(self.least, blocks, MARGIN * permuted)
            details = details | {"stretches": blocks, "bursts": permuted}
        return Finding(kind, name, self.cluster, value, threshold, details)


def bursts_of(reference: pd.DataFrame, current: pd.DataFrame) -> tuple[Codes, Codes]:
    """The burst of each job: its task, else its user, program and day."""
    both = pd.concat([reference, current], ignore_index=True).reindex(
        columns=["task_id", "user", "program", "submitted_at"]
    )
    day = pd.to_datetime(both["submitted_at"], utc=True).dt.strftime("%Y-%m-%d")
    together = (
        both["user"].astype(object).fillna("").astype(str)
        + "/"
        + both["program"].astype(object).fillna("").astype(str)
        + "/"
        + day
    )
    codes, _ = pd.factorize(both["task_id"].astype(object).where(both["task_id"].notna(), together))
    return codes[: len(reference)], codes[len(reference) :]


def compare_columns(
    reference: pd.DataFrame, current: pd.DataFrame, columns: list[Column], sampling: Sampling
) -> list[Finding]:
    """Measure how far each column lies from the reference.

    Args:
        reference: Ended jobs of one window in order of their end, not empty.
        current: The same of the other window.
        columns: The ``comparable`` columns.
        sampling: The rows that are compared.
    """
    comparison = _Comparison(bursts_of(reference, current), sampling, MIN_EFFECT)
    findings = []
    for name in (*OF_KIND["number"], *CATEGORIES):
        if name in reference and name in current:
            first, second = (
                np.where(frame[name].isna(), np.nan, 0.0) for frame in (reference, current)
            )
            shares = float(np.isnan(first).mean()), float(np.isnan(second).mean())
            # Missing values of a category are a bucket, so only an empty window counts here.
            if shares[0] != shares[1] and (name not in CATEGORIES or 1.0 in shares):
                details: dict[str, object] = {
                    "reference_share": shares[0],
                    "current_share": shares[1],
                }
                findings.append(
                    comparison.finding("missing", name, missing_distance, first, second, details)
                )
    for column in columns:
        details = {"method": column.method} | _what_moved(column, reference, current)
        findings.append(
            comparison.finding(
                "drift", column.name, column.distance, column.reference, column.current, details
            )
        )
    return findings


def _what_moved(
    column: Column, reference: pd.DataFrame, current: pd.DataFrame
) -> dict[str, object]:
    """The medians of a number, or the three values of a category that changed most."""
    if not column.names:
        return {
            "reference_median": float(reference[column.name].median()),
            "current_median": float(current[column.name].median()),
        }
    shares = [
        np.bincount(codes, minlength=len(column.names)) / len(codes)
        for codes in (column.reference, column.current)
    ]
    most = np.argsort(-np.abs(shares[1] - shares[0]), kind="stable")[:3]
    return {
        "shares": {
            column.names[code]: [round(float(share[code]), 4) for share in shares] for code in most
        }
    }


def compare_clusters(
    reference: pd.DataFrame, current: pd.DataFrame, sampling: Sampling
) -> list[Finding]:
    """Measure how far outcomes of the largest clusters lie from their own past.

    A program that became slow hardly moves a whole grid.

    Args:
        reference: Ended jobs of one window in order of their end.
        current: The same of the other window.
        sampling: The rows that are compared.
    """
    findings = []
    sampling = Sampling(min(CLUSTER_SAMPLE, sampling.most), sampling.seed)
    bursts = bursts_of(reference, current)
    for level in LEVELS:
        if level not in reference or level not in current:
            continue
        before, recent = (frame[level].value_counts() for frame in (reference, current))
        large = [
            name
            for name, jobs in recent.items()
            if jobs >= MIN_JOBS and before.get(name, 0) >= 3 * MIN_JOBS
        ]
        for name in large[:CLUSTERS]:
            inside = [(frame[level] == name).to_numpy() for frame in (reference, current)]
            own = [frame[rows] for frame, rows in zip((reference, current), inside, strict=True)]
            comparison = _Comparison(
                (bursts[0][inside[0]], bursts[1][inside[1]]),
                sampling,
                MIN_CLUSTER_EFFECT,
                f"{level}={name}",
            )
            for column in comparable(
                own[0].filter(CLUSTER_COLUMNS), own[1].filter(CLUSTER_COLUMNS), sampling
            ):
                details = {"method": column.method, "jobs": len(own[1])} | _what_moved(
                    column, own[0], own[1]
                )
                findings.append(
                    comparison.finding(
                        "drift",
                        column.name,
                        column.distance,
                        column.reference,
                        column.current,
                        details,
                    )
                )
    return findings
