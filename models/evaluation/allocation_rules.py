"""Rules: how memory is set aside today, each rule with its own way to try again after a failure.

All rules know what Gridcast knows, the jobs that had ended, and choose by the finest template of which anything is known; before that
the request decides. A rule answers with a ladder of allocations; after its last rung whoever runs the job doubles.
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
from models.histories.features import Level, Levels, encode
from models.past.recent import order_of_news
from models.quantities.scout import MEMORY_MARGIN, MOST_JOBS, RAM_LADDER
from models.quantities.targets import Target

LATEST = 20
MEGABYTE = 2.0**20
P95, P75, TOVAR, LARGEST, LATEST_LARGEST = range(5)
_CANDIDATES = 100


@dataclass(frozen=True)
class Known:
    """What the rules know of n jobs at submission: float64[n] each, of the finest template with any outcome, NaN where there is none.

    ``request`` is what was asked for (never NaN); ``p95`` the template's 95th percentile, ``scouts`` P75 of the memory a core of its latest
    thousand, ``tovar`` Tovar's first allocation, ``largest`` the most it used, ``latest`` the most of its last 20.
    """

    request: Floats
    cores: Floats
    p95: Floats
    scouts: Floats
    tovar: Floats
    largest: Floats
    latest: Floats


def known(jobs: pd.DataFrame, target: Target, request: Floats) -> Known:
    """Replay ``jobs`` (in order of submission) and note what the rules knew at each; ``request`` float64[n] in bytes."""
    templates = template_levels(jobs) or ((),)
    contexts = encode(jobs, Levels(tuple(Level(fields) for fields in templates), 0))
    values, cores = (
        target.value(jobs),
        np.maximum(jobs["requested_cores"].fillna(1.0).to_numpy(np.float64), 1.0),
    )
    order = order_of_news(contexts.available_at, values)
    found = []
    for place in range(len(templates)):
        distinct, codes = np.unique(contexts.keys[:, place], return_inverse=True)
        found.append(
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
    part = [coalesce(*(columns[:, which] for columns in found)) for which in range(5)]
    return Known(
        request, cores, part[P95], part[P75], part[TOVAR], part[LARGEST], part[LATEST_LARGEST]
    )


def _request(known: Known) -> Floats:
    return known.request[:, None]


def _scout(known: Known) -> Floats:
    per_core = np.floor(np.floor(known.scouts / 1024 * (100 + MEMORY_MARGIN) / 100) / 1024)
    first = np.where(
        np.isnan(known.scouts), known.request / known.cores / MEGABYTE, np.maximum(per_core, 1.0)
    )
    ladder = np.where(np.array(RAM_LADDER) > first[:, None], np.array(RAM_LADDER), np.nan)
    return np.column_stack([first, ladder]) * MEGABYTE * known.cores[:, None]


def _then_largest(first: Floats, known: Known) -> Floats:
    return np.column_stack([coalesce(first, known.request), coalesce(known.largest, known.request)])


@dataclass(frozen=True)
class Rule:
    """A row of the table: its name, what it is and its retries, and its ladders (float64[n, rungs], NaN where there is none)."""

    name: str
    meaning: str
    ladder: Callable[[Known], Floats]


RULES: tuple[Rule, ...] = (
    Rule("request", "what was asked for; then doubled", _request),
    Rule(
        "scout", "PanDA's ramCount: P75 a core plus 10 %; then 1, 2, 3, 4, 6, 8 GB a core", _scout
    ),
    Rule(
        "percentile-95",
        "the template's 95th percentile; then its largest",
        lambda known: _then_largest(known.p95, known),
    ),
    Rule(
        "tovar",
        "least expected waste if its largest comes second (Tovar et al. 2018)",
        lambda known: _then_largest(known.tovar, known),
    ),
    Rule(
        "peak",
        "the template's largest plus 10 %; then doubled",
        lambda known: coalesce(known.largest * 1.1, known.request)[:, None],
    ),
    Rule(
        "last-20-max",
        "the largest of its last 20; then doubled",
        lambda known: coalesce(known.latest, known.request)[:, None],
    ),
)
"""Every rule, in the order of the table."""


@compiled
def _replay(
    codes: Any, count: int, at: Any, known: Any, values: Any, cores: Any, order: Any
) -> Any:
    """What each job's key had shown by its submission, a column a fact; each key has a block for its outcomes as they came and by size."""
    sizes = np.zeros(count + 1, np.int64)
    for row in order:
        sizes[codes[row] + 1] += 1
    start = np.cumsum(sizes)
    seen, told = np.zeros(count, np.int64), np.full(count, -1, np.int64)
    came, share, by_size = np.empty(len(order)), np.empty(len(order)), np.empty(len(order))
    facts, found = np.full((count, 5), np.nan), np.full((len(codes), 5), np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and known[order[position]] <= at[row]:
            done = order[position]
            key = codes[done]
            first, place = start[key], start[key] + seen[key]
            came[place], share[place] = values[done], values[done] / cores[done]
            while place > first and by_size[place - 1] > values[done]:
                by_size[place] = by_size[place - 1]
                place -= 1
            by_size[place] = values[done]
            seen[key] += 1
            position += 1
        key = codes[row]
        if seen[key] > 0 and told[key] != seen[key]:
            first, last = start[key], start[key] + seen[key]
            _tell(by_size[first:last], came[first:last], share[first:last], facts[key])
            told[key] = seen[key]
        found[row] = facts[key]
    return found


@compiled
def _tell(by_size: Any, came: Any, share: Any, facts: Any) -> None:
    count = len(by_size)
    facts[P95] = by_size[int(np.ceil(0.95 * count)) - 1]
    facts[LARGEST] = by_size[count - 1]
    facts[LATEST_LARGEST] = came[max(0, count - LATEST) :].max()
    scouts = np.sort(share[max(0, count - MOST_JOBS) :])
    k = (len(scouts) - 1) * 0.75
    below = int(k)
    facts[P75] = scouts[below] + (k - below) * (
        scouts[min(below + 1, len(scouts) - 1)] - scouts[below]
    )
    least = np.inf
    for step in range(min(count, _CANDIDATES)):
        # Of many outcomes a hundred quantiles are tried; the largest is always among them.
        place = count - 1 - step * count // min(count, _CANDIDATES)
        cost = by_size[place] + by_size[count - 1] * (count - 1 - place) / count
        if cost < least:
            least, facts[TOVAR] = cost, by_size[place]
