"""Pages of backtests: what was found, its charts and its tables, as HTML that loads nothing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from models.evaluation import html_page, plots
from models.evaluation.backtest import OURS, Evaluation
from models.quantities.metrics import QUANTILE_LEVELS

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from infra.aliases import Floats
    from models.evaluation.class_backtest import ClassEvaluation

Row = Mapping[str, Any]

MAX_BARS, MAX_ROWS = 12, 30
SIZES = 8
"""The outcomes are cut into so many groups of equal width on a logarithmic axis."""
MIN_SIZE_JOBS = 20
OUR_COLOUR, OTHER_COLOUR = "tab:blue", "#8c959f"
EVALUATION_COLUMNS = {
    "predictor": "predictor",
    "jobs": "jobs",
    "mae": "mean error",
    "median_ae": "median error",
    "apa": "accuracy",
    "crps": "CRPS",
    "coverage_90": "within the 90 % range",
    "under": "predicted too short",
}
SHARES = ("coverage_90", "under", "accuracy", "progress")


def evaluation_page(path: Path, title: str, meaning: str, evaluation: Evaluation) -> Path:
    """Write the page of a backtest.

    Args:
        path: The file.
        title: What was backtested.
        meaning: What was found, in a sentence.
        evaluation: Its tables.

    Returns:
        The file.
    """
    unit, rows = evaluation.unit, evaluation.rows
    figures = {
        f"Mean error of each rule [{unit}]": bars(rows, "predictor", "mae"),
        f"Error by size of job: mean error over the mean {evaluation.target}": error_by_size(
            evaluation
        ),
        f"Mean error over time [{unit}]": plots.error_over_time(evaluation),
        f"Predicted against actual [{unit}]": plots.predicted_against_actual(evaluation),
    }
    if evaluation.reliability:
        figures |= {
            "Calibration: share of outcomes at or below each predicted quantile": reliability(
                evaluation
            ),
            "Share of outcomes within the 90 % range, by period": coverage_by_period(evaluation),
        }
    content = [
        html_page.paragraph(meaning, lead=True),
        html_page.paragraph(
            f"{len(evaluation.jobs):,} jobs after a warm-up of {evaluation.warm_up:.0%}, each "
            "predicted at its submission by what had ended by then."
        ),
        html_page.figures(figures),
        html_page.heading("Every rule"),
        rows_table(rows[:MAX_ROWS], EVALUATION_COLUMNS),
    ]
    for name, of_jobs in (
        ("Jobs of users and programs that were never seen", evaluation.unseen_rows),
        ("Jobs of over a minute", evaluation.long_rows[:MAX_ROWS]),
    ):
        if of_jobs:
            content += [html_page.heading(name), rows_table(of_jobs, EVALUATION_COLUMNS)]
    ours = [row for row in evaluation.cluster_rows if row["predictor"] == OURS]
    if ours:
        content += [
            html_page.heading("Gridcast by cluster"),
            rows_table(ours, {"cluster": "cluster"} | EVALUATION_COLUMNS),
        ]
    return html_page.write_html(path, title, "".join(content))


def allocation_page(path: Path, title: str, meaning: str, rows: Sequence[Row]) -> Path:
    """Write the page of a backtest of memory allocation.

    Args:
        path: The file.
        title: What was backtested.
        meaning: What was found, in a sentence.
        rows: A row a policy.

    Returns:
        The file.
    """
    columns = {
        "policy": "policy",
        "waste_gbh": "waste, GiB·h",
        "failures": "failed attempts",
        "failed_jobs": "jobs that failed once",
        "cold_waste_gbh": "waste of new users' jobs, GiB·h",
    }
    figures = {
        "Memory wasted by each policy [GiB·h]": bars(rows, "policy", "waste_gbh"),
        "Jobs that would have failed for lack of memory": bars(rows, "policy", "failed_jobs"),
    }
    return _simple_page(path, title, meaning, figures, {"": (rows, columns)})


def task_page(
    path: Path, title: str, meaning: str, rows: Sequence[Row], stalls: Sequence[Row]
) -> Path:
    """Write the page of a backtest of the ends of tasks.

    Args:
        path: The file.
        title: What was backtested.
        meaning: What was found, in a sentence.
        rows: A row a predictor and progress.
        stalls: A row of the planted stalls that were found, or none.

    Returns:
        The file.
    """
    figures = {
        "Mean error of the end by progress [h]": by_progress(rows, "mae_hours"),
        "Share of ends within the 90 % range, by progress": by_progress(
            [row for row in rows if row["predictor"] == OURS], "coverage_90", level=0.9
        ),
    }
    columns = {
        "predictor": "predictor",
        "progress": "jobs ended",
        "tasks": "tasks",
        "mae_hours": "mean error, h",
        "median_ae_hours": "median error, h",
        "coverage_90": "within the 90 % range",
    }
    tables: dict[str, tuple[Sequence[Row], Mapping[str, str]]] = {"Every rule": (rows, columns)}
    if stalls:
        tables["Planted stalls"] = (stalls, {name: name.replace("_", " ") for name in stalls[0]})
    return _simple_page(path, title, meaning, figures, tables)


def class_page(path: Path, title: str, meaning: str, evaluation: ClassEvaluation) -> Path:
    """Write the page of a backtest of classes.

    Args:
        path: The file.
        title: What was backtested.
        meaning: What was found, in a sentence.
        evaluation: Its tables.

    Returns:
        The file.
    """
    targets = list(dict.fromkeys(row["target"] for row in evaluation.rows))
    figures = {
        f"{target}: share of jobs whose class is right": bars(
            [row for row in evaluation.rows if row["target"] == target], "predictor", "accuracy"
        )
        for target in targets
    }
    tables = {
        name: (rows, {key: key.replace("_", " ") for key in rows[0]})
        for name, rows in (
            ("Every rule", evaluation.rows),
            ("All targets right at once", evaluation.joint_rows),
            ("Each class", evaluation.class_rows),
        )
        if rows
    }
    return _simple_page(path, title, meaning, figures, tables)


def _simple_page(
    path: Path,
    title: str,
    meaning: str,
    figures: Mapping[str, Figure],
    tables: Mapping[str, tuple[Sequence[Row], Mapping[str, str]]],
) -> Path:
    content = [html_page.paragraph(meaning, lead=True), html_page.figures(figures)]
    for name, (rows, columns) in tables.items():
        content += [html_page.heading(name)] if name else []
        content.append(rows_table(rows, columns))
    return html_page.write_html(path, title, "".join(content))


def rows_table(rows: Sequence[Row], columns: Mapping[str, str]) -> str:
    """Make a table of the columns (headings by name) of rows."""
    cells = [[_cell(name, row.get(name)) for name in columns] for row in rows]
    return html_page.table(columns.values(), cells)


def _cell(name: str, value: Any) -> str:
    if value is None or (isinstance(value, float) and not np.isfinite(value)):
        return "–"
    if isinstance(value, bool | str):
        return str(value)
    if name in SHARES:
        return f"{value:.1%}"
    if isinstance(value, int):
        return f"{value:,}"
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def bars(rows: Sequence[Row], label: str, value: str) -> Figure:
    """Draw a bar a row, Gridcast's in a colour of its own.

    Args:
        rows: The rows, of which MAX_BARS are drawn, and Gridcast's.
        label: The column of names.
        value: The column of lengths.
    """
    shown_rows = [row for row in rows if row[value] is not None]
    chosen = shown_rows[:MAX_BARS]
    chosen += [row for row in shown_rows[MAX_BARS:] if row[label] == OURS]
    figure, axes = new_axes()
    names = [str(row[label]) for row in chosen]
    colours = [OUR_COLOUR if name == OURS else OTHER_COLOUR for name in names]
    drawn = axes.barh(names, [row[value] for row in chosen], color=colours)
    axes.bar_label(
        drawn, labels=[_cell(value, row[value]) for row in chosen], padding=3, fontsize=8
    )
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.spines[["top", "right"]].set_visible(False)
    return figure


def error_by_size(evaluation: Evaluation, rule: str = "") -> Figure:
    """Draw the mean error of jobs of each size, over their mean, of Gridcast and another rule."""
    jobs = evaluation.jobs
    actual = np.maximum(jobs["actual"].to_numpy(dtype=float), 1.0)
    edges = np.geomspace(actual.min(), max(actual.max(), 1.01 * actual.min()), SIZES + 1)
    size = np.clip(np.searchsorted(edges, actual, side="right") - 1, 0, SIZES - 1)
    counts = np.bincount(size, minlength=SIZES)
    large = counts >= min(MIN_SIZE_JOBS, counts.max())
    means = np.bincount(size, actual, SIZES)[large]
    figure, axes = new_axes(f"actual {evaluation.target} [{evaluation.unit}]", "")
    names = dict.fromkeys(name for name in (OURS, rule or evaluation.best_baseline) if name in jobs)
    for name, colour in zip(names, (OUR_COLOUR, OTHER_COLOUR), strict=False):
        errors = np.abs(jobs[name].to_numpy(dtype=float) - jobs["actual"].to_numpy(dtype=float))
        share = np.bincount(size, errors, SIZES)[large] / means
        axes.plot(means / counts[large], share, marker="o", color=colour, label=name)
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.legend()
    return figure


def reliability(evaluation: Evaluation) -> Figure:
    """Draw the share of outcomes at or below each quantile; the diagonal is perfect."""
    figure, axes = new_axes("predicted quantile", "share of outcomes")
    axes.plot([0, 1], [0, 1], color="black", linewidth=1)
    axes.plot(QUANTILE_LEVELS, evaluation.reliability, marker="o", color=OUR_COLOUR)
    axes.set_xlim(0, 1)
    axes.set_ylim(0, 1)
    return figure


def coverage_by_period(evaluation: Evaluation) -> Figure:
    """Draw the share of outcomes within Gridcast's 90 % range a period."""
    rows = [row for row in evaluation.period_rows if row["predictor"] == OURS]
    figure, axes = new_axes("", "share within the range")
    periods = [str(row["period"]) for row in rows]
    axes.bar(periods, [row["coverage_90"] for row in rows], color=OUR_COLOUR)
    axes.axhline(0.9, color="black", linewidth=1)
    axes.set_ylim(0, 1)
    every = max(1, len(periods) // 6)
    axes.set_xticks(range(0, len(periods), every), periods[::every], rotation=30, ha="right")
    return figure


def by_progress(rows: Sequence[Row], value: str, level: float | None = None) -> Figure:
    """Draw a line a predictor over the share of jobs that have ended.

    Args:
        rows: A row a predictor and progress.
        value: The column that is drawn.
        level: Where to draw a line to compare with.
    """
    figure, axes = new_axes("share of the task's jobs that have ended", "")
    for name in dict.fromkeys(row["predictor"] for row in rows):
        own = [row for row in rows if row["predictor"] == name and row[value] is not None]
        points: Floats = np.array([[row["progress"], row[value]] for row in own], dtype=float)
        axes.plot(*points.T, marker="o", label=name, linewidth=2 if name == OURS else 1)
    if level is not None:
        axes.axhline(level, color="black", linewidth=1)
    axes.set_ylim(0, None if level is None else 1.0)
    axes.legend(fontsize=8)
    return figure


def new_axes(across: str = "", up: str = ""):  # type: ignore[no-untyped-def]
    """A figure of a page's size, and its axes with labels ``across`` and ``up``."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(html_page.WIDTH, html_page.HEIGHT), layout="constrained")
    axes = figure.subplots()
    axes.set(xlabel=across, ylabel=up)
    axes.grid(alpha=0.3)
    return figure, axes
