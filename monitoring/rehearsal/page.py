"""The page of a rehearsal: its table, the error over time, the costs, and every retraining."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats
from models.evaluation import html_page
from monitoring.rehearsal.rehearse import PolicyRun, Rehearsal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAY = 86400.0
BLOCKS = 40
"""The error over time is drawn as the means of so many equal blocks of jobs."""
COLOURS = {"never": "0.45", "schedule": "tab:blue", "decay": "tab:red"}
COLUMNS = {
    "predictor": ("predictor", ""),
    "policy": ("retrained", ""),
    "mae": ("mean absolute error", ",.0f"),
    "mae_ratio": ("over never", ".3f"),
    "median_ae": ("median", ",.0f"),
    "coverage_90": ("inside the 90 % range", ".1%"),
    "alarms": ("on alarms", "d"),
    "trainings": ("retrainings", "d"),
    "promotions": ("promotions", "d"),
    "training_seconds": ("training, s", ",.0f"),
}
RETRAINING_COLUMNS = ("when", "predictor", "policy", "why", "promoted", "comparison")
EXPLANATION = (
    "Over never: the mean absolute error as a share of never's, with its 95 % interval when whole "
    "blocks of time are drawn again. The first training, of the warm-up, is part of every policy "
    "and not counted."
)


def write_page(rehearsal: Rehearsal, name: str, path: Path) -> Path:
    """Write the page of a rehearsal.

    Args:
        rehearsal: What is reported.
        name: The log.
        path: The file; its folder is made if it does not exist.

    Returns:
        The file.
    """
    rows = rehearsal.rows
    predictors = list(dict.fromkeys(run.predictor for run in rehearsal.runs))
    figures = {
        f"Error of {predictor} over time": _error_over_time(rehearsal, predictor)
        for predictor in predictors
    }
    figures["What was trained"] = _costs(rehearsal)
    baseline_mae = np.abs(rehearsal.baseline_point - rehearsal.truth).mean()
    summary = (
        f"{rehearsal.jobs:,} jobs; the {len(rehearsal.truth):,} with a known outcome after the "
        f"warm-up are scored. The schedule retrains every {rehearsal.period / DAY:.3g} days. The "
        f"best simple baseline of the warm-up, {rehearsal.baseline}, has a mean absolute error of "
        f"{baseline_mae:,.0f}. Gridcast's histories learn as jobs end under every policy: what is "
        "retrained is CatBoost."
    )
    benefits = [describe_benefit(row) for row in rows if row["policy"] != "never"]
    headings = [column_heading for column_heading, _ in COLUMNS.values()]
    retrainings = [cells for run in rehearsal.runs for cells in _retrainings(run)]
    content = "".join(
        (
            *(html_page.paragraph(benefit, lead=True) for benefit in benefits),
            html_page.figures(figures),
            html_page.heading("Every policy"),
            html_page.table(headings, [_cells(row) for row in rows]),
            *map(html_page.paragraph, (EXPLANATION, summary)),
            html_page.heading("Every retraining"),
            html_page.table(RETRAINING_COLUMNS, retrainings, text=True),
        )
    )
    return html_page.write_html(path, f"Rehearsal of {name}", content)


def describe_benefit(row: dict[str, Any]) -> str:
    """Describe the benefit of retraining over never, from a row of ``Rehearsal.rows``."""
    policy = "on a schedule" if row["policy"] == "schedule" else "on decay"
    share, low, high = (
        float(row[name]) - 1 for name in ("mae_ratio", "mae_ratio_low", "mae_ratio_high")
    )
    if not row["promotions"]:
        verdict = "the same as never, since nothing was promoted"
    elif low <= 0 <= high:
        verdict = "no benefit beyond chance"
    else:
        verdict = "better than never" if share < 0 else "worse than never"
    return (
        f"{row['predictor']}, retrained {policy}: {share:+.1%} in mean absolute error "
        f"(95 %: {low:+.1%} to {high:+.1%}), {verdict}."
    )


def _cells(row: dict[str, Any]) -> list[str]:
    cells = {name: format(row[name], form) for name, (_, form) in COLUMNS.items()}
    cells["mae_ratio"] += f" ({row['mae_ratio_low']:.3f}–{row['mae_ratio_high']:.3f})"
    return list(cells.values())


def _retrainings(run: PolicyRun) -> list[list[str]]:
    return [
        [
            f"{pd.Timestamp(retraining.at, unit='us'):%Y-%m-%d %H:%M}",
            run.predictor,
            run.policy,
            retraining.why,
            "yes" if retraining.promoted else "no",
            retraining.verdict,
        ]
        for retraining in run.retrainings
    ]


def _error_over_time(rehearsal: Rehearsal, predictor: str) -> Figure:
    """The mean absolute error of each policy by block, with its promotions and refusals."""
    figure, axes = _axes(f"{predictor}: mean absolute error over time")
    edges = np.unique(np.linspace(0, len(rehearsal.truth), BLOCKS + 1).astype(int))[:-1]
    dates = rehearsal.at[edges].astype("datetime64[us]")
    baseline = _block_errors(rehearsal, rehearsal.baseline_point, edges)
    axes.plot(dates, baseline, ":", color="0.7", label=f"baseline {rehearsal.baseline}")
    for run in rehearsal.runs:
        if run.predictor != predictor:
            continue
        colour, errors = COLOURS[run.policy], _block_errors(rehearsal, run.point, edges)
        axes.plot(dates, errors, color=colour, label=run.policy, linewidth=1.2)
        level = 0.06 if run.policy == "decay" else 0.02
        for promoted, marker in ((True, "^"), (False, "x")):
            own = [
                retraining.at for retraining in run.retrainings if retraining.promoted == promoted
            ]
            axes.plot(
                _dates(own),
                [level] * len(own),
                marker,
                color=colour,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                label=f"{run.policy}: {'promoted' if promoted else 'refused'}" if own else None,
            )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, ncols=2)
    figure.autofmt_xdate()
    return figure


def _block_errors(rehearsal: Rehearsal, point: Floats, edges: Array) -> Floats:
    sums = np.add.reduceat(np.abs(point - rehearsal.truth), edges)
    return np.asarray(sums / np.diff(np.append(edges, len(rehearsal.truth))))


def _costs(rehearsal: Rehearsal) -> Figure:
    """The seconds of training of each run, added up over time."""
    figure, axes = _axes("Seconds of training, added up")
    start, end = int(rehearsal.at[0]), int(rehearsal.at[-1])
    for run in rehearsal.runs:
        if run.policy == "never":
            continue
        times = _dates([start, *(retraining.at for retraining in run.retrainings), end])
        spent = np.cumsum([0.0, *(retraining.seconds for retraining in run.retrainings), 0.0])
        style = "-" if run.predictor == rehearsal.runs[0].predictor else "--"
        label, colour = f"{run.predictor}, {run.policy}", COLOURS[run.policy]
        axes.step(times, spent, style, where="post", color=colour, label=label)
    axes.legend(fontsize=8)
    figure.autofmt_xdate()
    return figure


def _axes(title: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4), layout="constrained")
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.grid(alpha=0.3)
    return figure, axes


def _dates(microseconds: list[int]) -> Array:
    return np.array(microseconds, dtype="datetime64[us]")
