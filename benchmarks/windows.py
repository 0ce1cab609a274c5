"""Refiners evaluated on later jobs, at some points of a backtest of the mixture."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from models.engine.log_rows import MAX_TRAINING_ROWS
from models.engine.target_predictor import BATCH_ROWS, TargetPredictor
from models.engine.training import find_target
from models.histories.components import MixtureSettings
from models.histories.features import Contexts, choose_levels, encode
from models.histories.mixture import Mixture, PrequentialReplay, outcome_order
from models.quantities.distribution import Distribution, join
from models.quantities.metrics import lowest_counted, point_errors
from models.refiner.boosting import BOOSTING, CatBoostRefiner, fit_refiner
from models.refiner.refinement import QUANTILES, refine
from models.refiner.training_rows import TrainingBuffer, TrainingRows, make_training_rows

STARTS = (0.4, 0.6, 0.8)


@dataclass(frozen=True)
class Score:
    """Sums over the jobs of a window."""

    crps: float
    error: float
    jobs: int
    accuracy: float = 0.0

    def __add__(self, other: Score) -> Score:
        return Score(
            self.crps + other.crps,
            self.error + other.error,
            self.jobs + other.jobs,
            self.accuracy + other.accuracy,
        )

    @property
    def means(self) -> tuple[float, float]:
        """Mean CRPS and mean absolute error."""
        return self.crps / self.jobs, self.error / self.jobs


@dataclass(frozen=True)
class Window:
    """The jobs submitted between two points of a backtest.

    ``ended`` are the training rows available at the first, ``later`` those of the window.

    ``ended_rows`` and ``rows`` are their places in the log.
    """

    ended_rows: Array
    rows: Array
    mixture: Mixture
    contexts: Contexts
    values: Array
    answer: Distribution
    scales: Array
    ended: TrainingRows
    later: TrainingRows

    def judge(self, refiner: CatBoostRefiner | None) -> Score:
        """How a refiner (None: the mixture alone) does on the window's jobs."""
        return self.judge_factors(
            refiner.ratio(self.later.inputs, self.later.coarse) if refiner else None
        )

    def judge_factors(self, factors: Array | None, jobs: Array | None = None) -> Score:
        """How the window's masses bent by ``factors`` (a row a job; None: not at all) do on its jobs, or on some of them (bool[n])."""
        crps, error, accuracy = 0.0, 0.0, 0.0
        queries = np.arange(len(self.values)) if jobs is None else np.flatnonzero(jobs)
        lowest = lowest_counted(self.answer.grid)
        for start in range(0, len(queries), BATCH_ROWS):
            batch_rows = queries[start : start + BATCH_ROWS]
            answer, truth = self.answer.take(batch_rows), self.values[batch_rows]
            if factors is not None:
                answer = refine(answer, factors[batch_rows])
            seen = self.mixture.last_in_bin(
                self.contexts.take(batch_rows), answer.best_bin(self.scales[batch_rows])
            )
            crps += float(answer.continuous_ranked_probability(truth).sum())
            point = answer.best_point(self.scales[batch_rows], seen)
            errors = point_errors(truth, point, lowest)
            error += len(truth) * float(errors["mae"] or 0.0)
            accuracy += len(truth) * float(errors["apa"] or 0.0)
        return Score(crps, error, len(queries), accuracy)


def windows(
    jobs: pd.DataFrame,
    warm_up: float,
    other_targets: Sequence[str] = (),
    extra_inputs: Array | None = None,
) -> Iterator[Window]:
    """Backtest ``jobs`` (in order of submission) and stop at STARTS.

    The quantiles that the mixtures of ``others``, targets too, foresaw at each submission, and the columns ``told`` (float64[n, m]),
    are shown to the refiners beside what they are shown anyway.
    """
    count, aim = len(jobs), find_target("walltime")
    levels = choose_levels(jobs.iloc[: int(count * warm_up)])
    contexts, values = encode(jobs, levels), aim.value(jobs)
    order = outcome_order(contexts, values)
    aims = [aim, *map(find_target, other_targets)]
    mixtures = [
        TargetPredictor.create(target, levels, MixtureSettings()).mixture for target in aims
    ]
    walks = [
        PrequentialReplay(mixture, contexts, target.value(jobs), target.limit(jobs))
        for mixture, target in zip(mixtures, aims, strict=True)
    ]
    notebook = TrainingBuffer(count)
    starts = [0, *(int(count * share) for share in STARTS)]
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        parts = []
        for low in range(start, stop, BATCH_ROWS):
            rows = np.arange(low, min(low + BATCH_ROWS, stop))
            (answer, scales), *beside = (walk.advance(rows) for walk in walks)
            lessons = make_training_rows(mixtures[0], contexts.take(rows), answer, values[rows])
            more = [
                np.log2(np.maximum(other.quantile(level), 1.0))
                for other, _ in beside
                for level in QUANTILES
            ]
            inputs = np.column_stack(
                [lessons.inputs, *more, *([] if extra_inputs is None else [extra_inputs[rows]])]
            )
            notebook.put(rows, replace(lessons, inputs=np.asfortranarray(inputs, np.float32)))
            if start:
                observed = np.flatnonzero(np.isfinite(values[rows]))
                parts.append((rows[observed], answer.take(observed), scales[observed]))
        if parts:
            rows, scales = (np.concatenate([batch[index] for batch in parts]) for index in (0, 2))
            answer = join([batch[1] for batch in parts])
            ended = order[
                : int(
                    np.searchsorted(contexts.available_at[order], contexts.at[start], side="right")
                )
            ][-MAX_TRAINING_ROWS:]
            batch = contexts.take(rows)
            yield Window(
                ended,
                rows,
                mixtures[0],
                batch,
                values[rows],
                answer,
                scales,
                notebook.take(ended),
                notebook.take(rows),
            )


def fit(lessons: TrainingRows, **other: Any) -> CatBoostRefiner:
    """A refiner whose settings are those of training but for ``other``."""
    fitted = fit_refiner(lessons, BOOSTING | other)
    if fitted is None:
        raise SystemExit("too few jobs had ended")
    return fitted
