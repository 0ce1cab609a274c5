"""Rules by which memory is allocated today, each with its own retries after a failure.

All rules know what Gridcast knows, the jobs that had ended, and use the finest template with any
outcome; before that the request decides. A rule returns a ladder of allocations, and after its last
rung the allocation is doubled.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats
from infra.compiled import compiled
from models.baselines.available_history import coalesce, template_levels
from models.evaluation.bucketing import MAX_BUCKETS, replay_buckets
from models.histories.features import Level, Levels, encode
from models.past.recent import order_by_availability
from models.quantities.scout import MEMORY_MARGIN, MOST_JOBS, RAM_LADDER
from models.quantities.targets import Target

LATEST = 20
MEGABYTE = 2.0**20
MAX_CANDIDATES = 100
"""Of many outcomes so many quantiles are tried as Tovar's first allocation."""
P95, P75_PER_CORE, TOVAR, LARGEST, LATEST_LARGEST = range(5)
STATISTICS = 5


@dataclass(frozen=True)
class TemplateStatistics:
    """What the rules know of n jobs at submission, by the finest template with any outcome.

    Attributes:
        request: What was requested, bytes, never NaN; all are float64[n].
        cores: The requested cores.
        p95: The template's 95th percentile, NaN without any outcome, as all that follow.
        p75_per_core: The 75th percentile of the memory a core of its latest thousand jobs.
        tovar: Tovar's first allocation.
        largest: The most it used.
        latest_largest: The most of its last 20.
        greedy_buckets: A ladder drawn from the template's buckets, float64[n, rungs].
        exhaustive_buckets: The same from buckets found exhaustively.
    """

    request: Floats
    cores: Floats
    p95: Floats
    p75_per_core: Floats
    tovar: Floats
    largest: Floats
    latest_largest: Floats
    greedy_buckets: Floats
    exhaustive_buckets: Floats


def template_statistics(jobs: pd.DataFrame, target: Target, request: Floats) -> TemplateStatistics:
    """Compute what the rules know of each job at its submission.

    Args:
        jobs: The log, in order of submission.
        target: The memory.
        request: What each job requested, bytes.
    """
    templates = template_levels(jobs) or ((),)
    contexts = encode(jobs, Levels(tuple(Level(fields) for fields in templates), 0), True)
    values = target.value(jobs)
    cores = np.maximum(jobs["requested_cores"].fillna(1.0).to_numpy(np.float64), 1.0)
    order = order_by_availability(contexts.available_at, values)
    of_templates: list[Any] = []
    buckets: dict[bool, list[Any]] = {True: [], False: []}
    draws = np.random.default_rng(0).random((len(jobs), MAX_BUCKETS))
    for column in range(len(templates)):
        distinct, codes = np.unique(contexts.keys[:, column], return_inverse=True)
        of_templates.append(
            _replay(
                codes.astype(np.int64),
                len(distinct),
                contexts.at,
                contexts.available_at,
                values,
                cores,
                order,
            )
        )
        for greedy, drawn in buckets.items():
            drawn.append(
                replay_buckets(
                    codes.astype(np.int64),
                    len(distinct),
                    contexts.at,
                    contexts.available_at,
                    values,
                    order,
                    draws,
                    greedy,
                )
            )
    finest = [
        coalesce(*(statistics[:, number] for statistics in of_templates))
        for number in range(STATISTICS)
    ]
    of_buckets = (_finest_ladders(buckets[greedy], request) for greedy in (True, False))
    return TemplateStatistics(request, cores, *finest, *of_buckets)


def _finest_ladders(of_templates: list[Floats], request: Floats) -> Floats:
    """Take each job's ladder of the finest template that has one, else its request."""
    ladders = np.full(of_templates[0].shape, np.nan)
    ladders[:, 0] = request
    for coarser in reversed(of_templates):
        with_buckets = np.isfinite(coarser[:, 0])
        ladders[with_buckets] = coarser[with_buckets]
    return ladders


def _request(statistics: TemplateStatistics) -> Floats:
    return statistics.request[:, None]


def _scout(statistics: TemplateStatistics) -> Floats:
    per_core = np.floor(
        np.floor(statistics.p75_per_core / 1024 * (100 + MEMORY_MARGIN) / 100) / 1024
    )
    requested = statistics.request / statistics.cores / MEGABYTE
    first = np.where(np.isnan(statistics.p75_per_core), requested, np.maximum(per_core, 1.0))
    ladder = np.where(np.array(RAM_LADDER) > first[:, None], np.array(RAM_LADDER), np.nan)
    return np.column_stack([first, ladder]) * MEGABYTE * statistics.cores[:, None]


def _then_largest(first: Floats, statistics: TemplateStatistics) -> Floats:
    return np.column_stack(
        [coalesce(first, statistics.request), coalesce(statistics.largest, statistics.request)]
    )


@dataclass(frozen=True)
class Rule:
    """A row of the table.

    Attributes:
        name: Its name.
        meaning: What it allocates and how it retries.
        ladder: Its ladders, float64[n, rungs], NaN where there is none.
    """

    name: str
    meaning: str
    ladder: Callable[[TemplateStatistics], Floats]


RULES: tuple[Rule, ...] = (
    Rule("request", "the request; then doubled", _request),
    Rule(
        "scout", "PanDA's ramCount: P75 a core plus 10 %; then 1, 2, 3, 4, 6, 8 GB a core", _scout
    ),
    Rule(
        "percentile-95",
        "the template's 95th percentile; then its largest",
        lambda statistics: _then_largest(statistics.p95, statistics),
    ),
    Rule(
        "tovar",
        "least expected waste if its largest comes second (Tovar et al. 2018)",
        lambda statistics: _then_largest(statistics.tovar, statistics),
    ),
    Rule(
        "peak",
        "the template's largest plus 10 %; then doubled",
        lambda statistics: coalesce(statistics.largest * 1.1, statistics.request)[:, None],
    ),
    Rule(
        "last-20-max",
        "the largest of its last 20; then doubled",
        lambda statistics: coalesce(statistics.latest_largest, statistics.request)[:, None],
    ),
    Rule(
        "greedy-bucketing",
        "a bucket of the template's peaks, cut greedily, drawn by weight; then a larger one",
        lambda statistics: statistics.greedy_buckets,
    ),
    Rule(
        "exhaustive-bucketing",
        "the same, with the buckets of the least expected waste (Phung et al. 2021)",
        lambda statistics: statistics.exhaustive_buckets,
    ),
)
"""Every rule, in the order of the table."""


@compiled
def _replay(
    codes: Any, count: int, at: Any, available_at: Any, values: Any, cores: Any, order: Any
) -> Any:
    """Compute the statistics of each job's key at its submission (float64[n, STATISTICS]).

    Each key has a block of room for its outcomes, as they came and by size.
    """
    sizes = np.zeros(count + 1, np.int64)
    for row in order:
        sizes[codes[row] + 1] += 1
    start = np.cumsum(sizes)
    ended, computed = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    came, per_core, by_size = np.empty(len(order)), np.empty(len(order)), np.empty(len(order))
    of_key = np.full((count, STATISTICS), np.nan)
    statistics = np.full((len(codes), STATISTICS), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and available_at[order[position]] <= at[row]:
            outcome = order[position]
            key = codes[outcome]
            first, slot = start[key], start[key] + ended[key]
            came[slot], per_core[slot] = values[outcome], values[outcome] / cores[outcome]
            while slot > first and by_size[slot - 1] > values[outcome]:
                by_size[slot] = by_size[slot - 1]
                slot -= 1
            by_size[slot] = values[outcome]
            ended[key] += 1
            position += 1
        key = codes[row]
        if ended[key] > 0 and computed[key] != ended[key]:
            first, end = start[key], start[key] + ended[key]
            _compute(by_size[first:end], came[first:end], per_core[first:end], of_key[key])
            computed[key] = ended[key]
        statistics[row] = of_key[key]
    return statistics


@compiled
def _compute(by_size: Any, came: Any, per_core: Any, statistics: Any) -> None:
    count = len(by_size)
    statistics[P95] = by_size[int(np.ceil(0.95 * count)) - 1]
    statistics[LARGEST] = by_size[count - 1]
    statistics[LATEST_LARGEST] = came[max(0, count - LATEST) :].max()
    latest = np.sort(per_core[max(0, count - MOST_JOBS) :])
    rank = (len(latest) - 1) * 0.75
    below = int(rank)
    step_up = latest[min(below + 1, len(latest) - 1)] - latest[below]
    statistics[P75_PER_CORE] = latest[below] + (rank - below) * step_up
    least, candidates = np.inf, min(count, MAX_CANDIDATES)
    for step in range(candidates):
        # The largest outcome is always among the candidates.
        index = count - 1 - step * count // candidates
        cost = by_size[index] + by_size[count - 1] * (count - 1 - index) / count
        if cost < least:
            least, statistics[TOVAR] = cost, by_size[index]
