"""Time balancing: divide work over shared hosts so that all end together, by what is foreseen of each host's load (Schopf 2003).

A host that is busy for a share ``load`` of its time takes 1/(1 − load) as long. An uncertain host may be given less: its
effective load is the mean plus a tuning factor of standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from infra.aliases import Floats
from scheduling.studies.host_load import (
    interval,
    mixed_tendency,
)

FULL = 0.98
"""No host is taken to be busier than this: some share of a processor is always had."""


def slowdown(load: Floats) -> Floats:
    """How many times as long work takes on a host that is busy for a share ``load`` of its time."""
    return np.asarray(1.0 / (1.0 - np.clip(load, 0.0, FULL)))


def balance(total: float, seconds: Floats, fixed: Floats | None = None) -> Floats:
    """Divide ``total`` units over hosts that take ``seconds`` a unit after ``fixed`` s, so that all end together.

    Solves D_i u_i + C_i = D_j u_j + C_j with the sum of D fixed; a host whose fixed time is over the common end gets nothing.

    >>> balance(10.0, np.array([1.0, 4.0])).tolist()
    [8.0, 2.0]
    """
    fixed = np.zeros(len(seconds)) if fixed is None else fixed
    used = np.ones(len(seconds), dtype=bool)
    while True:
        end = (total + (fixed[used] / seconds[used]).sum()) / (1.0 / seconds[used]).sum()
        parts = np.where(used, (end - fixed) / seconds, 0.0)
        if (parts >= 0).all():
            return np.asarray(parts)
        used &= parts > 0


@dataclass(frozen=True)
class Splitting:
    """A policy: the effective load of each host, from the loads before (float64[steps, hosts]), the steps that the work will take
    and a tuning factor."""

    name: str
    meaning: str
    load: Callable[[Floats, int, float], Floats]


def _one_step(past: Floats, steps: int, tuning: float) -> Floats:
    return mixed_tendency(np.concatenate([past, past[-1:]]))[-1]


def _mean_interval(past: Floats, steps: int, tuning: float) -> Floats:
    return interval(past, min(steps, len(past)))[0]


def _conservative(past: Floats, steps: int, tuning: float) -> Floats:
    mean, deviation = interval(past, min(steps, len(past)))
    return mean + tuning * deviation


def _history_mean(past: Floats, steps: int, tuning: float) -> Floats:
    return past[-HISTORY:].mean(axis=0)


def _history_conservative(past: Floats, steps: int, tuning: float) -> Floats:
    return past[-HISTORY:].mean(axis=0) + tuning * past[-HISTORY:].std(axis=0)


HISTORY = 6
"""Steps of history that the history policies look at."""

SPLITTINGS: dict[str, Splitting] = {
    one.name: one
    for one in (
        Splitting("one-step", "the next load, foreseen by the mixed tendency (OSS)", _one_step),
        Splitting("mean-interval", "the mean load of the coming interval (PMIS)", _mean_interval),
        Splitting(
            "conservative",
            "that mean plus the deviation foreseen for the interval (CS)",
            _conservative,
        ),
        Splitting("history-mean", "the mean of the last loads (HMS)", _history_mean),
        Splitting(
            "history-conservative",
            "the mean plus the deviation of the last loads (HCS)",
            _history_conservative,
        ),
    )
}


def run(parts: Floats, loads: Floats, step: float, cost: float = 1.0) -> Floats:
    """When each host is done with its part, s, under the loads that came (float64[steps, hosts], each for ``step`` s).

    A unit costs ``cost`` s on an idle host. After the last step the last load stays.
    """
    done_in_step = step * (1.0 - np.clip(loads, 0.0, FULL)) / cost
    reached = np.cumsum(done_in_step, axis=0)
    ends = np.empty(len(parts))
    for host, part in enumerate(parts):
        whole = int(np.searchsorted(reached[:, host], part))
        before = reached[whole - 1, host] if whole else 0.0
        rate = done_in_step[min(whole, len(loads) - 1), host] / step
        ends[host] = whole * step + (part - before) / rate
    return ends


def split_and_run(
    loads: Floats, at: int, total: float, policy: str, *, step: float = 300.0, tuning: float = 1.0
) -> float:
    """How long the whole work takes when it is divided at step ``at`` by ``policy`` and then meets the loads that came, s.

    ``total`` is in seconds of an idle host; ``loads`` float64[steps, hosts] are shares of 1, of which only those before ``at``
    are looked at when dividing.
    """
    past = loads[:at]
    # How long it will take is first guessed from the last loads, as the policies need the length of the interval.
    guess = total / (1.0 / slowdown(past[-HISTORY:].mean(axis=0))).sum()
    steps = max(1, round(guess / step))
    effective = SPLITTINGS[policy].load(past, steps, tuning)
    return float(run(balance(total, slowdown(effective)), loads[at:], step).max())
