"""Rolling: live through a log as the platform would, each job predicted at its submission by what had ended."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Progress
from models.engine.training import (
    BATCH_ROWS,
    MAX_TRAINING_ROWS,
    TrainingError,
    find_target,
    new_mixture,
)
from models.histories.calibration import Calibration
from models.histories.components import MixtureSettings
from models.histories.features import Contexts, choose_levels, encode
from models.histories.mixture import PrequentialReplay, outcome_order
from models.quantities.classes import Cuts, Thresholds
from models.quantities.distribution import Distribution
from models.quantities.targets import Target
from models.refiner.clusters import GLOBAL, By, find_clusters
from models.refiner.refinement import factors, refine
from models.refiner.selection import Selection, before_windows, select_refiners
from models.refiner.training_rows import TrainingBuffer, make_training_rows


@dataclass(frozen=True)
class Backtest:
    """What would have been predicted at each submission after the warm-up, in order of submission.

    ``rows`` are positions in the jobs as given, and only jobs whose outcome (``truth``) is known are among them; all arrays have
    one value or row for each. ``levels`` belong to the columns of ``quantiles`` (calibrated). ``below`` and ``upto`` are the
    uncalibrated mass below the truth's bin and up to and with it, so ``upto - below`` is the mass in the truth's bin. ``shares`` are
    the probabilities of the classes between the thresholds asked for (float64[n, thresholds + 1]). ``refined`` says whether a refiner
    took part, ``clusters`` whose. ``notes`` has a record a refit.
    """

    rows: Array
    truth: Array
    point: Array
    median: Array
    mean: Array
    low: Array
    high: Array
    levels: tuple[float, ...]
    quantiles: Array
    crps: Array
    below: Array
    upto: Array
    shares: Array
    refined: Array
    clusters: Array
    notes: list[dict[str, Any]]


QUANTILE_LEVELS = tuple(round(0.05 * k, 2) for k in range(1, 20))


def backtest(
    jobs: pd.DataFrame,
    target: str | Target = "walltime",
    *,
    warm_up: float = 0.1,
    refit_every: float = 0.1,
    cluster_by: By | None = None,
    settings: MixtureSettings | None = None,
    refined: bool = True,
    thresholds: Thresholds = (),
    progress: Progress | None = None,
) -> Backtest:
    """Live through ``jobs`` as the platform would: each predicted at its submission by what had ended, the refiner refitted on a schedule.

    ``warm_up`` and ``refit_every`` are shares of the jobs in order of submission; the levels are chosen on the warm-up.
    ``refined=False`` is the mixture alone. Raises TrainingError for an unknown target or a share that is none.
    """
    aim = find_target(target) if isinstance(target, str) else target
    if not 0 < warm_up < 1 or not 0 < refit_every <= 1:
        raise TrainingError("warm_up and refit_every must be shares between 0 and 1")
    sequence = np.argsort(jobs["submitted_at"].to_numpy(), kind="stable")
    jobs, count = jobs.iloc[sequence], len(jobs)
    first, step = max(int(count * warm_up), 1), max(int(count * refit_every), 1)
    levels = choose_levels(jobs.iloc[:first], aim.subject)
    contexts, values, limits = encode(jobs, levels), aim.value(jobs), aim.limit(jobs)
    mixture, order = new_mixture(aim, levels, settings), outcome_order(contexts, values)
    walk = PrequentialReplay(mixture, contexts, values, limits)
    lessons = TrainingBuffer(count)
    places = _Places(count)
    cuts, answers = Cuts.of(thresholds, aim.grid), list[dict[str, Array]]()
    notes: list[dict[str, Any]] = []
    labels = np.full(count, GLOBAL, dtype=object)
    standing = Selection()
    seen_until = 0
    starts = [0, *range(first, count, step)]
    for start, stop in zip(starts, [*starts[1:], count], strict=True):
        if refined and start:
            before, seen_until = (
                seen_until,
                int(
                    np.searchsorted(contexts.available_at[order], contexts.at[start], side="right")
                ),
            )
            ended = order[:seen_until][-MAX_TRAINING_ROWS:]
            early = before_windows(order[:seen_until], MAX_TRAINING_ROWS)
            labels = find_clusters(jobs.iloc[early], values[early], cluster_by).assign(jobs)
            unseen = min(seen_until - before, len(ended) // 2)
            standing = select_refiners(
                lessons.take(ended), labels[ended], aim.grid, standing, unseen
            )
            notes.append({"from_row": start, "trained_on": len(ended), "clusters": standing.report})
        refiners = standing.refiners
        for low in range(start, stop, BATCH_ROWS):
            few = np.arange(low, min(low + BATCH_ROWS, stop))
            answer, scales = walk.advance(few)
            part = contexts.take(few)
            lesson = make_training_rows(mixture, part, answer.mass, values[few])
            lessons.put(few, lesson)
            if refiners:
                answer = replace(
                    answer,
                    mass=refine(
                        answer.mass, factors(lesson.inputs, lesson.coarse, refiners, labels[few])
                    ),
                )
            levels_now = places.judge(answer, values[few], few, contexts, order)
            if start:
                owner = np.array(
                    [label if label in refiners else GLOBAL for label in labels[few]], dtype=object
                )
                seen = mixture.last_in_bin(part, answer.best_bin(scales))
                answers.append(
                    _ask(answer, few, values[few], levels_now)
                    | {
                        "point": answer.best_point(scales, seen)
                        if aim.point is None
                        else answer.quantile(aim.point)
                    }
                    | {
                        "clusters": owner,
                        "refined": np.full(len(few), bool(refiners)),
                        "shares": answer.shares(cuts),
                    }
                )
            if progress:
                progress(f"{aim.name}: living through {count} jobs", (int(few[-1]) + 1) / count)
    whole = {name: np.concatenate([part[name] for part in answers]) for name in answers[0]}
    whole |= {"below": places.below[whole["rows"]], "upto": places.upto[whole["rows"]]}
    known = np.isfinite(whole["truth"])
    whole = {name: part[known] for name, part in whole.items()}
    whole["rows"] = sequence[whole["rows"]]
    return Backtest(levels=QUANTILE_LEVELS, notes=notes, **whole)


def _ask(answer: Distribution, rows: Array, truth: Array, levels: Array) -> dict[str, Array]:
    quantiles = np.column_stack(
        [answer.quantile(levels[:, place]) for place in range(levels.shape[1])]
    )
    return {
        "rows": rows,
        "truth": truth,
        "median": answer.median(),
        "mean": answer.mean(),
        "low": quantiles[:, 0],
        "high": quantiles[:, -1],
        "quantiles": quantiles,
        "crps": answer.continuous_ranked_probability(truth),
    }


class _Places:
    """Where each job's outcome lay in its distribution, and the calibration that has learned it as far as it was known."""

    def __init__(self, count: int) -> None:
        self.below, self.upto = np.full(count, np.nan), np.full(count, np.nan)
        self.calibration = Calibration()
        self.place = 0

    def judge(
        self, answer: Distribution, truth: Array, rows: Array, contexts: Contexts, order: Array
    ) -> Array:
        """Note where the outcomes of ``rows`` lie; returns the levels to ask for at each one's submission (float64[n, levels])."""
        below, upto = answer.probability_integral(np.nan_to_num(truth))
        known = np.isfinite(truth)
        self.below[rows[known]], self.upto[rows[known]] = below[known], upto[known]
        levels, self.place = self.calibration.replay(
            self.below,
            self.upto,
            order,
            self.place,
            contexts.available_at,
            contexts.at[rows],
            np.array(QUANTILE_LEVELS),
        )
        return levels
