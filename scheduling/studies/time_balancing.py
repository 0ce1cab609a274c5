"""Time balancing: divide work over shared hosts so that all end together (Schopf 2003).

On a host that is busy for a share ``load`` of its time work takes 1 / (1 − load) times as long. An
uncertain host may be given less: its effective load is the predicted mean plus a tuning factor of
standard deviations.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats
from infra.errors import InputError
from scheduling.studies.host_load import (
    interval,
    mixed_tendency,
)

FULL = 0.98
"""The largest load assumed of a host: some share of a processor is always available."""


def slowdown(load: Floats) -> Floats:
    """How many times as long work takes on a host that is busy for a share ``load`` of its time."""
    return np.asarray(1.0 / (1.0 - np.clip(load, 0.0, FULL)))


def balance(total: float, seconds: Floats, fixed: Floats | None = None) -> Floats:
    """Divide work over hosts so that all end together: D_i u_i + C_i equal, the sum of D fixed.

    A host whose fixed time C is beyond the common end gets nothing.

    Args:
        total: Units of work.
        seconds: Seconds that a unit takes on each host, u.
        fixed: Seconds before each host can begin, C; default: 0.

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
    """A policy: ``load`` gives the effective load of each host (float64[hosts]).

    Its arguments are the past loads (float64[steps, hosts]), the steps that the work is expected to
    take, and a tuning factor.
    """

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


DIVISIONS = 100
"""At so many steps at most the work is divided when policies are compared."""
HISTORY = 6
"""Steps of history that the history policies look at."""

SPLITTINGS: dict[str, Splitting] = {
    splitting.name: splitting
    for splitting in (
        Splitting("one-step", "the next load, predicted by the mixed tendency (OSS)", _one_step),
        Splitting("mean-interval", "the mean load of the coming interval (PMIS)", _mean_interval),
        Splitting(
            "conservative",
            "that mean plus the predicted deviation of the interval (CS)",
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
    """When each host is done with its part of the work, s.

    Args:
        parts: Units of work of each host.
        loads: The loads that occurred, float64[steps, hosts]; the last one persists.
        step: Seconds of a step.
        cost: Seconds that a unit takes on an idle host.
    """
    done_in_step = step * (1.0 - np.clip(loads, 0.0, FULL)) / cost
    reached = np.cumsum(done_in_step, axis=0)
    ends = np.empty(len(parts))
    for host, work in enumerate(parts):
        full_steps = int(np.searchsorted(reached[:, host], work))
        before = reached[full_steps - 1, host] if full_steps else 0.0
        rate = done_in_step[min(full_steps, len(loads) - 1), host] / step
        ends[host] = full_steps * step + (work - before) / rate
    return ends


def divide(
    past: Floats, total: float, policy: str, *, step: float = 300.0, tuning: float = 1.0
) -> tuple[Floats, Floats]:
    """Divide work over hosts by a policy, from their past loads.

    Args:
        past: Loads as shares of 1, float64[steps, hosts], at least one step.
        total: Seconds that the work takes on one idle host.
        policy: A name of SPLITTINGS.
        step: Seconds of a step.
        tuning: The tuning factor of the conservative policies.

    Returns:
        The effective load and the part of the work (s) of each host.
    """
    # The policies need the length of the interval, which the last loads estimate.
    duration = total / (1.0 / slowdown(past[-HISTORY:].mean(axis=0))).sum()
    effective = SPLITTINGS[policy].load(past, max(1, round(duration / step)), tuning)
    return effective, balance(total, slowdown(effective))


def split_and_run(
    loads: Floats, at: int, total: float, policy: str, *, step: float = 300.0, tuning: float = 1.0
) -> float:
    """How long the work takes when it is divided at step ``at`` and meets the loads that came, s.

    Args:
        loads: Loads as shares of 1, float64[steps, hosts]; dividing uses only those before ``at``.
        at: The step.
        total: See ``divide``.
        policy: See ``divide``.
        step: See ``divide``.
        tuning: See ``divide``.
    """
    parts = divide(loads[:at], total, policy, step=step, tuning=tuning)[1]
    return float(run(parts, loads[at:], step).max())


def read_loads(file: Path, hosts: Sequence[str] | None = None, unit: float = 0.01) -> pd.DataFrame:
    """Read loads from a CSV with a column a host and a row a step.

    Args:
        file: The file, which may be compressed.
        hosts: The columns to read; default: all.
        unit: What a load of 1 in the file is, as a share of the host.

    Returns:
        Loads as shares of 1.

    Raises:
        InputError: The file cannot be read, lacks a host, or holds anything but loads.
    """
    try:
        table = pd.read_csv(file)
    except (OSError, ValueError) as error:
        raise InputError(f"{file} cannot be read as a CSV of loads: {error}") from None
    unknown = [name for name in hosts or () if name not in table]
    if unknown:
        raise InputError(f"{file.name} has no host {unknown[0]!r}")
    table = table[list(dict.fromkeys(hosts))] if hosts else table
    if table.empty:
        raise InputError(f"{file.name} has no row of loads")
    for name in table.columns:
        values = pd.to_numeric(table[name], errors="coerce") * unit
        wrong = ~np.isfinite(values) | (values < 0)
        if wrong.any():
            row = int(np.flatnonzero(wrong)[0])
            raise InputError(
                f"row {row + 1} of {file.name} holds no load of host {name!r}: "
                f"{table[name].iloc[row]!r}"
            )
        table[name] = values.astype(float)
    return table


def divide_by_host(
    loads: pd.DataFrame, work: float, policy: str, step: float, tuning: float
) -> list[dict[str, Any]]:
    """A row a host: its last and its effective load, and its part of the work, largest first.

    Args:
        loads: Past loads as shares of 1, a column a host.
        work: Seconds that the work takes on one idle host.
        policy: A name of SPLITTINGS.
        step: Seconds of a step.
        tuning: The tuning factor of the conservative policies.

    Raises:
        InputError: There is no such policy.
    """
    if policy not in SPLITTINGS:
        raise InputError(f"there is no policy {policy!r}; there are {', '.join(SPLITTINGS)}")
    values = loads.to_numpy(dtype=float)
    effective, parts = divide(values, work, policy, step=step, tuning=tuning)
    return [
        {
            "host": str(loads.columns[host]),
            "last_load": float(values[-1, host]),
            "effective_load": float(effective[host]),
            "share_of_work": float(parts[host] / work),
            "work_s": float(parts[host]),
        }
        for host in np.argsort(-parts, kind="stable")
    ]


def compare_policies(
    loads: pd.DataFrame, work: float, step: float, tuning: float
) -> list[dict[str, Any]]:
    """A row a policy: how long the work takes when divided at up to DIVISIONS past steps.

    Args:
        loads: Loads as shares of 1, a column a host.
        work: Seconds that the work takes on one idle host.
        step: Seconds of a step.
        tuning: The tuning factor of the conservative policies.

    Raises:
        InputError: The series is too short to divide by its first half and run in the second.
    """
    values = loads.to_numpy(dtype=float)
    half = len(values) // 2
    if half < HISTORY:
        raise InputError(f"comparing policies takes at least {2 * HISTORY} rows of loads")
    steps = np.unique(np.linspace(half, len(values) - 1, DIVISIONS).astype(int))
    rows = []
    for name, splitting in SPLITTINGS.items():
        seconds = np.array(
            [
                split_and_run(values, at, work, name, step=step, tuning=tuning)
                for at in steps.tolist()
            ]
        )
        rows.append(
            {
                "policy": name,
                "meaning": splitting.meaning,
                "divisions": len(steps),
                "mean_s": float(seconds.mean()),
                "sd_s": float(seconds.std()),
                "p95_s": float(np.quantile(seconds, 0.95)),
            }
        )
    return sorted(rows, key=lambda row: float(str(row["mean_s"])))
