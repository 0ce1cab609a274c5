"""Predictors: what a scheduler may ask, in the replay's own time, of a job that is submitted, waits or runs.

A predictor learns a job's run time when the job ends in the replay, not when it ended in the log, and answers before that from
what it has learned. The replay asks for a quantity by name (see ``scheduling.policies``); one that knows a single number gives it
whatever it is asked.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from models.baselines.available_history import template_levels
from scheduling.policies import PolicyError
from scheduling.quantities import (
    Point,
    mean,
    median,
    moving_average,
    quantile_95,
    sample_quantity,
    warm_up,
)
from scheduling.trace import Trace, job_keys

if TYPE_CHECKING:
    from models.engine.model_set import ModelSet


class Predictor(Protocol):
    """What the replay asks; rows are numbers of jobs in the trace, times in s."""

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """Take in jobs that have ended in the replay at ``ended`` (s since the first submission) after running ``lengths``."""
        ...

    def predict(self, rows: Integers, asked: str, now: float) -> Floats:
        """``asked`` of the walltime of waiting jobs by what had ended at ``now`` (float64[rows])."""
        ...

    def remaining(self, row: int, ran: float, now: float) -> float:
        """How long a running job will have run in the end, given that it has run ``ran`` without ending."""
        ...


class Fixed:
    """A predictor that has its answer before the replay: the request, or the truth."""

    def __init__(self, answers: Floats) -> None:
        self.answers = answers

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """Nothing to learn."""

    def predict(self, rows: Integers, asked: str, now: float) -> Floats:
        """The answer."""
        return self.answers[rows]

    def remaining(self, row: int, ran: float, now: float) -> float:
        """The answer; twice what has run where that is over."""
        return float(max(self.answers[row], ran + 1.0))


class TemplateHistories:
    """The last ``size`` walltimes of each job's key; the finest key that knows any answers, and the request where none does.

    ``levels`` are the keys' fields, fine to coarse. A "point" is what ``point`` makes of the walltimes, newest last; the other
    quantities are those of the walltimes as a sample.
    """

    def __init__(
        self,
        trace: Trace,
        levels: tuple[tuple[str, ...], ...],
        size: int,
        point: Point,
        fewest: int = 1,
    ) -> None:
        self.trace, self.point, self.fewest = trace, point, fewest
        self.keys = [job_keys(trace, fields) for fields in levels]
        self.known: list[dict[Any, deque[float]]] = [{} for _ in levels]
        self.size = size

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Predictor."""
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            for keys, known in zip(self.keys, self.known, strict=True):
                known.setdefault(keys[row], deque(maxlen=self.size)).append(length)

    def _sample(self, row: int) -> list[float]:
        for keys, known in zip(self.keys, self.known, strict=True):
            values = known.get(keys[row])
            if values is not None and len(values) >= self.fewest:
                return list(values)
        return []

    def predict(self, rows: Integers, asked: str, now: float) -> Floats:
        """See Predictor."""
        quantity = self.point if asked == "point" else sample_quantity(asked)
        samples = [self._sample(row) for row in rows.tolist()]
        return np.array(
            [
                quantity(sample) if sample else self.trace.request[row]
                for sample, row in zip(samples, rows, strict=True)
            ],
            float,
        )

    def remaining(self, row: int, ran: float, now: float) -> float:
        """The mean of the walltimes above ``ran``, else the request."""
        longer = [value for value in self._sample(row) if value > ran]
        return sum(longer) / len(longer) if longer else float(self.trace.request[row])


@dataclass(frozen=True)
class PredictorKind:
    """A row of ``PREDICTORS``: its name, what it is, how to make it for a trace."""

    name: str
    meaning: str
    make: Callable[[Trace], Predictor]


def _levels(trace: Trace) -> tuple[tuple[str, ...], ...]:
    return template_levels(trace.jobs.iloc[: warm_up(len(trace))])


def _along(size: int, point: Point) -> Callable[[Trace], Predictor]:
    return lambda trace: TemplateHistories(trace, _levels(trace), size, point)


def gridcast(
    trace: Trace, model: ModelSet | None = None, past: pd.DataFrame | None = None
) -> Predictor:
    """Gridcast's distribution: from nothing, or from a trained model and the jobs that had ended before the trace begins."""
    # The engine is heavy to import, and few replays ask it.
    from scheduling.forecasts import Forecasts

    return Forecasts(trace, model, past)


def _regressed(name: str) -> Callable[[Trace], Predictor]:
    def make(trace: Trace) -> Predictor:
        # Only those who ask for a regression pay for its import.
        from models.baselines import regressions
        from scheduling.regressed import Regressed

        return Regressed(trace, getattr(regressions, name))

    return make


def _group(trace: Trace) -> tuple[tuple[str, ...], ...]:
    names = [name for name in ("group", "project", "queue") if trace.jobs[name].nunique() > 1]
    return (tuple(names[:1]), ())


PREDICTORS: dict[str, PredictorKind] = {
    one.name: one
    for one in (
        PredictorKind("request", "what was asked for", lambda trace: Fixed(trace.request)),
        PredictorKind("perfect", "the truth, which nobody has", lambda trace: Fixed(trace.length)),
        PredictorKind("last", "the template's last", _along(1, mean)),
        PredictorKind(
            "last-two",
            "mean of the user's last two (EASY++; Tsafrir 2007)",
            lambda trace: TemplateHistories(trace, _levels(trace)[-1:], 2, mean, fewest=2),
        ),
        PredictorKind("template", "mean of the template's last two", _along(2, mean)),
        PredictorKind("median-3", "median of the template's last 3", _along(3, median)),
        PredictorKind("median-10", "median of the template's last 10", _along(10, median)),
        PredictorKind(
            "ewma", "moving average of the template's logarithms", _along(20, moving_average)
        ),
        PredictorKind(
            "gridcast",
            "Gridcast's distribution over what user, program and site have shown",
            gridcast,
        ),
        PredictorKind(
            "group-median",
            "median of the group's last 500",
            lambda trace: TemplateHistories(trace, _group(trace), 500, median),
        ),
        PredictorKind(
            "group-p95",
            "95th percentile of the same (ATLAS P2PA)",
            lambda trace: TemplateHistories(trace, _group(trace), 500, quantile_95),
        ),
        PredictorKind("ridge", "ridge regression on history and request", _regressed("ridge")),
        PredictorKind(
            "forest", "random forest on history and request (ALICE, P2PA)", _regressed("forest")
        ),
        PredictorKind("catboost", "plain CatBoost on history and request", _regressed("catboost")),
    )
}
"""The predictors; ``models.baselines.catalogue`` says where each comes from."""


def predictor_named(name: str) -> PredictorKind:
    """The predictor of that name; raises PolicyError with the names there are."""
    if name not in PREDICTORS:
        raise PolicyError(f"there is no predictor {name!r}; there are {', '.join(PREDICTORS)}")
    return PREDICTORS[name]
