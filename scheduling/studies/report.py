"""The page that a replay leaves: one HTML file with its table and its plots, which loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Any

from models.evaluation.plots import as_html
from scheduling.outcome import Replay
from scheduling.studies import plots
from scheduling.studies.comparison import compare_with_first

if TYPE_CHECKING:
    pass

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
"""Of so many replays the day is drawn."""

PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{title}</title>
<style>body{{font:15px system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}}
table{{border-collapse:collapse;font-size:12px}}td,th{{padding:.25rem .4rem;border-bottom:1px solid #ccc;text-align:right}}
td{{white-space:nowrap}}td:first-child,th:first-child{{text-align:left}}
img{{max-width:100%}}div{{overflow-x:auto}}</style>
<h1>{title}</h1>
<p>{jobs}</p>
<div><table><tr>{headings}</tr>{rows}</table></div>
<p>Bounded slowdown is max(1, (wait + run) / max(run, 10 s)); over the first line's, with the 95 % interval when weeks are drawn again.
Fairness is Jain's index of the users' mean slowdowns: 1 when all fare alike.
Late: jobs that were given a reservation and started after it. Accuracy is that of what orders the queue. Times as hours:minutes.
In the drawn day a colour is a user; white cores idle although jobs wait are kept for a reservation, or too few for those who wait.</p>
{figures}
</html>
"""


def report(replays: Sequence[Replay], folder: Path, day: datetime | None = None) -> Path:
    """Write ``replay.html`` into ``folder`` (made if it is not there) and return its path.

    ``day`` (UTC; default: the busiest of the first replay) is the day that is drawn as a Gantt chart.
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
        f"Who ran on which core: {plots.title(one)}, {one.corrector}": plots.gantt(one, begin)
        for one in replays[:MOST_DAYS]
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
    """The cells of one line of the table, as a person reads them."""
    shown = [
        clock(row[name]) if form == "time" else format(row[name], form)
        for name, (_, form) in COLUMNS.items()
    ]
    shown[list(COLUMNS).index("ratio")] += f" ({row['ratio_low']:.2f}–{row['ratio_high']:.2f})"
    return shown


def clock(seconds: float) -> str:
    """Hours and minutes.

    >>> clock(3660.0)
    '1:01'
    """
    minutes = round(seconds / 60)
    return f"{minutes // 60:,}:{minutes % 60:02d}"
