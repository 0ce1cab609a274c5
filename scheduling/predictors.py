"""Predictors of a replay: what a scheduler asks of a job that is submitted, waits or runs.

A predictor learns a job's run time when the job ends in the replay, not when it ended in the log.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Protocol

import pandas as pd

from infra.aliases import Floats, Integers
from models.baselines.catalogue import BASELINES
from scheduling.baseline_predictor import BaselinePredictor
from scheduling.policies import PolicyError
from scheduling.trace import Trace

if TYPE_CHECKING:
    from models.engine.model_set import ModelSet


class Predictor(Protocol):
    """What the replay calls; rows are indices of jobs in the trace, times in s."""

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """Take in jobs that have ended in the replay.

        Args:
            rows: The jobs.
            ended: When they ended, s since the first submission.
            lengths: How long they ran.
        """
        ...

    def predict(self, rows: Integers, quantity: str, now: float) -> Floats:
        """Predict walltimes of waiting jobs from what had ended by ``now``, float64[rows].

        Args:
            rows: The jobs.
            quantity: See ``scheduling.policies``; a predictor of a single value ignores it.
            now: The time in the replay.
        """
        ...

    def remaining(self, row: int, ran: float, now: float) -> float:
        """Predict the walltime of a running job, given that it has run ``ran`` s without ending.

        Args:
            row: The row of the job.
            ran: How long it has run, in s.
            now: The present.
        """
        ...


class Fixed:
    """A predictor that has its answer before the replay: the request, or the truth."""

    def __init__(self, answers: Floats) -> None:
        self.answers = answers

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """Nothing to learn.

        Args:
            rows: The rows of the ended jobs.
            ended: When each ended, in s.
            lengths: Their walltimes, in s.
        """

    def predict(self, rows: Integers, quantity: str, now: float) -> Floats:
        """The answer.

        Args:
            rows: The rows of the jobs.
            quantity: The statistic to predict.
            now: The present.
        """
        return self.answers[rows]

    def remaining(self, row: int, ran: float, now: float) -> float:
        """The answer, or a second more than the job has run where that is exceeded.

        Args:
            row: The row of the job.
            ran: How long it has run, in s.
            now: The present.
        """
        return float(max(self.answers[row], ran + 1.0))


@dataclass(frozen=True)
class PredictorKind:
    """A row of ``PREDICTORS``: its name, what it is, and how to make it for a trace."""

    name: str
    meaning: str
    make: Callable[[Trace], Predictor]


def gridcast(
    trace: Trace, model: ModelSet | None = None, past: pd.DataFrame | None = None
) -> Predictor:
    """Gridcast's distribution.

    Args:
        trace: The jobs of the replay.
        model: A trained version; default: none, so that nothing is known at the beginning.
        past: The jobs that had ended before the trace begins.
    """
    # The engine is slow to import, and few replays use it.
    from scheduling.forecasts import Forecasts

    return Forecasts(trace, model, past)


PREDICTORS: dict[str, PredictorKind] = {
    kind.name: kind
    for kind in (
        PredictorKind("request", "the requested walltime", lambda trace: Fixed(trace.request)),
        PredictorKind(
            "perfect", "the true run time (an oracle)", lambda trace: Fixed(trace.length)
        ),
        PredictorKind("gridcast", "Gridcast's distribution", gridcast),
        *(
            PredictorKind(
                baseline.name, baseline.meaning, partial(BaselinePredictor, baseline=baseline)
            )
            for baseline in BASELINES
            if baseline.name != "request"
        ),
    )
}
"""The predictors: those of a replay alone, and the baselines of ``models.baselines.catalogue``."""


def predictor_named(name: str) -> PredictorKind:
    """The predictor of that name; raises PolicyError with the names there are."""
    if name not in PREDICTORS:
        raise PolicyError(f"there is no predictor {name!r}; there are {', '.join(PREDICTORS)}")
    return PREDICTORS[name]
