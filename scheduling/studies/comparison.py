"""Comparisons of replays: by group of jobs, and the significance of a difference."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from models.quantities.metrics import Interval, compare_errors, time_blocks
from scheduling.outcome import Replay, recorded_row
from scheduling.trace import field_texts


def by_group(replays: Mapping[str, Replay], field: str = "group") -> list[dict[str, Any]]:
    """How each group of jobs fares in each replay, the group with the least work first.

    Args:
        replays: Replays of the same jobs, by name.
        field: The field of the record that groups the jobs.

    Returns:
        A row for each group and replay: ``group``, ``scenario``, ``jobs``, ``core_hours``, and the
        mean and 95th percentile of the waits (s) and the mean bounded slowdown.

    Raises:
        ValueError: The replays are not of the same jobs.
    """
    first = next(iter(replays.values())).trace
    for replay in replays.values():
        if not replay.trace.jobs["job_id"].equals(first.jobs["job_id"]):
            raise ValueError("the replays are not of the same jobs")
    rows_of = field_texts(first.jobs, field, "(none)").groupby(
        field_texts(first.jobs, field, "(none)")
    )
    work = first.cores * first.length
    groups = sorted(rows_of.indices.items(), key=lambda item: work[item[1]].sum())
    return [
        {
            "group": name,
            "scenario": scenario,
            "jobs": len(rows),
            "core_hours": float(work[rows].sum() / 3600),
            "mean_wait": float(replay.waits[rows].mean()),
            "p95_wait": float(np.quantile(replay.waits[rows], 0.95)),
            "mean_bounded_slowdown": float(replay.slowdowns[rows].mean()),
        }
        for name, rows in groups
        for scenario, replay in replays.items()
    ]


def compare_with_first(replays: Sequence[Replay]) -> list[dict[str, Any]]:
    """The rows of the table: each replay's, and its mean bounded slowdown over that of the first.

    ``ratio`` has its 95 % interval, ``ratio_low`` to ``ratio_high``, and a ``verdict``. The last
    row is ``recorded``, without a ratio, where the log records waits.
    """
    rows = []
    for replay in replays:
        ratio = difference(replay, replays[0])
        interval = {"ratio": ratio.value, "ratio_low": ratio.low, "ratio_high": ratio.high}
        rows.append(replay.row() | interval | {"verdict": verdict(ratio)})
    recorded = recorded_row(replays[0].trace)
    return rows if recorded is None else [*rows, dict.fromkeys(rows[0]) | recorded]


def difference(replay: Replay, baseline: Replay) -> Interval:
    """Mean bounded slowdown over that of ``baseline``, with a bootstrap of weeks of submission.

    Waits of neighbouring jobs are correlated: resampling single jobs gives too narrow an interval.
    """
    weeks = time_blocks(replay.trace.jobs["submitted_at"])
    return compare_errors(replay.slowdowns, baseline.slowdowns, weeks)[1]


def verdict(ratio: Interval) -> str:
    """``better`` or ``worse`` where the interval excludes 1, else ``no difference seen``."""
    return "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "no difference seen"
