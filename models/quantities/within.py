"""Whether outcomes lie within a bound, and how large they are then."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infra.aliases import Array, Floats

_NOTHING = 1e-9


@dataclass(frozen=True)
class Bounds:
    """Bounds of the outcomes of n jobs.

    Attributes:
        upper: float64[n].
        beyond: What each outcome exceeds already, such as the seconds that a job has run
            (float64[n]); None for nothing.
    """

    upper: Floats
    beyond: Floats | None = None

    def take(self, rows: Array) -> Bounds:
        """Return those of some rows."""
        return Bounds(self.upper[rows], None if self.beyond is None else self.beyond[rows])


@dataclass(frozen=True)
class Within:
    """Outcomes T of n jobs that exceed b already (0 for none), and a bound.

    Attributes:
        probability: P(T ≤ bound | T > b), float64[n].
        mean: E[T | b < T ≤ bound], float64[n]; 0 where that cannot be.
    """

    probability: Floats
    mean: Floats

    @staticmethod
    def between(start: tuple[Floats, Floats, Floats], end: tuple[Floats, Floats, Floats]) -> Within:
        """Combine what lies below two places.

        A job beyond all that its distribution holds has no probability of ending in time.

        Args:
            start: What lies below b: its calibrated and its raw share, and E[T; T ≤ b].
            end: The same of the bound.
        """
        (share, raw, moment), (end_share, end_raw, end_moment) = start, end
        rest, mass = 1.0 - share, end_raw - raw
        probability = np.clip((end_share - share) / np.maximum(rest, _NOTHING), 0.0, 1.0)
        mean = (end_moment - moment) / np.maximum(mass, _NOTHING)
        return Within(
            np.where(rest > _NOTHING, probability, 0.0), np.where(mass > _NOTHING, mean, 0.0)
        )

    def copy(self) -> Within:
        """Return a copy."""
        return Within(self.probability.copy(), self.mean.copy())

    def put(self, rows: Array, within: Within) -> None:
        """Overwrite some rows."""
        self.probability[rows], self.mean[rows] = within.probability, within.mean

    def take(self, rows: Array) -> Within:
        """Return those of some rows."""
        return Within(self.probability[rows], self.mean[rows])
