"""Drift report: recent jobs against the training window, as Evidently's pages and a verdict.

The only importer of Evidently, which draws; ``monitoring.drift.windows`` compares, by its formulas.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.settings import prepare_environment
from models.quantities.targets import TARGETS
from monitoring.accuracy import accuracy
from monitoring.drift.effect_sizes import Sampling
from monitoring.drift.verdict import Verdict, describe_finding, judge, plain_text
from monitoring.drift.windows import (
    MIN_JOBS,
    Column,
    Finding,
    comparable,
    compare_clusters,
    compare_columns,
    ended_jobs,
)

MAX_PAGES = 48
"""Pages that stay in the folder, the newest: each is 3 to 6 MB, since it loads nothing."""
MEASUREMENTS = ("measured_at", "kind", "name", "segment", "value", "details")


@dataclass(frozen=True)
class DriftReport:
    """The drift of the recent jobs.

    ``verdict`` is none, local (only single clusters moved), drift (the columns in ``drifted``
    moved) or unknown (too few jobs); ``sentence`` says the same. ``measurements`` has the columns
    of ``jobs.store.add_measurements``.
    """

    verdict: Verdict
    sentence: str
    drifted: tuple[str, ...] = ()
    findings: tuple[Finding, ...] = ()
    pages: tuple[Path, ...] = ()
    measurements: pd.DataFrame = field(
        default_factory=lambda: pd.DataFrame(columns=list(MEASUREMENTS)), repr=False, compare=False
    )


def report(
    reference: pd.DataFrame,
    current: pd.DataFrame,
    *,
    folder: Path,
    predictions: pd.DataFrame | None = None,
    sampling: Sampling | None = None,
    measured_at: datetime | None = None,
    about: str = "",
    keep: int = MAX_PAGES,
) -> DriftReport:
    """Compare the ended jobs of two windows and write the pages.

    Args:
        reference: Jobs of the training window.
        current: Recent jobs.
        folder: Where the pages go.
        predictions: Answers and outcomes, as ``accuracy`` takes them.
        sampling: The rows that are compared.
        measured_at: The time of the metrics, by which the pages are named; by default now.
        about: What is written above the pages: which log, which model.
        keep: How many pages stay in the folder.
    """
    sampling = sampling or Sampling()
    measured_at = measured_at or datetime.now(UTC)
    reference, current = ended_jobs(reference), ended_jobs(current)
    columns: list[Column] = []
    findings: list[Finding] = []
    if min(len(reference), len(current)) >= MIN_JOBS:
        columns = list(comparable(reference, current, sampling))
        findings = compare_columns(reference, current, columns, sampling) + compare_clusters(
            reference, current, sampling
        )
    verdict, sentence = judge(len(reference), len(current), findings)
    answers = (
        pd.DataFrame()
        if predictions is None
        else predictions[predictions["actual"].notna() & predictions["point"].notna()]
    )
    pages = []
    if columns:
        heading = f"{sentence} Reference: {_window(reference)}. Recent: {_window(current)}. {about}"
        html = data_page(columns, findings, heading, sampling)
        pages.append(_write(html, folder, f"{measured_at:%Y-%m-%dT%H%M%SZ}-data.html"))
    if len(answers) > 1:
        html = predictions_page(answers, f"{_accuracy_sentence(answers)} {about}", sampling)
        pages.append(_write(html, folder, f"{measured_at:%Y-%m-%dT%H%M%SZ}-predictions.html"))
    _delete_old_pages(folder, keep)
    drifted = tuple(finding.column for finding in findings if finding.moved and not finding.cluster)
    drifted = tuple(dict.fromkeys(drifted))
    summary = {
        "verdict": verdict,
        "sentence": sentence,
        "drifted": drifted,
        "pages": [str(page) for page in pages],
        "about": about,
    }
    measurements = _measurements(findings, answers, summary, measured_at)
    return DriftReport(verdict, sentence, drifted, tuple(findings), tuple(pages), measurements)


def data_page(
    columns: Sequence[Column], findings: Sequence[Finding], heading: str, sampling: Sampling
) -> str:
    """Make Evidently's data-drift report as an HTML page that loads nothing.

    Args:
        columns: The compared columns.
        findings: How far they moved.
        heading: What stands above the report.
        sampling: The rows that are shown.
    """
    prepare_environment()
    with warnings.catch_warnings():
        # Evidently's own, about numpy and litestar, and those about constant columns.
        warnings.simplefilter("ignore")
        from evidently import DataDefinition, Dataset, Report
        from evidently.presets import DataDriftPreset

        thresholds = {
            finding.column: finding.threshold
            for finding in findings
            if finding.kind == "drift" and not finding.cluster
        }
        frames: list[dict[str, pd.Series]] = [{}, {}]
        for column in columns:
            for frame, values in zip(frames, column.sampled(sampling), strict=True):
                frame[column.label] = pd.Series(
                    [plain_text(value) if isinstance(value, str) else value for value in values]
                )
        definition = DataDefinition(
            numerical_columns=[column.label for column in columns if not column.names],
            categorical_columns=[column.label for column in columns if column.names],
        )
        preset = DataDriftPreset(
            num_method="wasserstein",
            cat_method="jensenshannon",
            per_column_threshold={column.label: thresholds[column.name] for column in columns},
            drift_share=0.5 / len(columns),  # one column is enough, as in the verdict
        )
        first, second = (Dataset.from_pandas(pd.DataFrame(frame), definition) for frame in frames)
        clusters = [finding for finding in findings if finding.cluster and finding.moved]
        return _html(Report([_preface(heading, clusters), preset]).run(second, first))


def predictions_page(answers: pd.DataFrame, heading: str, sampling: Sampling) -> str:
    """Make Evidently's regression report of each target as an HTML page that loads nothing.

    Args:
        answers: Answers and outcomes.
        heading: What stands above the report.
        sampling: The rows that are shown.
    """
    prepare_environment()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # as above; and R² of a single point
        from evidently import DataDefinition, Dataset, Regression, Report
        from evidently.presets import RegressionPreset

        frame: dict[str, pd.Series] = {}
        regressions = []
        for target, own in answers.groupby("target"):
            rows = own.iloc[sampling.rows(len(own))]
            actual, predicted = f"log10 {target}", f"log10 {target}, predicted"
            for label, name in ((actual, "actual"), (predicted, "point")):
                frame[label] = np.log10(1 + rows[name].clip(lower=0)).reset_index(drop=True)
            regressions.append(Regression(name=str(target), target=actual, prediction=predicted))
        definition = DataDefinition(numerical_columns=list(frame), regression=regressions)
        presets = [RegressionPreset(regression_name=regression.name) for regression in regressions]
        dataset = Dataset.from_pandas(pd.DataFrame(frame), definition)
        return _html(Report([_preface(heading, []), *presets]).run(dataset, None))


def _preface(heading: str, clusters: Sequence[Finding]) -> Any:
    """What is above Evidently's widgets: the verdict, and the clusters that moved."""
    from evidently.core.container import MetricContainer
    from evidently.legacy.renderers.html_widgets import table_data, text_widget

    class Preface(MetricContainer):
        def generate_metrics(self, context: Any) -> list[Any]:
            return []

        def render(self, context: Any, child_widgets: Any = None) -> list[Any]:
            widgets = [text_widget(text=plain_text(heading, 2000), title="Gridcast")]
            if clusters:
                rows = [
                    [
                        plain_text(finding.cluster),
                        plain_text(describe_finding(replace(finding, cluster="")), 200),
                    ]
                    for finding in clusters
                ]
                widgets.append(
                    table_data(
                        title="Clusters that moved", column_names=["cluster", "what"], data=rows
                    )
                )
            return widgets

    return Preface()


def _html(snapshot: Any) -> str:
    return str(snapshot.get_html_str(as_iframe=False))


def _window(jobs: pd.DataFrame) -> str:
    first, last = jobs["ended_at"].iloc[0], jobs["ended_at"].iloc[-1]
    return f"{len(jobs):,} jobs that ended {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC"


def _accuracy_sentence(answers: pd.DataFrame) -> str:
    measured = accuracy(answers)
    value = measured[measured["segment"] == "all"].set_index("name")["value"]
    sentences = []
    for target in answers["target"].unique():
        unit = TARGETS[target].unit if target in TARGETS else ""
        inside = value.get(f"{target} coverage_90", float("nan"))
        sentences.append(
            f"{target}: {value[f'{target} answers']:,.0f} answers, "
            f"median error {value[f'{target} median_error']:,.4g} {unit}, "
            f"mean error {value[f'{target} mae']:,.4g} {unit}, "
            f"{inside:.0%} inside the 90 % interval."
        )
    return (
        "Predictions about the jobs that ended in the recent window, beside their outcomes. "
        + " ".join(sentences)
    )


def _write(html: str, folder: Path, name: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    unfinished = path.with_suffix(f".{os.getpid()}.part")
    unfinished.write_text(html, encoding="utf-8")
    unfinished.replace(path)
    return path


def _delete_old_pages(folder: Path, keep: int) -> None:
    for page in sorted(folder.glob("*-*-*T*Z-*.html"))[:-keep]:
        page.unlink(missing_ok=True)


def _measurements(
    findings: Sequence[Finding],
    answers: pd.DataFrame,
    summary: dict[str, Any],
    measured_at: datetime,
) -> pd.DataFrame:
    moved = float(len(summary["drifted"]))
    rows: list[dict[Any, Any]] = [
        {"kind": "drift", "name": "verdict", "segment": "all", "value": moved, "details": summary}
    ]
    for finding in findings:
        details = finding.details | {"threshold": finding.threshold, "moved": finding.moved}
        segment = finding.cluster or "all"
        rows.append(
            {
                "kind": finding.kind,
                "name": finding.column,
                "segment": segment,
                "value": finding.value,
                "details": details,
            }
        )
    if len(answers):
        rows += accuracy(answers).assign(kind="accuracy", details=None).to_dict("records")
    return pd.DataFrame(rows, columns=list(MEASUREMENTS[1:])).assign(
        measured_at=pd.Timestamp(measured_at)
    )[list(MEASUREMENTS)]
