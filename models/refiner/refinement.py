"""Refinement: how a learned model bends the mixture's masses, and what it is shown.

The mixture's bins are put together into coarse ones; the model says for each by how much its mass should change.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Protocol

import numpy as np
import numpy.typing as npt

from infra.aliases import Array
from models.quantities.classes import Cuts
from models.quantities.distribution import Distribution, price_of
from models.quantities.masses import bend, bins_below, coarsen, read_off
from models.refiner.clusters import GLOBAL

COARSE = 27
QUANTILES = (0.05, 0.25, 0.5, 0.75, 0.95)


class Refiner(Protocol):
    """A trained model of how the coarse masses should change; it goes ``share`` of the way."""

    @property
    def share(self) -> float:
        """How far it goes from the mixture's masses to its own, 0 to 1."""
        ...

    def ratio(self, inputs: Array, coarse: Array) -> Array:
        """Factor of each coarse mass (float64[n, coarse bins]); the masses times the factors sum to 1."""
        ...

    def save(self, path: Path) -> None:
        """Write the model to a file of its own format."""
        ...


def coarse_bins(bins: int) -> npt.NDArray[np.int64]:
    """The coarse bin of each fine one (int64[bins]), COARSE of them at most and of equal size."""
    return np.arange(bins) // _width(bins)


def _width(bins: int) -> int:
    return -(-bins // COARSE)


def coarse_masses(mass: Array) -> Array:
    """Mass in each coarse bin (float64[n, coarse bins]) of float[n, bins]."""
    bins = mass.shape[1]
    out = np.empty((len(mass), -(-bins // _width(bins))))
    coarsen(mass, _width(bins), out)
    return out


def refiner_inputs(
    mass: Array, coarse: Array, counts: Array, numbers: Array, which: Array | None = None
) -> Array:
    """What a refiner is shown: coarse masses, the mixture's quantiles, counts of ended jobs a key, the job's numbers (float32[n, m]).

    ``which`` (int64[n]) says which row of the first three each row of ``numbers`` goes with, where several share one.
    """
    quantiles = np.empty((len(mass), len(QUANTILES)), np.float32)
    bins_below(mass, np.array(QUANTILES), quantiles)
    shown = np.column_stack([coarse, quantiles, np.log2(1.0 + counts)]).astype(np.float32)
    # CatBoost takes columns as they lie, and would copy rows.
    return np.asfortranarray(np.column_stack([shown if which is None else shown[which], numbers]))


def input_names(levels: tuple[str, ...], numbers: tuple[str, ...], bins: int) -> list[str]:
    """Names of the columns of ``refiner_inputs``."""
    masses = [f"mass_{k}" for k in range(int(coarse_bins(bins)[-1]) + 1)]
    quantiles = [f"quantile_{level:g}" for level in QUANTILES]
    return [
        *masses,
        *quantiles,
        *(f"ended {level}" for level in levels),
        "hour",
        "weekday",
        *numbers,
    ]


def refine(mass: Array, ratio: Array) -> Array:
    """Multiply fine masses by the factors of their coarse bins (float32[n, bins], rows summing to 1)."""
    bent = np.empty(mass.shape, np.float32)
    bend(mass, ratio, _width(mass.shape[1]), bent)
    return bent


def factors(shown: Array, coarse: Array, refiners: Mapping[str, Refiner], clusters: Array) -> Array:
    """The factor of each coarse mass of each job (float64[n, coarse bins]), by what its refiner is ``shown`` (see ``refiner_inputs``).

    A job is answered by its cluster's refiner, or by the global one where it has none; its masses stay where there is neither.
    """
    if refiners.keys() == {GLOBAL}:
        return refiners[GLOBAL].ratio(shown, coarse)
    ratio = np.ones_like(coarse)
    who = np.array(
        [cluster if cluster in refiners else GLOBAL for cluster in clusters], dtype=object
    )
    for cluster, refiner in refiners.items():
        rows = who == cluster
        if rows.any():
            ratio[rows] = refiner.ratio(shown[rows], coarse[rows])
    return ratio


def summarise_reweighted(
    foreseen: Distribution, which: Array, factors: Array, levels: Array, scale: float, cuts: Cuts
) -> tuple[Array, Array, Array]:
    """Mean, standard deviation and quantiles at ``levels`` (float64[n, 2 + levels]), the best bin (int64[n]), and the mass of each class
    between ``cuts`` (float64[n, cuts + 1], empty where there are none).

    Of the rows ``which`` of ``foreseen``, each bent by its ``factors``: what ``refine`` and then ``Distribution`` would say.
    """
    grid = foreseen.grid
    numbers, best = np.empty((len(which), 2 + len(levels))), np.empty(len(which), np.int64)
    limit, classes = foreseen.limit[which], np.empty((len(which), len(cuts) + 1))
    read_off(
        foreseen.mass, which, factors, _width(grid.bins), grid.centres, grid.edges, limit, levels, float(price_of(scale)),
        cuts.bins, cuts.parts, numbers, best, classes,
    )  # fmt: skip
    return numbers, best, classes
