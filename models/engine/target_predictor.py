"""Predictor of one target: the histories of ended jobs, the refiners and the calibration.

The live forecaster and every replay predict and learn through it.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, replace

import numpy as np

from infra.aliases import Array, Integers
from models.engine.model_set import TargetModel
from models.histories.calibration import Calibration
from models.histories.components import MixtureSettings, settings_of
from models.histories.features import Contexts, Levels
from models.histories.mixture import Mixture, outcome_order
from models.histories.unique_contexts import UniqueContexts, group_rows
from models.quantities.distribution import Distribution
from models.quantities.targets import Target
from models.refiner.refinement import Refiner, coarse_masses, factors, refine, refiner_inputs

BATCH_ROWS = 4096
"""Rows that are predicted at once; their masses fit into memory."""


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
            settings = model.settings if model else settings_of(target.name)
        relative = tuple(level.relative for level in levels.levels)
        mixture = Mixture(target, relative, levels.owner, settings)
        predictor = TargetPredictor(target, settings, mixture)
        if model:
            predictor.mixture.restore(model.learned)
            predictor.refiners, predictor.calibration = model.refiners, model.calibration.copy()
        return predictor

    def predict(self, contexts: Contexts, limits: Array, clusters: Array) -> Distribution:
        """Predict each job by the outcomes available at ``contexts.at``, refined."""
        unique = group_by_history(contexts, limits)
        masses = self.mixture.distributions(
            contexts.take(unique.first_rows), limits[unique.first_rows]
        )
        ratio = self.reweighting(masses, contexts, unique, clusters)
        return reweight(masses.take(unique.context_of_row), ratio)

    def reweighting(
        self, masses: Distribution, contexts: Contexts, unique: UniqueContexts, clusters: Array
    ) -> Array:
        """Compute the factor of each coarse mass of each job (float64[n, coarse bins]).

        Args:
            masses: The mixture's distributions of the unique histories.
            contexts: Of all n jobs.
            unique: Which history each job has.
            clusters: Whose refiner answers each job.
        """
        coarse = coarse_masses(masses.mass)
        coarse_of_job = coarse[unique.context_of_row]
        if not self.refiners:
            return np.ones_like(coarse_of_job)
        counts = self.mixture.ended_counts(contexts.take(unique.first_rows))
        inputs = refiner_inputs(
            masses.mass, coarse, counts, contexts.numbers, unique.context_of_row
        )
        return factors(inputs, coarse_of_job, self.refiners, clusters)

    def points(self, predicted: Distribution, contexts: Contexts, scales: Array | float) -> Array:
        """Compute the best single value of each job (float64[n]); ``scales`` are error scales."""
        if self.target.point is not None:
            return predicted.quantile(self.target.point)
        bins = predicted.best_bin(scales)
        return predicted.point_in(bins, self.mixture.last_in_bin(contexts, bins))

    def load_histories(self, contexts: Contexts, values: Array, limits: Array) -> None:
        """Add outcomes to the histories; weights and calibration stay as trained."""
        self.mixture.learn(contexts, values, limits, weigh=False)

    def learn(self, contexts: Contexts, values: Array, limits: Array, clusters: Array) -> None:
        """Learn outcomes, in any order: calibration, weights and histories.

        Outcomes that are in the histories already change nothing.
        """
        ended = outcome_order(contexts)
        new = ended[self.mixture.find_new_outcomes(contexts.take(ended))]
        for rows in batches(new):
            outcomes, observed = contexts.take(rows), np.isfinite(values[rows])
            predicted = self.predict(outcomes, limits[rows], clusters[rows])
            below, upto = predicted.probability_integral(np.nan_to_num(values[rows]))
            self.calibration.learn(below[observed], upto[observed])
            self.mixture.learn(outcomes, values[rows], limits[rows])


def reweight(masses: Distribution, ratio: Array) -> Distribution:
    """Multiply the masses of each row by the factors of its coarse bins."""
    return replace(masses, mass=refine(masses.mass, ratio))


def group_by_history(contexts: Contexts, limits: Array) -> UniqueContexts:
    """Group rows by all that the histories read of them; only the refiner reads the numbers."""
    columns = [*contexts.keys.T, contexts.at.view(np.uint64), limits.view(np.uint64)]
    return group_rows(columns, len(contexts))


def batches(rows: Integers, size: int = BATCH_ROWS) -> Iterator[Integers]:
    """Cut ``rows`` into runs of at most ``size``."""
    for start in range(0, len(rows), size):
        yield rows[start : start + size]
