"""The page of ``gridcast monitor``: what moved since the training, how predictions did."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from models.evaluation import html_page
from monitoring.decay.champion import DecayReport
from monitoring.drift.report import DriftReport
from monitoring.drift.verdict import describe_finding
from monitoring.drift.windows import Finding

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

MAX_FINDINGS, MAX_ROWS = 12, 30
TARGET = "walltime"


def write_page(
    path: Path, model: str, drift: DriftReport, decay: DecayReport, measured: pd.DataFrame
) -> Path:
    """Write the page.

    Args:
        path: The file; its folder is made if it does not exist.
        model: The champion's label.
        drift: The drift of the recent jobs.
        decay: The decay of the champion.
        measured: Measurements of kind decay over time, of all jobs: measured_at, name, value.

    Returns:
        The file.
    """
    findings = sorted(drift.findings, key=lambda finding: -finding.value / finding.threshold)
    everywhere = [finding for finding in findings if not finding.cluster][:MAX_FINDINGS]
    figures = {}
    if everywhere:
        figures["How far each column moved, 1 being what is ordinary"] = _moves(everywhere)
    lines = {
        f"Mean error of {TARGET} over time [h]": (
            {"mae": model, "baseline_mae": "best rule"},
            3600,
        ),
        "Share of outcomes within the 90 % range": ({"coverage_90": model}, 1),
    }
    for title, (names, unit) in lines.items():
        if (measured["name"] == f"{TARGET} {next(iter(names))}").any():
            figures[title] = _over_time(measured, names, unit)
    moved = [finding for finding in findings if finding.moved][:MAX_ROWS]
    content = [
        html_page.paragraph(drift.sentence, lead=True),
        html_page.paragraph(decay.sentence, lead=True),
        html_page.figures(figures),
        html_page.heading("What moved by more than is ordinary"),
        html_page.table(["what"], [[describe_finding(finding)] for finding in moved], text=True),
        html_page.heading("Alarms about the predictions"),
        html_page.table(["alarm"], [[str(alarm)] for alarm in decay.alarms], text=True),
    ]
    if drift.pages:
        names_of_pages = [[str(page)] for page in drift.pages]
        content += [
            html_page.heading("Evidently's reports of the same"),
            html_page.table(["file"], names_of_pages, text=True),
        ]
    return html_page.write_html(path, f"Drift and decay of {model}", "".join(content))


def _moves(findings: list[Finding]) -> Figure:
    """A bar a column: its distance as a multiple of the largest that is ordinary."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    ratios = np.array([finding.value / finding.threshold for finding in findings])
    colours = ["tab:red" if finding.moved else "#8c959f" for finding in findings]
    axes.barh([finding.column for finding in findings], ratios, color=colours)
    axes.axvline(1.0, color="black", linewidth=1)
    axes.invert_yaxis()
    axes.grid(alpha=0.3)
    return figure


def _over_time(measured: pd.DataFrame, names: dict[str, str], unit: float) -> Figure:
    """A line a measurement over time, in a unit."""
    from matplotlib.figure import Figure

    figure = Figure(layout="constrained")
    axes = figure.subplots()
    for name, label in names.items():
        rows = measured[measured["name"] == f"{TARGET} {name}"].sort_values("measured_at")
        axes.plot(rows["measured_at"], rows["value"] / unit, marker="o", label=label)
    if unit == 1:
        axes.axhline(0.9, color="black", linewidth=1)
        axes.set_ylim(0, 1)
    else:
        axes.set_ylim(bottom=0)
    axes.grid(alpha=0.3)
    axes.legend(fontsize=8)
    figure.autofmt_xdate()
    return figure
