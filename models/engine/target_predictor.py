"""Predictor of one target: the histories of ended jobs, the refiners and the calibration.

The live forecaster and every replay predict and learn through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field

import numpy as np

from infra.aliases import Array, Flags, Integers
from models.engine.allocation import FAILURE_PRICE, allocation_columns
from models.engine.model_set import TargetModel
from models.histories.calibration import Calibration
from models.histories.components import MixtureSettings, settings_of
from models.histories.familiarity import Familiarity
from models.histories.features import Contexts, Levels
from models.histories.mixture import Mixture, PrequentialReplay, outcome_order
from models.histories.occupancy import occupancy
from models.histories.point_levels import POINT_LEVELS, errors_at_levels, learns_point_levels
from models.histories.unique_contexts import UniqueContexts, group_rows
from models.quantities.distribution import Distribution
from models.quantities.targets import Target
from models.refiner.refinement import Refiner, coarse_masses, factors, refine, refiner_inputs

BATCH_ROWS = 4096
"""Rows that are predicted at once; their masses fit into memory."""


@dataclass(frozen=True)
class TargetPrediction:
    """The predictions of one target for n jobs.

    Attributes:
        masses: The mixture's distributions of the unique histories among the jobs.
        history_of_row: Which of them each job has, int64[n].
        ratio: The factor of each coarse mass of each job, float64[n, coarse bins].
        familiarity: What was known of each job's owner.
        allocation: Columns of the allocation of each unique history, by the end of their names,
            where it is decided by more than a quantile.
    """

    masses: Distribution
    history_of_row: Integers
    ratio: Array
    familiarity: Familiarity
    allocation: Mapping[str, Array]

    @property
    def cold(self) -> Flags:
        """Whether no outcome of the job's owner was available, bool[n]."""
        return self.familiarity.cold

    def distribution(self) -> Distribution:
        """The refined distributions, a row a job."""
        return reweight(self.masses.take(self.history_of_row), self.ratio)


@dataclass
class TargetPredictor:
    """The mixture of histories of one target, the refiners by cluster, and the calibration.

    Contexts, values (float64[n], NaN unknown), limits (float64[n], infinite for none) and clusters
    (object[n]) always go together, a row a job.
    """

    target: Target
    settings: MixtureSettings
    mixture: Mixture
    refiners: Mapping[str, Refiner] = field(default_factory=dict)
    calibration: Calibration = field(default_factory=Calibration)
    categories: int = 0
    """How many of the numbers of contexts stand for texts."""

    @staticmethod
    def create(
        target: Target,
        levels: Levels,
        settings: MixtureSettings | None = None,
        model: TargetModel | None = None,
    ) -> TargetPredictor:
        """Create a predictor without histories.

        Args:
            target: What is predicted.
            levels: The histories that jobs get.
            settings: Of the mixture; the model's, else the target's own, unless given.
            model: A trained model, whose weights, refiners and calibration are taken over.
        """
        if settings is None:
            owner = levels.levels[levels.owner].fields
            settings = model.settings if model else settings_of(target.name, owner)
        relative = tuple(level.relative for level in levels.levels)
        mixture = Mixture(target, relative, levels.owner, settings)
        predictor = TargetPredictor(target, settings, mixture, categories=len(levels.categories))
        if model:
            predictor.mixture.restore(model.learned)
            predictor.refiners, predictor.calibration = model.refiners, model.calibration.copy()
        return predictor

    def predict(
        self,
        contexts: Contexts,
        limits: Array,
        clusters: Array,
        walltimes: Mixture | None = None,
        failure_price: float = FAILURE_PRICE,
    ) -> TargetPrediction:
        """Predict jobs by the outcomes available at ``contexts.at``.

        Args:
            contexts: The jobs; each unique history among them is looked up once.
            limits: Where the system stops each.
            clusters: Whose refiner answers each.
            walltimes: The mixture of walltimes of the same jobs, where memory is to be allocated.
            failure_price: What a failure for lack of memory costs, GiB·h.
        """
        unique = group_by_history(contexts, limits)
        queries, query_limits = contexts.take(unique.first_rows), limits[unique.first_rows]
        allocation: dict[str, Array] = {}
        if walltimes is None:
            masses, counts = self.mixture.query(queries, query_limits)
        else:
            joint, counts = occupancy(self.mixture, walltimes, queries, query_limits)
            masses = joint.distribution(self.mixture.grid, query_limits)
            allocation = allocation_columns(joint, masses, query_limits, failure_price)
        row = unique.context_of_row
        ratio = self._ratio(masses, row, counts, contexts.numbers, clusters)
        familiarity = self.mixture.familiarity(queries, query_limits)
        return TargetPrediction(masses, row, ratio, familiarity.take(row), allocation)

    def _ratio(
        self,
        masses: Distribution,
        row: Integers,
        counts: Integers,
        numbers: Array,
        clusters: Array,
    ) -> Array:
        """Compute the factors of the coarse masses of jobs (float64[n, coarse bins]).

        Args:
            masses: The mixture's distributions of the unique histories among the jobs.
            row: The history of each job.
            counts: The outcomes that each key of each history had.
            numbers: The numbers of the jobs.
            clusters: Whose refiner answers each job.
        """
        coarse = coarse_masses(masses)
        if not self.refiners:
            return np.ones((len(row), coarse.shape[1]))
        inputs = refiner_inputs(masses.mass, coarse, counts, numbers, row)
        return factors(inputs, coarse[row], self.refiners, clusters)

    def distribution(self, contexts: Contexts, limits: Array, clusters: Array) -> Distribution:
        """The refined distributions of jobs by the outcomes available at ``contexts.at``.

        Args:
            contexts: The encoded jobs.
            limits: The limits of the outcomes, float64[n].
            clusters: The cluster of each job.
        """
        return self.predict(contexts, limits, clusters).distribution()

    def points(
        self,
        predicted: Distribution,
        contexts: Contexts,
        scales: Array | float,
        levels: Array | float = 0.5,
    ) -> Array:
        """Compute the best single value of each job (float64[n]).

        Args:
            predicted: The distributions of the jobs.
            contexts: The encoded jobs.
            scales: The error scales.
            levels: As from ``PointLevels``.
        """
        if self.target.point is not None:
            return predicted.quantile(self.target.point)
        bins = predicted.best_bin(scales, level=levels)
        return predicted.point_in(bins, self.mixture.last_in_bin(contexts, bins))

    def load_histories(self, contexts: Contexts, values: Array, limits: Array) -> None:
        """Add outcomes to the histories; weights and calibration stay as trained.

        Args:
            contexts: The encoded jobs.
            values: The outcomes, float64[n].
            limits: The limits of the outcomes, float64[n].
        """
        self.mixture.learn(contexts, values, limits, weigh=False)

    def learn(self, contexts: Contexts, values: Array, limits: Array, clusters: Array) -> None:
        """Learn outcomes, in any order: calibration, weights and histories.

        Each is predicted as at its submission, before outcomes of this call that became available
        later are learned; those of earlier calls are in the weights already. Outcomes that are in
        the histories change nothing.

        Args:
            contexts: The encoded jobs.
            values: The outcomes, float64[n].
            limits: The limits of the outcomes, float64[n].
            clusters: The cluster of each job.
        """
        ended = outcome_order(contexts)
        new = ended[self.mixture.find_new_outcomes(contexts.take(ended))]
        contexts, values, limits = contexts.take(new), values[new], limits[new]
        replay = PrequentialReplay(self.mixture, contexts, values, limits)
        below, upto = np.full((2, len(new)), np.nan)
        errors, familiarity = (
            np.full((len(new), len(POINT_LEVELS)), np.nan),
            Familiarity.unknown(len(new)),
        )
        for rows in batches(np.argsort(contexts.at, kind="stable")):
            masses, scales = replay.advance(rows)
            queries = contexts.take(rows)
            familiarity.put(rows, self.mixture.familiarity(queries, limits[rows]))
            everyone = np.arange(len(rows))
            ratio = self._ratio(
                masses, everyone, replay.counts, queries.numbers, clusters[new[rows]]
            )
            predicted = reweight(masses, ratio)
            below[rows], upto[rows] = predicted.probability_integral(np.nan_to_num(values[rows]))
            if learns_point_levels(self.mixture):
                errors[rows] = errors_at_levels(predicted, values[rows], scales)
        replay.advance(new[:0])
        observed = np.isfinite(values)
        familiarity = familiarity.take(observed)
        below, upto = familiarity.without_covered(values[observed], below[observed], upto[observed])
        self.calibration.learn(below, upto, familiarity)
        self.calibration.points.learn(errors[observed], familiarity)


def reweight(masses: Distribution, ratio: Array) -> Distribution:
    """Multiply the masses of each row by the factors of its coarse bins."""
    return refine(masses, ratio)


def group_by_history(contexts: Contexts, limits: Array) -> UniqueContexts:
    """Group rows by all that the histories read of them; only the refiner reads the numbers."""
    at, limit_bits = contexts.at.view(np.uint64), limits.view(np.uint64)
    columns = [*contexts.keys.T, contexts.sources, at, limit_bits]
    return group_rows(columns, len(contexts))


def batches(rows: Integers, size: int = BATCH_ROWS) -> Iterator[Integers]:
    """Cut ``rows`` into runs of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
