"""Plots of replays."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from scheduling.outcome import Replay
from scheduling.trace import field_texts

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

HOUR, DAY = 3600.0, 86400.0
MOST_STEPS = 100
"""Utilisation is averaged over at most this many equal intervals."""


def waits(replays: Sequence[Replay]) -> Figure:
    """Share of the jobs that waited longer than so many hours, both axes logarithmic."""
    figure, axes = _axes("Jobs that waited longer", "wait [h]", "share of jobs")
    for replay in replays:
        waited = np.sort(replay.waits)[::-1] / HOUR
        points = np.unique(np.geomspace(1, len(waited), 500).astype(int)) - 1
        shares = (points + 1) / len(waited)
        axes.loglog(np.maximum(waited[points], 1e-3), shares, label=title(replay))
    axes.set_xlim(left=1e-2)
    axes.legend(fontsize=8)
    return figure


def mean_waits(replays: Sequence[Replay]) -> Figure:
    """Mean and 95th percentile of the waits, a pair of bars a replay."""
    figure, axes = _axes("Waits", "wait [h]", "")
    row = np.arange(len(replays))
    for offset, name, values in (
        (-0.2, "mean", [replay.waits.mean() for replay in replays]),
        (0.2, "95th percentile", [np.percentile(replay.waits, 95) for replay in replays]),
    ):
        drawn = axes.barh(row + offset, np.array(values) / HOUR, height=0.38, label=name)
        axes.bar_label(drawn, fmt="%.2g", padding=3, fontsize=8)
    axes.set_yticks(row, [title(replay) for replay in replays])
    axes.invert_yaxis()
    axes.margins(x=0.15)
    axes.legend(fontsize=8)
    return figure


def utilisation(replays: Sequence[Replay]) -> Figure:
    """Share of the cores in use over time."""
    figure, axes = _axes("Utilisation over time", "", "share of cores in use")
    for replay in replays:
        edges = np.linspace(0, replay.table["ended"].max(), MOST_STEPS + 1)
        axes.step(
            _dates(replay, edges[:-1]),
            _in_use(replay, edges),
            where="post",
            label=title(replay),
            linewidth=1,
            alpha=0.8,
        )
    axes.set_ylim(0, 1.05)
    axes.legend(fontsize=8, loc="lower right")
    figure.autofmt_xdate()
    return figure


def _in_use(replay: Replay, edges: Floats) -> Floats:
    """Mean share of the cores in use between neighbouring ``edges`` (s)."""
    work = np.zeros(len(edges))
    for times, sign in ((replay.table["started"], 1.0), (replay.table["ended"], -1.0)):
        order = np.argsort(times)
        cores = np.concatenate([[0.0], np.cumsum(replay.trace.cores[order])])
        moments = np.concatenate([[0.0], np.cumsum(replay.trace.cores[order] * times[order])])
        before = np.searchsorted(times[order], edges, side="right")
        work += sign * (cores[before] * edges - moments[before])
    return np.diff(work) / (np.diff(edges) * replay.machine.processors)


def gantt(replay: Replay, day: float) -> Figure:
    """The jobs on each core for a day from ``day`` (s since the first submission).

    Colours are users, edges jobs; below, the cores that waiting jobs request.
    """
    from matplotlib.collections import PatchCollection
    from matplotlib.figure import Figure
    from matplotlib.patches import Rectangle

    figure = Figure(figsize=(9, 5.5), layout="constrained")
    axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
    axes.set_title(f"{title(replay)}: {_dates(replay, np.array([day]))[0]:%Y-%m-%d}")
    axes.set_ylabel("core")
    rows = np.flatnonzero(
        (replay.table["ended"] > day - 7 * DAY) & (replay.table["started"] < day + DAY)
    )
    users = pd.factorize(field_texts(replay.trace.jobs, "user"))[0]
    patches, colours = [], []
    for row, cores in lanes(replay, rows):
        begin, end = ((replay.table[name][row] - day) / HOUR for name in ("started", "ended"))
        if end <= 0:
            continue
        for first, last in cores:
            patches.append(Rectangle((begin, first), end - begin, last - first))
            colours.append(users[row] % 20)
    axes.add_collection(
        PatchCollection(
            patches,
            array=np.array(colours, dtype=float),
            cmap="tab20",
            edgecolor="0.3",
            linewidth=0.2,
            rasterized=True,  # thousands of jobs as shapes would be megabytes of the page
        )
    )
    axes.set_xlim(0, 24)
    axes.set_ylim(0, replay.machine.processors)
    below.step(*_waiting(replay, day), where="post", color="0.5", linewidth=1)
    below.set(xlabel="hour of the day (UTC)", ylabel="waiting", ylim=(0, None))
    below.grid(alpha=0.3)
    return figure


def _waiting(replay: Replay, day: float) -> tuple[Floats, Floats]:
    """The cores that waiting jobs request in the 24 hours from ``day``: hours, and cores since."""
    table, cores = replay.table, replay.trace.cores
    times = np.concatenate([[day], table["submitted"], table["started"], [day + DAY]])
    change = np.concatenate([[0], cores, -cores, [0]])
    order = np.argsort(times, kind="stable")
    waiting = np.cumsum(change[order])
    # A job that starts when it is submitted did not wait: only the last state of a moment is drawn.
    last = (
        np.append(np.diff(times[order]) > 0, True)
        & (times[order] >= day)
        & (times[order] <= day + DAY)
    )
    return (times[order][last] - day) / HOUR, waiting[last].astype(float)


def lanes(replay: Replay, rows: Integers) -> list[tuple[int, list[tuple[int, int]]]]:
    """Cores on which to draw jobs, lowest free ones first: ranges [first, last) for each row.

    Where ``rows`` leave out running jobs, a job may get fewer cores than it had.
    """
    free_at = np.zeros(replay.machine.processors)
    drawn = []
    for row in rows[np.argsort(replay.table["started"][rows], kind="stable")]:
        free = np.flatnonzero(free_at <= replay.table["started"][row])[: replay.trace.cores[row]]
        free_at[free] = replay.table["ended"][row]
        pieces = np.split(free, np.flatnonzero(np.diff(free) != 1) + 1)
        ranges = [(int(piece[0]), int(piece[-1]) + 1) for piece in pieces if len(piece)]
        drawn.append((int(row), ranges))
    return drawn


def frontier(replays: Sequence[Replay]) -> Figure:
    """Mean bounded slowdown against the longest wait, and against the accuracy of predictions."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 4.5), layout="constrained")
    left, right = figure.subplots(1, 2)
    rows = [replay.row() for replay in replays]
    for axes, across in (
        (left, [row["max_wait"] / HOUR for row in rows]),
        (right, [row["accuracy"] for row in rows]),
    ):
        for replay, row, x in zip(replays, rows, across, strict=True):
            # Labels are written towards the middle, where there is room.
            inwards = ("right", -4) if x > (min(across) + max(across)) / 2 else ("left", 4)
            axes.scatter([x], [row["mean_bounded_slowdown"]], s=25)
            axes.annotate(
                title(replay),
                (x, row["mean_bounded_slowdown"]),
                fontsize=7,
                xytext=(inwards[1], 4),
                textcoords="offset points",
                ha=inwards[0],
            )
        axes.margins(x=0.1, y=0.1)
    left.set_xlabel("longest wait [h]")
    right.set_xlabel("accuracy")
    left.set_ylabel("mean bounded slowdown")
    for axes in (left, right):
        axes.grid(alpha=0.3)
    return figure


def busiest_day(replay: Replay) -> float:
    """Midnight (UTC, s since the first submission) of the day with the longest total wait."""
    late = -seconds_of(replay, replay.trace.jobs["submitted_at"].iloc[0].floor("D"))
    days = ((replay.trace.submitted + late) // DAY).astype(int)
    return float(np.argmax(np.bincount(days, replay.waits)) * DAY - late)


def seconds_of(replay: Replay, moment: datetime) -> float:
    """A moment (UTC) in s since the first submission."""
    when = pd.Timestamp(moment)
    when = when.tz_localize("UTC") if when.tzinfo is None else when
    return float((when - _beginning(replay)).total_seconds())


def title(replay: Replay) -> str:
    """Policy and predictor."""
    return f"{replay.policy.name}, {replay.predictor}"


def _beginning(replay: Replay) -> pd.Timestamp:
    """The zero of the replay's clock."""
    return replay.trace.jobs["submitted_at"].iloc[0] - pd.Timedelta(
        replay.trace.submitted[0], unit="s"
    )


def _dates(replay: Replay, seconds: Floats) -> pd.DatetimeIndex:
    return pd.DatetimeIndex(_beginning(replay) + pd.to_timedelta(seconds, unit="s")).tz_localize(
        None
    )


def _axes(heading: str, across: str, up: str) -> tuple[Figure, Axes]:
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 4.5), layout="constrained")
    axes = figure.subplots()
    axes.set_title(heading)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    axes.grid(alpha=0.3)
    return figure, axes
