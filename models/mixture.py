"""The mixture of histories: what a job's keys did lately, as one distribution whose weights are learned as jobs end.

A component is a level (one kind of history), a decay (how fast older outcomes fade) and a width (how far an outcome is spread
on the logarithmic axis). When a job ends, each component's share in having foreseen it, judged by the history as it stood when
the job was submitted, is added to tables by count, owner and template; each table's weights shrink towards those of the coarser.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt
from numba import njit

from models.features import NEVER, Contexts
from models.history import (
    WINDOW,
    Lists,
    count_known,
    end_of_known,
    find_slot,
    first_in_window,
    has_room,
    insert,
    is_known,
    make_room,
    need_slot,
    new_lists,
)  # fmt: skip
from models.targets import Grid

Array = npt.NDArray[Any]

BUCKETS = 14
"""Counts are put into buckets of powers of two, 0 and up to 2^12."""
OVER = 1.1
"""A job is over its limit when it used more than this many times as much; systems take a moment to stop a job."""


@dataclass(frozen=True)
class Settings:
    """How the mixture learns; one setting serves every log and target, and is kept with each model."""

    decays: tuple[float, ...] = (0.5, 0.9, 0.99)
    widths: tuple[float, ...] = (0.0, 0.15, 0.8)  # octaves
    floor: float = 0.02
    shrink: float = 20.0
    forget_all: float = 0.9995
    forget_bucket: float = 0.999
    forget_key: float = 0.97
    limit_broken: float = 0.05


class Shape(NamedTuple):
    """The settings as arrays that compiled code reads."""

    ages: Array  # float64[decays, WINDOW], weight of the outcome of each age
    spread: Array  # float64[widths, 2·reach + 1], share of an outcome's mass in the bins around it
    below: Array  # float64[widths, 2·reach + 2], mass below the lower edge of each of these bins
    reach: int
    bins: int
    relative: Array  # bool[levels]
    owner: int
    numbers: Array  # float64: floor, shrink, forget_all, forget_bucket, forget_key, limit_broken


class Tables(NamedTuple):
    """What was learned: how often each component foresaw the outcome."""

    everyone: Array  # float64[1, components]
    bucket: Array  # float64[BUCKETS², components], by count of the template and of the owner
    row_of: Array  # int32[slots], the row of a slot's own table, -1 none
    rows: Array  # float32[rows, components]
    facts: Array  # float64[4]: sum of errors of the simplest forecast, their number, jobs over their limit, jobs with one
    used: Array  # int64[1], rows in use


class Learned(NamedTuple):
    """What a mixture learned, as it is kept in a model set."""

    everyone: Array
    bucket: Array
    facts: Array
    keys: Array  # uint64[k], whose own table
    rows: Array  # float32[k, components]


def make_shape(settings: Settings, grid: Grid, relative: Array, owner: int) -> Shape:
    """Spread and fade each outcome as the settings say; the kernels are Gaussian, cut at three standard deviations."""
    ages = np.array(settings.decays)[:, None] ** np.arange(WINDOW)
    reach = int(np.ceil(3 * max(settings.widths) * grid.steps)) + 1
    distance = np.arange(-reach, reach + 1)
    rows = []
    for width in settings.widths:
        sigma = width * grid.steps
        row = np.exp(-0.5 * (distance / sigma) ** 2) * (np.abs(distance) <= 3 * sigma) if width else (distance == 0).astype(float)
        rows.append(row / row.sum())
    spread = np.array(rows)
    below = np.concatenate([np.zeros((len(rows), 1)), np.cumsum(spread, axis=1)], axis=1)
    numbers = np.array(
        [settings.floor, settings.shrink, settings.forget_all, settings.forget_bucket, settings.forget_key, settings.limit_broken]
    )
    return Shape(ages, spread, below, reach, grid.bins, np.asarray(relative, dtype=np.bool_), owner, numbers)


@njit(cache=True, nogil=True)
def _bin(mark: float, shift: float, bins: int) -> int:
    return min(max(np.int64(np.floor(mark + shift + 1e-3)), 0), bins - 1)


@njit(cache=True, nogil=True)
def _limit_bin(limit: float, tables: Tables, shape: Shape) -> int:
    """The bin that takes the mass above a job's limit; the last where there is no limit, or where jobs do not keep to it."""
    if not np.isfinite(limit) or tables.facts[2] > shape.numbers[5] * max(tables.facts[3], 20.0):
        return shape.bins - 1
    return _bin(limit, 0.0, shape.bins)


@njit(cache=True, nogil=True)
def _look_up(lists: Lists, shape: Shape, keys: Array, at: int, limit: float, slots: Array, firsts: Array, ends: Array) -> None:
    """Find for each level the part of the pool to look at: outcomes firsts[level] to ends[level], none where they are equal."""
    for level in range(len(keys)):
        slot = find_slot(lists, keys[level])
        slots[level] = slot
        if slot < 0 or (shape.relative[level] and not np.isfinite(limit)):
            firsts[level] = ends[level] = 0
        else:
            ends[level] = end_of_known(lists, slot, at)
            firsts[level] = first_in_window(lists, slot, ends[level])


@njit(cache=True, nogil=True)
def _bucket(lists: Lists, slots: Array, ends: Array, owner: int) -> int:
    place = 0
    for level in (0, owner):
        count = count_known(lists, slots[level], ends[level]) if slots[level] >= 0 else 0
        size = 0
        while count > 0 and size < BUCKETS - 1:
            count >>= 1
            size += 1
        place = place * BUCKETS + size
    return place


@njit(cache=True, nogil=True)
def _shrunk(weights: Array, table: Array, shrink: float) -> None:
    total = shrink
    for c in range(len(weights)):
        total += table[c]
    for c in range(len(weights)):
        weights[c] = (table[c] + shrink * weights[c]) / total


@njit(cache=True, nogil=True)
def _weigh(tables: Tables, shape: Shape, bucket: int, slots: Array, firsts: Array, ends: Array, weights: Array) -> None:
    """Weights of the components for one job, 0 where a level has no history; they sum to 1 or are all 0."""
    shrink = shape.numbers[1]
    weights[:] = 1.0 / len(weights)
    _shrunk(weights, tables.everyone[0], shrink)
    _shrunk(weights, tables.bucket[bucket], shrink)
    for level in (shape.owner, 0):
        if slots[level] >= 0 and tables.row_of[slots[level]] >= 0:
            _shrunk(weights, tables.rows[tables.row_of[slots[level]]], shrink)
    per_level = len(weights) // len(slots)
    total = 0.0
    for level in range(len(slots)):
        for c in range(level * per_level, (level + 1) * per_level):
            if ends[level] <= firsts[level]:
                weights[c] = 0.0
            total += weights[c]
    if total > 0:
        weights /= total


@njit(cache=True, nogil=True)
def _mass_row(
    lists: Lists, shape: Shape, limit: float, limit_bin: int, firsts: Array, ends: Array, weights: Array, sharp: Array, out: Array
) -> None:
    """One job's distribution into ``out`` (float32[bins]); ``sharp`` (float64[widths, bins]) is room to work in."""
    decays, widths = shape.ages.shape[0], shape.spread.shape[0]
    sharp[:] = 0.0
    norm, worth = np.empty(decays), np.empty(widths)
    for level in range(len(firsts)):
        count = ends[level] - firsts[level]
        if count <= 0:
            continue
        shift = limit if shape.relative[level] else 0.0
        norm[:] = 0.0
        for d in range(decays):
            for age in range(count):
                norm[d] += shape.ages[d, age]
        for age in range(count):
            b = _bin(lists.mark[ends[level] - 1 - age], shift, shape.bins)
            worth[:] = 0.0
            for d in range(decays):
                share = shape.ages[d, age] / norm[d]
                for k in range(widths):
                    worth[k] += share * weights[(level * decays + d) * widths + k]
            for k in range(widths):
                sharp[k, b] += worth[k]
    _smooth(shape, limit_bin, sharp, out)


@njit(cache=True, nogil=True)
def _smooth(shape: Shape, limit_bin: int, sharp: Array, out: Array) -> None:
    """Spread what ``sharp`` holds at each width, fold what falls off the grid or over the limit back, and add the floor."""
    bins, reach = shape.bins, shape.reach
    padded = np.zeros(bins + 2 * reach)
    taps = 2 * reach + 1
    for k in range(shape.spread.shape[0]):
        edge = 0
        while edge < reach and shape.spread[k, edge] == 0.0:
            edge += 1
        for b in range(bins):
            amount = sharp[k, b]
            if amount > 0.0:
                for tap in range(edge, taps - edge):
                    padded[b + tap] += amount * shape.spread[k, tap]
    low, high = 0.0, 0.0
    for i in range(reach):
        low += padded[i]
    for i in range(limit_bin + reach + 1, bins + 2 * reach):
        high += padded[i]
    padded[reach] += low
    padded[limit_bin + reach] += high
    total = 0.0
    for b in range(limit_bin + 1):
        total += padded[b + reach]
    floor = shape.numbers[0] if total > 0 else 1.0
    scale = (1.0 - floor) / total if total > 0 else 0.0
    for b in range(bins):
        out[b] = padded[b + reach] * scale + floor / (limit_bin + 1) if b <= limit_bin else 0.0


@njit(cache=True, nogil=True)
def _shares(lists: Lists, shape: Shape, limit: float, limit_bin: int, truth: int, firsts: Array, ends: Array, weights: Array) -> None:
    """Turn the weights into each component's share in having foreseen the bin ``truth`` (the E step of EM)."""
    decays, widths, reach = shape.ages.shape[0], shape.spread.shape[0], shape.reach
    hit = np.empty(widths)
    floor = shape.numbers[0]
    density = floor / (limit_bin + 1)
    for level in range(len(firsts)):
        count = ends[level] - firsts[level]
        if count <= 0:
            continue
        shift = limit if shape.relative[level] else 0.0
        seen = np.zeros((decays, widths))
        norm = np.zeros(decays)
        for age in range(count):
            tap = truth - _bin(lists.mark[ends[level] - 1 - age], shift, shape.bins) + reach
            for k in range(widths):
                # The first and the last allowed bin also hold what falls beyond them.
                lower = shape.below[k, min(max(tap, 0), 2 * reach + 1)] if truth > 0 else 0.0
                upper = shape.below[k, min(max(tap + 1, 0), 2 * reach + 1)] if truth < limit_bin else 1.0
                hit[k] = upper - lower
            for d in range(decays):
                norm[d] += shape.ages[d, age]
                for k in range(widths):
                    seen[d, k] += shape.ages[d, age] * hit[k]
        for d in range(decays):
            for k in range(widths):
                c = (level * decays + d) * widths + k
                weights[c] *= (1.0 - floor) * seen[d, k] / norm[d]
                density += weights[c]
    weights /= density


@njit(cache=True, nogil=True)
def _judge(lists: Lists, shape: Shape, tables: Tables, value: float, over: float, firsts: Array, ends: Array) -> None:
    """Keep the error of the simplest forecast (mean of the finest history's last two): it says what a large error is."""
    fade = 0.9999
    for level in range(len(firsts)):
        if ends[level] > firsts[level] and not shape.relative[level]:
            last = lists.value[ends[level] - 1]
            mean = 0.5 * (last + lists.value[ends[level] - 2]) if ends[level] - firsts[level] > 1 else last
            tables.facts[0] = tables.facts[0] * fade + abs(value - mean)
            tables.facts[1] = tables.facts[1] * fade + 1.0
            break
    if np.isfinite(over):
        tables.facts[2] = tables.facts[2] * fade + (1.0 if over > 0 else 0.0)
        tables.facts[3] = tables.facts[3] * fade + 1.0


@njit(cache=True, nogil=True)
def _scale(tables: Tables) -> float:
    return tables.facts[0] / tables.facts[1] if tables.facts[1] >= 20.0 else np.nan


class Jobs(NamedTuple):
    """Jobs as the compiled code reads them; marks are places on the grid's axis, NaN unknown, infinite for no limit."""

    keys: Array  # uint64[n, levels]
    at: Array  # int64[n]
    known: Array  # int64[n]
    ids: Array  # uint32[n]
    value: Array  # float64[n]
    mark: Array  # float64[n]
    limit: Array  # float64[n]


@njit(cache=True, nogil=True)
def _learn_one(lists: Lists, shape: Shape, tables: Tables, jobs: Jobs, row: int, over: float, weigh: bool, work: Any) -> None:
    slots, firsts, ends, weights, _ = work
    keys, limit, levels = jobs.keys[row], jobs.limit[row], jobs.keys.shape[1]
    for level in range(levels):
        slots[level] = need_slot(lists, keys[level])
    if is_known(lists, slots[0], jobs.known[row], jobs.ids[row]):
        return
    if weigh:
        _look_up(lists, shape, keys, jobs.at[row], limit, slots, firsts, ends)
        limit_bin = _limit_bin(limit, tables, shape)
        bucket = _bucket(lists, slots, ends, shape.owner)
        _weigh(tables, shape, bucket, slots, firsts, ends, weights)
        _shares(lists, shape, limit, limit_bin, min(_bin(jobs.mark[row], 0.0, shape.bins), limit_bin), firsts, ends, weights)
        _add(tables.everyone[0], weights, shape.numbers[2])
        _add(tables.bucket[bucket], weights, shape.numbers[3])
        for level in (0, shape.owner):
            if tables.row_of[slots[level]] < 0:
                tables.row_of[slots[level]] = tables.used[0]
                tables.used[0] += 1
            if level != 0 or shape.owner != 0:
                _add(tables.rows[tables.row_of[slots[level]]], weights, shape.numbers[4])
        _judge(lists, shape, tables, jobs.value[row], jobs.mark[row] - limit - over, firsts, ends)
    for level in range(levels):
        if not shape.relative[level]:
            insert(lists, slots[level], jobs.known[row], jobs.ids[row], np.float32(jobs.mark[row]), jobs.value[row])
        elif np.isfinite(limit):
            insert(lists, slots[level], jobs.known[row], jobs.ids[row], np.float32(jobs.mark[row] - limit), jobs.value[row])


@njit(cache=True, nogil=True)
def _add(table: Array, shares: Array, forget: float) -> None:
    for c in range(len(shares)):
        table[c] = table[c] * forget + shares[c]


@njit(cache=True, nogil=True)
def _work(levels: int, components: int, widths: int, bins: int) -> Any:
    return (
        np.empty(levels, np.int64),
        np.empty(levels, np.int64),
        np.empty(levels, np.int64),
        np.empty(components),
        np.empty((widths, bins)),
    )


@njit(cache=True, nogil=True)
def _replay(
    lists: Lists,
    shape: Shape,
    tables: Tables,
    jobs: Jobs,
    order: Array,
    place: int,
    rows: Array,
    row: int,
    over: float,
    weigh: bool,
    out: Array,
    scales: Array,
) -> tuple[int, int]:
    """Walk on from ``place`` in the endings and ``row`` in the submissions, in time; stops early when the lists are full.

    Each of ``rows`` is predicted after all endings known at its submission were learned; when rows are done, so is the walk.
    With no rows, all endings are learned. Returns where the walk stands.
    """
    work = _work(jobs.keys.shape[1], tables.everyone.shape[1], shape.spread.shape[0], shape.bins)
    slots, firsts, ends, weights, sharp = work
    levels = jobs.keys.shape[1]
    while row < len(rows) or len(rows) == 0:
        if place < len(order) and (len(rows) == 0 or jobs.known[order[place]] <= jobs.at[rows[row]]):
            if not has_room(lists, levels) or tables.used[0] + 2 > len(tables.rows):
                break
            _learn_one(lists, shape, tables, jobs, order[place], over, weigh, work)
            place += 1
        elif len(rows) == 0:
            break
        else:
            job = rows[row]
            _look_up(lists, shape, jobs.keys[job], jobs.at[job], jobs.limit[job], slots, firsts, ends)
            _weigh(tables, shape, _bucket(lists, slots, ends, shape.owner), slots, firsts, ends, weights)
            _mass_row(lists, shape, jobs.limit[job], _limit_bin(jobs.limit[job], tables, shape), firsts, ends, weights, sharp, out[row])
            scales[row] = _scale(tables)
            row += 1
    return place, row


@njit(cache=True, nogil=True)
def _last_in_bin(lists: Lists, shape: Shape, keys: Array, at: Array, bins: Array, out: Array) -> None:
    for row in range(len(at)):
        out[row] = np.nan
        for level in range(keys.shape[1]):
            slot = find_slot(lists, keys[row, level])
            if slot < 0 or shape.relative[level]:
                continue
            end = end_of_known(lists, slot, at[row])
            place = end - 1
            first = first_in_window(lists, slot, end)
            while place >= first and _bin(lists.mark[place], 0.0, shape.bins) != bins[row]:
                place -= 1
            if place >= first:
                out[row] = lists.value[place]
                break


@njit(cache=True, nogil=True)
def _counts(lists: Lists, keys: Array, at: Array, out: Array) -> None:
    for row in range(len(at)):
        for level in range(keys.shape[1]):
            slot = find_slot(lists, keys[row, level])
            out[row, level] = count_known(lists, slot, end_of_known(lists, slot, at[row])) if slot >= 0 else 0


@dataclass
class Mixture:
    """The histories and weights of one target; the only mutable thing of the engine.

    Contexts, values (float64[n], NaN unknown) and limits (float64[n], infinite for none) always go together, a row a job.
    """

    grid: Grid
    relative: tuple[bool, ...]
    owner: int
    settings: Settings = field(default_factory=Settings)

    def __post_init__(self) -> None:
        """Start with no history."""
        self.shape = make_shape(self.settings, self.grid, np.array(self.relative), self.owner)
        components = len(self.relative) * len(self.settings.decays) * len(self.settings.widths)
        self.latest = int(np.iinfo(np.int64).min)
        """When the newest outcome became known, in microseconds."""
        self.lists = new_lists()
        slots = len(self.lists.start)
        self.tables = Tables(
            np.zeros((1, components)), np.zeros((BUCKETS**2, components)), np.full(slots, -1, np.int32),
            np.zeros((256, components), np.float32), np.zeros(4), np.zeros(1, np.int64),
        )  # fmt: skip

    @property
    def scale(self) -> float:
        """What counts as a large error: the mean error of the finest history's last two, in the target's unit; NaN while unknown."""
        return float(_scale(self.tables))

    def learn(self, contexts: Contexts, values: Array, limits: Array, weigh: bool = True) -> None:
        """Take in ended jobs, in the order in which they became known; ``weigh=False`` fills the histories only."""
        jobs = self._jobs(contexts, values, limits)
        order = endings(contexts, values)
        if len(order):
            self.latest = max(self.latest, int(contexts.known[order[-1]]))
        self._walk(jobs, order, np.empty(0, np.int64), 0, (np.empty((0, self.grid.bins), np.float32), np.empty(0)), weigh)

    def replay(self, contexts: Contexts, values: Array, limits: Array, order: Array, place: int, rows: Array) -> tuple[Array, Array, int]:
        """Live through the endings ``order[place:]`` as far as they precede the last of ``rows``, predicting each at its submission.

        Returns the masses float32[rows, bins], the ``scale`` then in force float64[rows], and the new place. ``rows`` must be in
        order of submission, ``order`` as ``endings`` gives it.
        """
        out, scales = np.empty((len(rows), self.grid.bins), np.float32), np.empty(len(rows))
        place = self._walk(self._jobs(contexts, values, limits), order, rows, place, (out, scales), True)
        if place:
            self.latest = max(self.latest, int(contexts.known[order[place - 1]]))
        return out, scales, place

    def _walk(self, jobs: Jobs, order: Array, rows: Array, place: int, out: tuple[Array, Array], weigh: bool) -> int:
        row, over = 0, self.grid.steps * float(np.log2(OVER))
        while True:
            place, row = _replay(self.lists, self.shape, self.tables, jobs, order, place, rows, row, over, weigh, *out)
            if (len(rows) and row == len(rows)) or (not len(rows) and place == len(order)):
                return place
            self._grow()

    def _grow(self) -> None:
        self.lists = make_room(self.lists, len(self.relative))
        tables, slots = self.tables, len(self.lists.start)
        if len(tables.row_of) < slots:
            row_of = np.full(slots, -1, np.int32)
            row_of[: len(tables.row_of)] = tables.row_of
            tables = tables._replace(row_of=row_of)
        if tables.used[0] + 2 > len(tables.rows):
            rows = np.zeros((2 * len(tables.rows), tables.rows.shape[1]), np.float32)
            rows[: len(tables.rows)] = tables.rows
            tables = tables._replace(rows=rows)
        self.tables = tables

    def masses(self, contexts: Contexts, limits: Array) -> Array:
        """Distributions of jobs by what was known at ``contexts.at``: float32[n, bins], each row sums to 1."""
        jobs = self._jobs(contexts, np.full(len(contexts), np.nan), limits)
        out = np.empty((len(contexts), self.grid.bins), np.float32)
        self._walk(jobs, np.empty(0, np.int64), np.arange(len(contexts)), 0, (out, np.empty(len(contexts))), False)
        return out

    def last_in_bin(self, contexts: Contexts, bins: Array) -> Array:
        """The last value seen in each job's bin by its finest history that has one: float64[n], NaN for none."""
        out = np.empty(len(contexts))
        _last_in_bin(self.lists, self.shape, contexts.keys, contexts.at, np.asarray(bins, np.int64), out)
        return out

    def counts(self, contexts: Contexts) -> Array:
        """How many ended jobs each of a job's keys had: int64[n, levels]."""
        out = np.empty(contexts.keys.shape, np.int64)
        _counts(self.lists, contexts.keys, contexts.at, out)
        return out

    def learned(self) -> Learned:
        """A copy of what was learned, with each key's own table under its key."""
        lists, tables = self.lists, self.tables
        taken = np.flatnonzero(lists.table_slot >= 0)
        row = tables.row_of[lists.table_slot[taken]]
        keys, row = lists.table_key[taken][row >= 0], row[row >= 0]
        return Learned(tables.everyone.copy(), tables.bucket.copy(), tables.facts.copy(), keys, tables.rows[row])

    def restore(self, learned: Learned) -> None:
        """Start from what an earlier mixture of the same levels and settings learned; raises ValueError when they differ."""
        if learned.everyone.shape != self.tables.everyone.shape or learned.bucket.shape != self.tables.bucket.shape:
            raise ValueError(f"weights of {learned.everyone.shape[-1]} components do not fit a mixture of {self.tables.everyone.shape[-1]}")
        for key, shares in zip(learned.keys, learned.rows, strict=True):
            if (
                self.lists.used[0] + 1 > len(self.lists.start)
                or self.tables.used[0] + 2 > len(self.tables.rows)
                or not has_room(self.lists, 1)
            ):
                self._grow()
            row = self.tables.used[0]
            self.tables.row_of[need_slot(self.lists, key)] = row
            self.tables.rows[row] = shares
            self.tables.used[0] += 1
        self.tables.everyone[:], self.tables.bucket[:], self.tables.facts[:] = learned.everyone, learned.bucket, learned.facts

    def _jobs(self, contexts: Contexts, values: Array, limits: Array) -> Jobs:
        limit = np.where(np.isfinite(limits), self.grid.mark(np.where(np.isfinite(limits), limits, 1.0)), np.inf)
        return Jobs(contexts.keys, contexts.at, contexts.known, contexts.ids, np.asarray(values, np.float64), self.grid.mark(values), limit)


def endings(contexts: Contexts, values: Array) -> Array:
    """The jobs that ended with a known value, in the order in which that became known (int64 indices)."""
    rows = np.flatnonzero((contexts.known != NEVER) & np.isfinite(values))
    return rows[np.lexsort((contexts.ids[rows], contexts.known[rows]))]
