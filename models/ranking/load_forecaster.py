"""Waits at sites and transfer times on links, predicted from past records and the current load."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags
from jobs.coded_jobs import Coded, CodedJobs
from jobs.schema import Record
from jobs.store import read_latest
from models.engine.forecaster import Forecaster
from models.past.queues import LONGEST_WAIT
from models.past.surroundings import CurrentSurroundings
from models.quantities.stochastic import LEVELS
from models.quantities.subjects import Subject

if TYPE_CHECKING:
    from sqlalchemy import Engine


MOST = 30_000
"""The latest ended records to learn from: a key's history looks at its last hundreds, and the
busiest day of a grid has fewer. Open records are read as far back as a job may wait."""
LONGEST = 1e9
"""Stands for an infinite duration, s."""
HIGHEST_LEVEL = 0.98
"""Stochastic values end at this quantile: above it lies what histories keep for outcomes never
seen, which would dominate every mean."""
_PLACES = ("site", "from_endpoint", "to_endpoint")


@dataclass(frozen=True)
class LoadForecaster:
    """A forecaster of one kind of record, and the load of queues or links at the moment.

    ``source`` is assumed for queries that name none; ``learned_ids`` are the records whose outcomes
    were learned; ``places`` the sites or endpoints that any of them names.
    """

    forecaster: Forecaster
    surroundings: CurrentSurroundings
    source: str | None
    learned_ids: pd.Index[Any]
    places: frozenset[str] = frozenset()

    @staticmethod
    def learned_from(
        records: pd.DataFrame, target: str, previous: LoadForecaster | None = None
    ) -> LoadForecaster | None:
        """Learn from jobs (for waits) or transfers (for transfer times).

        Args:
            records: Ended and open records; the open ones make up the current load.
            target: "wait" or "transfer_time".
            previous: What was learned before; its records are not learned again.

        Returns:
            None where no record has an outcome.
        """
        forecaster = previous.forecaster if previous else Forecaster(None, (target,))
        subject = forecaster.subject
        assert subject.add_surroundings is not None  # noqa: S101
        assert subject.current_surroundings is not None  # noqa: S101
        ids = _record_ids(records, subject)
        has_outcome = records[subject.outcome_time].notna().to_numpy()
        if not has_outcome.any():
            return None
        is_new = has_outcome & ~ids.isin(previous.learned_ids) if previous else has_outcome
        if is_new.any():
            # Surroundings are computed of all rows in order of submission, then the new ones taken.
            order = np.argsort(records["submitted_at"].to_numpy(), kind="stable")
            forecaster.learn(subject.add_surroundings(records)[is_new[order]])
        columns = [name for name in _PLACES if name in records]
        texts = (records.loc[has_outcome, name].dropna() for name in columns)
        places = frozenset(str(text) for values in texts for text in values.unique())
        return LoadForecaster(
            forecaster,
            subject.current_surroundings(records),
            str(records["source"].mode().iloc[0]),
            ids[has_outcome],
            places | (previous.places if previous else frozenset()),
        )

    def points(self, queries: CodedJobs, now: int) -> Array:
        """Stochastic values of records submitted at ``now`` (microseconds), float64[n, POINTS]."""
        queries = with_source(queries, self.source)
        return predicted_points(self.forecaster, self.surroundings.observe(queries, now))

    def has_seen(self, names: Coded) -> Flags:
        """Whether any learned record names the site or endpoint of each row (bool[n])."""
        seen = np.array([*(name in self.places for name in names.values), False])
        return np.asarray(seen[names.codes])


def _record_ids(records: pd.DataFrame, subject: Subject) -> pd.Index[Any]:
    source, name = subject.identity
    return pd.Index(records[source].astype(object) + "\0" + records[name].astype(object))


def predicted_points(forecaster: Forecaster, queries: CodedJobs) -> Array:
    """Calibrated quantiles of each query at the levels of stochastic values, float64[n, POINTS]."""
    values, context_of_row = forecaster.quantiles(queries, np.minimum(LEVELS, HIGHEST_LEVEL))
    return np.nan_to_num(values, posinf=LONGEST)[context_of_row]


def with_source(queries: CodedJobs, source: str | None) -> CodedJobs:
    """``queries``, with ``source`` for those that name none."""
    column: Coded = queries["source"]
    if source is None or not len(column.codes) or column.codes.min() >= 0:
        return queries
    codes = np.where(column.codes < 0, len(column.values), column.codes)
    filled = Coded(codes, [*column.values, source])
    return CodedJobs({**queries.columns, "source": filled}, len(queries))


def read_recent(engine: Engine, record: Record) -> pd.DataFrame:
    """The stored records that waits or transfer times are learned from."""
    return read_latest(engine, MOST, record, open_for=LONGEST_WAIT)
