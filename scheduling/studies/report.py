"""The page of a replay: its table and plots."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from models.evaluation import html_page
from scheduling.outcome import Replay
from scheduling.studies import plots
from scheduling.studies.comparison import compare_with_first

COLUMNS: dict[str, tuple[str, str]] = {
    "policy": ("policy", "s"),
    "predictor": ("predictor", "s"),
    "corrector": ("corrector", "s"),
    "mean_bounded_slowdown": ("mean bounded slowdown", ".2f"),
    "ratio": ("over the first", ".2f"),
    "p95_bounded_slowdown": ("95 %", ".1f"),
    "mean_wait": ("mean wait", "time"),
    "median_wait": ("median", "time"),
    "p95_wait": ("95 %", "time"),
    "p99_wait": ("99 %", "time"),
    "max_wait": ("longest", "time"),
    "utilisation": ("utilisation", ".1%"),
    "makespan": ("makespan", "time"),
    "fairness": ("fairness across users", ".3f"),
    "accuracy": ("accuracy", ".3f"),
    "late_heads": ("late after a reservation", ".1%"),
    "killed": ("killed", ",d"),
    "corrected": ("corrected", ",d"),
    "seconds": ("replayed in, s", ".2f"),
}
"""The columns of the table: heading and format."""

MAX_DAYS = 4
"""The day is drawn of so many replays."""

EXPLANATION = (
    "Bounded slowdown is max(1, (wait + run) / max(run, 10 s)); its ratio to the first line's has "
    "a 95 % interval by a bootstrap of weeks. Fairness is Jain's index of the users' mean "
    "slowdowns: 1 when all are equal. Late: jobs with a reservation that started after it. "
    "Accuracy is the mean of min(p/a, a/p) of what orders the queue. Times are hours:minutes. "
    "Recorded: the waits that the log itself has. In "
    "the drawn day a colour is a user; cores idle while jobs wait are reserved or too few."
)


def report(
    replays: Sequence[Replay], path: Path, day: datetime | None = None, meaning: str = ""
) -> Path:
    """Write the page and return its path.

    Args:
        replays: The replays.
        path: The file; its folder is made if it does not exist.
        day: The day drawn as a Gantt chart, UTC; default: the busiest of the first replay.
        meaning: What was found, in a sentence.
    """
    begin = plots.busiest_day(replays[0]) if day is None else plots.seconds_of(replays[0], day)
    figures = {
        "Waits before and after: mean and 95th percentile [h]": plots.mean_waits(replays),
        "Share of jobs that waited longer": plots.waits(replays),
        "Utilisation over time": plots.utilisation(replays),
        "Mean bounded slowdown against the longest wait and against accuracy": plots.frontier(
            replays
        ),
    }
    figures |= {
        f"Jobs by core: {plots.title(replay)}, {replay.corrector}": plots.gantt(replay, begin)
        for replay in replays[:MAX_DAYS]
    }
    trace = replays[0].trace
    sources = ", ".join(sorted(trace.jobs["source"].astype(str).unique()))
    left_out = "".join(
        f" {count:,} left out: {reason}." for reason, count in trace.left_out.items()
    )
    summary = f"{len(trace):,} jobs on {replays[0].machine.processors:,} processors.{left_out}"
    content = "".join(
        (
            html_page.paragraph(meaning, lead=True) if meaning else "",
            html_page.paragraph(summary),
            html_page.figures(figures),
            html_page.heading("Every combination"),
            html_page.table(
                [heading for heading, _ in COLUMNS.values()],
                [cells(row) for row in compare_with_first(replays)],
            ),
            html_page.paragraph(EXPLANATION),
        )
    )
    return html_page.write_html(path, f"Replay of {sources}", content)


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of one line of the table as texts."""
    texts = [
        "–"
        if row[name] is None
        else clock(row[name])
        if form == "time"
        else format(row[name], form)
        for name, (_, form) in COLUMNS.items()
    ]
    if row["ratio"] is not None:
        texts[list(COLUMNS).index("ratio")] += f" ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    return texts


def clock(seconds: float) -> str:
    """Hours and minutes.

    >>> clock(3660.0)
    '1:01'
    """
    minutes = round(seconds / 60)
    return f"{minutes // 60:,}:{minutes % 60:02d}"
