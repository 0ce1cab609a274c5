"""Components of the mixture: each turns the outcomes of one key into a distribution over the grid.

A component is a level (one kind of history), a decay (how fast older outcomes lose weight) and a
width (the standard deviation of the kernel around each outcome on the logarithmic axis). The
decays are of the latest outcomes; a last one may be of outcomes evenly spaced over all of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled_in_place
from infra.lanes import zeros
from models.histories.outcome_index import WINDOW
from models.quantities.targets import TAIL_WIDTH, Grid

OVER = 1.1
"""A job broke its limit if it used more than this many times as much; systems stop jobs late."""
FACTS = 5
"""Inputs of the gate for each level; see ``gate.compute_facts``."""
TABLES = 6
"""Weight tables of a job: all jobs, counts, count and size, owner, owner and size, template."""

MARGIN = 1e-3
"""A position so little below a bin's edge is in that bin: the edge itself may be rounded down."""
MOST = 4
"""So many decays, and so many widths, are combined in one vector."""
LANES = 8
"""The masses of so many bins are spread as one vector."""
TAIL_FLOOR = 1e-3
"""The share of the floor that the grid's tail gets for a job without a limit."""


@dataclass(frozen=True)
class MixtureSettings:
    """How the mixture learns; one setting serves every log, and is saved with each model."""

    decays: tuple[float, ...] = (0.5, 0.9, 0.99)
    widths: tuple[float, ...] = (0.0, 0.15, 0.8)  # octaves
    floor: float = 0.02
    shrink: tuple[float, ...] = (20.0, 20.0, 20.0, 20.0, 20.0, 20.0)
    forget: tuple[float, ...] = (0.9995, 0.999, 0.999, 0.97, 0.97, 0.97)
    limit_broken: float = 0.05
    gate: float = 0.2  # step of Adagrad
    sampled: bool = False  # whether there are components of outcomes spaced over all


MEMORY_WIDTHS = (0.0, 0.1, 0.3)
"""Memory repeats more closely than time: wide kernels waste allocations (docs/benchmarks)."""


def settings_of(target: str, owner: tuple[str, ...]) -> MixtureSettings:
    """Return the default settings of a target's mixture.

    Users change their habits: outcomes of long ago mislead (LPC-EGEE: MAE 3 % higher). Programs
    hardly do, so walltimes are predicted from sampled outcomes where jobs report no user.

    Args:
        target: The target's name.
        owner: The fields that say whose a job is.
    """
    if target in ("peak_memory", "memory_per_core", "peak_gpu_memory"):
        return MixtureSettings(widths=MEMORY_WIDTHS)
    return MixtureSettings(sampled=target == "walltime" and "user" not in owner)


class Shape(NamedTuple):
    """The settings as arrays for compiled code."""

    ages: Array  # float64[decays, WINDOW], weight of the outcome of each age
    fading: Array  # float64[WINDOW, MOST], the same by age, zeros for decays that are not there
    sampled: bool  # whether the last decay is of outcomes spaced over all that are kept
    sums: Array  # float64[decays, WINDOW + 1], sum of the weights of so many outcomes
    spread: Array  # float64[widths, 2·reach + 1], share of an outcome's mass in the bins around it
    stencils: Array  # float64[widths, LANES, positions], the same for LANES neighbouring bins
    first_lane: Array  # int64[widths], the first position of a stencil, a multiple of LANES
    vectors: Array  # int64[widths], vectors of LANES positions that a stencil has
    below: Array  # float64[widths, 2·reach + 2], mass below the lower edge of each of these bins
    edge: Array  # int64[widths], empty bins at either end of a row of spread
    relative: Array  # bool[levels]
    owner: int  # position of the owner's level
    everyone: int  # position of the level of all jobs
    bins: int
    fine_bins: int  # bins before the grid's coarser tail
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
    """Compute the fading weights and the kernels (Gaussian, cut at three standard deviations).

    Args:
        settings: How the mixture learns.
        grid: The target's grid.
        relative: Which levels hold outcomes relative to the limit (bool[levels]).
        owner: The position of the owner's level.
        binding: Whether limits stop jobs.

    Raises:
        ValueError: More than MOST decays or widths.
    """
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
    ages = _fade(settings.decays + settings.decays[-1:] * settings.sampled)
    if max(len(ages), len(rows)) > MOST:
        raise ValueError(f"{len(ages)} decays and {len(rows)} widths; {MOST} at most")
    zero, edge = np.zeros((len(rows), 1)), (spread > 0).argmax(axis=1)
    first_lane = edge // LANES * LANES
    stencils, vectors = _stencils(spread, edge, first_lane)
    return Shape(
        ages=ages,
        fading=np.pad(ages.T, ((0, 0), (0, MOST - len(ages)))),
        sampled=settings.sampled,
        sums=np.concatenate([np.zeros((len(ages), 1)), np.cumsum(ages, axis=1)], axis=1),
        spread=spread,
        stencils=stencils,
        first_lane=first_lane,
        vectors=vectors,
        below=np.concatenate([zero, np.cumsum(spread, axis=1)], axis=1),
        edge=edge,
        relative=np.asarray(relative, dtype=np.bool_),
        owner=owner,
        everyone=int(np.flatnonzero(~np.asarray(relative))[-1]),
        bins=grid.bins,
        fine_bins=grid.fine_bins,
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


def _stencils(spread: Array, edge: Array, first_lane: Array) -> tuple[Array, Array]:
    """Compute the shares that LANES neighbouring bins put at each position, and their vectors.

    Args:
        spread: As in ``Shape``.
        edge: As in ``Shape``.
        first_lane: As in ``Shape``.
    """
    taps = spread.shape[1]
    vectors = -(-(taps - edge + LANES - 1 - first_lane) // LANES)
    stencils = zeros(len(spread), LANES, int(vectors.max()) * LANES)
    for width, (first, before) in enumerate(zip(first_lane, edge, strict=True)):
        for lane in range(LANES):
            positions = np.arange(before, taps - before) + lane - first
            stencils[width, lane, positions] = spread[width, before : taps - before]
    return stencils, vectors


def count_components(shape: Shape) -> int:
    """Count the components, which are ordered by level, decay and width."""
    return len(shape.relative) * len(shape.ages) * len(shape.spread)


@compiled_in_place
def positions_of_bin(b: int, shape: Shape) -> tuple[float, float]:
    """Return the first position on the axis that ``bin_of`` puts into a bin, and that after it."""
    fine, tail = min(b, shape.fine_bins), max(b - shape.fine_bins, 0)
    width = 1.0 if b < shape.fine_bins else float(TAIL_WIDTH)
    first = fine + TAIL_WIDTH * tail - MARGIN
    return first if b > 0 else -np.inf, first + width if b < shape.bins - 1 else np.inf


@compiled_in_place
def bin_of(log_bin_position: float, shape: Shape) -> int:
    """Return the bin of a position on the axis; see ``Grid.bin``."""
    position = log_bin_position + MARGIN
    if position < shape.fine_bins:
        return int(max(position, 0.0))
    return min(shape.fine_bins + int((position - shape.fine_bins) / TAIL_WIDTH), shape.bins - 1)


def _fade(decays: tuple[float, ...]) -> Array:
    return np.array(decays, dtype=np.float64)[:, None] ** np.arange(WINDOW)


def limit_positions(grid: Grid, limits: Array) -> Array:
    """Return the positions of limits on the axis (float64[n], infinite for none)."""
    finite = np.isfinite(limits)
    return np.where(finite, grid.log_bin_positions(np.where(finite, limits, 1.0)), np.inf)
