"""Correctors: the new prediction of a running job that has exceeded its prediction."""

from __future__ import annotations

from dataclasses import dataclass

from scheduling.events import REMAINING, STEPS, TO_REQUEST
from scheduling.policies import PolicyError


@dataclass(frozen=True)
class Corrector:
    """A row of ``CORRECTORS``: its name, what it does, its code in the kernel."""

    name: str
    meaning: str
    code: int


CORRECTORS: dict[str, Corrector] = {
    corrector.name: corrector
    for corrector in (
        Corrector("request", "to the requested walltime", TO_REQUEST),
        Corrector(
            "incremental",
            "1 min more, then 5, 15, 30 min, 1, 2, 5, 10, 20, 50, 100 h (Tsafrir 2007)",
            STEPS,
        ),
        Corrector("remaining", "to the predictor's E[T | T > t]", REMAINING),
    )
}


def corrector_named(name: str) -> Corrector:
    """The corrector of that name; raises PolicyError with the names there are."""
    if name not in CORRECTORS:
        raise PolicyError(f"there is no corrector {name!r}; there are {', '.join(CORRECTORS)}")
    return CORRECTORS[name]
