"""What a ranking is worth: a generated grid simulated once for each broker, all with the same jobs to come."""

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
"""The share of the jobs, the first to come, that are not counted: every broker begins with an empty grid, and one of them with no past."""


def brokers(
    grid: GeneratedGrid, tunings: Sequence[float], seed: int
) -> Iterator[tuple[str, float | None, Callable[[], Broker]]]:
    """Every broker as policy, tuning factor and how to make it."""
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
    """A row a broker: of the jobs that it sent, from their coming to their end, the mean and 95th percentile, and the mean of each part.

    ``mean_ratio`` and ``p95_ratio`` are against the shortest queue. All times in seconds. Raises RankingError for a bad tuning
    factor, InputError where no job would be counted.
    """
    if not _counted(grid).any():
        raise InputError(
            "so few jobs leave none to count after the warm-up: generate more (--jobs)"
        )
    asked = list(brokers(grid, tunings, seed))
    rows = []
    for place, (policy, tuning, make) in enumerate(asked):

        def tell(share: float, place: int = place, policy: str = policy) -> None:
            if progress is not None:
                progress(policy, (place + share) / len(asked))

        rows.append({"policy": policy, "tuning": tuning} | figures(simulate(grid, make(), tell)))
    against = next(row for row in rows if row["policy"] == SHORTEST)
    return [
        row
        | {
            f"{name}_ratio": row[f"{name}_done_s"] / against[f"{name}_done_s"]
            for name in ("mean", "p95")
        }
        for row in rows
    ]


def figures(state: GridState) -> dict[str, Any]:
    """What a broker's jobs took, those of the warm-up and those that sites' own users sent left out."""
    counted = _counted(state.grid)
    done = (state.ended - state.came)[counted]
    parts = {
        "move": state.there - state.sent,
        "wait": state.started - state.sent,
        "run": state.ended - state.started,
    }
    means = {f"mean_{name}_s": float(part[counted].mean()) for name, part in parts.items()}
    return {
        "jobs": int(counted.sum()),
        "mean_done_s": float(done.mean()),
        "p95_done_s": float(np.quantile(done, 0.95)),
        **means,
    }


def _counted(grid: GeneratedGrid) -> np.ndarray[Any, Any]:
    return (grid.home == NO_SITE) & (np.arange(len(grid)) >= WARM_UP * len(grid))
