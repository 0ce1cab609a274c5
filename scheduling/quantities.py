"""The quantities of a prediction that a policy may use."""

from __future__ import annotations

from scheduling.policies import PolicyError

NAMED = ("point", "median", "mean", "log-mean", "request")


def warm_up(jobs: int) -> int:
    """How many of a log's first jobs decide which fields predictors use: a tenth, at least 1000."""
    return max(1000, jobs // 10)


def check_quantity(quantity: str) -> None:
    """Raise PolicyError unless ``quantity`` is the name of one."""
    if quantity not in NAMED:
        parse_quantity(quantity)


def parse_quantity(quantity: str) -> tuple[float | None, float]:
    """The level of a quantile ("q0.9"), or the tuning factor of Schopf's rule ("mean+1.5sd").

    Raises:
        PolicyError: It is neither.
    """
    try:
        if quantity.startswith("q") and 0 < float(quantity[1:]) < 1:
            return float(quantity[1:]), 0.0
        if quantity.startswith("mean+") and quantity.endswith("sd"):
            return None, float(quantity[5:-2])
    except ValueError:
        pass
    raise PolicyError(
        f"{quantity!r} is no quantity of a prediction: "
        "point, median, mean, log-mean, request, q0.9 or mean+1sd"
    )
