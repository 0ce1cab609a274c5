"""Explanations of predictions, computed on request and never on the fast path.

Three parts: the histories with the most weight and the ended jobs most similar to a job, what moved
the CatBoost refiner (SHAP values; Lundberg and Lee 2017, as CatBoost computes them), and which rule
set the allocation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, cast

import numpy as np

from infra.aliases import Array, Flags
from models.engine.advice import EXEMPT
from models.engine.target_predictor import TargetPrediction, TargetPredictor
from models.histories.blend import look
from models.histories.features import Contexts, Levels
from models.histories.mixture import Mixture, PrequentialReplay, weigh_components
from models.histories.outcome_index import count_available, find_slot
from models.quantities.targets import Grid
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import coarse_bins, coarse_masses, input_names, refiner_inputs

if TYPE_CHECKING:
    from models.refiner.boosting import CatBoostRefiner

Explanation = dict[str, Any]

MAX_CONTRIBUTIONS, MAX_SIMILAR, MAX_HISTORIES = 8, 5, 4
LADDER = "the ladder that wastes least by the distribution"
REQUEST_OF_NEW = "the request: no job of the submitter has ended yet"
AT_REQUEST = "the request, to which jobs keep"
QUANTILE = "the calibrated quantile that 19 jobs of 20 stay under"


def explain_target(
    predictor: TargetPredictor,
    prediction: TargetPrediction,
    columns: dict[str, Array],
    levels: Levels,
    contexts: Contexts,
    limits: Array,
    clusters: Array,
    exempt: Flags,
) -> list[Explanation]:
    """Explain the predictions of one target.

    Args:
        predictor: Of the target.
        prediction: What it predicted for n jobs.
        columns: The columns of the prediction.
        levels: The levels of the histories.
        contexts: The n jobs.
        limits: What each requested.
        clusters: The cluster of each.
        exempt: Which are exempt from advice.

    Returns:
        A dict a job with histories, similar, contributions and allocation.
    """
    name = predictor.target.name
    histories = explain_histories(predictor.mixture, levels, contexts, limits)
    contributions = explain_refiners(
        predictor, prediction, levels, contexts, clusters, columns[name]
    )
    explanations = []
    for row in range(len(contexts)):
        allocation = float(columns[f"{name}_allocation"][row])
        by_ladder, limit = bool(prediction.allocation), float(limits[row])
        rule = allocation_rule(bool(prediction.cold[row]), by_ladder, allocation, limit)
        value = None if np.isnan(allocation) else allocation
        explanations.append(
            {
                **histories[row],
                "contributions": contributions[row],
                "allocation": {"value": value, "rule": EXEMPT if exempt[row] else rule},
            }
        )
    return explanations


def explain_histories(
    mixture: Mixture, levels: Levels, contexts: Contexts, limits: Array
) -> list[Explanation]:
    """Find each job's histories with the most weight, and the ended jobs most similar to it.

    Args:
        mixture: Of the target.
        levels: The levels of the histories.
        contexts: The jobs.
        limits: What each requested.

    Returns:
        A dict a job. ``histories`` have name, weight (of 1), jobs (how many had ended) and median
        (of the latest outcomes; None of outcomes relative to a limit). ``similar``, the latest of
        the finest history first, have ``known`` (when the outcome became available, µs) and
        ``ident`` (see ``features.identities``), by which a store can name them, the outcome
        ``value`` and ``alike``, the fields that they share.
    """
    replay = PrequentialReplay(
        mixture, contexts, np.full(len(contexts), np.nan), limits, queries_only=True
    )
    index, jobs, view = mixture.state.outcomes, replay.jobs, replay.view
    explanations = []
    for row in range(len(contexts)):
        look(index, mixture.shape, jobs.keys[row], jobs.at[row], jobs.limit[row], view)
        weigh_components(mixture.state, mixture.shape, jobs.keys[row], view)
        weights = view.weights.reshape(len(levels.levels), -1).sum(axis=1)
        similar: dict[tuple[int, int], Explanation] = {}
        histories: list[Explanation] = []
        for number, level in enumerate(levels.levels):
            first, end = int(view.starts[number]), int(view.ends[number])
            if end <= first:
                continue
            ended = int(count_available(index, find_slot(index, jobs.keys[row, number]), end))
            rows = index.outcome_row[first:end]
            histories.append(
                {
                    "history": level.name,
                    "weight": round(float(weights[number]), 4),
                    "jobs": ended,
                    "median": None if level.relative else float(np.median(index.value[rows])),
                }
            )
            for outcome in rows[::-1] if not level.relative else ():
                if len(similar) == MAX_SIMILAR:
                    break
                identity = int(index.available_at[outcome]), int(index.outcome_id[outcome])
                example = {
                    "known": identity[0],
                    "ident": identity[1],
                    "value": float(index.value[outcome]),
                    "alike": list(level.fields),
                }
                similar.setdefault(identity, example)
        histories.sort(key=lambda history: -history["weight"])
        explanations.append(
            {"histories": histories[:MAX_HISTORIES], "similar": list(similar.values())}
        )
    return explanations


def explain_refiners(
    predictor: TargetPredictor,
    prediction: TargetPrediction,
    levels: Levels,
    contexts: Contexts,
    clusters: Array,
    points: Array,
) -> list[list[Explanation]]:
    """Find the inputs that moved each job's refiner most.

    Args:
        predictor: Of the target.
        prediction: What it predicted.
        levels: The levels of the histories.
        contexts: The jobs.
        clusters: The cluster of each.
        points: The predicted value of each.

    Returns:
        A list a job, empty without a refiner. ``contribution`` is by how much an input raised the
        logarithm of the mass around the predicted value against that of the other bins.
    """
    contributions: list[list[Explanation]] = [[] for _ in range(len(contexts))]
    refiners, mixture = predictor.refiners, predictor.mixture
    if not refiners:
        return contributions
    masses = prediction.masses.take(prediction.history_of_row)
    counts = mixture.ended_counts(contexts)
    inputs = refiner_inputs(masses.mass, coarse_masses(masses), counts, contexts.numbers)
    level_names = tuple(level.name for level in levels.levels)
    names = input_names(level_names, levels.inputs, mixture.grid)
    predicted_bin = coarse_bins(mixture.grid)[mixture.grid.bin(points)]
    for row in range(len(contexts)):
        refiner = cast("CatBoostRefiner | None", refiners.get(clusters[row], refiners.get(GLOBAL)))
        if refiner is None:
            continue
        moved = refiner.contributions(inputs[row : row + 1], int(predicted_bin[row]))
        largest = np.argsort(-np.abs(moved), kind="stable")[:MAX_CONTRIBUTIONS]
        contributions[row] = [
            {
                "input": readable_input(names[column], mixture.grid),
                # A text is a hash among the inputs.
                "value": None
                if names[column] in levels.categories
                else _rounded(inputs[row, column]),
                "contribution": round(float(moved[column]), 4),
            }
            for column in largest
            if moved[column]
        ]
    return contributions


def readable_input(name: str, grid: Grid) -> str:
    """Describe an input for a person: the range of a mass, a quantile in words."""
    kind, _, rest = name.partition("_")
    if kind == "mass":
        bins = np.flatnonzero(coarse_bins(grid) == int(rest))
        low, high = grid.edges[bins[0]], grid.edges[bins[-1] + 1]
        return f"mass of the histories from {low:.4g} to {high:.4g}"
    return f"bin of the histories' quantile {rest}" if kind == "quantile" else name


def _rounded(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def allocation_rule(cold: bool, by_ladder: bool, allocation: float, limit: float) -> str:
    """Name the rule that set a job's allocation.

    Args:
        cold: Whether no outcome of the owner was available.
        by_ladder: Whether memory is allocated by the ladder of allocation.py.
        allocation: What was allocated.
        limit: What the job requested, infinite for nothing.
    """
    if by_ladder and cold and np.isfinite(limit) and allocation == limit:
        return REQUEST_OF_NEW
    if np.isfinite(limit) and allocation >= limit:
        return AT_REQUEST
    return LADDER if by_ladder else QUANTILE
