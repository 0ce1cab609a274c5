"""The pictures of a trial's page."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from models.evaluation.pages import (
    OTHER_COLOUR,
    OUR_COLOUR,
    coverage_by_period,
    error_by_size,
    new_axes,
    reliability,
)
from trial.results import HOUR, NAMES, Trial
from trial.wording import shorten

if TYPE_CHECKING:
    from matplotlib.figure import Figure

BARS = 8


def pictures(trial: Trial) -> dict[str, Figure]:
    """The pictures of a trial by what they show."""
    figures: dict[str, Figure] = {}
    walltime, memory = (trial.judged.get(name) for name in ("walltime", "peak_memory"))
    by_program = _waste_by_program(trial)
    if by_program is not None:
        figures[f"Waste by {by_program[0]}, and what Gridcast would leave of it"] = by_program[1]
    if trial.waits:
        figures["Waits before and after: share of jobs that waited longer"] = _wait_curves(trial)
    for judged, name in ((walltime, "run times"), (memory, "memory")):
        if judged:
            title = f"Calibration of {name}: share of outcomes at or below each predicted quantile"
            figures[title] = reliability(judged.evaluation)
    if walltime:
        figures["Error by size of job: mean error over mean run time"] = error_by_size(
            walltime.evaluation, walltime.best_rule
        )
    first = next(iter(trial.judged))
    figures[f"{NAMES[first].capitalize()}s within the 90 % range, by month"] = coverage_by_period(
        trial.judged[first].evaluation
    )
    return figures


def _waste_by_program(trial: Trial) -> tuple[str, Figure] | None:
    """Bars a program, else a user or queue: unused memory, else core hours; with the field."""
    fields = {table.field: table for table in trial.winners}
    table = fields.get("program") or (trial.winners[0] if trial.winners else None)
    if table is None:
        return None
    use_memory = sum(row["waste_gibh"] for row in table.rows) > 0
    waste, saved, unit = (
        ("waste_gibh", "saved_gibh", "GiB·h")
        if use_memory
        else ("unused_hours", "saved_hours", "core hours")
    )
    rows = sorted(table.rows, key=lambda row: -row[waste])[:BARS]
    figure, axes = new_axes(f"unused {unit} in the last 30 days")
    names = [shorten(row[table.field]) for row in rows]
    positions = np.arange(len(rows))
    before = [row[waste] for row in rows]
    after = [max(row[waste] - row[saved], 0.0) for row in rows]
    axes.barh(positions - 0.2, before, height=0.38, color=OTHER_COLOUR, label="as requested")
    axes.barh(positions + 0.2, after, height=0.38, color=OUR_COLOUR, label="with Gridcast")
    axes.set_yticks(positions, names)
    axes.invert_yaxis()
    axes.legend(fontsize=8)
    return table.field, figure


def _wait_curves(trial: Trial) -> Figure:
    study = trial.waits
    figure, axes = new_axes("wait [h]", "share of jobs that waited longer")
    if study is None:
        return figure
    curves = (
        ("recorded", study.recorded, "black"),
        ("replayed, the site's requests", study.before.waits, OTHER_COLOUR),
        ("replayed, Gridcast's limits", study.after.waits, OUR_COLOUR),
    )
    for name, waits, colour in curves:
        if waits is None:
            continue
        waited = np.sort(waits)[::-1] / HOUR
        points = np.unique(np.geomspace(1, len(waited), 300).astype(int)) - 1
        shares = (points + 1) / len(waited)
        axes.plot(np.maximum(waited[points], 1e-3), shares, color=colour, label=name)
    axes.set_xscale("log")
    axes.set_ylim(bottom=0)
    axes.set_xlim(left=1e-2)
    axes.legend(fontsize=8)
    return figure
