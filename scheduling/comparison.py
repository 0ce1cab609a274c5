"""Comparing replays: who wins and who loses, and whether a difference is more than luck."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import pandas as pd

from scheduling.outcome import Replay

WEEK = 7 * 86400.0


def by_group(replays: Sequence[tuple[str, Replay]], field: str = "group") -> pd.DataFrame:
    """How each group of jobs (by a field of the record) fares under each named replay, smallest group first.

    Columns: ``jobs`` and ``core_seconds`` of the group; then for each name ``<name> wait`` and ``<name> p95`` (mean and 95th
    percentile of the waits, s) and ``<name> slowdown``. Raises ValueError when the replays are not of the same jobs.
    """
    first = replays[0][1].trace
    if any(not replay.trace.jobs["job_id"].equals(first.jobs["job_id"]) for _, replay in replays):
        raise ValueError("the replays are not of the same jobs")
    groups = first.jobs[field].astype(str)
    work = pd.Series(first.cores * first.length).groupby(groups)
    table = pd.DataFrame({"jobs": work.size(), "core_seconds": work.sum()})
    for name, replay in replays:
        waits = pd.Series(replay.waits).groupby(groups)
        table[f"{name} wait"], table[f"{name} p95"] = waits.mean(), waits.quantile(0.95)
        table[f"{name} slowdown"] = pd.Series(replay.slowdowns).groupby(groups).mean()
    return table.sort_values("core_seconds").rename_axis(field)


@dataclass(frozen=True)
class Difference:
    """Ratio of two mean bounded slowdowns, with the 90 % range of a bootstrap over weeks."""

    ratio: float
    low: float
    high: float

    @property
    def verdict(self) -> str:
        """``better`` or ``worse`` when the range lies on one side of 1, else ``no difference seen``."""
        return "better" if self.high < 1 else "worse" if self.low > 1 else "no difference seen"


def difference(mine: Replay, theirs: Replay, draws: int = 2000, seed: int = 0) -> Difference:
    """Mean bounded slowdown of ``mine`` over that of ``theirs``, resampled by weeks of submission.

    Waits of neighbouring jobs hang together, so whole weeks are drawn, the same ones for both.
    """
    week = ((mine.trace.submitted - mine.trace.submitted[0]) // WEEK).astype(int)
    sums = np.array([np.bincount(week, replay.slowdowns) for replay in (mine, theirs)])
    sums = sums[:, np.bincount(week) > 0]
    drawn = np.random.default_rng(seed).integers(0, sums.shape[1], (draws, sums.shape[1]))
    ratios = sums[0][drawn].sum(axis=1) / sums[1][drawn].sum(axis=1)
    low, high = np.quantile(ratios, (0.05, 0.95))
    return Difference(float(sums[0].sum() / sums[1].sum()), float(low), float(high))
