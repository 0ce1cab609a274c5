"""Predictions as columns: the numbers of each target that a caller gets of its jobs."""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags, Floats, Integers
from models.engine.target_predictor import TargetPrediction, TargetPredictor
from models.histories.features import Contexts
from models.quantities.classes import Cuts, likeliest
from models.quantities.within import Bounds, Within
from models.refiner.refinement import summarise_reweighted

DECIMALS = 3
"""Numbers are rounded to milliseconds and the like; more digits would only lengthen responses."""
QUANTILE_COLUMNS = {"_low": 0.05, "_high": 0.95, "_allocation": 0.95, "_kill_limit": 0.99}
"""The level of the calibrated quantile in each of these columns, within what the job requested."""


@dataclass(frozen=True)
class Predictions:
    """Predictions of n jobs, a row a unique context.

    ``numbers`` has for each target t the columns t (best single value), t_median, t_mean, t_sd,
    t_low and t_high (90 % range), t_allocation, t_kill_limit (see QUANTILE_COLUMNS) and t_q<level>
    for each quantile asked for; with classes also t_class and t_class_probability. Where walltimes
    are predicted too, peak_memory_allocation is the first rung of the ladder that wastes least (see
    allocation.py), peak_memory_allocation_2 and _3 are what to try after a failure (no larger where
    there is nothing more to try), and peak_memory_risk is the probability that the first fails.

    Attributes:
        numbers: float64[contexts] by column.
        cluster: Whose refiner answered, object[contexts].
        cold_start: Whether no outcome of the owner was available, bool[contexts].
        context_of_row: The unique context of each job, int64[n].
        model_version: The version that predicted.
        version_of_context: The version of each unique context where not all are of one,
            object[contexts].
        by_row: Numbers in which jobs of one context differ, float64[n] by column.
        within: Whether each job's outcome is within its bound, by target, a row a job.
    """

    numbers: dict[str, Array]
    cluster: Array
    cold_start: Flags
    context_of_row: Integers
    model_version: str
    version_of_context: Array | None = None
    by_row: dict[str, Array] = field(default_factory=dict)
    within: dict[str, Within] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.context_of_row)

    @property
    def versions(self) -> Array:
        """The version that predicted each unique context, object[contexts]."""
        if self.version_of_context is None:
            return np.full(len(self.cold_start), self.model_version, object)
        return self.version_of_context

    def take(self, rows: Array) -> Predictions:
        """The predictions of some jobs (indices or mask)."""
        within = {name: values.take(rows) for name, values in self.within.items()}
        return replace(self, context_of_row=self.context_of_row[rows], within=within)

    def with_rows_of(self, second: Predictions, rows: Integers) -> Predictions:
        """These predictions, those of the jobs ``rows`` replaced by the ones of ``second``."""
        context_of_row = self.context_of_row.copy()
        context_of_row[rows] = len(self.cold_start) + second.context_of_row
        within = {name: values.copy() for name, values in self.within.items()}
        for name, values in within.items():
            values.put(rows, second.within[name])
        return Predictions(
            {
                name: np.concatenate([values, second.numbers[name]])
                for name, values in self.numbers.items()
            },
            np.concatenate([self.cluster, second.cluster]),
            np.concatenate([self.cold_start, second.cold_start]),
            context_of_row,
            self.model_version,
            np.concatenate([self.versions, second.versions]),
            within=within,
        )

    def frame(self, job_ids: Array) -> pd.DataFrame:
        """A row a job: job_id, the numbers, then cluster, model_version and cold_start."""
        row = self.context_of_row
        columns = {name: values[row] for name, values in self.numbers.items()}
        last = {
            "cluster": self.cluster[row],
            "model_version": self.versions[row],
            "cold_start": self.cold_start[row],
        }
        return pd.DataFrame({"job_id": job_ids, **columns, **last})


class BoundQueries:
    """Bounds of the jobs of a call by unique context, answered context by context.

    Jobs without anything to exceed under one bound are answered once a context.
    """

    def __init__(self, bounds: Bounds, context_of_row: Integers, contexts: int) -> None:
        """Prepare the queries.

        Args:
            bounds: A row a job.
            context_of_row: The unique context of each job.
            contexts: The number of contexts.
        """
        upper = bounds.upper
        by_context = bounds.beyond is None and len(upper) > 0 and bool((upper == upper[0]).all())
        self._context_of_row = context_of_row if by_context else None
        self._context = np.arange(contexts) if by_context else context_of_row
        self._bounds = Bounds(np.full(contexts, upper[0])) if by_context else bounds
        self._contexts = contexts
        self._answers = Within(*np.empty((2, len(self._context))))

    def answer(
        self, contexts: Integers, predictor: TargetPredictor, prediction: TargetPrediction
    ) -> None:
        """Answer the queries of some contexts; several threads may, each of its own contexts.

        Args:
            contexts: The contexts.
            predictor: Of the target; its calibration is the one of now.
            prediction: What it predicted for each of the contexts.
        """
        position = np.full(self._contexts, -1)
        position[contexts] = np.arange(len(contexts))
        queries = np.flatnonzero(position[self._context] >= 0)
        rows, bounds = position[self._context[queries]], self._bounds.take(queries)
        masses, familiarity = prediction.distribution(), prediction.familiarity.take(rows)

        def up_to(places: Floats) -> tuple[Floats, Floats, Floats]:
            raw, moment = masses.partial_moments(places, rows)
            share = predictor.calibration.probabilities(raw, familiarity)
            share = familiarity.widen_probabilities(share, places)
            return np.where(places >= masses.limit[rows], 1.0, share), raw, moment

        start = (np.zeros(len(rows)),) * 3 if bounds.beyond is None else up_to(bounds.beyond)
        self._answers.put(queries, Within.between(start, up_to(bounds.upper)))

    def within(self) -> Within:
        """Return the answers, a row a job."""
        rows = self._context_of_row
        return self._answers if rows is None else self._answers.take(rows)


def quantile_columns(quantiles: tuple[float, ...]) -> dict[str, float]:
    """The level of each quantile column by the end of its name, with ``quantiles`` asked for."""
    return QUANTILE_COLUMNS | {f"_q{level:g}": level for level in quantiles}


def prediction_columns(
    predictor: TargetPredictor,
    prediction: TargetPrediction,
    contexts: Contexts,
    quantiles: tuple[float, ...] = (),
    cuts: Cuts | None = None,
) -> dict[str, Array]:
    """Compute the columns of one target, rounded (float64[n] by name, see ``Predictions``).

    Args:
        predictor: Of the target; its calibration is the one of now.
        prediction: What it predicted for the n jobs.
        contexts: The n jobs.
        quantiles: Levels of further quantiles.
        cuts: The thresholds between classes; None where no classes are asked for.
    """
    mixture, name = predictor.mixture, predictor.target.name
    wanted = quantile_columns(quantiles)
    levels = np.array(list(wanted.values()))
    masses, row = prediction.masses, prediction.history_of_row
    calibrated_levels = predictor.calibration.levels(levels, prediction.familiarity)
    numbers, best, shares = summarise_reweighted(
        masses,
        row,
        prediction.ratio,
        np.column_stack([np.full(len(row), 0.5), calibrated_levels]),
        mixture.error_scale,
        predictor.calibration.points.levels(prediction.familiarity),
        Cuts() if cuts is None else cuts,
    )
    point = masses.value_in(best, row, mixture.last_in_bin(contexts, best))
    mean, deviation, median = numbers[:, :3].T
    calibrated = prediction.familiarity.widen(numbers[:, 3:], levels, masses.limit[row])
    values = {"": point, "_median": median, "_mean": mean, "_sd": deviation}
    values |= dict(zip(wanted, calibrated.T, strict=True))
    values[""] = np.clip(point, values["_low"], values["_high"])
    values |= {end: column[row] for end, column in prediction.allocation.items()}
    columns = {f"{name}{end}": np.round(column, DECIMALS) for end, column in values.items()}
    if cuts is not None:
        unknown = np.full(len(row), np.nan)
        best_class, probability = likeliest(shares) if len(cuts) else (unknown, unknown)
        columns[f"{name}_class"] = best_class
        columns[f"{name}_class_probability"] = np.round(probability, DECIMALS)
    return columns
