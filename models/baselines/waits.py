"""How queue waits are predicted in the literature: statistics of the queue's recent waits, and QBETS' bound on them."""

from __future__ import annotations

from collections.abc import Callable

from infra.aliases import Floats
from models.baselines.available_history import Seen, first_known
from models.past.bounds import binomial_bounds
from models.past.load import key_of
from models.past.queues import QUEUE
from models.past.windows import Foresee, Past, statistics


def _point(foresee: Foresee) -> Callable[[Seen], Floats]:
    return lambda seen: first_known(
        foresee(Past(key_of(seen.jobs, QUEUE), seen.at, seen.known, seen.values)), seen.typical
    )


def qbets(seen: Seen) -> Floats:
    """The bound that 95 % of the queue's waits keep with a confidence of 95 %, and until there are 59 of them the longest so far."""
    keys = key_of(seen.jobs, QUEUE)
    return first_known(
        binomial_bounds(keys, seen.at, seen.known, seen.values), seen.everyone[:, 1], seen.typical
    )


def wait_baselines() -> dict[str, tuple[str, Callable[[Seen], Floats]]]:
    """Every baseline that gives a single value, as name: (meaning, predictions)."""
    return {
        name: (f"{meaning} waits in the queue", _point(foresee))
        for name, (meaning, foresee) in statistics().items()
    }
