"""Pictures of the documentation's Explanation, drawn from a real log.

    uv run python benchmarks/pictures.py [LOG]

By default from KTH-SP2, into docs/pictures: walltimes of one user, one prediction beside the past
outcomes of its owner, and the coverage of ranges before and after calibration.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import matplotlib as mpl
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
from logs import load, selected_logs

from infra.aliases import Floats, Integers
from models.engine.backtest import backtest
from models.engine.log_rows import LogRows
from models.engine.prequential import TargetReplay
from models.engine.target_predictor import TargetPredictor, batches
from models.histories.features import choose_levels
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL

PICTURES = Path(__file__).parents[1] / "docs/pictures"
OURS, MIXTURE, ACTUAL = "#00897b", "#9e9e9e", "#d84315"
FIT_AT, UNTIL = 0.5, 0.6
"""Shares of the log: where the refiner is fitted, and from where on an example is taken."""
FEWEST_EARLIER = 60
TICKS = (1, 10, 60, 600, 3600, 4 * 3600, 24 * 3600)
LABELS = ("1 s", "10 s", "1 min", "10 min", "1 h", "4 h", "1 d")


def main() -> None:
    """Draw every picture."""
    mpl.rcParams |= {"svg.fonttype": "none", "svg.hashsalt": "gridcast", "font.size": 9}
    (name,) = selected_logs(__doc__ or "", logs="KTH")
    jobs = load(name)
    draw_example(jobs, name)
    draw_calibration(jobs, name)
    draw_promotion()


def save(figure: Any, name: str) -> None:
    """Write a figure as SVG without a date, so that the same log gives the same file."""
    figure.tight_layout()
    figure.savefig(PICTURES / f"{name}.svg", metadata={"Date": None})
    plt.close(figure)


def draw_example(jobs: pd.DataFrame, name: str) -> None:
    """One job's owner in the past, and the distribution predicted of it."""
    target = TARGETS["walltime"]
    levels = choose_levels(jobs, target.subject)
    log = LogRows.of(jobs, target, levels)
    replay = TargetReplay(TargetPredictor.create(target, levels), log)
    fitted, until = int(len(log) * FIT_AT), int(len(log) * UNTIL)
    for rows in batches(np.arange(fitted)):
        replay.advance(rows)
    clusters = np.full(len(log), GLOBAL, dtype=object)
    at = int(log.contexts.at[fitted])
    replay.deploy(replay.fit(at, clusters), clusters)
    mixture = TargetReplay(TargetPredictor.create(target, levels), log)
    for rows in batches(np.arange(until)):
        mixture.masses(rows)
    for rows in batches(np.arange(fitted, until)):
        replay.advance(rows)
        replay.calibration.levels(rows, np.array([0.5]))
    rows = np.arange(until, until + 1000)
    masses, _ = mixture.masses(rows)
    predicted = replay.advance(rows)
    wanted = np.array([0.05, 0.95])
    ends = replay.calibration.quantiles(
        rows, predicted.distribution, replay.calibration.levels(rows, wanted), wanted
    )
    points = replay.points(predicted)
    example = choose(jobs, rows, predicted.distribution.mass, ends)
    row, position = rows[example], example
    figure, (past, density) = plt.subplots(2, 1, figsize=(7.2, 5.4))
    earlier = earlier_jobs(jobs, row)
    past.plot(earlier["ended_at"], earlier["walltime"], ".", color=OURS, markersize=5)
    past.set_yscale("log")
    past.set_yticks(TICKS, LABELS)
    past.set_title(f"{name}: ended jobs of one user with one request, {len(earlier)}", loc="left")
    past.set_ylabel("walltime")
    edges = target.grid.edges
    centres = np.sqrt(np.maximum(edges[:-1], 0.9) * edges[1:])
    for values, colour, label in (
        (masses.mass[position], MIXTURE, "mixture of histories"),
        (predicted.distribution.mass[position], OURS, "reweighted by the refiner"),
    ):
        density.fill_between(centres, values, step="mid", alpha=0.35, color=colour, label=label)
    density.axvspan(*ends[position], color=OURS, alpha=0.08, label="calibrated 90 % range")
    density.axvline(points[position], color=OURS, label="best single value")
    density.axvline(log.values[row], color=ACTUAL, linestyle="--", label="what it then took")
    density.set_xscale("log")
    density.set_xticks(TICKS, LABELS)
    density.set_xlim(1, 2 * 24 * 3600)
    density.set_ylabel("probability of a bin")
    density.set_title("the prediction of the user's next such job", loc="left")
    density.legend(frameon=False, fontsize=8)
    save(figure, "one-prediction")


def earlier_jobs(jobs: pd.DataFrame, row: int) -> pd.DataFrame:
    """The jobs of the same user and request that had ended when the job was submitted."""
    job = jobs.iloc[row]
    like = (jobs["user"] == job["user"]) & (jobs["requested_walltime"] == job["requested_walltime"])
    return jobs[like & (jobs["ended_at"] <= job["submitted_at"])]


def choose(jobs: pd.DataFrame, rows: Integers, masses: Floats, ends: Floats) -> int:
    """The first job with a long past whose distribution has several likely values."""
    wide = ends[:, 1] > 30 * ends[:, 0]
    several = (masses.max(axis=1) > 0.12) & (masses.max(axis=1) < 0.35)
    for position in np.flatnonzero(wide & several):
        if len(earlier_jobs(jobs, rows[position])) >= FEWEST_EARLIER:
            return int(position)
    raise SystemExit("no job of this log makes a clear example")


def draw_calibration(jobs: pd.DataFrame, name: str) -> None:
    """The coverage of ranges by their nominal level, and the PIT, before and after calibration."""
    result = backtest(jobs)
    middle = (result.pit_below + result.pit_upto) / 2
    nominal = np.array([0.5, 0.8, 0.9, 0.98])
    levels = list(result.levels)
    pairs = [
        (1 - 2 * low, levels.index(low), levels.index(high))
        for low in levels
        for high in levels
        if low < 0.5 and abs(low + high - 1) < 1e-9
    ]
    covered = {
        share: np.mean(
            (result.quantiles[:, low] <= result.truth) & (result.truth <= result.quantiles[:, high])
        )
        for share, low, high in pairs
    }
    nominal = np.array(sorted(covered))
    raw = [np.mean(np.abs(middle - 0.5) <= share / 2) for share in nominal]
    figure, (left, right) = plt.subplots(1, 2, figsize=(7.2, 3.2))
    left.plot([0, 1], [0, 1], color="black", linewidth=0.8, label="perfect")
    left.plot(nominal, raw, "o-", color=MIXTURE, label="as mixed and reweighted")
    left.plot(nominal, [covered[share] for share in nominal], "o-", color=OURS, label="calibrated")
    left.set_xlabel("range claims")
    left.set_ylabel("range holds")
    left.set_title(f"{name}: coverage of {len(middle):,} jobs", loc="left")
    left.legend(frameon=False, fontsize=8)
    right.hist(middle, bins=20, range=(0, 1), density=True, color=MIXTURE, alpha=0.7)
    right.axhline(1, color="black", linewidth=0.8)
    right.set_title("PIT before calibration", loc="left")
    right.set_xlabel("predicted probability of no more than the outcome")
    right.set_ylabel("density (uniform: 1)")
    save(figure, "calibration")


def draw_promotion() -> None:
    """Whose jobs train what, and whose jobs judge it, in a retraining."""
    figure, axes = plt.subplots(figsize=(7.2, 2.2))
    bars = (
        ("champion", ((0, 50, OURS, "trained"), (75, 25, ACTUAL, "judged"))),
        ("candidate", ((0, 75, OURS, "trained"), (75, 25, ACTUAL, "judged"))),
        ("promoted version", ((0, 100, OURS, "trained, if the candidate won"),)),
    )
    for height, (label, parts) in enumerate(reversed(bars)):
        for start, length, colour, text in parts:
            axes.broken_barh([(start, length)], (height - 0.3, 0.6), color=colour, alpha=0.7)
            axes.text(start + length / 2, height, text, ha="center", va="center", color="white")
        axes.text(-1, height, label, ha="right", va="center")
    for at, text in ((50, "champion was trained"), (75, "half of the jobs since"), (100, "now")):
        axes.axvline(at, color="black", linewidth=0.8, linestyle=":")
        axes.text(at, 2.45, text, ha="right" if at == 50 else "center", fontsize=8)
    axes.set_xlim(-22, 108)
    axes.set_ylim(-0.5, 2.8)
    axes.axis("off")
    save(figure, "promotion")


if __name__ == "__main__":
    main()
