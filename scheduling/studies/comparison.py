"""Comparing replays: who wins and who loses, and whether a difference is more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pandas as pd

from models.quantities.metrics import Interval, compare_errors, time_blocks
from scheduling.outcome import Replay
from scheduling.trace import field_texts


def by_group(replays: Sequence[tuple[str, Replay]], field: str = "group") -> pd.DataFrame:
    """How each group of jobs (by a field of the record) fares under each named replay, smallest group first.

    Columns: ``jobs`` and ``core_seconds`` of the group; then for each name ``<name> wait`` and ``<name> p95`` (mean and 95th
    percentile of the waits, s) and ``<name> slowdown``. Raises ValueError when the replays are not of the same jobs.
    """
    first = replays[0][1].trace
    if any(not replay.trace.jobs["job_id"].equals(first.jobs["job_id"]) for _, replay in replays):
        raise ValueError("the replays are not of the same jobs")
    groups = field_texts(first.jobs, field, "(none)")
    work = pd.Series(first.cores * first.length).groupby(groups)
    table = pd.DataFrame({"jobs": work.size(), "core_seconds": work.sum()})
    for name, replay in replays:
        waits = pd.Series(replay.waits).groupby(groups)
        table[f"{name} wait"], table[f"{name} p95"] = waits.mean(), waits.quantile(0.95)
        table[f"{name} slowdown"] = pd.Series(replay.slowdowns).groupby(groups).mean()
    return table.sort_values("core_seconds").rename_axis(field)


def compare_with_first(replays: Sequence[Replay]) -> list[dict[str, Any]]:
    """The lines of the table, each with ``ratio``, its mean bounded slowdown over the first line's, and the ends of its 95 % interval."""
    rows = []
    for replay in replays:
        apart = difference(replay, replays[0])
        rows.append(
            replay.row() | {"ratio": apart.value, "ratio_low": apart.low, "ratio_high": apart.high}
        )
    return rows


def difference(mine: Replay, theirs: Replay) -> Interval:
    """Mean bounded slowdown of ``mine`` over that of ``theirs``, with a bootstrap of whole weeks of submission.

    Waits of neighbouring jobs hang together, so single jobs would give far too narrow an interval.
    """
    _, ratio = compare_errors(
        mine.slowdowns, theirs.slowdowns, time_blocks(mine.trace.jobs["submitted_at"])
    )
    return ratio


def verdict(ratio: Interval) -> str:
    """``better`` or ``worse`` when the interval of a ratio of slowdowns lies on one side of 1, else ``no difference seen``."""
    return "better" if ratio.high < 1 else "worse" if ratio.low > 1 else "no difference seen"
