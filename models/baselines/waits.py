"""Baselines of queue waits: statistics of the queue's recent waits, and the bound of QBETS."""

from __future__ import annotations

from collections.abc import Callable

from infra.aliases import Floats
from models.baselines.available_history import AvailableHistory, coalesce
from models.past.bounds import binomial_bounds
from models.past.load import key_of
from models.past.queues import QUEUE
from models.past.windows import Past, Statistic, statistics


def _point(statistic: Statistic) -> Callable[[AvailableHistory], Floats]:
    return lambda history: coalesce(
        statistic(
            Past(
                key_of(history.jobs, QUEUE),
                history.submitted_at,
                history.available_at,
                history.values,
            )
        ),
        history.fallback,
    )


def qbets(history: AvailableHistory) -> Floats:
    """The upper bound of the 95th percentile of the queue's waits at 95 % confidence.

    Until there are 59 waits it is the 95th percentile of all waits.
    """
    keys = key_of(history.jobs, QUEUE)
    return coalesce(
        binomial_bounds(keys, history.submitted_at, history.available_at, history.values),
        history.all_quantiles[:, 1],
        history.fallback,
    )


def wait_baselines() -> dict[str, tuple[str, Callable[[AvailableHistory], Floats]]]:
    """Every baseline that gives a single value, as name: (meaning, predictions)."""
    return {
        name: (f"{meaning} waits in the queue", _point(statistic))
        for name, (meaning, statistic) in statistics().items()
    }
