"""The evidence for a version: its card, metrics, tables and plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from jobs.schema import FIELDS, OUTCOMES, conform
from models.engine.model_card import ModelCard
from models.engine.model_set import ModelSet
from models.evaluation.backtest import Evaluation
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from models.releases import registry
from models.releases.benchmark import Benchmark
from models.releases.candidate import CandidateComparison
from models.releases.card_text import markdown_table, write_model_card
from models.releases.comparison import outcomes
from models.releases.diagnostics import diagnostic_tables, plot_diagnostics, points_by_period
from models.releases.logged_model import TYPES, LoadedVersion
from models.releases.runs import library_parameters
from models.releases.shap_summary import plot_shap, shap_summary
from models.releases.versions import (
    DatasetSummary,
    Evidence,
    MetricPoint,
    NestedRun,
    sources_tag,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.evaluation.class_backtest import ClassEvaluation

MAX_NESTED = 12
"""At most so many models of a target have runs of their own: of all jobs and of clusters."""
NESTED_PARAMETERS = ("answers", "share", "trees", "windows", "why")
EXAMPLE_JOBS = 25
TRAINING_DIGEST_TAG = "training_digest"
"""Tag of a version: the digest of its training jobs and settings."""


@dataclass(frozen=True)
class TrainingRecord:
    """What a training read and how long its last step, the training on all jobs, took."""

    why: str
    jobs_digest: str
    training_digest: str
    fit_began: datetime
    fit_ended: datetime


def version_evidence(
    model_set: ModelSet, jobs: pd.DataFrame, comparison: CandidateComparison, record: TrainingRecord
) -> Evidence:
    """Gather the card, metrics, tables and plots of a version about to be published.

    Args:
        model_set: What was trained.
        jobs: The training jobs.
        comparison: How a candidate did on later jobs.
        record: How it was trained.
    """
    card, targets = model_set.card, tuple(model_set.targets)
    shap = shap_summary(model_set)
    figures = {f"shap-{name}": plot_shap(model_set, name) for name in shap["target"].unique()}
    tables: dict[str, pd.DataFrame] = {}
    points: list[MetricPoint] = []
    if len(comparison.later):
        by_target = {}
        assigned = model_set.clusters.assign(comparison.later)
        clusters_of_later = pd.Series(assigned, index=comparison.later.index)
        for name in targets:
            later, predictions = comparison.later, comparison.predictions
            by_target[name] = diagnostic_tables(later, predictions, name, clusters_of_later)
            figures[f"predicted-{name}"] = plot_predicted(later, predictions, name)
            figures[f"errors-{name}"] = plot_diagnostics(by_target[name], name)
            points += points_by_period(later, comparison.answers, name)
        for title in next(iter(by_target.values())):
            frames = [by_target[name][title].assign(target=name) for name in targets]
            tables[title] = pd.concat(frames)
    window = {
        "trained_from": card.window.first_submission,
        "trained_until": card.window.last_submission,
    }
    validation = {
        f"{name}.validation.{key}": value
        for name, metrics in card.metrics.items()
        for key, value in metrics.items()
    }
    clusters = [{"target": name, **row} for name, rows in card.clusters.items() for row in rows]
    benchmark = Benchmark.of(comparison, targets[0])
    measured = benchmark.values(comparison.predictions) if benchmark else {}
    inputs = example_jobs(jobs)
    return Evidence(
        card=write_model_card(card, comparison),
        metrics=metrics_of(comparison.table) | validation | measured,
        parameters={
            "targets": ", ".join(targets),
            "jobs": card.rows,
            "sources": ", ".join(card.sources)[:500],
            "cluster_by": card.cluster_by or "none",
            **window,
            **model_parameters(card),
            **library_parameters(),
        },
        tags={
            "jobs": str(card.rows),
            **window,
            "why_trained": record.why,
            "compared": comparison.sentence,
            TRAINING_DIGEST_TAG: record.training_digest,
            **sources_tag({name: data.jobs for name, data in card.by_source.items()}),
            **(benchmark.version_tags(measured) if benchmark else {}),
        },
        tables={
            "comparison": comparison.table,
            "clusters": pd.DataFrame(clusters),
            "shap": shap,
            **tables,
        },
        figures=figures,
        inputs=inputs,
        outputs=LoadedVersion(model_set).predict(inputs),
        points=points,
        nested=nested_runs(card, tables.get("errors-by-cluster"), record),
        datasets=datasets(jobs, comparison, record.jobs_digest, benchmark),
    )


def example_jobs(jobs: pd.DataFrame) -> pd.DataFrame:
    """Return an input example: jobs that ended, and the last five without their outcomes."""
    example = jobs.sort_values("submitted_at", kind="stable").tail(EXAMPLE_JOBS)
    waiting = example.index[-5:]
    # Rows of a SQL table have an index of their own.
    example = example.astype({name: "object" for name in OUTCOMES if name in example})
    example.loc[waiting, [name for name in OUTCOMES if name in example]] = None
    return conform(example.reset_index(drop=True))


def model_parameters(card: ModelCard) -> dict[str, object]:
    """Return the settings of mixtures and refiners as parameters of a run."""
    mixtures = {
        f"{target}.mixture.{name}": value
        for target, settings in card.settings.get("mixture", {}).items()
        for name, value in settings.items()
    }
    boosting = card.settings.get("boosting", {}).items()
    refiner = {f"refiner.{name}": value for name, value in boosting}
    return {**mixtures, **refiner, "refiner.most_rows": card.settings.get("most_rows", "")}


def nested_runs(
    card: ModelCard, later: pd.DataFrame | None, record: TrainingRecord
) -> list[NestedRun]:
    """Describe the models of each target, of all jobs and of clusters, as runs of their own.

    Args:
        card: The version's card.
        later: The errors on later jobs by target and cluster, if any.
        record: When they were trained.
    """
    runs = []
    for target, reports in card.clusters.items():
        compared = [row for row in reports if row["cluster"] == GLOBAL or "gain" in row]
        for row in compared[:MAX_NESTED]:
            cluster = str(row["cluster"])
            name = "all jobs" if cluster == GLOBAL else cluster
            numbers = {
                f"validation.{key}": float(value)
                for key, value in row.items()
                if isinstance(value, int | float) and key not in NESTED_PARAMETERS
            }
            if later is not None:
                errors = later[(later["target"] == target) & (later["cluster"] == cluster)]
                for key in ("jobs", "mae", "coverage_90"):
                    numbers |= {f"later.{key}": float(value) for value in errors[key]}
            parameters = {
                "target": target,
                "cluster": cluster,
                **{key: row[key] for key in NESTED_PARAMETERS if key in row},
                **{f"refiner.{key}": value for key, value in card.settings["boosting"].items()},
            }
            runs.append(
                NestedRun(
                    f"{target}: {name}", record.fit_began, record.fit_ended, parameters, numbers
                )
            )
    return runs


def datasets(
    jobs: pd.DataFrame,
    comparison: CandidateComparison,
    digest: str,
    benchmark: Benchmark | None,
) -> list[DatasetSummary]:
    """Describe the training jobs, and the later ones that the candidate was compared on.

    Args:
        jobs: The training jobs.
        comparison: Has the later jobs.
        digest: Of the training jobs.
        benchmark: The common benchmark, which has the digest of the later jobs.
    """
    columns = {field.name: TYPES[field.kind] for field in FIELDS if field.name in jobs}

    def summary(name: str, identity: str, context: str, frame: pd.DataFrame) -> DatasetSummary:
        submitted = frame["submitted_at"]
        origin = {
            "sources": ", ".join(sorted(frame["source"].unique()))[:500],
            "submitted_from": submitted.min().isoformat(),
            "submitted_until": submitted.max().isoformat(),
        }
        return DatasetSummary(name, identity, context, len(frame), columns, origin)

    summaries = [summary("jobs trained on", digest, "training", jobs)]
    if benchmark:
        later = comparison.later
        summaries.append(summary("benchmark jobs", benchmark.digest, "evaluation", later))
    return summaries


def metrics_of(comparison: pd.DataFrame) -> dict[str, float]:
    """Name the comparison's known values as metrics of a run: ``walltime.candidate.mae``, ….

    Where several sources were compared, those of one are ``walltime.candidate.mae.SOURCE``.
    """
    metrics: dict[str, float] = {}
    for row in comparison.to_dict("records"):
        for name in ("jobs", "mae", "median_ae", "apa", "coverage_90"):
            key = f"{row['target']}.{row['predictor']}.{name}"
            if row["source"] != comparison["source"].iloc[0]:
                key = f"{key}.{_metric_name(row['source'])}"
            if pd.notna(row[name]):
                metrics[key] = float(row[name])
    return metrics


def _metric_name(source: str) -> str:
    """A source's name in the characters that MLflow takes."""
    return re.sub(r"[^\w.\- /]", "_", source)[:100]


def record_evaluation(evaluation: Evaluation, log: str, settings: Settings) -> str:
    """Log an evaluation of a log to MLflow, with tables and plots; returns the run's id.

    Args:
        evaluation: The evaluation.
        log: The name of the log.
        settings: The settings.
    """
    from models.evaluation.plots import plots

    metrics = {
        f"{row['predictor']}.{name}": value
        for row in evaluation.rows
        for name, value in row.items()
        if isinstance(value, float)
    }
    evidence = Evidence(
        card=f"# {evaluation.target} of {log}\n\nEach job predicted at its submission, "
        f"after a warm-up of {evaluation.warm_up:.0%}.\n\n"
        + markdown_table(pd.DataFrame(evaluation.rows)),
        metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
        parameters={
            "log": log,
            "target": evaluation.target,
            "warm_up": evaluation.warm_up,
            "jobs": len(evaluation.jobs),
        },
        tables={
            "evaluation": pd.DataFrame(evaluation.rows),
            "long-jobs": pd.DataFrame(evaluation.long_rows),
            "bursts": pd.DataFrame(evaluation.burst_rows),
            "unseen": pd.DataFrame(evaluation.unseen_rows),
            "clusters": pd.DataFrame(evaluation.cluster_rows),
            "periods": pd.DataFrame(evaluation.period_rows),
        },
        figures=plots(evaluation),
    )
    return registry.log_run(
        evidence, run_name=f"evaluate {evaluation.target} of {log}", settings=settings
    )


def record_allocation(
    rows: Sequence[Mapping[str, Any]], log: str, how: Mapping[str, object], settings: Settings
) -> str:
    """Log what policies of memory allocation wasted to MLflow; returns the run's id.

    Args:
        rows: A row a policy.
        log: The name of the log.
        how: The options of the evaluation.
        settings: Whose registry.
    """
    table = pd.DataFrame(rows)
    evidence = Evidence(
        card=f"# Memory set aside for {log}\n\n" + markdown_table(table),
        metrics={
            f"{row['policy']}.{name}": float(row[name])
            for row in rows
            for name in ("waste_gbh", "failures")
        },
        parameters={"log": log, **how},
        tables={"allocation": table},
    )
    return registry.log_run(evidence, run_name=f"evaluate allocation of {log}", settings=settings)


def record_classes(
    evaluation: ClassEvaluation, log: str, how: Mapping[str, object], settings: Settings
) -> str:
    """Log how classes were predicted to MLflow, with ROC plots; returns the run's id.

    Args:
        evaluation: The evaluation.
        log: The name of the log.
        how: The options of the evaluation.
        settings: Whose registry.
    """
    from models.evaluation.class_plots import roc_plots

    scores = ("accuracy", "macro_f1", "roc_auc", "pr_auc")
    metrics = {
        f"{row['target']}.{row['predictor']}.{name}": row[name]
        for row in evaluation.rows
        for name in scores
    }
    metrics |= {
        f"{row['predictor']}.{name}": value
        for row in evaluation.joint_rows
        for name, value in row.items()
        if isinstance(value, float)
    }
    tables = {
        "classes": evaluation.rows,
        "each-class": evaluation.class_rows,
        "jointly": evaluation.joint_rows,
    }
    evidence = Evidence(
        card="\n\n".join(
            [
                f"# Classes of {log}",
                *(
                    markdown_table(pd.DataFrame(rows))
                    for rows in (evaluation.joint_rows, evaluation.rows)
                ),
            ]
        ),
        metrics=metrics,
        parameters={
            "log": log,
            **how,
            **{f"thresholds_{name}": row.thresholds for name, row in evaluation.targets.items()},
        },
        tables={name: pd.DataFrame(rows) for name, rows in tables.items()},
        figures=roc_plots(evaluation),
    )
    return registry.log_run(evidence, run_name=f"evaluate classes of {log}", settings=settings)


def plot_predicted(later: pd.DataFrame, answers: pd.DataFrame, target: str) -> Figure:
    """Plot predicted against actual on ``later`` jobs, on logarithmic axes, as density.

    Args:
        later: The predicted jobs.
        answers: Their predictions.
        target: The name of the target.
    """
    from matplotlib.figure import Figure

    truth = outcomes(later, target)
    lowest = max(1.0, TARGETS[target].grid.lowest)
    actual, predicted = (
        values.clip(lower=lowest).to_numpy() for values in (truth, answers.loc[truth.index, target])
    )
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    cells = axes.hexbin(
        actual,
        predicted,
        xscale="log",
        yscale="log",
        bins="log",
        gridsize=45,
        cmap="viridis",
        mincnt=1,
    )
    ends = [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
    axes.plot(ends, ends, color="black", linewidth=1)
    axes.set(
        xlabel=f"actual {target} [{TARGETS[target].unit}]",
        ylabel="predicted",
        title=f"{target}: {len(truth):,} later jobs",
    )
    figure.colorbar(cells, ax=axes, label="jobs")
    return figure
