"""Blend the outcomes in a job's histories into one distribution, and compute responsibilities.

``View`` holds the window of outcomes that one job sees at each level. Prediction and learning read
the same windows, so the weights that are learned are those of the predictions.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled_in_place
from models.histories.components import FACTS, TABLES, TAIL_FLOOR, Shape, bin_of
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
    sharp: Array  # float64[widths, bins]
    padded: Array  # float64[bins + 2·reach], scratch space
    bins: Array  # int64[WINDOW], scratch space
    mass: Array  # float64[WINDOW], scratch space


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
        sharp=np.zeros((len(shape.spread), shape.bins)),
        padded=np.zeros(shape.bins + shape.spread.shape[1] - 1),
        bins=np.zeros(WINDOW, np.int64),
        mass=np.zeros(WINDOW),
    )


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
def blend(
    index: OutcomeIndex, shape: Shape, limit: float, limit_bin: int, view: View, out: Array
) -> None:
    """Compute the distribution of one job by ``view.weights``.

    Args:
        index: The outcomes.
        shape: The mixture's shape.
        limit: Position of the job's limit on the axis, infinite for none.
        limit_bin: The last bin that may hold mass.
        view: The job's windows and weights.
        out: Receives the masses (float32[bins]).
    """
    decays, widths = len(shape.ages), len(shape.spread)
    sharp = view.sharp
    sharp[:] = 0.0
    bins, mass = view.bins, view.mass
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.starts[level], view.ends[level] - 1
        if count <= 0:
            continue
        shift = limit if shape.relative[level] else 0.0
        stride, recent = view.strides[level], decays
        if stride > 1:
            recent, fading = decays - 1, shape.ages[decays - 1]
            for age in range(count):
                outcome = newest - age * stride
                b = bin_of(index.log_bin_position[outcome] + shift, shape)
                share = fading[age] / shape.sums[recent, count]
                for k in range(widths):
                    c = (level * decays + recent) * widths + k
                    sharp[k, b] += view.weights[c] * share
        for age in range(count):
            bins[age] = bin_of(index.log_bin_position[newest - age] + shift, shape)
        for k in range(widths):
            mass[:count] = 0.0
            for d in range(recent):
                weight = view.weights[(level * decays + d) * widths + k] / shape.sums[d, count]
                fading = shape.ages[d]
                for age in range(count):
                    mass[age] += weight * fading[age]
            for age in range(count):
                sharp[k, bins[age]] += mass[age]
    smooth(shape, limit_bin, sharp, view.padded, out)


@compiled_in_place
def smooth(shape: Shape, limit_bin: int, sharp: Array, padded: Array, out: Array) -> None:
    """Spread masses by the kernels, fold those beyond the grid or the limit back, add the floor.

    Args:
        shape: The mixture's shape.
        limit_bin: The last bin that may hold mass.
        sharp: Masses before spreading (float64[widths, bins]).
        padded: Scratch space (float64[bins + 2·reach]).
        out: Receives the masses (float32[bins]), which sum to 1.
    """
    taps = shape.spread.shape[1]
    reach = taps // 2
    padded[:] = 0.0
    for k in range(len(shape.spread)):
        edge = shape.edge[k]
        _spread(sharp[k], shape.kernels[k, edge : taps - edge + 6], padded[edge:])
    padded[reach] += padded[:reach].sum()
    padded[reach + limit_bin] += padded[reach + limit_bin + 1 :].sum()
    allowed = padded[reach : reach + limit_bin + 1]
    total = allowed.sum()
    floor = shape.floor if total > 0 else 1.0
    scale = (1.0 - floor) / total if total > 0 else 0.0
    fine_floor, tail_floor = _floor(shape, limit_bin)
    out[:] = 0.0
    for b in range(limit_bin + 1):
        share = fine_floor if b < shape.fine_bins else tail_floor
        out[b] = allowed[b] * scale + floor * share


@compiled_in_place
def _spread(amounts: Array, kernel: Array, out: Array) -> None:
    """Add each amount times the kernel to ``out``, starting at the amount's bin.

    The kernel has three zeros at either end. Four neighbouring bins are added in one pass, so that
    additions do not wait for each other.
    """
    bins, taps = len(amounts), len(kernel) - 6
    kernel_0, kernel_1, kernel_2, kernel_3 = kernel[3:], kernel[2:], kernel[1:], kernel
    b = 0
    while b < bins:
        if amounts[b] == 0.0:
            b += 1
            continue
        amount_0, left = amounts[b], bins - b
        amount_1 = amounts[b + 1] if left > 1 else 0.0
        amount_2 = amounts[b + 2] if left > 2 else 0.0
        amount_3 = amounts[b + 3] if left > 3 else 0.0
        around = out[b : b + taps + 3]
        for tap in range(len(around)):
            around[tap] += (
                amount_0 * kernel_0[tap]
                + amount_1 * kernel_1[tap]
                + amount_2 * kernel_2[tap]
                + amount_3 * kernel_3[tap]
            )
        b += 4


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
        len(shape.ages), len(shape.spread), view.weights, view.sharp,
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
