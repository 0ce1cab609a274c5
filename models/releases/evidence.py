"""The evidence for a version: its card, metrics, tables and plots."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from models.engine.model_card import ModelCard
from models.engine.model_set import ModelSet
from models.evaluation.backtest import Evaluation
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from models.releases import registry
from models.releases.candidate import CandidateComparison
from models.releases.comparison import outcomes
from models.releases.versions import Evidence, sources_tag

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.evaluation.class_backtest import ClassEvaluation

MOST_NAMES = 20
LONGEST_NAME = 40


def version_evidence(
    model_set: ModelSet, jobs: pd.DataFrame, comparison: CandidateComparison, why: str
) -> Evidence:
    """Gather the card, metrics, tables and plots of a version about to be published.

    Args:
        model_set: What was trained.
        jobs: The training jobs.
        comparison: How a candidate did on later jobs.
        why: Why it was trained.
    """
    card, targets = model_set.card, tuple(model_set.targets)
    shares = importance(model_set)
    figures = {
        f"importance-{name}": plot_importance(shares, name)
        for name in targets
        if (shares["target"] == name).any()
    }
    predictions = comparison.predictions
    if len(comparison.later):
        figures |= {
            f"predicted-{name}": plot_predicted(comparison.later, predictions, name)
            for name in targets
        }
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
    return Evidence(
        card=write_model_card(card, comparison),
        metrics=metrics_of(comparison.table) | validation,
        parameters={
            "targets": ", ".join(targets),
            "jobs": card.rows,
            "sources": ", ".join(card.sources)[:500],
            "cluster_by": card.cluster_by or "none",
            **window,
        },
        tags={
            "jobs": str(card.rows),
            **window,
            "why_trained": why,
            "compared": comparison.sentence,
            **sources_tag({name: data.jobs for name, data in card.by_source.items()}),
        },
        tables={
            "comparison": comparison.table,
            "clusters": pd.DataFrame(clusters),
            "importance": shares,
        },
        figures=figures,
        inputs=jobs.tail(5),
        outputs=predictions.head(5) if len(predictions) else None,
    )


def write_model_card(card: ModelCard, comparison: CandidateComparison) -> str:
    """Write the model card in Markdown: targets, training data, errors on later jobs, limits."""
    window = card.window
    targets = [f"{name} ({TARGETS[name].unit})" for name in card.targets]
    # Spaces, for a page to break the line at.
    histories = ", ".join(card.levels).replace("+", " + ")
    clusters = f"by {card.cluster_by} and a global one" if card.cluster_by else "one for all jobs"
    splits = pd.DataFrame(
        {
            "source": split.source,
            "jobs": split.jobs,
            "new since the champion": split.fresh,
            "compared on": split.later,
            "compared after": f"{split.since:%Y-%m-%d %H:%M}" if split.later else "too few jobs",
        }
        for split in comparison.splits
    )
    lines = [
        "# What it predicts",
        f"{', '.join(targets)} of a job before it runs, as a distribution: best single value, "
        "median, mean, ranges.",
        "",
        "# What it was trained on",
        f"{card.rows:,} jobs of {', '.join(card.sources) or 'an unnamed source'}, submitted "
        f"{window.first_submission[:16]} to {window.last_submission[:16]} UTC. "
        f"Histories by {histories}; CatBoost models: {clusters}.",
        "",
        _markdown(splits),
        "",
        "# How it did on later jobs",
        comparison.sentence,
        "",
    ]
    if len(comparison.later):
        lines += [
            "For the comparison a candidate was trained on what had ended by the time in the table "
            "above, and predicted all later jobs.",
            "",
        ]
    lines += [_markdown(comparison.table), "", "# Which model answers for which cluster"]
    for name, reports in card.clusters.items():
        lines += ["", f"**{name}** (errors: CRPS in {TARGETS[name].unit})", ""]
        lines += [_markdown(cluster_table(reports).head(MOST_NAMES))]
    lines += [
        "",
        "# Limits",
        "It knows only jobs like those above; a prediction for a user never seen is marked "
        "`cold_start` and has a wide range. The histories go on learning while it serves, so its "
        "live errors may differ from these.",
    ]
    return "\n".join(lines)


def cluster_table(reports: Sequence[Mapping[str, Any]]) -> pd.DataFrame:
    """Tabulate which model answers for each cluster, and the errors by which it was chosen."""
    return pd.DataFrame(
        {
            "cluster": row["cluster"],
            "jobs": row["jobs"],
            "error of its own model": None if row["cluster"] == GLOBAL else row.get("crps"),
            "error of the global model": row.get(
                "crps" if row["cluster"] == GLOBAL else f"crps_{GLOBAL}"
            ),
            "error of the histories": row.get("crps_mixture"),
            "gain": row.get("gain"),
            "answers": "histories" if row["answers"] == "mixture" else row["answers"],
            "note": row.get("why"),
        }
        for row in reports
    )


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
        + _markdown(pd.DataFrame(evaluation.rows)),
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
        card=f"# Memory set aside for {log}\n\n" + _markdown(table),
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
                    _markdown(pd.DataFrame(rows))
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


def importance(model_set: ModelSet) -> pd.DataFrame:
    """Return how much each input moves each CatBoost model of the set, the largest first.

    Columns: target, cluster, input, importance (per cent).
    """
    rows = []
    for name, model in model_set.targets.items():
        for cluster, refiner in model.refiners.items():
            trees: Any = refiner.model  # type: ignore[attr-defined]
            shares = np.asarray(trees.get_feature_importance())
            rows += [
                {"target": name, "cluster": cluster, "input": column, "importance": float(share)}
                for column, share in zip(model_set.card.features[name], shares, strict=True)
            ]
    frame = pd.DataFrame(rows, columns=["target", "cluster", "input", "importance"])
    return frame.sort_values(
        ["target", "cluster", "importance"], ascending=[True, True, False], ignore_index=True
    )


def plot_importance(shares: pd.DataFrame, target: str) -> Figure:
    """Plot the most important inputs of the target's models, averaged over its clusters."""
    from matplotlib.figure import Figure

    mean = (
        shares[shares["target"] == target]
        .groupby("input")["importance"]
        .mean()
        .nlargest(MOST_NAMES)[::-1]
    )
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    # The finest level names every field of the log; its full name would leave no room for bars.
    axes.barh(
        [
            name if len(name) <= LONGEST_NAME else f"{name[: LONGEST_NAME - 1]}…"
            for name in mean.index
        ],
        mean.to_numpy(),
    )
    axes.set(xlabel="importance [%]", title=f"{target}: what the CatBoost models look at")
    return figure


def _markdown(table: pd.DataFrame) -> str:
    """A table in Markdown, with numbers as people write them."""
    if table.empty:
        return "(nothing)"
    head = " | ".join(str(name).replace("_", " ") for name in table)
    body = [" | ".join(_cell(value) for value in row) for row in table.itertuples(index=False)]
    return "\n".join(
        f"| {line} |" for line in (head, " | ".join("---" for _ in table.columns), *body)
    )


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and np.isnan(value)):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value).replace("|", "\\|")
