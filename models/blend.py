"""Blending: histories into one distribution, and an outcome into shares of the histories that foresaw it (compiled).

``View`` is what one job can see: for each level the part of the pool to look at, and how long the jobs of its censored levels
have been running. Both functions look at the same things, so what is learned is about what is predicted.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from infra.compiled import compiled
from models.components import TABLES, Shape
from models.history import Lists, end_of_known, find_slot, first_in_window
from models.running import WATCHED, Running, elapsed

Array = npt.NDArray[Any]

_LINDY = 2.0
"""Octaves over which a job that outlived every ended one is spread: it may well take as long again."""


class View(NamedTuple):
    """One job's histories, and room to work in."""

    slots: Array  # int64[levels], -1 where nothing is known of the key
    firsts: Array  # int64[levels]
    ends: Array  # int64[levels]
    spent: Array  # float64[censored levels, 2·WATCHED], seconds
    running: Array  # int64[censored levels], how many of them
    weights: Array  # float64[components]
    tables: Array  # uint64[TABLES], keys of the tables of weights
    sharp: Array  # float64[widths, bins]
    survival: Array  # float64[bins]


def new_view(shape: Shape, components: int) -> View:
    """Room for one job after another."""
    levels, censored = len(shape.relative), len(shape.censored)
    return View(
        np.full(levels, -1, np.int64), np.zeros(levels, np.int64), np.zeros(levels, np.int64), np.zeros((censored, 2 * WATCHED)),
        np.zeros(censored, np.int64), np.zeros(components), np.zeros(TABLES, np.uint64), np.zeros((len(shape.spread), shape.bins)),
        np.zeros(shape.bins),
    )  # fmt: skip


@compiled
def bin_of(mark: float, bins: int) -> int:
    """The bin of a place on the axis; see Grid.bin."""
    return min(int(max(mark + 1e-3, 0.0)), bins - 1)


@compiled
def look(lists: Lists, running: Running, shape: Shape, keys: Array, at: int, limit: float, own: np.uint32, view: View) -> None:
    """Find what a job with these keys can see at ``at``."""
    for level in range(len(keys)):
        slot = find_slot(lists, keys[level])
        view.slots[level] = slot
        if slot < 0 or (shape.relative[level] and not np.isfinite(limit)):
            view.firsts[level] = view.ends[level] = 0
        else:
            view.ends[level] = end_of_known(lists, slot, at)
            view.firsts[level] = first_in_window(lists, slot, view.ends[level])
    for place in range(len(shape.censored)):
        level = shape.censored[place]
        slot = view.slots[level]
        view.running[place] = elapsed(running, lists, slot, view.ends[level], at, own, view.spent[place]) if slot >= 0 else 0


@compiled
def hide_unseen(shape: Shape, view: View) -> None:
    """Take the weight of components without any history away and give it to the others; the weights then sum to 1 or are all 0."""
    weights, widths = view.weights, len(shape.spread)
    each = len(shape.ages) * widths
    for level in range(len(view.slots)):
        if view.ends[level] <= view.firsts[level]:
            weights[level * each : (level + 1) * each] = 0.0
    start, each = len(view.slots) * each, len(shape.censored_ages) * widths
    for place in range(len(shape.censored)):
        level = shape.censored[place]
        if view.ends[level] <= view.firsts[level] and view.running[place] == 0:
            weights[start + place * each : start + (place + 1) * each] = 0.0
    total = weights.sum()
    if total > 0:
        weights /= total


@compiled
def _kaplan_meier(lists: Lists, shape: Shape, view: View, place: int, decay: int) -> None:
    """Distribution of one censored level into view.survival: ended jobs and, as censored, running ones (Kaplan, Meier 1958)."""
    level, out = shape.censored[place], view.survival
    out[:] = 0.0
    at_risk, last = 0.0, 0
    for age in range(view.ends[level] - view.firsts[level]):
        b = bin_of(np.float64(lists.mark[view.ends[level] - 1 - age]), shape.bins)
        out[b] += shape.censored_ages[decay, age]
        at_risk += shape.censored_ages[decay, age]
    if view.running[place] == 0:
        # Where nothing is censored the estimate is the shares of what has ended.
        out *= 1.0 / at_risk
        return
    lost = np.zeros(shape.bins)
    for i in range(view.running[place]):
        b = bin_of(shape.steps * np.log2(max(view.spent[place, i], shape.lowest) / shape.lowest), shape.bins)
        lost[b] += 1.0
        at_risk += 1.0
        last = max(last, b)
    left = 1.0
    for b in range(shape.bins):
        ended = out[b]
        if ended > 0.0:
            out[b] = left * ended / max(at_risk, ended)
            left -= out[b]
        at_risk -= ended + lost[b]
    if left > 1e-9 and view.running[place] > 0:
        reach = np.int64(_LINDY * shape.steps)
        for b in range(last, last + reach):
            out[min(b, shape.bins - 1)] += left / reach


@compiled
def blend(lists: Lists, shape: Shape, limit: float, limit_bin: int, view: View, out: Array) -> None:
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
            bins[age] = bin_of(lists.mark[newest - age] + shift, shape.bins)
        for k in range(widths):
            worth[:count] = 0.0
            for d in range(decays):
                share, fade = view.weights[(level * decays + d) * widths + k] / shape.sums[d, count], shape.ages[d]
                for age in range(count):
                    worth[age] += share * fade[age]
            for age in range(count):
                sharp[k, bins[age]] += worth[age]
    start, fades = len(view.slots) * decays * widths, len(shape.censored_ages)
    for place in range(len(shape.censored)):
        for d in range(fades):
            first = start + (place * fades + d) * widths
            weights = view.weights[first : first + widths]
            if weights.sum() > 0:
                _kaplan_meier(lists, shape, view, place, d)
                for b in range(shape.bins):
                    if view.survival[b] > 0.0:
                        for k in range(widths):
                            sharp[k, b] += weights[k] * view.survival[b]
    _smooth(shape, limit_bin, sharp, out)


@compiled
def _smooth(shape: Shape, limit_bin: int, sharp: Array, out: Array) -> None:
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
    linear = kept.copy()
    for _ in range(shape.sharpen):
        # The fourth root by two square roots: a general power costs ten times as much.
        for b in range(len(kept)):
            kept[b] *= np.sqrt(np.sqrt(linear[b]))
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
            around[tap] += here * first[tap] + one * second[tap] + two * third[tap] + three * fourth[tap]
        b += 4


@compiled
def _hits(shape: Shape, truth: int, limit_bin: int, out: Array) -> None:
    """How much of an outcome in each bin falls into the bin ``truth`` at each width; the first and last allowed bins take all beyond."""
    taps, out[:] = shape.spread.shape[1], 0.0
    reach = taps // 2
    for k in range(len(shape.spread)):
        for tap in range(max(shape.edge[k], truth + reach - shape.bins + 1), min(taps - shape.edge[k], truth + reach + 1)):
            out[k, truth + reach - tap] = shape.spread[k, tap]
        if truth == limit_bin:
            for b in range(shape.bins):
                out[k, b] = 1.0 - shape.below[k, min(max(truth - b + reach, 0), taps)]
        if truth == 0:
            for b in range(shape.bins):
                out[k, b] += shape.below[k, max(reach - b, 0)]


@compiled
def share_out(lists: Lists, shape: Shape, limit: float, limit_bin: int, truth: int, view: View) -> None:
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
            bins[age] = bin_of(lists.mark[newest - age] + shift, shape.bins)
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
    start, fades = len(view.slots) * decays * widths, len(shape.censored_ages)
    for place in range(len(shape.censored)):
        for d in range(fades):
            first = start + (place * fades + d) * widths
            if weights[first : first + widths].sum() > 0:
                _kaplan_meier(lists, shape, view, place, d)
                for k in range(widths):
                    found = 0.0
                    for b in range(shape.bins):
                        found += view.survival[b] * hits[k, b]
                    weights[first + k] *= (1.0 - shape.floor) * found
                    density += weights[first + k]
    weights /= density
