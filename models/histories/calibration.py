"""Calibration: ranges trimmed online, so that a 90 % range holds nine outcomes of ten.

Each ended job tells where its outcome lay in the distribution that it had been given. Decayed histograms of these places
say which level of the raw distribution really has a twentieth of the outcomes below it, and which a twentieth above.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled

STEPS = 400
FORGET = 0.9995
PRIOR = 200.0


def _flat() -> Array:
    return np.full(STEPS, PRIOR / STEPS)


@dataclass
class Calibration:
    """Decayed histograms (float64[STEPS]) of the mass up to and with the outcome's bin, and of the mass below it."""

    upto: Array = field(default_factory=_flat)
    below: Array = field(default_factory=_flat)

    def learn(self, below: Array, upto: Array) -> None:
        """Take in where outcomes lay (float64[n] each, in the order in which they became known)."""
        _add(self.upto, upto)
        _add(self.below, below)

    def level(self, wanted: float) -> float:
        """The level of the raw distribution whose quantile is the calibrated quantile at ``wanted`` (0 to 1)."""
        if wanted == 0.5:
            return 0.5
        return float(_level(self.upto if wanted < 0.5 else self.below, wanted))

    def copy(self) -> Calibration:
        """A calibration that may learn on its own."""
        return Calibration(self.upto.copy(), self.below.copy())

    def replay(
        self,
        below: Array,
        upto: Array,
        order: Array,
        place: int,
        known: Array,
        at: Array,
        wanted: Array,
    ) -> tuple[Array, int]:
        """Live through outcome_order (``order[place:]``, by ``known``) and submissions (``at``, ascending) together.

        Returns float64[n, wanted], the calibrated levels in force at each submission, and the new place in ``order``.
        """
        return _replay(self.upto, self.below, below, upto, order, place, known, at, wanted)

    def to_json(self) -> dict[str, list[float]]:
        """As plain JSON values."""
        return {"upto": self.upto.tolist(), "below": self.below.tolist()}

    @staticmethod
    def from_json(text: dict[str, Any]) -> Calibration:
        """The opposite of ``to_json``."""
        return Calibration(
            np.array(text["upto"], dtype=float), np.array(text["below"], dtype=float)
        )


@compiled
def _add(histogram: Array, places: Array) -> None:
    for place in places:
        if np.isfinite(place):
            histogram *= FORGET
            histogram[min(max(int(place * STEPS), 0), STEPS - 1)] += 1.0


@compiled
def _level(histogram: Array, wanted: float) -> float:
    """The place that ``wanted`` of the histogram's mass lies below; a low level stays below a half, a high one above."""
    need = wanted * histogram.sum()
    reached = 0.0
    level = 1.0
    for step in range(STEPS):
        if reached + histogram[step] >= need:
            level = (step + (need - reached) / max(histogram[step], 1e-12)) / STEPS
            break
        reached += histogram[step]
    return min(level, 0.499) if wanted < 0.5 else max(level, 0.501)


@compiled
def _replay(
    upto_histogram: Array,
    below_histogram: Array,
    below: Array,
    upto: Array,
    order: Array,
    place: int,
    known: Array,
    at: Array,
    wanted: Array,
) -> tuple[Array, int]:
    out = np.empty((len(at), len(wanted)))
    levels = np.empty(len(wanted))
    stale = True
    for row in range(len(at)):
        while place < len(order) and known[order[place]] <= at[row]:
            job = order[place]
            _add(upto_histogram, upto[job : job + 1])
            _add(below_histogram, below[job : job + 1])
            stale = True
            place += 1
        if stale:
            for i in range(len(wanted)):
                levels[i] = (
                    0.5
                    if wanted[i] == 0.5
                    else _level(upto_histogram if wanted[i] < 0.5 else below_histogram, wanted[i])
                )
            stale = False
        out[row] = levels
    return out, place
