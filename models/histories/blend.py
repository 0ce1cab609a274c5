"""Blend the outcomes in a job's histories into one distribution, and compute responsibilities.

``View`` holds the window of outcomes that one job sees at each level. Prediction and learning read
the same windows, so the weights that are learned are those of the predictions.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled_in_place
from infra.lanes import load_4, load_8, multiply_add, repeat_4, repeat_8, store, sum_4, zeros
from models.histories.components import (
    FACTS,
    LANES,
    MOST,
    TABLES,
    TAIL_FLOOR,
    Shape,
    bin_of,
)
from models.histories.outcome_index import (
    WINDOW,
    OutcomeIndex,
    available_end,
    count_available,
    find_slot,
    first_in_window,
    sampling_stride,
)
from models.quantities.targets import TAIL_WIDTH


class View(NamedTuple):
    """One job's windows and weights, and scratch space."""

    slots: Array  # int64[levels], -1 for a key without outcomes
    starts: Array  # int64[levels], pool position of the window's oldest outcome
    ends: Array  # int64[levels], pool position after its newest
    counts: Array  # int64[levels], outcomes that the key ever had by then
    strides: Array  # int64[levels], from one sampled outcome to the next; 1 for the window itself
    weights: Array  # float64[components]
    prior: Array  # float64[components], the weights before the outcome was known
    facts: Array  # float64[levels, FACTS], inputs of the gate
    tables: Array  # uint64[TABLES], keys of the weight tables
    coefficients: Array  # float64[MOST, MOST], weight of each decay and width, for one level
    sharp: Array  # float64[bins, MOST], masses by width, before they are spread
    lasting: Array  # the same of the levels that are not relative, for the next job
    likelihoods: Array  # float64[widths, bins]
    padded: Array  # float64[bins + 2·reach], scratch space with room for whole vectors
    bins: Array  # int64[WINDOW], scratch space


def new_view(shape: Shape, components: int) -> View:
    """Allocate a view, which serves one job after another."""
    levels = len(shape.relative)
    return View(
        slots=np.full(levels, -1, np.int64),
        starts=np.zeros(levels, np.int64),
        ends=np.zeros(levels, np.int64),
        counts=np.zeros(levels, np.int64),
        strides=np.ones(levels, np.int64),
        weights=np.zeros(components),
        prior=np.zeros(components),
        facts=np.zeros((levels, FACTS)),
        tables=np.zeros(TABLES, np.uint64),
        coefficients=zeros(MOST, MOST),
        sharp=new_sharp(shape),
        lasting=new_sharp(shape),
        likelihoods=np.zeros((len(shape.spread), shape.bins)),
        padded=zeros(shape.bins + shape.spread.shape[1] + 2 * LANES),
        bins=np.zeros(WINDOW, np.int64),
    )


def new_sharp(shape: Shape) -> Array:
    """Allocate masses by bin and width, with room for whole vectors of bins."""
    return zeros(-(-shape.bins // LANES) * LANES, MOST)


@compiled_in_place
def _floor(shape: Shape, limit_bin: int) -> tuple[float, float]:
    """Return the floor in each fine bin and in each bin of the tail, as shares of the floor.

    Without a limit the tail gets next to nothing: hundreds of days are as unlikely as that.
    """
    fine = min(limit_bin + 1, shape.fine_bins)
    tail = limit_bin + 1 - fine
    weight = TAIL_WIDTH if limit_bin < shape.bins - 1 else TAIL_FLOOR * fine / max(tail, 1)
    unit = 1.0 / (fine + weight * tail)
    return unit, weight * unit


@compiled_in_place
def look(index: OutcomeIndex, shape: Shape, keys: Array, at: int, limit: float, view: View) -> None:
    """Find the windows of outcomes that a job sees.

    Args:
        index: The outcomes.
        shape: The mixture's shape.
        keys: The job's keys (uint64[levels]).
        at: Time of the prediction, microseconds.
        limit: Position of the job's limit on the axis, infinite for none.
        view: Receives slots, starts, ends, counts and strides.
    """
    for level in range(len(keys)):
        slot = find_slot(index, keys[level])
        view.slots[level] = slot
        view.starts[level] = view.ends[level] = view.counts[level] = 0
        if slot < 0:
            continue
        end = available_end(index, slot, at)
        view.counts[level] = count_available(index, slot, end)
        if np.isfinite(limit) or not shape.relative[level]:
            view.ends[level], view.starts[level] = end, first_in_window(index, slot, end)
            if shape.sampled:
                view.strides[level] = sampling_stride(index, slot, end)


@compiled_in_place
def hide_empty(shape: Shape, view: View) -> None:
    """Drop the weights of levels without outcomes; the others sum to 1, or all are 0."""
    weights, per_level = view.weights, len(shape.ages) * len(shape.spread)
    for level in range(len(view.slots)):
        if view.ends[level] <= view.starts[level]:
            weights[level * per_level : (level + 1) * per_level] = 0.0
    total = weights.sum()
    if total > 0:
        for c in range(len(weights)):
            weights[c] /= total


@compiled_in_place
def set_coefficients(shape: Shape, level: int, count: int, view: View) -> None:
    """Compute by which coefficients the fading weights of a level's outcomes give their masses.

    Args:
        shape: The mixture's shape.
        level: The level.
        count: Outcomes in its window.
        view: The job's weights; receives the coefficients.
    """
    decays, widths = len(shape.ages), len(shape.spread)
    for decay in range(decays):
        scale = 1.0 / shape.sums[decay, count]
        for k in range(widths):
            component = (level * decays + decay) * widths + k
            view.coefficients[decay, k] = view.weights[component] * scale


@compiled_in_place
def mass_of_outcome(
    fading: Array, age: int, first: Any, second: Any, third: Any, fourth: Any
) -> Any:
    """Return the masses by width of the outcome of an age.

    Args:
        fading: As in ``Shape``.
        age: Zero for the newest outcome.
        first: The coefficients of the first decay.
        second: Of the second.
        third: Of the third.
        fourth: Of the fourth.
    """
    newer = multiply_add(first, repeat_4(fading[age, 0]), repeat_4(0.0))
    newer = multiply_add(second, repeat_4(fading[age, 1]), newer)
    newer = multiply_add(third, repeat_4(fading[age, 2]), newer)
    return multiply_add(fourth, repeat_4(fading[age, 3]), newer)


@compiled_in_place
def add_masses(sharp: Array, b: int, factor: float, masses: Any) -> None:
    """Add the masses by width of one outcome to its bin.

    Args:
        sharp: Receives the masses (float64[bins, MOST]).
        b: The bin.
        factor: Multiplies the masses.
        masses: As from ``mass_of_outcome``.
    """
    position = MOST * b
    store(sharp, position, multiply_add(masses, repeat_4(factor), load_4(sharp, position)))


@compiled_in_place
def blend(
    index: OutcomeIndex,
    shape: Shape,
    limit: float,
    limit_bin: int,
    view: View,
    reuse: bool,
    keep: bool,
    out: Array,
) -> None:
    """Compute the distribution of one job by ``view.weights``.

    Args:
        index: The outcomes.
        shape: The mixture's shape.
        limit: Position of the job's limit on the axis, infinite for none.
        limit_bin: The last bin that may hold mass.
        view: The job's windows and weights.
        reuse: Whether ``view.lasting`` has the masses of these windows and weights.
        keep: Whether they are to be in ``view.lasting`` afterwards.
        out: Receives the masses (float32[bins]).
    """
    sharp, bins, coefficients, fading = view.sharp, view.bins, view.coefficients, shape.fading
    levels, last = len(view.slots), len(shape.ages) - 1
    if reuse:
        _copy_masses(view.lasting, sharp)
    else:
        sharp[:] = 0.0
    # Levels that are not relative come first, in the same loop.
    for step in range(levels if reuse else 0, 2 * levels):
        relative = step >= levels
        level = step - levels if relative else step
        if step == levels and keep and not reuse:
            _copy_masses(sharp, view.lasting)
        count, newest = view.ends[level] - view.starts[level], view.ends[level] - 1
        if count <= 0 or shape.relative[level] != relative:
            continue
        shift = limit if relative else 0.0
        stride = view.strides[level]
        set_coefficients(shape, level, count, view)
        if stride > 1:
            sampled = load_4(coefficients, MOST * last)
            for age in range(count):
                outcome = newest - age * stride
                b = bin_of(index.log_bin_position[outcome] + shift, shape)
                add_masses(sharp, b, fading[age, last], sampled)
            store(coefficients, MOST * last, repeat_4(0.0))
        for age in range(count):
            bins[age] = bin_of(index.log_bin_position[newest - age] + shift, shape)
        first, second = load_4(coefficients, 0), load_4(coefficients, MOST)
        third, fourth = load_4(coefficients, 2 * MOST), load_4(coefficients, 3 * MOST)
        for age in range(count):
            masses = mass_of_outcome(fading, age, first, second, third, fourth)
            add_masses(sharp, bins[age], 1.0, masses)
    smooth(shape, limit_bin, sharp, view.padded, out)


@compiled_in_place
def sees_the_same(keys: Array, at: Array, limits: Array, row: int, second_row: int) -> bool:
    """Whether two jobs see the same windows with the same weights: only the limits may differ.

    Args:
        keys: The keys of the jobs (uint64[n, levels]).
        at: When they are predicted.
        limits: The positions of their limits.
        row: One of the jobs.
        second_row: The other one.
    """
    if at[row] != at[second_row]:
        return False
    for level in range(keys.shape[1]):
        if keys[row, level] != keys[second_row, level]:
            return False
    return np.isfinite(limits[row]) == np.isfinite(limits[second_row])


@compiled_in_place
def _copy_masses(source: Array, target: Array) -> None:
    for position in range(0, source.size, LANES):
        store(target, position, load_8(source, position))


@compiled_in_place
def smooth(shape: Shape, limit_bin: int, sharp: Array, padded: Array, out: Array) -> None:
    """Spread masses by the kernels, fold those beyond the grid or the limit back, add the floor.

    Args:
        shape: The mixture's shape.
        limit_bin: The last bin that may hold mass.
        sharp: Masses before spreading (float64[bins, MOST]).
        padded: Scratch space, as in ``View``.
        out: Receives the masses (float32[bins]), which sum to 1.
    """
    reach = shape.spread.shape[1] // 2
    _spread(shape, sharp, padded)
    padded[reach] += padded[:reach].sum()
    padded[reach + limit_bin] += padded[reach + limit_bin + 1 : shape.bins + 2 * reach].sum()
    allowed = padded[reach : reach + limit_bin + 1]
    total = allowed.sum()
    floor = shape.floor if total > 0 else 1.0
    scale = (1.0 - floor) / total if total > 0 else 0.0
    fine_floor, tail_floor = _floor(shape, limit_bin)
    fine_bins = min(limit_bin + 1, shape.fine_bins)
    for b in range(fine_bins):
        out[b] = allowed[b] * scale + floor * fine_floor
    for b in range(fine_bins, limit_bin + 1):
        out[b] = allowed[b] * scale + floor * tail_floor
    out[limit_bin + 1 :] = 0.0


@compiled_in_place
def _spread(shape: Shape, sharp: Array, padded: Array) -> None:
    """Spread the masses of each width by its kernel; arguments as for ``smooth``.

    LANES neighbouring bins are spread at once, to positions that begin at multiples of LANES.
    """
    padded[:] = 0.0
    stencils, length, nothing = shape.stencils, shape.stencils.shape[2], repeat_8(0.0)
    for start in range(0, len(sharp), LANES):
        masses = repeat_4(0.0)
        for b in range(start, start + LANES):
            masses = multiply_add(load_4(sharp, MOST * b), repeat_4(1.0), masses)
        if sum_4(masses) == 0.0:
            continue
        for k in range(len(shape.spread)):
            mass_0, mass_1 = repeat_8(sharp[start, k]), repeat_8(sharp[start + 1, k])
            mass_2, mass_3 = repeat_8(sharp[start + 2, k]), repeat_8(sharp[start + 3, k])
            mass_4, mass_5 = repeat_8(sharp[start + 4, k]), repeat_8(sharp[start + 5, k])
            mass_6, mass_7 = repeat_8(sharp[start + 6, k]), repeat_8(sharp[start + 7, k])
            position, row = start + shape.first_lane[k], LANES * k * length
            for _ in range(shape.vectors[k]):
                # Two sums, so that additions wait for each other half as long.
                even = multiply_add(mass_0, load_8(stencils, row), load_8(padded, position))
                odd = multiply_add(mass_1, load_8(stencils, row + length), nothing)
                even = multiply_add(mass_2, load_8(stencils, row + 2 * length), even)
                odd = multiply_add(mass_3, load_8(stencils, row + 3 * length), odd)
                even = multiply_add(mass_4, load_8(stencils, row + 4 * length), even)
                odd = multiply_add(mass_5, load_8(stencils, row + 5 * length), odd)
                even = multiply_add(mass_6, load_8(stencils, row + 6 * length), even)
                odd = multiply_add(mass_7, load_8(stencils, row + 7 * length), odd)
                store(padded, position, multiply_add(odd, repeat_8(1.0), even))
                position += LANES
                row += LANES


@compiled_in_place
def _likelihoods(shape: Shape, truth: int, limit_bin: int, out: Array) -> None:
    """Compute the share of an outcome in each bin that each kernel puts into the bin ``truth``.

    The first bin and ``limit_bin`` take all mass beyond them. ``out`` is float64[widths, bins].
    """
    taps, out[:] = shape.spread.shape[1], 0.0
    reach = taps // 2
    for k in range(len(shape.spread)):
        for tap in range(
            max(shape.edge[k], truth + reach - shape.bins + 1),
            min(taps - shape.edge[k], truth + reach + 1),
        ):
            out[k, truth + reach - tap] = shape.spread[k, tap]
        if truth == limit_bin:
            for b in range(shape.bins):
                out[k, b] = 1.0 - shape.below[k, min(max(truth - b + reach, 0), taps)]
        if truth == 0:
            for b in range(shape.bins):
                out[k, b] += shape.below[k, max(reach - b, 0)]


@compiled_in_place
def responsibilities(
    index: OutcomeIndex, shape: Shape, limit: float, limit_bin: int, truth: int, view: View
) -> None:
    """Replace ``view.weights`` by each component's responsibility for an outcome (EM's E step).

    Args:
        index: The outcomes.
        shape: The mixture's shape.
        limit: Position of the job's limit on the axis, infinite for none.
        limit_bin: The last bin that may hold mass.
        truth: The outcome's bin.
        view: The job's windows and weights.
    """
    decays, widths, weights, likelihoods = (
        len(shape.ages), len(shape.spread), view.weights, view.likelihoods,
    )  # fmt: skip
    _likelihoods(shape, truth, limit_bin, likelihoods)
    bins = view.bins
    fine_floor, tail_floor = _floor(shape, limit_bin)
    density = shape.floor * (fine_floor if truth < shape.fine_bins else tail_floor)
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.starts[level], view.ends[level] - 1
        if count <= 0:
            continue
        shift = limit if shape.relative[level] else 0.0
        for d in range(decays):
            sampled = shape.sampled and d == decays - 1
            if d == 0 or sampled:
                stride = view.strides[level] if sampled else 1
                for age in range(count):
                    outcome = newest - age * stride
                    bins[age] = bin_of(index.log_bin_position[outcome] + shift, shape)
            for k in range(widths):
                total, fading = 0.0, shape.ages[d]
                for age in range(count):
                    total += fading[age] * likelihoods[k, bins[age]]
                c = (level * decays + d) * widths + k
                weights[c] *= (1.0 - shape.floor) * total / shape.sums[d, count]
                density += weights[c]
    for c in range(len(weights)):
        weights[c] /= density
