"""What is known of queues or links: the forecaster that learned them, and what one who comes now would see of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.aliases import Array
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
"""The latest records that queues and links are learned from: a key's history looks at its last hundreds, and a grid's busiest day is
less. Beside them those not seen to end, for as long as they may wait."""
LONGEST = 1e9
"""Seconds; what is never done is taken to take so long."""


@dataclass(frozen=True)
class LoadForecaster:
    """What one kind of record has taught. ``source`` stands for a candidate's where it names none; ``told`` are the known outcomes."""

    forecaster: Forecaster
    around: CurrentSurroundings
    source: str | None
    told: pd.Index[Any]

    @staticmethod
    def learned_from(
        records: pd.DataFrame, target: str, before: LoadForecaster | None = None
    ) -> LoadForecaster | None:
        """Learn from ``records``, jobs for waits and transfers for transfer times; None where none of them tells an outcome.

        What ``before`` knew is not learned again.
        """
        forecaster = before.forecaster if before else Forecaster(None, (target,))
        subject = forecaster.subject
        assert subject.add_surroundings is not None and subject.current_surroundings is not None  # noqa: S101
        names = _names(records, subject)
        known = records[subject.outcome_time].notna().to_numpy()
        if not known.any():
            return None
        news = known & ~names.isin(before.told) if before else known
        if news.any():
            # In the order of submission both ways, so that rows stay where they were.
            order = np.argsort(records["submitted_at"].to_numpy(), kind="stable")
            forecaster.learn(subject.add_surroundings(records)[news[order]])
        return LoadForecaster(
            forecaster,
            subject.current_surroundings(records),
            str(records["source"].mode().iloc[0]),
            names[known],
        )

    def points(self, asked: CodedJobs, now: int) -> Array:
        """Stochastic values for records that would be submitted ``now`` (microseconds): float64[n, POINTS]."""
        return predicted_points(
            self.forecaster, self.around.observe(with_source(asked, self.source), now)
        )


def _names(records: pd.DataFrame, subject: Subject) -> pd.Index[Any]:
    source, name = subject.identity
    return pd.Index(records[source].astype(object) + "\0" + records[name].astype(object))


def predicted_points(forecaster: Forecaster, asked: CodedJobs) -> Array:
    """What a forecaster says of records, as calibrated points (float64[n, POINTS])."""
    values, which = forecaster.quantiles(asked, LEVELS)
    return np.nan_to_num(values, posinf=LONGEST)[which]


def with_source(asked: CodedJobs, source: str | None) -> CodedJobs:
    """``asked``, from ``source`` where they do not say from which."""
    given: Coded = asked["source"]
    if source is None or not len(given.codes) or given.codes.min() >= 0:
        return asked
    filled = Coded(
        np.where(given.codes < 0, len(given.values), given.codes), [*given.values, source]
    )
    return CodedJobs({**asked.columns, "source": filled}, len(asked))


def read_recent(engine: Engine, record: Record) -> pd.DataFrame:
    """The records of the store that queues or links are learned from."""
    return read_latest(engine, MOST, record, open_for=LONGEST_WAIT)
