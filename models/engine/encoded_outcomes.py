"""Jobs that ended, encoded once for all slices in which a forecaster learns them."""

from __future__ import annotations

from dataclasses import dataclass

from infra.aliases import Array, Flags, Floats, Integers
from models.histories.features import Contexts


@dataclass(frozen=True)
class EncodedOutcomes:
    """Jobs that ended, encoded: of each target (row) the values and limits, float64[t, n]."""

    contexts: Contexts
    clusters: Array
    is_own: Flags
    values: Floats
    limits: Floats

    def take(self, rows: Integers) -> EncodedOutcomes:
        """The outcomes of some jobs."""
        return EncodedOutcomes(
            self.contexts.take(rows),
            self.clusters[rows],
            self.is_own[rows],
            self.values[:, rows],
            self.limits[:, rows],
        )
