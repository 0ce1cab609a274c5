"""Diagnostics on later jobs: calibration, and errors by size, cluster and period."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from models.quantities.metrics import coverage
from models.quantities.targets import TARGETS
from models.releases.comparison import outcomes
from models.releases.versions import MetricPoint

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

CALIBRATION_LEVELS = (0.1, 0.25, 0.5, 0.75, 0.9)
"""Levels of quantiles that a candidate predicts for its calibration, beside the 90 % range."""
SIZES, MAX_GROUPS, MAX_PERIODS = 8, 20, 30
ERROR_COLUMNS = ("jobs", "mae", "median_ae", "bias", "coverage_90")


def diagnostic_tables(
    later: pd.DataFrame, predictions: pd.DataFrame, target: str, clusters: pd.Series
) -> dict[str, pd.DataFrame]:
    """Tabulate how predictions of later jobs did.

    Args:
        later: The jobs with their outcomes.
        predictions: Those of a candidate, under an index that has that of ``later``.
        target: The name of the target.
        clusters: The cluster of each of the jobs, under the same index.

    Returns:
        ``calibration`` (level, share of outcomes at or below that quantile), ``errors-by-size``,
        ``errors-by-cluster`` and ``errors-by-period``, each with the columns ERROR_COLUMNS, where
        ``bias`` is the mean of predicted minus actual.
    """
    truth = outcomes(later, target)
    answers, jobs = predictions.loc[truth.index], later.loc[truth.index]
    size = pd.qcut(truth, SIZES, duplicates="drop").map(
        lambda ends: f"{max(ends.left, 0):,.0f} to {ends.right:,.0f}"
    )
    cluster = clusters.loc[truth.index].astype("str")
    cluster = cluster.where(cluster.isin(cluster.value_counts().index[:MAX_GROUPS]), "all others")
    return {
        "calibration": _calibration(truth, answers, target),
        "errors-by-size": _errors(truth, answers, target, size, "size"),
        "errors-by-cluster": _errors(truth, answers, target, cluster, "cluster"),
        "errors-by-period": _errors(truth, answers, target, periods(jobs), "period"),
    }


def periods(jobs: pd.DataFrame) -> pd.Series:
    """Return the period of each job's submission: days, or several where there are many."""
    submitted = jobs["submitted_at"]
    first = submitted.min().floor("D")
    days = -(-((submitted.max() - first).days + 1) // MAX_PERIODS)
    length = pd.Timedelta(days=days)
    return first + (submitted - first) // length * length


def points_by_period(
    later: pd.DataFrame, answers: Mapping[str, pd.DataFrame], target: str
) -> list[MetricPoint]:
    """Return error and coverage of each predictor in each period, as steps of metrics.

    Args:
        later: The jobs with their outcomes.
        answers: The predictions of them by predictor.
        target: The name of the target.
    """
    truth = outcomes(later, target)
    period = periods(later.loc[truth.index])
    points = []
    for predictor, predictions in answers.items():
        if target not in predictions:
            continue
        table = _errors(truth, predictions.loc[truth.index], target, period, "period")
        points += [
            MetricPoint(
                f"by_period/{target}.{predictor}.{name}", float(row[name]), row["period"], step
            )
            for step, row in enumerate(table.to_dict("records"))
            for name in ("mae", "coverage_90")
        ]
    return points


def _calibration(truth: pd.Series, answers: pd.DataFrame, target: str) -> pd.DataFrame:
    columns = {0.05: "_low", 0.95: "_high"} | {q: f"_q{q:g}" for q in CALIBRATION_LEVELS}
    rows = [
        {"level": level, "share_below": float((truth <= answers[f"{target}{end}"]).mean())}
        for level, end in sorted(columns.items())
        if f"{target}{end}" in answers
    ]
    return pd.DataFrame(rows, columns=["level", "share_below"])


def _errors(
    truth: pd.Series, answers: pd.DataFrame, target: str, groups: pd.Series, name: str
) -> pd.DataFrame:
    """Tabulate errors, a row a group in the order of the groups' names."""
    rows = []
    for group, actual in truth.groupby(groups, sort=True, observed=True):
        columns = answers.loc[actual.index]
        point, low, high = (
            columns[f"{target}{end}"].to_numpy(dtype=float) for end in ("", "_low", "_high")
        )
        values = actual.to_numpy(dtype=float)
        error = point - values
        rows.append(
            {
                name: group,
                "jobs": len(values),
                "mae": float(np.abs(error).mean()),
                "median_ae": float(np.median(np.abs(error))),
                "bias": float(error.mean()),
                "coverage_90": coverage(values, low, high),
            }
        )
    return pd.DataFrame(rows, columns=[name, *ERROR_COLUMNS])


def plot_diagnostics(tables: Mapping[str, pd.DataFrame], target: str) -> Figure:
    """Plot the tables of ``diagnostic_tables`` in four panels."""
    from matplotlib.figure import Figure

    unit = TARGETS[target].unit
    figure = Figure(figsize=(11, 8), layout="constrained")
    ((calibration, size), (cluster, period)) = figure.subplots(2, 2)
    table = tables["calibration"]
    calibration.plot([0, 1], [0, 1], color="grey", linewidth=1, label="ideal")
    calibration.plot(table["level"], table["share_below"], marker="o", label="candidate")
    calibration.set(
        title=f"{target}: calibration", xlabel="predicted level", ylabel="share of outcomes below"
    )
    calibration.legend()
    _bars(size, tables["errors-by-size"], "size", f"mean absolute error by actual size [{unit}]")
    _bars(cluster, tables["errors-by-cluster"], "cluster", f"mean absolute error [{unit}]")
    table = tables["errors-by-period"]
    period.plot(table["period"], table["mae"], marker="o", color="tab:blue")
    period.set(title="over time", ylabel=f"mean absolute error [{unit}]", ylim=(0, None))
    period.tick_params(axis="x", rotation=45)
    covered = period.twinx()
    covered.plot(table["period"], table["coverage_90"], marker=".", color="tab:orange")
    covered.axhline(0.9, color="tab:orange", linewidth=0.8, linestyle="--")
    covered.set(ylim=(0, 1), ylabel="share within the 90 % range (orange)")
    return figure


def _bars(axes: Axes, table: pd.DataFrame, name: str, label: str) -> None:
    rows = table[::-1]
    axes.barh(rows[name].astype("str").str.slice(0, 30), rows["mae"])
    axes.set(xlabel=label, title=f"by {name}")
