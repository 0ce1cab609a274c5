"""The jobs of a log as arrays, with the outcomes in the order in which they became available."""

from __future__ import annotations

from dataclasses import dataclass, fields, replace

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats, Integers
from models.histories.features import NOT_AVAILABLE, Contexts, Levels, encode
from models.histories.mixture import outcome_order
from models.quantities.targets import Target
from models.refiner.clusters import By, Clusters, find_clusters
from models.refiner.selection import before_windows

MAX_TRAINING_ROWS = 30_000
"""A refiner is trained on so many of the outcomes that became available last, at most."""


@dataclass(frozen=True)
class LogRows:
    """The jobs of a log as arrays, a row a job in the order given.

    ``values`` float64[n] are the outcomes (NaN unknown), ``limits`` float64[n] where the system
    stops a job (infinite for nowhere); ``outcome_order`` are the rows with an outcome, in the order
    in which these became available.
    """

    contexts: Contexts
    values: Floats
    limits: Floats
    outcome_order: Integers

    @staticmethod
    def of(jobs: pd.DataFrame, target: Target, levels: Levels, until: int | None = None) -> LogRows:
        """Encode ``jobs``; outcomes that became available after ``until`` (µs) are left out.

        Args:
            jobs: The jobs.
            target: The target.
            levels: The levels of the histories.
            until: The latest time of an outcome, in µs; None: all.
        """
        return LogRows.of_contexts(
            encode(jobs, levels), target.value(jobs), target.limit(jobs), until
        )

    @staticmethod
    def of_contexts(
        contexts: Contexts, values: Floats, limits: Floats, until: int | None = None
    ) -> LogRows:
        """The rows of encoded jobs; outcomes after ``until`` (µs) are left out.

        Args:
            contexts: The encoded jobs.
            values: The outcomes, float64[n].
            limits: The limits of the outcomes, float64[n].
            until: The latest time of an outcome, in µs; None: all.
        """
        if until is not None:
            late = contexts.available_at > until
            contexts = replace_availability(contexts, late)
            values = np.where(late, np.nan, values)
        return LogRows(contexts, values, limits, outcome_order(contexts, values))

    def with_queries(self, contexts: Contexts) -> LogRows:
        """Append queries without outcomes or limits, to be predicted at ``contexts.at``."""
        joined = {
            field.name: np.concatenate(
                [getattr(self.contexts, field.name), getattr(contexts, field.name)]
            )
            for field in fields(Contexts)
        }
        unknown = np.full(len(contexts), np.nan)
        return LogRows(
            Contexts(**joined),
            np.append(self.values, unknown),
            np.append(self.limits, np.full(len(contexts), np.inf)),
            self.outcome_order,
        )

    def __len__(self) -> int:
        return len(self.values)

    def available(self, at: int) -> int:
        """How many outcomes had become available at ``at`` (µs)."""
        available_at = self.contexts.available_at[self.outcome_order]
        return int(np.searchsorted(available_at, at, side="right"))

    def find_clusters(self, jobs: pd.DataFrame, by: By | None, at: int) -> Clusters:
        """Find clusters by the outcomes available at ``at`` before the windows of the selection.

        Args:
            jobs: The jobs.
            by: The field to cluster by; None: no clusters.
            at: The time, in µs.
        """
        ended = self.outcome_order[: self.available(at)]
        early = before_windows(ended, MAX_TRAINING_ROWS)
        clusters = find_clusters(jobs.iloc[early], self.values[early], by)
        per_source = "source" in jobs and jobs["source"].nunique() > 1
        return replace(clusters, per_source=per_source)


def replace_availability(contexts: Contexts, hidden: Array) -> Contexts:
    """Return the contexts without the outcomes of the ``hidden`` rows (bool[n])."""
    available_at = np.where(hidden, NOT_AVAILABLE, contexts.available_at)
    return replace(contexts, available_at=available_at)
