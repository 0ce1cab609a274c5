"""The field's fitted predictors in replay time: a regression on history and request, fitted anew as jobs end in the replay."""

from __future__ import annotations

from collections import deque
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from jobs.schema import OF_KIND, OUTCOMES
from models.baselines.available_history import AvailableHistory, template_levels
from models.baselines.regressions import FEWEST_ROWS, NAMES, TRAINING_ROWS, Fitted, Regression
from models.past.recent import NEWEST, Recent
from models.quantities.targets import TARGETS
from scheduling.quantities import mean, warm_up
from scheduling.trace import Trace, job_keys

NUMBERS = tuple(name for name in OF_KIND["number"] if name not in OUTCOMES)
SIZE = 10
REFIT_EVERY = 0.1
"""The share of the jobs after which a model is fitted anew."""


class Key:
    """The latest walltimes of one key, newest first, and their moving average of logarithms."""

    def __init__(self) -> None:
        self.latest: deque[float] = deque(maxlen=SIZE)
        self.logs = np.nan

    def add(self, length: float) -> None:
        """Take in the walltime of a job that ended."""
        log = np.log(max(length, 1.0))
        self.logs = log if not self.latest else self.logs + NEWEST * (log - self.logs)
        self.latest.appendleft(length)


class Regressed:
    """A baseline of ``models.baselines.regressions``: what it looks at is taken down at submission, and it is ``template`` until the
    first fit.

    It knows a single number and gives it whatever it is asked.
    """

    def __init__(self, trace: Trace, regression: Regression) -> None:
        self.trace, self.regression, self.target = trace, regression, TARGETS["walltime"]
        jobs = trace.jobs.drop(columns=list(OUTCOMES))
        # Asked about one by one, jobs must show the same columns as all together; plain objects are the quickest to take rows of.
        named = {
            name: jobs[name].astype(object).fillna("") for name in NAMES if jobs[name].notna().any()
        }
        self.jobs = jobs[list(dict.fromkeys((*NUMBERS, *NAMES)))].assign(**named)
        self.submitted_at: Integers = np.asarray(
            jobs["submitted_at"].astype("int64"), dtype=np.int64
        )
        self.keys = [
            job_keys(trace, names) for names in template_levels(jobs[: warm_up(len(trace))])
        ]
        self.known: list[dict[Any, Key]] = [{} for _ in self.keys]
        self.inputs = np.empty((len(trace), 0), dtype=object)
        self.kinds: dict[str, Any] = {}
        self.ended: list[int] = []
        self.fitted: Fitted | None = None
        self.refits = 1

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Predictor."""
        for row, length in zip(rows.tolist(), lengths.tolist(), strict=True):
            for keys, known in zip(self.keys, self.known, strict=True):
                known.setdefault(keys[row], Key()).add(length)
        self.ended.extend(rows.tolist())

    def predict(self, rows: Integers, asked: str, now: float) -> Floats:
        """See Predictor."""
        inputs = self.regression.inputs(self._see(rows))
        if not self.kinds:
            self.kinds = dict(inputs.dtypes)
            self.inputs = np.empty((len(self.trace), len(self.kinds)), dtype=object)
        self.inputs[rows] = inputs.to_numpy(dtype=object)
        if rows[-1] >= int(self.refits * REFIT_EVERY * len(self.trace)):
            self.refits += 1
            if len(self.ended) >= FEWEST_ROWS:
                self._fit()
        if self.fitted is not None:
            return self.fitted(inputs)
        return np.array([self._last_two(row) for row in rows.tolist()])

    def remaining(self, row: int, ran: float, now: float) -> float:
        """The request: a single number that a job has outlived tells no more."""
        return float(self.trace.request[row])

    def _fit(self) -> None:
        latest = self.ended[-TRAINING_ROWS:]
        inputs = pd.DataFrame(self.inputs[latest], columns=list(self.kinds)).astype(self.kinds)
        self.fitted = self.regression.fit(inputs, self.trace.length[latest], self.target)

    def _last_two(self, row: int) -> float:
        found = [
            known[keys[row]]
            for keys, known in zip(self.keys, self.known, strict=True)
            if keys[row] in known
        ]
        return mean(list(found[0].latest)[:2]) if found else float(self.trace.request[row])

    def _see(self, rows: Integers) -> AvailableHistory:
        """What is known of ``rows`` now, as ``models.baselines.available_history`` tells it; nothing of it is an outcome of their own."""
        unknown = np.full((len(rows), 2), np.nan)
        levels = []
        for keys, known in zip(self.keys, self.known, strict=True):
            values, average = np.full((len(rows), SIZE), np.nan), np.full(len(rows), np.nan)
            for place, row in enumerate(rows.tolist()):
                if keys[row] in known:
                    key = known[keys[row]]
                    values[place, : len(key.latest)] = key.latest
                    average[place] = np.exp(key.logs)
            levels.append(Recent(values, average))
        return AvailableHistory(
            self.jobs.iloc[rows].reset_index(drop=True), self.target, self.submitted_at[rows], self.submitted_at[rows], unknown[:, 0],
            levels=tuple(levels), group_quantiles=unknown, all_quantiles=unknown, refits=(),
        )  # fmt: skip
