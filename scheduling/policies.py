"""Policies: queue order, backfilling, quantities of predictions, bound on waiting.

What orders the queue, what decides that a job ends before a reservation, and when a running job is
expected to end need not be the same quantity, so a policy has three: ``rank``, ``fit`` and
``finish``. Each is "point", "median", "mean", "log-mean", "request", a quantile such as "q0.9", or
Schopf's mean plus a tuning factor of standard deviations, "mean+1sd".
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from math import inf, isnan

from infra.errors import InputError
from scheduling import orders
from scheduling.backfill import CONSERVATIVE, EASY, NONE
from scheduling.state import Rules

HOUR = 3600.0
BOUND = 72 * HOUR
"""After this wait a job is served before all others, in order of arrival, by its request."""
LATEST = 120 * HOUR
"""The same where the order counts waiting: later, as serving by arrival costs others much."""


class PolicyError(InputError):
    """There is no such policy, predictor or corrector, or a setting is wrong."""


@dataclass(frozen=True)
class Policy:
    """One way to schedule; times in s."""

    name: str
    meaning: str
    order: int = orders.ARRIVAL
    backfill: int = EASY
    backfill_order: int = orders.ARRIVAL
    rank: str = "point"
    fit: str = "point"
    finish: str = "point"
    bound: float = inf
    half_life: float = 7 * 24 * HOUR
    refresh: bool = False
    """Whether an owner's waiting jobs are predicted again when a job of the owner has ended."""

    def rules(self, corrector: int) -> Rules:
        """As the kernel reads it."""
        return Rules(
            self.order,
            self.backfill,
            self.backfill_order,
            corrector,
            self.bound,
            self.half_life,
            self.refresh,
        )

    def with_settings(
        self,
        bound: float | None = None,
        rank: str | None = None,
        fit: str | None = None,
        finish: str | None = None,
    ) -> Policy:
        """The same policy with other settings.

        Args:
            bound: See the fields of the policy; None: unchanged.
            rank: Likewise.
            fit: Likewise.
            finish: Likewise.

        Raises:
            PolicyError: The bound is no length of time.
        """
        if bound is not None and (isnan(bound) or bound < 0):
            raise PolicyError(f"the bound on waiting must be seconds, 0 or more, not {bound}")
        settings = {"bound": bound, "rank": rank, "fit": fit, "finish": finish}
        changes = {name: value for name, value in settings.items() if value is not None}
        return replace(self, **changes)  # type: ignore[arg-type]


def _ordered(name: str, meaning: str, order: int) -> Policy:
    return Policy(
        name, f"{meaning}; EASY backfill in the same order", order, EASY, order, bound=BOUND
    )


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("fcfs", "first come, first served, without backfilling", backfill=NONE),
        Policy(
            "easy",
            "first come, first served; jobs that do not delay the first may be backfilled",
        ),
        Policy(
            "easy-sjbf",
            "EASY, backfilling the shortest job first",
            backfill_order=orders.SHORTEST,
        ),
        Policy(
            "conservative",
            "every waiting job has a reservation that no later job may delay",
            backfill=CONSERVATIVE,
        ),
        _ordered("sjf", "shortest first", orders.SHORTEST),
        _ordered("largest-first", "most cores first", orders.LARGEST),
        _ordered("area", "smallest cores × run time first", orders.SMALLEST_AREA),
        _ordered(
            "smith",
            "Smith's rule: smallest area over weight first, weighted as bounded slowdown does",
            orders.SMITH,
        ),
        _ordered("xfactor", "largest expansion factor first: (wait + run) / run", orders.EXPANSION),
        Policy(
            "gridcast",
            "shortest mean first, 12 h of waiting making up for twice the length; "
            "backfill by the mean, reservations by the request",
            orders.AGED,
            EASY,
            orders.AGED,
            rank="mean",
            fit="mean",
            finish="request",
            bound=LATEST,
        ),
        _ordered(
            "aged", "shortest first, 12 h of waiting making up for twice the length", orders.AGED
        ),
        _ordered("fair-share", "the owner who used least for their share first", orders.FAIR_SHARE),
        _ordered(
            "quota",
            "the owner furthest below their quota first, counting waits (as ALICE's task queue)",
            orders.QUOTA,
        ),
    )
}


def policy_named(name: str) -> Policy:
    """The policy of that name; raises PolicyError with the names there are."""
    if name not in POLICIES:
        raise PolicyError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]
