"""Which waiting jobs to start in a slot: the broker's order, risk and gain, and a filling choice.

A pilot advertises a slot: cores, memory, and the seconds until it ends. A job that has not ended by
then is killed, and what it used is lost.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from infra.aliases import Array, Flags, Floats, Integers
from infra.compiled import compiled
from infra.errors import InputError
from models.quantities.within import Within

POLICIES = ("alice", "wait", "gain")
MAX_CORES = 1024
"""Cores of a slot; the best filling takes time in proportion to their square."""
_ALIEN_SCALE = 50.0


class SlotError(InputError):
    """The call cannot be answered; the message is one sentence."""


@dataclass(frozen=True)
class Slot:
    """What a pilot advertises: cores, memory (bytes, infinite for unknown), seconds left."""

    cores: int
    seconds: float
    memory: float = np.inf


@dataclass(frozen=True)
class Order:
    """How a broker orders waiting jobs.

    ``alice`` is the order of AliEn's Priority optimizer: 50·(2 − load)·priority, 1 where the user
    has used the quota up, less the job's place in the queue as a share of all; ``load`` is the
    share of the quota in use. ``wait`` takes the longest wait first, ``gain`` the largest expected
    gain (see ``Outlook.gain``).
    """

    policy: str = "alice"
    wait_weight: float = 1.0
    quota_weight: float = 1.0
    priority_weight: float = 1.0
    gain_weight: float = 0.0

    def __post_init__(self) -> None:
        """Raise SlotError for an unknown policy."""
        if self.policy not in POLICIES:
            raise SlotError(
                f"there is no policy {self.policy[:100]!r}; there are {', '.join(POLICIES)}"
            )

    def scores(self, waited: Floats, priority: Floats, load: Floats, gain: Floats) -> Floats:
        """Score jobs, float64[n]; the highest comes first.

        Args:
            waited: How long each has waited, s.
            priority: Its priority.
            load: The share of its user's quota in use.
            gain: Its expected gain, as a share of the slot's core seconds.
        """
        if self.policy == "gain":
            return gain
        if self.policy == "wait":
            return waited
        queue_share = np.searchsorted(np.sort(-waited), -waited) / max(len(waited), 1)
        scale = 2.0 - self.quota_weight * load
        importance = np.maximum(priority, 0.0) ** self.priority_weight
        own = np.maximum(_ALIEN_SCALE * scale * importance, 1.0)
        own = np.where(load < 1.0, own, 1.0)
        return np.asarray(own - self.wait_weight * queue_share + self.gain_weight * gain)


@dataclass(frozen=True)
class Outlook:
    """What starting each of n jobs in a slot would bring.

    Attributes:
        ends: The probability that it ends in time, float64[n].
        used: Expected core seconds of jobs that end in time.
        lost: Expected core seconds lost to being killed.
    """

    ends: Floats
    used: Floats
    lost: Floats

    @staticmethod
    def of(within: Within, cores: Floats, seconds: float | Floats) -> Outlook:
        """The outlook of jobs of ``cores`` cores with ``seconds`` left.

        Args:
            within: Whether the run times are within ``seconds``.
            cores: Of each job.
            seconds: That the slot has left.
        """
        ends = within.probability
        used = ends * np.minimum(within.mean, seconds) * cores
        return Outlook(ends, used, (1.0 - ends) * seconds * cores)

    def gain(self, kill_price: float = 0.0) -> Floats:
        """Expected core seconds used less those lost, less the price of being killed, float64[n].

        Args:
            kill_price: What a kill costs beside the time that it loses, core s.
        """
        return np.asarray(self.used - self.lost - (1.0 - self.ends) * kill_price)


@dataclass(frozen=True)
class Choice:
    """How many of each kind of job to start, and the gain of that.

    Attributes:
        count: Of each row, int64[n].
        gain: Their expected gain, core s.
        bound: The most that any choice could gain if memory were no matter.
    """

    count: Integers
    gain: float
    bound: float


def choose(
    slot: Slot,
    order: Integers,
    cores: Integers,
    memory: Floats,
    waiting: Integers,
    gain: Floats,
    eligible: Flags,
) -> Choice:
    """Choose the jobs that fill a slot.

    In the order given each job starts that still fits. Where the order is that of the gain per
    core, the best filling by cores is found as well (bounded knapsack), and taken if it gains more
    and fits into memory.

    Args:
        slot: What there is.
        order: The rows, the first to start first (int64[n]).
        cores: Of a job of each row.
        memory: To set aside for one, bytes.
        waiting: How many of each wait.
        gain: Of one, core s.
        eligible: Whether it may start at all.
    """
    fits = eligible & (cores <= slot.cores) & (memory <= slot.memory)
    rows = order[fits[order]]
    count = np.zeros(len(cores), np.int64)
    _in_order(slot.cores, slot.memory, rows, cores, memory, waiting, count)
    by_gain = rows[np.lexsort((cores[rows], -gain[rows]))]
    candidates = by_gain[_useful(slot.cores, by_gain, cores, waiting)]
    best = np.zeros(len(cores), np.int64)
    items = np.repeat(candidates, np.minimum(waiting[candidates], slot.cores // cores[candidates]))
    bound = float(_fill(slot.cores, items, cores, gain, best)) if len(items) else 0.0
    own = float((count * gain).sum())
    ordered_by_gain = bool((np.diff(gain[rows] / cores[rows]) <= 0).all())
    if ordered_by_gain and bound > own and float((best * memory).sum()) <= slot.memory:
        return Choice(best, float((best * gain).sum()), bound)
    return Choice(count, own, max(bound, own))


@compiled
def _in_order(
    cores_left: int,
    memory_left: float,
    rows: Array,
    cores: Array,
    memory: Array,
    waiting: Array,
    count: Array,
) -> None:
    """Start jobs in the order of ``rows`` while they fit; fills ``count``."""
    for row in rows:
        if cores_left == 0:
            return
        number = min(waiting[row], cores_left // cores[row])
        if memory[row] > 0 and np.isfinite(memory_left):
            number = min(number, np.int64(memory_left / memory[row]))
            while number * memory[row] > memory_left:
                number -= 1
            memory_left -= number * memory[row]
        cores_left -= number * cores[row]
        count[row] = number


@compiled
def _useful(slot_cores: int, by_gain: Array, cores: Array, waiting: Array) -> Array:
    """Which rows a best filling can need: of each width the best ones, as many as fit at once."""
    taken, useful = np.zeros(slot_cores + 1, np.int64), np.zeros(len(by_gain), np.bool_)
    for i in range(len(by_gain)):
        width = cores[by_gain[i]]
        if taken[width] * width + width <= slot_cores:
            useful[i] = True
            taken[width] += waiting[by_gain[i]]
    return useful


@compiled
def _fill(slot_cores: int, items: Array, cores: Array, gain: Array, count: Array) -> float:
    """Find the items of most gain that fit; fills ``count`` by row and returns the gain."""
    best = np.zeros(slot_cores + 1)
    takes = np.zeros((len(items), slot_cores + 1), np.bool_)
    for i in range(len(items)):
        width, value = cores[items[i]], gain[items[i]]
        if value <= 0:
            continue
        for left in range(slot_cores, width - 1, -1):
            if best[left - width] + value > best[left]:
                best[left] = best[left - width] + value
                takes[i, left] = True
    left = slot_cores
    for i in range(len(items) - 1, -1, -1):
        if takes[i, left]:
            count[items[i]] += 1
            left -= cores[items[i]]
    return best[slot_cores]
