"""Plots of an evaluation: what a person looks at before believing its table."""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping
from html import escape
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from models.evaluation.backtest import OURS, Evaluation
from models.quantities.metrics import QUANTILE_LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_STEPS = 60
"""The log is cut into at most this many equal stretches of time for the curves over time."""
FEWEST = 20
WITHIN = (0.08, 0.12)
"""Between these every tenth should lie."""


def plots(evaluation: Evaluation) -> dict[str, Figure]:
    """Every plot by name; those of ranges only where Gridcast itself was evaluated."""
    found = {
        "error-over-time": error_over_time(evaluation),
        "predicted-against-actual": predicted_against_actual(evaluation),
    }
    if evaluation.deciles:
        found |= {
            "calibration": calibration(evaluation),
            "coverage-over-time": coverage_over_time(evaluation),
        }
    return found


def error_over_time(evaluation: Evaluation) -> Figure:
    """Mean absolute error by time of submission, Gridcast beside the best baseline and the template's last two."""
    shown = dict.fromkeys(
        name for name in (OURS, evaluation.best_baseline, "template") if name in evaluation.jobs
    )
    jobs = evaluation.jobs
    figure, axes = _axes(
        f"{evaluation.target}: mean absolute error over time",
        "",
        f"mean absolute error [{evaluation.unit}]",
    )
    for name in shown:
        over_time = _over_time(jobs["submitted_at"], (jobs[name] - jobs["actual"]).abs())
        axes.plot(
            over_time.index, over_time.to_numpy(), label=name, linewidth=2 if name == OURS else 1
        )
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.autofmt_xdate()
    return figure


def predicted_against_actual(evaluation: Evaluation) -> Figure:
    """Predicted against actual on logarithmic axes, as the density of jobs, of Gridcast or else the best baseline."""
    name = OURS if OURS in evaluation.jobs else evaluation.best_baseline
    actual, predicted = (
        np.maximum(evaluation.jobs[column].to_numpy(), 1.0) for column in ("actual", name)
    )
    figure, axes = _axes(
        f"{evaluation.target}: {len(actual):,} jobs, {name}",
        f"actual [{evaluation.unit}]",
        "predicted",
    )
    cells = axes.hexbin(
        actual, predicted, xscale="log", yscale="log", bins="log", gridsize=50, mincnt=1
    )
    ends = [min(actual.min(), predicted.min()), max(actual.max(), predicted.max())]
    axes.plot(ends, ends, color="black", linewidth=1)
    figure.colorbar(cells, ax=axes, label="jobs")
    return figure


def calibration(evaluation: Evaluation) -> Figure:
    """How outcomes fall into the tenths of their distributions, and how many lie below each promised quantile."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(10) / 10 + 0.05, evaluation.deciles, width=0.09)
    left.axhspan(*WITHIN, color="grey", alpha=0.25)
    left.set(
        xlabel="place of the outcome in its distribution",
        ylabel="share of jobs",
        title="probability integral transform",
    )
    right.plot(QUANTILE_LEVELS, evaluation.reliability, marker="o", markersize=4)
    right.plot([0, 1], [0, 1], color="black", linewidth=1)
    right.set(
        xlabel="promised quantile",
        ylabel="share of outcomes not above it",
        title="calibration of quantiles",
    )
    return figure


def coverage_over_time(evaluation: Evaluation) -> Figure:
    """The share of outcomes within Gridcast's 90 % range by time of submission."""
    jobs = evaluation.jobs
    within = _over_time(
        jobs["submitted_at"], jobs["actual"].between(jobs["low"], jobs["high"]).astype(float)
    )
    figure, axes = _axes(
        f"{evaluation.target}: coverage of 90 % ranges", "", "share of outcomes within"
    )
    axes.plot(within.index, within.to_numpy())
    axes.axhline(0.9, color="black", linewidth=1)
    axes.set_ylim(0, 1)
    figure.autofmt_xdate()
    return figure


def _over_time(at: pd.Series[pd.Timestamp], values: pd.Series[float]) -> pd.Series[float]:
    """The mean of ``values`` in equal stretches of time, those with too few jobs left out."""
    steps = max(1, min(MOST_STEPS, len(at) // FEWEST))
    width = max((at.max() - at.min()) / steps, pd.Timedelta(1, "s"))
    groups = values.groupby(((at - at.min()) // width).to_numpy())
    means = groups.mean()[groups.size() >= min(FEWEST, len(at))]
    means.index = at.min() + means.index * width + width / 2
    return means


def _axes(title: str, across: str, up: str):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    return figure, axes


def as_html(figures: Mapping[str, Figure]) -> str:
    """Figures by what they show, as paragraphs of a page that loads nothing from elsewhere."""
    return "".join(
        f'<p><img alt="{escape(title)}" src="data:image/png;base64,{_png(figure)}"></p>'
        for title, figure in figures.items()
    )


def _png(figure: Figure) -> str:
    file = io.BytesIO()
    figure.savefig(file, dpi=90, format="png")
    return base64.b64encode(file.getvalue()).decode()
