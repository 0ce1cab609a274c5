"""The page that a rehearsal leaves: one HTML file with its table, its plots and every retraining, which loads nothing from elsewhere."""

from __future__ import annotations

from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.evaluation.plots import as_html
from monitoring.rehearsal.rehearse import PolicyRun, Rehearsal

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

DAY = 86400.0
STRETCHES = 40
"""The error over time is drawn as the means of so many equal parts of the jobs."""
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

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;font-size:13px}}td,th{{padding:.25rem .5rem;border-bottom:1px solid #ccc;text-align:right}}
td{{white-space:nowrap}}.text td{{white-space:normal}}
td:first-child,th:first-child,td:nth-child(2),th:nth-child(2),.text td{{text-align:left}}
img{{max-width:100%}}div{{overflow-x:auto}}</style>
<h1>{title}</h1>
<p>{about}</p>
{benefit}
<div><table><tr>{headings}</tr>{rows}</table></div>
<p>Over never: the mean absolute error as a share of never's, with its 95 % interval when whole blocks of time are drawn again.
The first training, of the warm-up, is everybody's and not counted.</p>
{figures}
<h2>Every retraining</h2>
<div><table class="text"><tr><th>when</th><th>predictor</th><th>policy</th><th>why</th><th>promoted</th>
<th>what the comparison said</th></tr>
{retrainings}</table></div>
</html>
"""


def write_page(found: Rehearsal, name: str, folder: Path) -> Path:
    """Write ``rehearsal.html`` about the log ``name`` into ``folder`` (made if it is not there); returns its path."""
    rows = found.rows
    predictors = list(dict.fromkeys(life.predictor for life in found.runs))
    figures = {f"Error of {one} over time": _error_over_time(found, one) for one in predictors} | {
        "What was trained": _costs(found)
    }
    about = (
        f"{found.jobs:,} jobs; judged are the {len(found.truth):,} with a known outcome after the warm-up. The schedule retrains every "
        f"{found.period / DAY:.3g} days. The best simple baseline of the warm-up, {found.baseline}, has a mean absolute error of "
        f"{np.abs(found.baseline_point - found.truth).mean():,.0f}. Gridcast's histories learn as jobs end under every policy: what is "
        "retrained is CatBoost."
    )
    text = PAGE.format(
        title=f"Rehearsal of {escape(name)}",
        about=escape(about),
        benefit="".join(
            f"<p>{escape(describe_benefit(row))}</p>" for row in rows if row["policy"] != "never"
        ),
        headings="".join(f"<th>{heading}</th>" for heading, _ in COLUMNS.values()),
        rows="".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in _cells(row))}</tr>"
            for row in rows
        ),
        figures=as_html(figures),
        retrainings="".join(_lines(life) for life in found.runs)
        or '<tr><td colspan="6">none</td></tr>',
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "rehearsal.html"
    path.write_text(text, encoding="utf-8")
    return path


def describe_benefit(row: dict[str, object]) -> str:
    """What retraining is worth over never, in a sentence, from a row of ``Rehearsal.rows``."""
    who = f"{row['predictor']}, retrained {'on a schedule' if row['policy'] == 'schedule' else 'on decay'}"
    share, low, high = (
        float(str(row[name])) - 1 for name in ("mae_ratio", "mae_ratio_low", "mae_ratio_high")
    )
    sure = (
        "worth nothing that can be told from chance"
        if low <= 0 <= high
        else "better than never"
        if share < 0
        else "worse than never"
    )
    if not row["promotions"]:
        sure = "the same as never, since nothing was promoted"
    return f"{who}: {share:+.1%} in mean absolute error (95 %: {low:+.1%} to {high:+.1%}), {sure}."


def _cells(row: dict[str, object]) -> list[str]:
    shown = {name: format(row[name], form) for name, (_, form) in COLUMNS.items()}
    shown["mae_ratio"] += f" ({row['mae_ratio_low']:.3f}–{row['mae_ratio_high']:.3f})"
    return list(shown.values())


def _lines(life: PolicyRun) -> str:
    found = []
    for one in life.retrainings:
        cells = (
            f"{pd.Timestamp(one.at, unit='us'):%Y-%m-%d %H:%M}",
            life.predictor,
            life.policy,
            one.why,
            "yes" if one.promoted else "no",
            one.verdict,
        )
        found.append(f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells)}</tr>")
    return "".join(found)


def _error_over_time(found: Rehearsal, predictor: str) -> Figure:
    """The mean absolute error of each policy, stretch by stretch, with what was promoted and what an alarm asked for."""
    figure, axes = _axes(f"{predictor}: mean absolute error over time")
    edges = np.unique(np.linspace(0, len(found.truth), STRETCHES + 1).astype(int))[:-1]
    dates = found.at[edges].astype("datetime64[us]")
    axes.plot(
        dates,
        _means(found, found.baseline_point, edges),
        ":",
        color="0.7",
        label=f"baseline {found.baseline}",
    )
    for life in found.runs:
        if life.predictor != predictor:
            continue
        colour, shown = COLOURS[life.policy], _means(found, life.point, edges)
        axes.plot(dates, shown, color=colour, label=life.policy, linewidth=1.2)
        for promoted, sign in ((True, "^"), (False, "x")):
            times = _dates([one.at for one in life.retrainings if one.promoted == promoted])
            level = 0.06 if life.policy == "decay" else 0.02
            label = (
                f"{life.policy}: {'promoted' if promoted else 'refused'}" if len(times) else None
            )
            axes.plot(
                times,
                [level] * len(times),
                sign,
                color=colour,
                transform=axes.get_xaxis_transform(),
                clip_on=False,
                label=label,
            )
    axes.set_ylim(bottom=0)
    axes.legend(fontsize=8, ncols=2)
    figure.autofmt_xdate()
    return figure


def _means(found: Rehearsal, point: Floats, edges: np.ndarray) -> Floats:
    return np.asarray(
        np.add.reduceat(np.abs(point - found.truth), edges)
        / np.diff(np.append(edges, len(found.truth)))
    )


def _costs(found: Rehearsal) -> Figure:
    """The seconds of training of each life, added up over time."""
    figure, axes = _axes("Seconds of training, added up")
    for life in found.runs:
        if life.policy != "never":
            times = _dates(
                [int(found.at[0]), *(one.at for one in life.retrainings), int(found.at[-1])]
            )
            spent = np.cumsum([0.0, *(one.seconds for one in life.retrainings), 0.0])
            style = "-" if life.predictor == found.runs[0].predictor else "--"
            axes.step(
                times,
                spent,
                style,
                where="post",
                color=COLOURS[life.policy],
                label=f"{life.predictor}, {life.policy}",
            )
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


def _dates(microseconds: list[int]) -> np.ndarray:
    return np.array(microseconds, dtype="datetime64[us]")
