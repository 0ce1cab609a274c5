"""How queue waits are predicted in the literature: statistics of the queue's recent waits, and QBETS' bound on them."""

from __future__ import annotations

from collections.abc import Callable

from infra.aliases import Floats
from models.baselines.available_history import AvailableHistory, coalesce
from models.past.bounds import binomial_bounds
from models.past.load import key_of
from models.past.queues import QUEUE
from models.past.windows import Past, Statistic, statistics


def _point(statistic: Statistic) -> Callable[[AvailableHistory], Floats]:
    return lambda seen: coalesce(
        statistic(
            Past(key_of(seen.jobs, QUEUE), seen.submitted_at, seen.available_at, seen.values)
        ),
        seen.fallback,
    )


def qbets(seen: AvailableHistory) -> Floats:
    """The bound that 95 % of the queue's waits keep with a confidence of 95 %, and until there are 59 of them the longest so far."""
    keys = key_of(seen.jobs, QUEUE)
    return coalesce(
        binomial_bounds(keys, seen.submitted_at, seen.available_at, seen.values),
        seen.all_quantiles[:, 1],
        seen.fallback,
    )


def wait_baselines() -> dict[str, tuple[str, Callable[[AvailableHistory], Floats]]]:
    """Every baseline that gives a single value, as name: (meaning, predictions)."""
    return {
        name: (f"{meaning} waits in the queue", _point(foresee))
        for name, (meaning, foresee) in statistics().items()
    }
