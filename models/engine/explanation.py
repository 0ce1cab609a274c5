"""Explanations: why a job got its answer, made anew on request and never on the fast path.

Three questions: which histories spoke and which ended jobs are most like this one, what moved the CatBoost refiner (SHAP values;
Lundberg and Lee 2017, as CatBoost computes them), and which rule set the allocation.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from infra.aliases import Array
from models.histories.blend import look
from models.histories.features import Contexts, Levels
from models.histories.mixture import Mixture, PrequentialReplay, weigh_components
from models.histories.outcome_index import count_available, find_slot
from models.quantities.targets import Grid
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import (
    Refiner,
    coarse_bins,
    coarse_masses,
    input_names,
    refiner_inputs,
)

if TYPE_CHECKING:
    from models.refiner.boosting import CatBoostRefiner

Told = dict[str, Any]

MOST_CONTRIBUTIONS, MOST_SIMILAR, MOST_HISTORIES = 8, 5, 4
LADDER = "the ladder that wastes least by the distribution"
REQUEST_OF_NEW = "the request: nothing is known of who submits"
AT_REQUEST = "the request, to which jobs keep"
QUANTILE = "the calibrated quantile that 19 jobs of 20 stay under"


def explain_histories(
    mixture: Mixture, levels: Levels, contexts: Contexts, limits: Array
) -> list[Told]:
    """For each job the histories with the most weight, and the ended jobs most like it: the latest of its finest history first.

    ``histories`` have name, weight (of 1) and jobs (how many had ended); ``similar`` have ``known`` (microseconds) and ``ident`` (see
    ``features.identities``), by which a store can name them, the outcome ``value`` and ``alike``, the fields that they share.
    """
    walk = PrequentialReplay(
        mixture, contexts, np.full(len(contexts), np.nan), limits, queries_only=True
    )
    lists, jobs, view, told = mixture.state.outcomes, walk.jobs, walk.view, []
    for row in range(len(contexts)):
        look(lists, mixture.shape, jobs.keys[row], jobs.at[row], jobs.limit[row], view)
        weigh_components(mixture.state, mixture.shape, jobs.keys[row], view)
        weights = view.weights.reshape(len(levels.levels), -1).sum(axis=1)
        similar: dict[tuple[int, int], Told] = {}
        histories: list[Told] = []
        for place, level in enumerate(levels.levels):
            first, end = int(view.starts[place]), int(view.ends[place])
            if end <= first:
                continue
            ended = int(count_available(lists, find_slot(lists, jobs.keys[row, place]), end))
            histories.append(
                {"history": level.name, "weight": round(float(weights[place]), 4), "jobs": ended}
            )
            for outcome in range(end - 1, first - 1, -1) if not level.relative else ():
                if len(similar) == MOST_SIMILAR:
                    break
                who = int(lists.available_at[outcome]), int(lists.outcome_id[outcome])
                similar.setdefault(
                    who,
                    {
                        "known": who[0],
                        "ident": who[1],
                        "value": float(lists.value[outcome]),
                        "alike": list(level.fields),
                    },
                )
        histories.sort(key=lambda each: -each["weight"])
        told.append({"histories": histories[:MOST_HISTORIES], "similar": list(similar.values())})
    return told


def explain_refiners(
    mixture: Mixture,
    levels: Levels,
    contexts: Contexts,
    masses: Array,
    refiners: dict[str, Refiner],
    clusters: Array,
    points: Array,
) -> list[list[Told]]:
    """For each job the inputs that moved its refiner most: ``contribution`` is by how much an input raised the logarithm of the mass
    around the job's answer (``points``, float64[n]) against that of the other bins; empty where no refiner answers.

    ``masses`` (float32[n, bins]) are the mixture's, before they were refined.
    """
    found: list[list[Told]] = [[] for _ in range(len(contexts))]
    if not refiners:
        return found
    coarse = coarse_masses(masses)
    shown = refiner_inputs(masses, coarse, mixture.ended_counts(contexts), contexts.numbers)
    names = input_names(
        tuple(level.name for level in levels.levels), levels.numbers, mixture.grid.bins
    )
    answered = coarse_bins(mixture.grid.bins)[mixture.grid.bin(points)]
    for row in range(len(contexts)):
        refiner: CatBoostRefiner | None = refiners.get(clusters[row], refiners.get(GLOBAL))  # type: ignore[assignment]
        if refiner is None:
            continue
        moved = refiner.contributions(shown[row : row + 1], int(answered[row]))
        first = np.argsort(-np.abs(moved), kind="stable")[:MOST_CONTRIBUTIONS]
        found[row] = [
            {
                "input": _readable(names[place], mixture.grid),
                "value": _plain(shown[row, place]),
                "contribution": round(float(moved[place]), 4),
            }
            for place in first
            if moved[place]
        ]
    return found


def _readable(name: str, grid: Grid) -> str:
    """An input's name as a person reads it: the range of a mass, a quantile in words."""
    kind, _, rest = name.partition("_")
    if kind == "mass":
        within = np.flatnonzero(coarse_bins(grid.bins) == int(rest))
        return f"mass of the histories from {grid.edges[within[0]]:.4g} to {grid.edges[within[-1] + 1]:.4g}"
    return f"bin of the histories' quantile {rest}" if kind == "quantile" else name


def _plain(value: float) -> float | None:
    return None if np.isnan(value) else round(float(value), 4)


def allocation_rule(cold: bool, by_ladder: bool, allocation: float, limit: float) -> str:
    """Which rule set a job's allocation: ``by_ladder`` says that memory is set aside by the ladder of models/engine/allocation.py."""
    if by_ladder and cold and np.isfinite(limit) and allocation == limit:
        return REQUEST_OF_NEW
    if np.isfinite(limit) and allocation >= limit:
        return AT_REQUEST
    return LADDER if by_ladder else QUANTILE
