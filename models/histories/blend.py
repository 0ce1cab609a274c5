"""Blending: histories into one distribution, and an outcome into shares of the histories that foresaw it (compiled).

``View`` is what one job can see: for each level the part of the pool to look at. Both functions look at the same things, so what
is learned is about what is predicted.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np

from infra.aliases import Array
from infra.compiled import compiled
from models.histories.components import FACTS, TABLES, Shape
from models.histories.outcome_index import OutcomeIndex, available_end, find_slot, first_in_window


class View(NamedTuple):
    """One job's histories, and room to work in."""

    slots: Array  # int64[levels], -1 where nothing is known of the key
    firsts: Array  # int64[levels]
    ends: Array  # int64[levels]
    weights: Array  # float64[components]
    prior: Array  # float64[components], the weights before the outcome was known
    facts: Array  # float64[levels, FACTS], what the gate is told
    tables: Array  # uint64[TABLES], keys of the tables of weights
    sharp: Array  # float64[widths, bins]


def new_view(shape: Shape, components: int) -> View:
    """Room for one job after another."""
    levels = len(shape.relative)
    return View(
        np.full(levels, -1, np.int64), np.zeros(levels, np.int64), np.zeros(levels, np.int64), np.zeros(components),
        np.zeros(components), np.zeros((levels, FACTS)), np.zeros(TABLES, np.uint64), np.zeros((len(shape.spread), shape.bins)),
    )  # fmt: skip


@compiled
def bin_of(mark: float, bins: int) -> int:
    """The bin of a place on the axis; see Grid.bin."""
    return min(int(max(mark + 1e-3, 0.0)), bins - 1)


@compiled
def look(lists: OutcomeIndex, shape: Shape, keys: Array, at: int, limit: float, view: View) -> None:
    """Find what a job with these keys can see at ``at``."""
    for level in range(len(keys)):
        slot = find_slot(lists, keys[level])
        view.slots[level] = slot
        if slot < 0 or (shape.relative[level] and not np.isfinite(limit)):
            view.firsts[level] = view.ends[level] = 0
        else:
            view.ends[level] = available_end(lists, slot, at)
            view.firsts[level] = first_in_window(lists, slot, view.ends[level])


@compiled
def hide_unseen(shape: Shape, view: View) -> None:
    """Take the weight of components without any history away and give it to the others; the weights then sum to 1 or are all 0."""
    weights, each = view.weights, len(shape.ages) * len(shape.spread)
    for level in range(len(view.slots)):
        if view.ends[level] <= view.firsts[level]:
            weights[level * each : (level + 1) * each] = 0.0
    total = weights.sum()
    if total > 0:
        weights /= total


@compiled
def blend(
    lists: OutcomeIndex, shape: Shape, limit: float, limit_bin: int, view: View, out: Array
) -> None:
    """The distribution of one job, by view.weights, into ``out`` (float32[bins])."""
    decays, widths = len(shape.ages), len(shape.spread)
    sharp = view.sharp
    sharp[:] = 0.0
    bins, worth = np.empty(shape.ages.shape[1], np.int64), np.empty(shape.ages.shape[1])
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.firsts[level], view.ends[level] - 1
        if count <= 0:
            continue
        shift = limit if shape.relative[level] else 0.0
        for age in range(count):
            bins[age] = bin_of(lists.log_bin_position[newest - age] + shift, shape.bins)
        for k in range(widths):
            worth[:count] = 0.0
            for d in range(decays):
                share, fade = (
                    view.weights[(level * decays + d) * widths + k] / shape.sums[d, count],
                    shape.ages[d],
                )
                for age in range(count):
                    worth[age] += share * fade[age]
            for age in range(count):
                sharp[k, bins[age]] += worth[age]
    smooth(shape, limit_bin, sharp, out)


@compiled
def smooth(shape: Shape, limit_bin: int, sharp: Array, out: Array) -> None:
    """Spread what ``sharp`` holds at each width, fold what falls off the grid or over the limit back, and add the floor."""
    bins, taps = shape.bins, shape.spread.shape[1]
    reach = taps // 2
    padded = np.zeros(bins + 2 * reach)
    for k in range(len(shape.spread)):
        edge = shape.edge[k]
        _spread(sharp[k], shape.spread[k, edge : taps - edge], padded[edge:])
    padded[reach] += padded[:reach].sum()
    padded[reach + limit_bin] += padded[reach + limit_bin + 1 :].sum()
    kept = padded[reach : reach + limit_bin + 1]
    total = kept.sum()
    floor = shape.floor if total > 0 else 1.0
    scale = (1.0 - floor) / total if total > 0 else 0.0
    out[:] = 0.0
    for b in range(limit_bin + 1):
        out[b] = kept[b] * scale + floor / (limit_bin + 1)


@compiled
def _spread(amounts: Array, kernel: Array, out: Array) -> None:
    """Add each of ``amounts`` times ``kernel`` to ``out`` from its place on; four neighbours at once, or each would wait for the last."""
    bins, taps = len(amounts), len(kernel)
    wide = np.zeros(taps + 6)
    wide[3 : taps + 3] = kernel
    first, second, third, fourth = wide[3:], wide[2:], wide[1:], wide
    b = 0
    while b < bins:
        if amounts[b] == 0.0:
            b += 1
            continue
        here, left = amounts[b], bins - b
        one = amounts[b + 1] if left > 1 else 0.0
        two = amounts[b + 2] if left > 2 else 0.0
        three = amounts[b + 3] if left > 3 else 0.0
        around = out[b : b + taps + 3]
        for tap in range(len(around)):
            around[tap] += (
                here * first[tap] + one * second[tap] + two * third[tap] + three * fourth[tap]
            )
        b += 4


@compiled
def _hits(shape: Shape, truth: int, limit_bin: int, out: Array) -> None:
    """How much of an outcome in each bin falls into the bin ``truth`` at each width; the first and last allowed bins take all beyond."""
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


@compiled
def responsibilities(
    lists: OutcomeIndex, shape: Shape, limit: float, limit_bin: int, truth: int, view: View
) -> None:
    """Turn view.weights into each component's share in having foreseen the bin ``truth`` (the E step of EM)."""
    decays, widths, weights, hits = len(shape.ages), len(shape.spread), view.weights, view.sharp
    _hits(shape, truth, limit_bin, hits)
    bins, hit = np.empty(shape.ages.shape[1], np.int64), np.empty(shape.ages.shape[1])
    density = shape.floor / (limit_bin + 1)
    for level in range(len(view.slots)):
        count, newest = view.ends[level] - view.firsts[level], view.ends[level] - 1
        if count <= 0:
            continue
        shift = limit if shape.relative[level] else 0.0
        for age in range(count):
            bins[age] = bin_of(lists.log_bin_position[newest - age] + shift, shape.bins)
        for k in range(widths):
            for age in range(count):
                hit[age] = hits[k, bins[age]]
            for d in range(decays):
                seen, fade = 0.0, shape.ages[d]
                for age in range(count):
                    seen += fade[age] * hit[age]
                c = (level * decays + d) * widths + k
                weights[c] *= (1.0 - shape.floor) * seen / shape.sums[d, count]
                density += weights[c]
    weights /= density
