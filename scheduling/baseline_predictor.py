"""The baselines of ``models.baselines`` as predictors of a replay."""

from __future__ import annotations

from bisect import insort
from collections import deque
from collections.abc import Sequence
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from jobs.schema import OF_KIND, OUTCOMES
from models.baselines.available_history import AvailableHistory, encode_keys, requests
from models.baselines.catalogue import Baseline
from models.baselines.regressions import (
    CATEGORIES,
    FEWEST_ROWS,
    TRAINING_ROWS,
    Fitted,
    Regression,
)
from models.past.recent import NEWEST, Recent, mean_of_two
from models.quantities.targets import TARGETS
from scheduling.quantities import warm_up
from scheduling.trace import Trace

NUMBERS = tuple(name for name in OF_KIND["number"] if name not in OUTCOMES)
SIZE = 10
REFIT_EVERY = 0.1
"""The share of the jobs after which a regression is fitted again."""


class _LatestOutcomes:
    """The latest walltimes of one key, newest first, and the moving average of their logarithms."""

    def __init__(self) -> None:
        self.values: deque[float] = deque(maxlen=SIZE)
        self.average = np.nan

    def add(self, length: float) -> None:
        """Take in the walltime of a job that ended."""
        log = np.log(max(length, 1.0))
        self.average = log if not self.values else self.average + NEWEST * (log - self.average)
        self.values.appendleft(length)


class BaselinePredictor:
    """A baseline that observes a walltime when the job ends in the replay.

    It has a single value and gives it for every quantity. A regression is fitted again after each
    ``REFIT_EVERY`` of the jobs, on inputs as they were at submission; before the first fit it is
    the baseline ``template``.
    """

    def __init__(self, trace: Trace, baseline: Baseline) -> None:
        self.trace, self.point, self.target = trace, baseline.point, TARGETS["walltime"]
        jobs = trace.jobs.drop(columns=list(OUTCOMES))
        contexts = encode_keys(jobs, self.target, warm_up=warm_up(len(trace)))
        self.keys = contexts.keys.tolist()
        self.submitted_at = contexts.at
        self.request = requests(jobs, self.target)
        self.latest: list[dict[Any, _LatestOutcomes]] = [{} for _ in range(len(self.keys[0]) - 1)]
        self.sorted_of_group: dict[Any, list[float]] = {}
        self.sorted_values: list[float] = []
        # A few rows must have the same columns as all; rows of object columns are taken fastest.
        categories = {
            name: jobs[name].astype(object).fillna("")
            for name in CATEGORIES
            if jobs[name].notna().any()
        }
        self.jobs = jobs[list(dict.fromkeys((*NUMBERS, *CATEGORIES)))].assign(**categories)
        self.inputs = np.empty((len(trace), 0), dtype=object)
        self.dtypes: dict[str, Any] = {}
        self.ended: list[int] = []
        self.fitted: Fitted | None = None
        self.refits = 1

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Predictor."""
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            *keys, group = self.keys[row]
            for key, latest in zip(keys, self.latest, strict=True):
                latest.setdefault(key, _LatestOutcomes()).add(length)
            insort(self.sorted_of_group.setdefault(group, []), length)
            insort(self.sorted_values, length)
        self.ended.extend(rows.tolist())

    def predict(self, rows: Integers, quantity: str, now: float) -> Floats:
        """See Predictor."""
        if not isinstance(self.point, Regression):
            return self.point(self._history(rows, self.jobs.iloc[:0]))  # it uses no fields of jobs
        history = self._history(rows, self.jobs.iloc[rows].reset_index(drop=True))
        inputs = self.point.inputs(history)
        if not self.dtypes:
            self.dtypes = dict(inputs.dtypes)
            self.inputs = np.empty((len(self.trace), len(self.dtypes)), dtype=object)
        self.inputs[rows] = inputs.to_numpy(dtype=object)
        if rows[-1] >= int(self.refits * REFIT_EVERY * len(self.trace)):
            self.refits += 1
            if len(self.ended) >= FEWEST_ROWS:
                self.fitted = self._fit(self.point)
        return self.fitted(inputs) if self.fitted else history.finest(mean_of_two)

    def remaining(self, row: int, ran: float, now: float) -> float:
        """The mean of the latest walltimes above ``ran``, else the request.

        Args:
            row: The row of the job.
            ran: How long it has run, in s.
            now: The present.
        """
        for key, latest in zip(self.keys[row], self.latest, strict=False):
            if key in latest:
                longer = [value for value in latest[key].values if value > ran]
                return sum(longer) / len(longer) if longer else float(self.trace.request[row])
        return float(self.trace.request[row])

    def _fit(self, regression: Regression) -> Fitted:
        latest = self.ended[-TRAINING_ROWS:]
        inputs = pd.DataFrame(self.inputs[latest], columns=list(self.dtypes)).astype(self.dtypes)
        return regression.fit(inputs, self.trace.length[latest], self.target)

    def _history(self, rows: Integers, jobs: pd.DataFrame) -> AvailableHistory:
        """What has been observed of ``rows`` by now; their own outcomes are missing."""
        keys = [self.keys[row] for row in rows.tolist()]
        levels = []
        for depth, latest in enumerate(self.latest):
            values, average = np.full((len(rows), SIZE), np.nan), np.full(len(rows), np.nan)
            for index, row_keys in enumerate(keys):
                if (outcomes := latest.get(row_keys[depth])) is not None:
                    values[index, : len(outcomes.values)] = outcomes.values
                    average[index] = np.exp(outcomes.average)
            levels.append(Recent(values, average))
        everything = _quantiles(self.sorted_values)
        return AvailableHistory(
            jobs,
            self.target,
            self.submitted_at[rows],
            self.submitted_at[rows],
            np.full(len(rows), np.nan),
            self.request[rows],
            tuple(levels),
            np.array([_quantiles(self.sorted_of_group.get(row_keys[-1], ())) for row_keys in keys]),
            np.array([everything] * len(rows)),
        )


def _quantiles(values: Sequence[float]) -> tuple[float, float]:
    """Median and 95th percentile of sorted values, as ``models.past.recent.running_quantiles``."""
    if not values:
        return np.nan, np.nan
    median, high = (max(int(np.ceil(level * len(values))), 1) - 1 for level in (0.5, 0.95))
    return values[median], values[high]
