"""Plots of an evaluation: errors and coverage over time, predictions, and calibration."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from models.evaluation.backtest import OURS, Evaluation
from models.quantities.metrics import QUANTILE_LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MAX_STEPS = 60
"""The log is cut into at most so many equal stretches of time for the curves over time."""
MIN_STEP_JOBS = 20
DECILE_BAND = (0.08, 0.12)
"""Between these the share of every tenth should lie."""


def plots(evaluation: Evaluation) -> dict[str, Figure]:
    """Draw every plot by name; those of ranges only where Gridcast itself was evaluated."""
    figures = {
        "error-over-time": error_over_time(evaluation),
        "predicted-against-actual": predicted_against_actual(evaluation),
    }
    if evaluation.deciles:
        figures |= {
            "calibration": calibration(evaluation),
            "coverage-over-time": coverage_over_time(evaluation),
        }
    return figures


def error_over_time(evaluation: Evaluation) -> Figure:
    """Plot the mean absolute error by submission, beside the best baseline and ``template``."""
    names = dict.fromkeys(
        name for name in (OURS, evaluation.best_baseline, "template") if name in evaluation.jobs
    )
    jobs = evaluation.jobs
    figure, axes = _axes(
        f"{evaluation.target}: mean absolute error over time",
        "",
        f"mean absolute error [{evaluation.unit}]",
    )
    for name in names:
        over_time = _over_time(jobs["submitted_at"], (jobs[name] - jobs["actual"]).abs())
        axes.plot(
            over_time.index, over_time.to_numpy(), label=name, linewidth=2 if name == OURS else 1
        )
    axes.set_ylim(bottom=0)
    axes.legend()
    figure.autofmt_xdate()
    return figure


def predicted_against_actual(evaluation: Evaluation) -> Figure:
    """Plot predicted against actual values of Gridcast, or else the best baseline."""
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
    """Plot the probability integral transform, and the shares of outcomes below each quantile."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(10, 4), layout="constrained")
    left, right = figure.subplots(1, 2)
    left.bar(np.arange(10) / 10 + 0.05, evaluation.deciles, width=0.09)
    left.axhspan(*DECILE_BAND, color="grey", alpha=0.25)
    left.set(
        xlabel="probability integral transform of the outcome",
        ylabel="share of jobs",
        title="probability integral transform",
    )
    right.plot(QUANTILE_LEVELS, evaluation.reliability, marker="o", markersize=4)
    right.plot([0, 1], [0, 1], color="black", linewidth=1)
    right.set(
        xlabel="predicted quantile",
        ylabel="share of outcomes not above it",
        title="calibration of quantiles",
    )
    return figure


def coverage_over_time(evaluation: Evaluation) -> Figure:
    """Plot the share of outcomes within Gridcast's 90 % range by submission."""
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
    """The mean of ``values`` in equal stretches of time, without those of too few jobs."""
    steps = max(1, min(MAX_STEPS, len(at) // MIN_STEP_JOBS))
    width = max((at.max() - at.min()) / steps, pd.Timedelta(1, "s"))
    groups = values.groupby(((at - at.min()) // width).to_numpy())
    means = groups.mean()[groups.size() >= min(MIN_STEP_JOBS, len(at))]
    means.index = at.min() + means.index * width + width / 2
    return means


def _axes(title: str, across: str, up: str):  # type: ignore[no-untyped-def]
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set(title=title, xlabel=across, ylabel=up)
    return figure, axes
