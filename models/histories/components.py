"""Components: the ways in which a key's outcomes become a distribution over the grid.

A component is a level (one kind of history), a decay (how fast older outcomes fade) and a width (how far an outcome is spread on
the logarithmic axis).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from models.histories.outcome_index import WINDOW
from models.quantities.targets import Grid

OVER = 1.1
"""A job broke its limit when it used more than this many times as much; systems take a moment to stop a job."""
FACTS = 5
"""What the gate is told of each level; see ``gate.note_facts``."""
TABLES = 6
"""WeightTables that each job learns into: of all jobs, by counts, by count and size, of the owner, of the owner by size, of the template."""


@dataclass(frozen=True)
class MixtureSettings:
    """How the mixture learns; one setting serves every log (see ``settings_of``), and is kept with each model."""

    decays: tuple[float, ...] = (0.5, 0.9, 0.99)
    widths: tuple[float, ...] = (0.0, 0.15, 0.8)  # octaves
    floor: float = 0.02
    shrink: tuple[float, ...] = (20.0, 20.0, 20.0, 20.0, 20.0, 20.0)
    forget: tuple[float, ...] = (0.9995, 0.999, 0.999, 0.97, 0.97, 0.97)
    limit_broken: float = 0.05
    gate: float = 0.2  # step of Adagrad


MEMORY_WIDTHS = (0.0, 0.1, 0.3)
"""Memory repeats more closely than time does: wide kernels cost allocations half of what they save (docs/resources.md)."""


def settings_of(target: str) -> MixtureSettings:
    """How the mixture of a target learns unless it is told otherwise."""
    return (
        MixtureSettings(widths=MEMORY_WIDTHS)
        if target in ("peak_memory", "memory_per_core")
        else MixtureSettings()
    )


class Shape(NamedTuple):
    """The settings as arrays that compiled code reads."""

    ages: Array  # float64[decays, WINDOW], weight of the outcome of each age
    sums: Array  # float64[decays, WINDOW + 1], sum of the weights of so many outcomes
    spread: Array  # float64[widths, 2·reach + 1], share of an outcome's mass in the bins around it
    below: Array  # float64[widths, 2·reach + 2], mass below the lower edge of each of these bins
    edge: Array  # int64[widths], how many bins at either end of a row of spread are empty
    relative: Array  # bool[levels]
    owner: int
    everyone: int  # the level of all jobs
    bins: int
    steps: float
    lowest: float
    floor: float
    shrink: Array  # float64[TABLES], towards the coarser table
    forget: Array  # float64[TABLES]
    limit_broken: float
    binding: bool  # whether limits stop jobs
    moment: float  # bins above the limit that a job may be stopped late
    gate: float


def make_shape(
    settings: MixtureSettings, grid: Grid, relative: Array, owner: int, binding: bool = True
) -> Shape:
    """Fade and spread each outcome as the settings say; the kernels are Gaussian, cut at three standard deviations."""
    reach = int(np.ceil(3 * max(settings.widths) * grid.steps)) + 1
    distance = np.arange(-reach, reach + 1)
    rows = []
    for width in settings.widths:
        sigma = width * grid.steps
        row = (
            np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= 3 * sigma)
            if width
            else (distance == 0).astype(float)
        )
        rows.append(row / row.sum())
    spread = np.array(rows)
    ages = _fade(settings.decays)
    zero = np.zeros((len(rows), 1))
    return Shape(
        ages=ages,
        sums=np.concatenate([np.zeros((len(ages), 1)), np.cumsum(ages, axis=1)], axis=1),
        spread=spread,
        below=np.concatenate([zero, np.cumsum(spread, axis=1)], axis=1),
        edge=(spread > 0).argmax(axis=1),
        relative=np.asarray(relative, dtype=np.bool_),
        owner=owner,
        everyone=int(np.flatnonzero(~np.asarray(relative))[-1]),
        bins=grid.bins,
        steps=float(grid.steps),
        lowest=grid.lowest,
        floor=settings.floor,
        shrink=np.array(settings.shrink),
        forget=np.array(settings.forget),
        limit_broken=settings.limit_broken,
        binding=binding,
        moment=float(grid.steps * np.log2(OVER)),
        gate=settings.gate,
    )


def count_components(shape: Shape) -> int:
    """How many components there are: by level, decay, width."""
    return len(shape.relative) * len(shape.ages) * len(shape.spread)


def _fade(decays: tuple[float, ...]) -> Array:
    return np.array(decays, dtype=np.float64)[:, None] ** np.arange(WINDOW)
