"""Refinement: how a trained model reweights the mixture's masses, and its inputs.

The mixture's bins are grouped into coarse ones; the model gives a factor for the mass of each.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np

from infra.aliases import Array, Integers
from models.quantities.classes import Cuts
from models.quantities.distribution import Distribution, price_of
from models.quantities.masses import bins_below, coarsen, reweight, summarise
from models.quantities.targets import Grid
from models.refiner.clusters import GLOBAL

COARSE = 27
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Refiner(Protocol):
    """A trained model of the factors of coarse masses."""

    @property
    def share(self) -> float:
        """How far it goes from the mixture's masses to its own, 0 to 1."""
        ...

    def ratio(self, inputs: Array, coarse: Array) -> Array:
        """Return factors (float64[n, coarse bins]) such that masses times factors sum to 1."""
        ...

    def save(self, path: Path) -> None:
        """Write the model to a file of its own format."""
        ...


def _width(grid: Grid) -> int:
    """Return the number of bins in a coarse one; the last also has the grid's tail."""
    return -(-grid.fine_bins // COARSE)


def coarse_count(grid: Grid) -> int:
    """Return the number of coarse bins, COARSE at most."""
    return -(-grid.fine_bins // _width(grid))


def coarse_bins(grid: Grid) -> Integers:
    """Return the coarse bin of each bin (int64[bins])."""
    return np.minimum(np.arange(grid.bins) // _width(grid), coarse_count(grid) - 1)


def coarse_masses(distribution: Distribution) -> Array:
    """Return the mass in each coarse bin (float64[n, coarse bins])."""
    grid = distribution.grid
    out = np.empty((len(distribution), coarse_count(grid)))
    coarsen(distribution.mass, _width(grid), out)
    return out


def refiner_inputs(
    mass: Array, coarse: Array, counts: Array, numbers: Array, rows: Array | None = None
) -> Array:
    """Compute the inputs of a refiner (float32[n, m]).

    Args:
        mass: The mixture's masses (float32[k, bins]), of which quantiles are inputs.
        coarse: The same in coarse bins.
        counts: How many outcomes each key had (int64[k, levels]).
        numbers: The jobs' numeric fields (float32[n, fields]).
        rows: The row of the first three of each job (int64[n]); default: the same row.
    """
    quantiles = np.empty((len(mass), len(QUANTILES)), np.float32)
    bins_below(mass, np.array(QUANTILES), quantiles)
    of_histories = np.column_stack([coarse, quantiles, np.log2(1.0 + counts)]).astype(np.float32)
    selected = of_histories if rows is None else of_histories[rows]
    return np.column_stack([selected, numbers])


def input_names(levels: tuple[str, ...], fields: tuple[str, ...], grid: Grid) -> list[str]:
    """Return the names of the columns of ``refiner_inputs``.

    Args:
        levels: The names of the levels.
        fields: The fields that the refiner reads.
        grid: The target's grid.
    """
    return [
        *(f"mass_{k}" for k in range(coarse_count(grid))),
        *(f"quantile_{level:g}" for level in QUANTILES),
        *(f"ended {level}" for level in levels),
        "hour",
        "weekday",
        *fields,
    ]


def refine(distribution: Distribution, ratio: Array) -> Distribution:
    """Multiply masses by the factors of their coarse bins (float64[n, coarse bins])."""
    reweighted = np.empty(distribution.mass.shape, np.float32)
    reweight(distribution.mass, ratio, _width(distribution.grid), reweighted)
    return Distribution(distribution.grid, reweighted, distribution.limit)


def factors(
    inputs: Array, coarse: Array, refiners: Mapping[str, Refiner], clusters: Array
) -> Array:
    """Return the factor of each coarse mass of each job (float64[n, coarse bins]).

    A job is answered by its cluster's refiner, else by the global one; without either its masses
    stay.

    Args:
        inputs: As from ``refiner_inputs``.
        coarse: As from ``coarse_masses``.
        refiners: Refiners by cluster.
        clusters: The cluster of each job (object[n]).
    """
    if refiners.keys() == {GLOBAL}:
        return refiners[GLOBAL].ratio(inputs, coarse)
    ratio = np.ones_like(coarse)
    number = {cluster: number for number, cluster in enumerate(refiners)}
    fallback = number.get(GLOBAL, -1)
    numbers = np.array([number.get(cluster, fallback) for cluster in clusters.tolist()])
    for cluster, refiner in refiners.items():
        rows = np.flatnonzero(numbers == number[cluster])
        if len(rows):
            ratio[rows] = refiner.ratio(inputs[rows], coarse[rows])
    return ratio


def summarise_reweighted(
    masses: Distribution,
    rows: Array,
    ratio: Array,
    levels: Array,
    scale: float,
    point_levels: Array,
    cuts: Cuts,
) -> tuple[Array, Array, Array]:
    """Compute in one pass what ``refine`` and then ``Distribution`` would give.

    Args:
        masses: The mixture's distributions.
        rows: The row of ``masses`` of each job (int64[n]).
        ratio: The factors of its coarse masses (float64[n, coarse bins]).
        levels: The levels of quantiles (float64[levels] or float64[n, levels]).
        scale: A large error, for the best bin.
        point_levels: The level of each job's best bin (float64[n]).
        cuts: Between classes.

    Returns:
        Mean, standard deviation and quantiles (float64[n, 2 + levels]), the best bins (int64[n]),
        and the mass of each class (float64[n, cuts + 1], undefined without cuts).
    """
    grid, levels = masses.grid, np.ascontiguousarray(np.atleast_2d(levels))
    numbers, best = np.empty((len(rows), 2 + levels.shape[1])), np.empty(len(rows), np.int64)
    classes = np.empty((len(rows), len(cuts) + 1))
    summarise(
        masses.mass,
        rows,
        ratio,
        _width(grid),
        grid.centres,
        grid.edges,
        masses.limit[rows],
        levels,
        float(price_of(scale)),
        point_levels,
        cuts.bins,
        cuts.parts,
        numbers,
        best,
        classes,
    )
    return numbers, best, classes
