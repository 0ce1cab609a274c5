"""The page of a replay: one HTML file with its table and plots, without external resources."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import Any

from models.evaluation.plots import as_html
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

MOST_DAYS = 4
"""The day is drawn of so many replays."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;font-size:12px}}
td,th{{padding:.25rem .4rem;border-bottom:1px solid #ccc;text-align:right}}
td{{white-space:nowrap}}td:first-child,th:first-child{{text-align:left}}
img{{max-width:100%}}div{{overflow-x:auto}}</style>
<h1>{title}</h1>
<p>{jobs}</p>
<div><table><tr>{headings}</tr>{rows}</table></div>
<p>Bounded slowdown is max(1, (wait + run) / max(run, 10 s)); its ratio to the first line's has a
95 % interval by a bootstrap of weeks. Fairness is Jain's index of the users' mean slowdowns: 1 when
all are equal. Late: jobs with a reservation that started after it. Accuracy is that of the quantity
that orders the queue. Times are hours:minutes. In the drawn day a colour is a user; cores that are
idle (white) while jobs wait are reserved, or too few for the waiting jobs.</p>
{figures}
</html>
"""


def report(replays: Sequence[Replay], folder: Path, day: datetime | None = None) -> Path:
    """Write ``replay.html`` and return its path.

    Args:
        replays: The replays.
        folder: Where to write; it is made if it does not exist.
        day: The day drawn as a Gantt chart, UTC; default: the busiest of the first replay.
    """
    begin = plots.busiest_day(replays[0]) if day is None else plots.seconds_of(replays[0], day)
    figures = {
        "Share of jobs that waited longer": plots.waits(replays),
        "Utilisation over time": plots.utilisation(replays),
        "Mean bounded slowdown against the longest wait and against accuracy": plots.frontier(
            replays
        ),
    }
    figures |= {
        f"Jobs by core: {plots.title(replay)}, {replay.corrector}": plots.gantt(replay, begin)
        for replay in replays[:MOST_DAYS]
    }
    trace = replays[0].trace
    sources = ", ".join(sorted(trace.jobs["source"].astype(str).unique()))
    left_out = "".join(
        f" {count:,} left out: {reason}." for reason, count in trace.left_out.items()
    )
    text = PAGE.format(
        title=f"Replay of {escape(sources)}",
        jobs=escape(
            f"{len(trace):,} jobs on {replays[0].machine.processors:,} processors.{left_out}"
        ),
        headings="".join(f"<th>{heading}</th>" for heading, _ in COLUMNS.values()),
        rows="".join(
            f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in cells(row))}</tr>"
            for row in compare_with_first(replays)
        ),
        figures=as_html(figures),
    )
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "replay.html"
    path.write_text(text, encoding="utf-8")
    return path


def cells(row: dict[str, Any]) -> list[str]:
    """The cells of one line of the table as texts."""
    texts = [
        clock(row[name]) if form == "time" else format(row[name], form)
        for name, (_, form) in COLUMNS.items()
    ]
    texts[list(COLUMNS).index("ratio")] += f" ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    return texts


def clock(seconds: float) -> str:
    """Hours and minutes.

    >>> clock(3660.0)
    '1:01'
    """
    minutes = round(seconds / 60)
    return f"{minutes // 60:,}:{minutes % 60:02d}"
