"""Gridcast's own distribution as a predictor in replay time: asked when a job is submitted, taught when it ends in the replay."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers
from jobs.schema import OUTCOMES
from models.engine.model_set import ModelSet, TargetModel
from models.histories.features import NOT_AVAILABLE, Levels, choose_levels, encode
from models.histories.mixture import Mixture, PrequentialReplay
from models.quantities.distribution import Distribution
from models.quantities.targets import TARGETS
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import coarse_masses, factors, refine, refiner_inputs
from scheduling.policies import PolicyError
from scheduling.quantities import parse_quantity, warm_up
from scheduling.trace import Trace

MICROSECONDS = 1e6


class Forecasts:
    """The mixture of histories, and the refiners of a trained ``model`` if there is one.

    Without a model it starts with nothing, and its keys are chosen by the fields of the log's first jobs. A model must have been
    trained on what was known before the log begins, else PolicyError; ``past`` are the jobs that had ended by then. One walk
    through the log serves the whole replay: it holds no outcome but those that the replay has told.
    """

    def __init__(
        self, trace: Trace, model: ModelSet | None = None, past: pd.DataFrame | None = None
    ) -> None:
        asked = trace.jobs.drop(columns=list(OUTCOMES))
        asked["requested_cores"] = asked["requested_cores"].fillna(trace.jobs["cores"])
        levels = model.levels if model else choose_levels(asked.iloc[: warm_up(len(trace))])
        contexts = encode(asked, levels)
        self.limits = np.where(asked["requested_walltime"] > 0, trace.request, np.inf)
        self.begin = int(contexts.at[0] - trace.submitted[0] * MICROSECONDS)
        walltime = _trained_before(model, self.begin) if model else None
        relative = tuple(level.relative for level in levels.levels)
        self.mixture = Mixture(
            TARGETS["walltime"], relative, levels.owner, walltime.settings if walltime else None
        )
        self.refiners = walltime.refiners if walltime else {}
        self.clusters = (
            model.clusters.assign(asked) if model else np.full(len(trace), GLOBAL, dtype=object)
        )
        if walltime:
            self.mixture.restore(walltime.learned)
        if past is not None:
            self._remember(past, levels)
        self.walk = PrequentialReplay(
            self.mixture, contexts, np.full(len(trace), np.nan), self.limits, queries_only=True
        )
        assert (contexts.available_at == NOT_AVAILABLE).all()  # noqa: S101
        self.contexts = contexts
        self.ended = np.zeros(len(trace), dtype=np.int64)
        self.count = 0
        self._answered: tuple[bytes, float, Distribution] | None = None

    def _remember(self, past: pd.DataFrame, levels: Levels) -> None:
        """Fill the histories with jobs that had ended before the log begins; the weights have learned of them, or never will."""
        target = TARGETS["walltime"]
        contexts = encode(past, levels)
        before = np.flatnonzero(contexts.available_at < self.begin)
        self.mixture.learn(
            contexts.take(before),
            target.value(past)[before],
            target.limit(past)[before],
            weigh=False,
        )

    def learn(self, rows: Integers, ended: Floats, lengths: Floats) -> None:
        """See Predictor; the walk takes the ends in when it is next asked."""
        jobs = self.walk.jobs
        jobs.available_at[rows] = self.begin + np.round(ended * MICROSECONDS).astype(np.int64)
        jobs.value[rows], jobs.log_bin_position[rows] = (
            lengths,
            self.mixture.grid.log_bin_positions(lengths),
        )
        self.ended[self.count : self.count + len(rows)] = rows
        self.count += len(rows)
        self.walk.outcomes = self.ended[: self.count]

    def distribution(self, rows: Integers, now: float) -> Distribution:
        """What is foreseen of ``rows`` by what had ended at ``now``."""
        asked = (rows.tobytes(), now)
        if self._answered is None or self._answered[:2] != asked:
            at = self.walk.jobs.at
            submitted = at[rows]
            at[rows] = self.begin + round(now * MICROSECONDS)
            answer = self.walk.advance(rows)[0]
            if self.refiners:
                contexts = self.contexts.take(rows)
                coarse = coarse_masses(answer.mass)
                shown = refiner_inputs(
                    answer.mass, coarse, self.mixture.ended_counts(contexts), contexts.numbers
                )
                bent = refine(
                    answer.mass, factors(shown, coarse, self.refiners, self.clusters[rows])
                )
                answer = replace(answer, mass=bent)
            at[rows] = submitted
            self._answered = (*asked, answer)
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
            scale = self.mixture.error_scale
            seen = self.mixture.last_in_bin(self.contexts.take(rows), foreseen.best_bin(scale))
            return foreseen.best_point(scale, seen)
        share, deviations = parse_quantity(asked)
        if share is not None:
            return foreseen.quantile(share)
        return foreseen.mean() + deviations * foreseen.standard_deviation()

    def remaining(self, row: int, ran: float, now: float) -> float:
        """E[T | T > t] of the distribution."""
        return float(self.distribution(np.array([row]), now).remaining(np.array([ran])).mean()[0])


def _trained_before(model: ModelSet, begin: int) -> TargetModel:
    """The model's walltime; raises PolicyError when it knows of anything that became known at ``begin`` (µs) or after."""
    if "walltime" not in model.targets:
        raise PolicyError(f"the model {model.version} does not predict walltime")
    if model.card.window.until_us >= begin:
        raise PolicyError(
            f"the model {model.version} was trained on jobs that ended after the log begins: replay a later part of it"
        )
    return model.targets["walltime"]


def log_mean(foreseen: Distribution) -> Floats:
    """Exponential of the expected logarithm of each row (float64[n])."""
    values = np.minimum(foreseen.grid.centres[None, :], foreseen.limit[:, None])
    logarithm: Floats = (foreseen.mass * np.log(values)).sum(axis=1, dtype=np.float64)
    return np.exp(logarithm)
