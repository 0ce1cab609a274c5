"""Policies: the order of the queue, what may slip in front, what is asked of the prediction, and how long anyone may wait.

What orders the queue, what says that a job ends before a reservation, and when a running job is thought to end need not be the
same quantity, so a policy asks the predictor for three: ``rank``, ``fit`` and ``finish``. Each is "point", "median", "mean",
"log-mean", "request", a quantile such as "q0.9", or Schopf's mean plus a tuning factor of standard deviations, "mean+1sd".
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
"""A job that has waited this long is served by arrival, before all others, with a reservation by its request."""
LATEST = 120 * HOUR
"""The same where the order itself makes waiting count: a safety net, since serving by arrival costs everybody else dearly."""


class PolicyError(InputError):
    """There is no such policy, predictor or corrector, or a setting is wrong; the message is one sentence."""


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
    """Whether the waiting jobs of an owner are asked about again when a job of theirs has ended."""

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

    def with_(
        self,
        bound: float | None = None,
        rank: str | None = None,
        fit: str | None = None,
        finish: str | None = None,
    ) -> Policy:
        """The same policy with other settings; raises PolicyError for a bound that is no length of time."""
        if bound is not None and (isnan(bound) or bound < 0):
            raise PolicyError(f"the bound on waiting must be seconds, 0 or more, not {bound}")
        given = {"bound": bound, "rank": rank, "fit": fit, "finish": finish}
        return replace(self, **{name: value for name, value in given.items() if value is not None})  # type: ignore[arg-type]


def _ordered(name: str, meaning: str, order: int) -> Policy:
    return Policy(
        name, f"{meaning}; EASY backfill in the same order", order, EASY, order, bound=BOUND
    )


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (
        Policy("fcfs", "first come, first served, nobody slips in front", backfill=NONE),
        Policy(
            "easy",
            "first come, first served; others may slip in front of the first if they do not delay it",
        ),
        Policy(
            "easy-sjbf",
            "EASY, the shortest of those that may slip in front first",
            backfill_order=orders.SHORTEST,
        ),
        Policy(
            "conservative",
            "every waiting job has a reservation that nobody may delay",
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
            "shortest mean first, 12 h of waiting making up for twice the length; backfill by the mean, reservations by the request",
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
            "the owner furthest below their quota first, waiting counted (as ALICE's task queue)",
            orders.QUOTA,
        ),
    )
}


def policy_named(name: str) -> Policy:
    """The policy of that name; raises PolicyError with the names there are."""
    if name not in POLICIES:
        raise PolicyError(f"there is no policy {name!r}; there are {', '.join(POLICIES)}")
    return POLICIES[name]
