"""The benefit of a ranking: a generated grid is simulated with each broker, with the same jobs."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from functools import partial
from typing import Any

import numpy as np

from infra.aliases import Progress
from infra.errors import InputError
from jobs.workload.grid import NO_SITE, GeneratedGrid
from models.ranking.order import Rule
from scheduling.brokering.brokers import NearestData, Oracle, Random, ShortestQueue
from scheduling.brokering.grid import (
    Broker,
    GridState,
    simulate,
)
from scheduling.brokering.ranking_broker import RankingBroker

TUNINGS = (0.0, 0.5, 1.0, 2.0)
"""Tuning factors that are swept; 0 is the mean only."""
SHORTEST = "shortest queue"
ORACLE = "oracle (a bound, no broker)"
WARM_UP = 0.1
"""The share of the jobs, the first submitted, that are not counted: every broker begins with an
empty grid, and the ranking without any history."""


def brokers(
    grid: GeneratedGrid, tunings: Sequence[float], seed: int
) -> Iterator[tuple[str, float | None, Callable[[], Broker]]]:
    """Every broker as policy, tuning factor and constructor.

    Args:
        grid: The generated grid.
        tunings: The tuning factors.
        seed: The seed of the random broker.
    """
    yield "random", None, partial(Random, seed)
    yield SHORTEST, None, ShortestQueue
    yield "nearest data", None, NearestData
    yield ORACLE, None, partial(Oracle, grid)
    for tuning in tunings:
        rule = Rule("conservative", tuning, overlap=True) if tuning else Rule("mean", overlap=True)
        yield (
            "gridcast, mean only" if not tuning else "gridcast, conservative",
            tuning,
            partial(RankingBroker, grid, rule),
        )


def compare(
    grid: GeneratedGrid,
    tunings: Sequence[float] = TUNINGS,
    seed: int = 0,
    progress: Progress | None = None,
) -> list[dict[str, Any]]:
    """Compare brokers by the times of the jobs that they send, from submission to end.

    Args:
        grid: The grid and its jobs.
        tunings: Tuning factors of the ranking; 0 ranks by the mean.
        seed: The seed of the random broker.
        progress: Is called with the broker and the share done.

    Returns:
        A row a broker: mean and 95th percentile, the means of each part (s), and the ratios to the
        shortest queue.

    Raises:
        RankingError: A tuning factor is out of range.
        InputError: No job is left after the warm-up.
    """
    if not _counted(grid).any():
        raise InputError(
            "so few jobs leave none to count after the warm-up: generate more (--jobs)"
        )
    compared = list(brokers(grid, tunings, seed))
    rows = []
    for index, (policy, tuning, make) in enumerate(compared):

        def report(share: float, index: int = index, policy: str = policy) -> None:
            if progress is not None:
                progress(policy, (index + share) / len(compared))

        rows.append({"policy": policy, "tuning": tuning} | figures(simulate(grid, make(), report)))
    shortest = next(row for row in rows if row["policy"] == SHORTEST)
    return [
        row
        | {
            f"{name}_ratio": row[f"{name}_done_s"] / shortest[f"{name}_done_s"]
            for name in ("mean", "p95")
        }
        for row in rows
    ]


def figures(state: GridState) -> dict[str, Any]:
    """The times of a broker's jobs, without those of the warm-up and those of sites' own users."""
    counted = _counted(state.grid)
    done = (state.ended - state.came)[counted]
    parts = {
        "move": state.there - state.sent,
        "wait": state.started - state.sent,
        "run": state.ended - state.started,
    }
    means = {f"mean_{name}_s": float(times[counted].mean()) for name, times in parts.items()}
    return {
        "jobs": int(counted.sum()),
        "mean_done_s": float(done.mean()),
        "p95_done_s": float(np.quantile(done, 0.95)),
        **means,
    }


def _counted(grid: GeneratedGrid) -> np.ndarray[Any, Any]:
    return (grid.home == NO_SITE) & (np.arange(len(grid)) >= WARM_UP * len(grid))
