"""The evidence for a version: the card that a person reads and the plots beside it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.settings import Settings
from models.engine.model_card import ModelCard
from models.engine.model_set import ModelSet
from models.evaluation.backtest import Evaluation
from models.quantities.targets import TARGETS
from models.releases import registry
from models.releases.comparison import outcomes
from models.releases.versions import Evidence

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from models.evaluation.class_backtest import ClassEvaluation

MOST_NAMES = 20
LONGEST_NAME = 40


def write_model_card(
    card: ModelCard, comparison: pd.DataFrame, verdict: str, since: pd.Timestamp | None
) -> str:
    """The model card in Markdown: what it predicts, what it was trained on, how it did on later jobs, and what to mind."""
    window = card.window
    targets = [f"{name} ({TARGETS[name].unit})" for name in card.clusters]
    histories = ", ".join(card.levels).replace(
        "+", " + "
    )  # spaces, for a page to break the line at
    lines = [
        "# What it predicts",
        f"{', '.join(targets)} of a job before it runs, as a distribution: best single value, median, mean, ranges.",
        "",
        "# What it was trained on",
        f"{card.rows:,} jobs of {', '.join(card.sources) or 'an unnamed source'}, "
        f"submitted {window.first_submission[:16]} to {window.last_submission[:16]} UTC. "
        f"Histories by {histories}; CatBoost models by {card.cluster_by or 'no clusters: one for all'}.",
        "",
        "# How it did on later jobs",
        verdict,
        "",
    ]
    if since is not None:
        lines += [
            f"The comparison was trained on what had ended by {since:%Y-%m-%d %H:%M} UTC and lived through all jobs after it.",
            "",
        ]
    lines += [_markdown(comparison), "", "# Which model answers for whom"]
    for name, reports in card.clusters.items():
        lines += ["", f"**{name}**", "", _markdown(pd.DataFrame(reports).head(MOST_NAMES))]
    lines += [
        "",
        "# What to mind",
        "It knows only jobs like those above; a prediction for somebody never seen is marked `cold_start` and has a wide range. "
        "The histories go on learning while it serves, so its live errors may differ from these.",
    ]
    return "\n".join(lines)


def metrics_of(comparison: pd.DataFrame) -> dict[str, float]:
    """The comparison as metrics of a run: ``walltime.candidate.mae`` and so on, without what is not known."""
    metrics = {}
    for row in comparison.to_dict("records"):
        for name in ("jobs", "mae", "median_ae", "apa", "coverage_90"):
            if pd.notna(row[name]):
                metrics[f"{row['target']}.{row['predictor']}.{name}"] = float(row[name])
    return metrics


def record_evaluation(found: Evaluation, log: str, settings: Settings) -> str:
    """Log an evaluation of a whole log to MLflow, tables and plots; returns the run's id. Raises RegistryError."""
    from models.evaluation.plots import plots

    metrics = {
        f"{row['predictor']}.{name}": value
        for row in found.rows
        for name, value in row.items()
        if isinstance(value, float)
    }
    evidence = Evidence(
        card=f"# {found.target} of {log}\n\nEach job predicted at its submission, after a warm-up of {found.warm_up:.0%}.\n\n"
        + _markdown(pd.DataFrame(found.rows)),
        metrics={name: value for name, value in metrics.items() if np.isfinite(value)},
        parameters={
            "log": log,
            "target": found.target,
            "warm_up": found.warm_up,
            "jobs": len(found.jobs),
        },
        tables={
            "evaluation": pd.DataFrame(found.rows),
            "long-jobs": pd.DataFrame(found.long_rows),
            "clusters": pd.DataFrame(found.cluster_rows),
            "periods": pd.DataFrame(found.period_rows),
        },
        figures=plots(found),
    )
    return registry.log_run(
        evidence, run_name=f"evaluate {found.target} of {log}", settings=settings
    )


def record_allocation(
    rows: Sequence[Mapping[str, Any]], log: str, how: Mapping[str, object], settings: Settings
) -> str:
    """Log what policies of setting memory aside wasted to MLflow, a row a policy; returns the run's id. Raises RegistryError."""
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
    found: ClassEvaluation, log: str, how: Mapping[str, object], settings: Settings
) -> str:
    """Log how classes were foreseen to MLflow, with tables and ROC plots; returns the run's id. Raises RegistryError."""
    from models.evaluation.class_plots import roc_plots

    shown = ("accuracy", "macro_f1", "roc_auc", "pr_auc")
    metrics = {
        f"{row['target']}.{row['predictor']}.{name}": row[name]
        for row in found.rows
        for name in shown
    }
    metrics |= {
        f"{row['predictor']}.{name}": value
        for row in found.joint_rows
        for name, value in row.items()
        if isinstance(value, float)
    }
    tables = {"classes": found.rows, "each-class": found.class_rows, "jointly": found.joint_rows}
    evidence = Evidence(
        card="\n\n".join(
            [
                f"# Classes of {log}",
                *(_markdown(pd.DataFrame(rows)) for rows in (found.joint_rows, found.rows)),
            ]
        ),
        metrics=metrics,
        parameters={
            "log": log,
            **how,
            **{f"thresholds_{name}": one.thresholds for name, one in found.targets.items()},
        },
        tables={name: pd.DataFrame(rows) for name, rows in tables.items()},
        figures=roc_plots(found),
    )
    return registry.log_run(evidence, run_name=f"evaluate classes of {log}", settings=settings)


def plot_predicted(
    jobs: pd.DataFrame, since: pd.Timestamp, answers: pd.DataFrame, target: str
) -> Figure:
    """Predicted against actual on the later jobs, both on logarithmic axes, as the density of jobs."""
    from matplotlib.figure import Figure

    truth = outcomes(jobs, since, target)
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
    """How much each input moves each CatBoost model of the set: target, cluster, input, importance (per cent), largest first."""
    rows = []
    for name, model in model_set.targets.items():
        for cluster, refiner in model.refiners.items():
            shares = np.asarray(refiner.model.get_feature_importance())  # type: ignore[attr-defined]
            rows += [
                {"target": name, "cluster": cluster, "input": column, "importance": float(share)}
                for column, share in zip(model_set.card.features[name], shares, strict=True)
            ]
    frame = pd.DataFrame(rows, columns=["target", "cluster", "input", "importance"])
    return frame.sort_values(
        ["target", "cluster", "importance"], ascending=[True, True, False], ignore_index=True
    )


def plot_importance(shares: pd.DataFrame, target: str) -> Figure:
    """The most important inputs of the target's models, averaged over its clusters."""
    from matplotlib.figure import Figure

    mean = (
        shares[shares["target"] == target]
        .groupby("input")["importance"]
        .mean()
        .nlargest(MOST_NAMES)[::-1]
    )
    figure = Figure(figsize=(6, 5.5), layout="constrained")
    axes = figure.subplots()
    # The finest level names every field that the log has: whole, it would leave no room for the bars.
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
