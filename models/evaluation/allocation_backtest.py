"""Waste: a whole log lived through, each job given memory by every policy, and what that cost.

Waste is counted as the Sizey paper does (Bader et al., IEEE CLUSTER 2024): GiB·h set aside and not used, and all that a failed attempt
held, for the whole of the job's run time (time to failure 1.0). Each policy has its own retries. A job knows only what had ended.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Flags, Floats, Progress
from infra.compiled import compiled
from models.engine.allocation import FAILURE_PRICE, GIB_HOUR, ladders
from models.engine.prequential import AllocationReplay
from models.engine.target_predictor import batches
from models.engine.training import (
    TrainingError,
)
from models.evaluation.allocation_rules import RULES, known
from models.histories.components import OVER
from models.histories.features import Level, Levels, choose_levels, encode
from models.histories.mixture import outcome_order
from models.quantities.targets import TARGETS

Row = dict[str, Any]

OURS = "gridcast"
POLICIES = (*(rule.name for rule in RULES), OURS)
DEFAULT_REQUEST = 4 * 2.0**30
"""What a job without a request gets where a machine has that much: many sites' default of 4 GiB."""
LIMIT_BROKEN = 0.05
"""Where more of the jobs that ended than this used more than they asked for, a request is no limit."""
FIRST_LEVELS = 16
LAST_CHOICE = 4000
"""Levels are chosen anew each time the jobs have doubled, as the live engine does, until there are so many."""


def evaluate_allocation(
    jobs: pd.DataFrame,
    warm_up: float = 0.1,
    price: float = FAILURE_PRICE,
    progress: Progress | None = None,
) -> list[Row]:
    """Live through ``jobs`` and count each policy's waste and failures over those after the warm-up whose memory and walltime are known.

    ``price`` is that of a failure in GiB·h. A row a policy: policy,
    jobs, waste_gbh, failures (attempts), failed_jobs; cold_jobs and cold_waste_gbh are of those of whose submitter nothing was known.
    Raises TrainingError when there is no such job.
    """
    if not 0 <= warm_up < 1:
        raise TrainingError("warm_up must be a share between 0 and 1")
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    target = TARGETS["peak_memory"]
    peaks, seconds = target.value(jobs), jobs["walltime"].to_numpy(np.float64)
    judged = np.flatnonzero(
        np.isfinite(peaks) & (seconds >= 0) & (np.arange(len(jobs)) >= warm_up * len(jobs))
    )
    if not len(judged):
        raise TrainingError(
            "no job after the warm-up has a known peak_memory and walltime: there is nothing to evaluate"
        )
    request, ceiling, kept = _bounds(jobs, peaks)
    facts = known(jobs, target, request)
    if progress:
        progress("memory: the rules", 0.1)
    found = {rule.name: rule.ladder(facts)[judged] for rule in RULES}
    found[OURS], cold = _ours(jobs, judged, (ceiling, kept), price, progress)
    rows = []
    for name in POLICIES:
        waste, failures = score(found[name], peaks[judged], seconds[judged], ceiling[judged])
        row = {
            "policy": name,
            "jobs": len(judged),
            "waste_gbh": float(waste.sum()),
            "failures": int(failures.sum()),
        }
        row |= {
            "failed_jobs": int((failures > 0).sum()),
            "cold_jobs": int(cold.sum()),
            "cold_waste_gbh": float(waste[cold].sum()),
        }
        rows.append(row)
    return rows


def _bounds(jobs: pd.DataFrame, peaks: Floats) -> tuple[Floats, Floats, Flags]:
    """What each job asked for, or the default; the most it may get, its request where jobs keep to theirs, else the machine's; and which.

    The machine's memory is taken to be the most a core that anybody had asked for by its submission, or that what had ended had used.
    """
    asked = TARGETS["peak_memory"].limit(jobs)
    cores = np.maximum(jobs["requested_cores"].fillna(1.0).to_numpy(np.float64), 1.0)
    has_request = np.isfinite(asked)
    contexts = encode(jobs, Levels((Level(()),), 0))
    ended = outcome_order(contexts, peaks)
    used = _as_known(
        np.maximum.accumulate(peaks[ended] / cores[ended]),
        contexts.available_at[ended],
        contexts.at,
    )
    share = np.maximum(np.maximum.accumulate(np.where(has_request, asked, 0.0) / cores), used)
    usual = np.cumsum(has_request) > 0.5 * np.arange(1, len(jobs) + 1)
    machine = np.where(
        usual & (share > 0), share * cores, np.maximum(share * cores, DEFAULT_REQUEST)
    )
    request = np.where(has_request, asked, np.minimum(DEFAULT_REQUEST, machine))
    telling = ended[has_request[ended]]
    broken = _as_known(
        np.cumsum(peaks[telling] > asked[telling] * OVER),
        contexts.available_at[telling],
        contexts.at,
    )
    told = np.searchsorted(contexts.available_at[telling], contexts.at, side="right")
    kept = has_request & (broken <= LIMIT_BROKEN * np.maximum(told, 20))
    return request, np.where(kept, request, machine), kept


def _as_known(
    running: npt.NDArray[Any], known: npt.NDArray[np.int64], at: npt.NDArray[np.int64]
) -> Floats:
    """What a ``running`` figure over outcomes in the order in which they became ``known`` was at each of ``at``, 0 before the first."""
    return np.concatenate([[0.0], running])[np.searchsorted(known, at, side="right")]


def _ours(
    jobs: pd.DataFrame,
    judged: npt.NDArray[np.int64],
    bounds: tuple[Floats, Flags],
    price: float,
    progress: Progress | None,
) -> tuple[Floats, Flags]:
    """Gridcast's ladders for the jobs ``judged``, and which of them are cold starts."""
    ceiling, kept = bounds
    target, found, cold = TARGETS["peak_memory"], [], []
    for start, stop in _stretches(len(jobs), int(judged[0])):
        levels = choose_levels(jobs.iloc[:start])
        replay = AllocationReplay.of_jobs(jobs, levels)
        for rows in batches(judged[(judged >= start) & (judged < stop)]):
            predicted = replay.advance(rows)
            found.append(ladders(predicted, target.grid, ceiling[rows], kept[rows], price))
            cold.append(predicted.cold)
            if progress:
                progress(f"memory: backtesting {len(jobs)} jobs", (int(rows[-1]) + 1) / len(jobs))
    return np.concatenate(found), np.concatenate(cold)


def _stretches(count: int, first: int) -> Iterator[tuple[int, int]]:
    """Where levels are chosen: at the first job judged, and again each time the jobs have doubled until there are LAST_CHOICE."""
    start = first
    while start < count:
        stop = count if start >= LAST_CHOICE else min(max(2 * start, FIRST_LEVELS), count)
        yield start, stop
        start = stop


def score(
    ladder: Floats, peaks: Floats, seconds: Floats, ceiling: Floats
) -> tuple[Floats, npt.NDArray[np.int64]]:
    """Waste in GiB·h (float64[n]) and failed attempts (int64[n]) of jobs that use ``peaks`` bytes for ``seconds``.

    Each tries its ``ladder`` (float64[n, rungs], NaN for no rung), without rungs no larger than the one that failed, and nothing above its
    ``ceiling``; then the double, again and again.

    >>> gib, hour = 2.0**30, 3600.0
    >>> waste, failures = score(np.array([[1, 3]]) * gib, np.array([5 * gib]), np.array([hour]), np.array([16 * gib]))
    >>> waste.tolist(), failures.tolist()  # 1 and 3 are lost, then 6 is enough for 5
    ([5.0], [2])
    """
    waste, failures = np.empty(len(peaks)), np.empty(len(peaks), np.int64)
    _score(np.ascontiguousarray(ladder), peaks, seconds, ceiling, waste, failures)
    return waste / GIB_HOUR, failures


@compiled
def _score(ladder: Any, peaks: Any, seconds: Any, ceiling: Any, waste: Any, failures: Any) -> None:
    for row in range(len(peaks)):
        waste[row], failures[row] = 0.0, 0
        given = min(ladder[row, 0], ceiling[row])
        rung = 1
        while given < peaks[row]:
            waste[row] += given * seconds[row]
            failures[row] += 1
            before = given
            while rung < ladder.shape[1] and not ladder[row, rung] > before:
                rung += 1
            given = ladder[row, rung] if rung < ladder.shape[1] else 2.0 * before
            # A job that breaks its ceiling shows that there is more.
            given = min(given, ceiling[row]) if before < ceiling[row] else 2.0 * before
        waste[row] += (given - peaks[row]) * seconds[row]
