"""Gridcast's own distribution as a predictor in replay time: asked when a job is submitted, taught when it ends in the replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from jobs.schema import OUTCOMES
from models.distribution import Distribution
from models.features import choose_levels, encode
from models.mixture import Mixture
from models.targets import TARGETS
from scheduling.quantities import parse_quantity, warm_up
from scheduling.state import Floats, Integers
from scheduling.trace import Trace

MICROSECONDS = 1e6


class Forecasts:
    """The mixture of histories, which starts with none; its keys are chosen by the fields of the log's first jobs."""

    def __init__(self, trace: Trace) -> None:
        # What a predictor may look at before a job ends: its record without outcomes.
        asked = trace.jobs.drop(columns=list(OUTCOMES))
        asked["requested_cores"] = asked["requested_cores"].fillna(trace.jobs["cores"])
        self.levels = choose_levels(asked.iloc[: warm_up(len(trace))])
        self.contexts = encode(asked, self.levels)
        self.limits = np.where(asked["requested_walltime"] > 0, trace.request, np.inf)
        self.start = int(self.contexts.at[0] - trace.submitted[0] * MICROSECONDS)
        self.mixture = Mixture(TARGETS["walltime"], tuple(level.relative for level in self.levels.levels), self.levels.owner)
        self._answered: tuple[bytes, float, Distribution] | None = None

    def _clock(self, seconds: Floats) -> Integers:
        return self.start + np.round(seconds * MICROSECONDS).astype(np.int64)

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Predictor."""
        contexts = replace(self.contexts.take(rows), known=self._clock(ended))
        self.mixture.learn(contexts, lengths, self.limits[rows])

    def distribution(self, rows: Integers, now: float) -> Distribution:
        """What is foreseen of ``rows`` by what had ended at ``now``."""
        asked = (rows.tobytes(), now)
        if self._answered is None or self._answered[:2] != asked:
            at = np.full(len(rows), self._clock(np.array(now)))
            contexts = replace(self.contexts.take(rows), at=at)
            self._answered = (*asked, Distribution(self.mixture.grid, self.mixture.masses(contexts, self.limits[rows]), self.limits[rows]))
        return self._answered[2]

    def predict(self, rows: Integers, asked: str, now: float) -> Floats:
        """See Predictor."""
        foreseen = self.distribution(rows, now)
        if asked == "median":
            return foreseen.median()
        if asked == "mean":
            return foreseen.mean()
        if asked == "log-mean":
            return log_mean(foreseen)
        if asked == "point":
            contexts, scale = self.contexts.take(rows), self.mixture.scale
            return foreseen.best_point(scale, self.mixture.last_in_bin(contexts, foreseen.best_bin(scale)))
        share, deviations = parse_quantity(asked)
        if share is not None:
            return foreseen.quantile(share)
        return foreseen.mean() + deviations * foreseen.standard_deviation()

    def remaining(self, row: int, ran: float, now: float) -> float:
        """E[T | T > t] of the distribution."""
        return float(self.distribution(np.array([row]), now).remaining(np.array([ran])).mean()[0])


def log_mean(foreseen: Distribution) -> Floats:
    """Exponential of the expected logarithm of each row (float64[n])."""
    values = np.minimum(foreseen.grid.centres[None, :], foreseen.limit[:, None])
    return np.exp((foreseen.mass * np.log(values)).sum(axis=1, dtype=np.float64))
