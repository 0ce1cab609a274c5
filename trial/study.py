"""The study behind a trial: backtests of a log, figures, claims, replays and advice.

One pass over the log predicts each job from what had ended at its submission; the settings are
chosen, the claims made and checked on three windows of it (``trial.claims``).
"""

from __future__ import annotations

import numpy as np
import pandas as pd

from infra.aliases import Flags, Floats, Progress
from infra.errors import InputError
from models.baselines.catalogue import HEURISTICS
from models.engine.training import find_target
from models.evaluation.allocation_backtest import backtest_allocation
from models.evaluation.backtest import (
    OURS,
    WAIT_POINTS,
    counted_rows,
    evaluate,
    is_unseen,
)
from models.past.queues import waits as waits_of
from models.quantities.metrics import lowest_counted, point_errors
from models.quantities.targets import Target
from scheduling.machine import Machine, MachineError
from scheduling.outcome import Replay
from scheduling.replay import replay
from scheduling.trace import TraceError
from trial.advice import ADVISED, winners
from trial.claims import CHECK, CHOICE, Windows, make_claims
from trial.figures import accuracy_figures, limit_figures, memory_figures
from trial.limits import LEVELS, Requested, choose_setting, write_limits
from trial.results import (
    GIB,
    HOUR,
    MAX_JOBS,
    MAX_REPLAYED_JOBS,
    MONTH,
    NAMES,
    Judged,
    LimitStudy,
    MemoryStudy,
    Row,
    Trial,
    WaitStudy,
    cores_of,
    within_range,
)

LEAST_JOBS = 200
"""A trial of fewer jobs says nothing."""
WARM_UP = 0.1
MIN_TARGET_JOBS = 100
"""Jobs with an outcome that the backtest of a target needs."""
WAIT_RULES = ("last", "median-15", "mean-15", "median-5h", "median-all")
"""The simple rules for waits."""
TARGETS = ("walltime", "peak_memory", "wait")
STEPS = {"walltime": 0.3, "peak_memory": 0.15, "memory": 0.2, "wait": 0.2, "replay": 0.15}
"""The share of the time that each step takes, roughly."""
SHARE_OF_RULES = 0.1
"""The share of a step that the simple rules take, roughly."""


def run_trial(
    jobs: pd.DataFrame,
    machine: Machine | None,
    name: str,
    risk: float = 0.01,
    progress: Progress | None = None,
) -> Trial:
    """Judge a log.

    Args:
        jobs: Conformed records.
        machine: What the waits are replayed on; None: unknown.
        name: The log's name.
        risk: The share of jobs that a time limit may kill.
        progress: Called with a text and the share done.

    Raises:
        InputError: There are too few jobs, or none has an outcome.
    """
    began = pd.Timestamp.now("UTC")
    all_jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    jobs = all_jobs.iloc[-MAX_JOBS:].reset_index(drop=True)
    if len(jobs) < LEAST_JOBS:
        raise InputError(f"a trial needs at least {LEAST_JOBS} jobs; this log has {len(jobs)}")
    windows, not_judged = Windows.of(jobs), list[tuple[str, int, str]]()
    report = _Steps(progress)
    judged = {}
    for target in TARGETS:
        outcome = _judge(jobs, find_target(target), windows, report.of(target), not_judged)
        if outcome:
            judged[target] = outcome
    if not judged:
        raise InputError(
            "no run time, memory or wait of this log can be judged: "
            + "; ".join(why for _, _, why in not_judged)
        )
    limits = _write_limits(jobs, judged.get("walltime"), windows, risk, not_judged)
    memory = _allocate(jobs, "peak_memory" in judged, report.of("memory"), not_judged)
    waits = _replay(jobs, machine, limits, windows, report.of("replay"), not_judged)
    figures = [
        *accuracy_figures(jobs, judged),
        *(limit_figures(jobs, limits) if limits else []),
        *(memory_figures(jobs, memory) if memory else []),
    ]
    return Trial(
        name,
        jobs,
        len(all_jobs) - len(jobs),
        windows,
        _cost(jobs),
        judged,
        limits,
        memory,
        waits,
        make_claims(figures, windows),
        winners(
            jobs, _per_job(jobs, judged, limits, memory), risk, jobs["submitted_at"].max() - MONTH
        ),
        risk,
        not_judged,
        (pd.Timestamp.now("UTC") - began).total_seconds(),
    )


class _Steps:
    """Turns the progress of steps into that of the trial."""

    def __init__(self, progress: Progress | None) -> None:
        self._progress, self._done = progress, 0.0

    def of(self, step: str) -> Progress:
        names = list(STEPS)
        begin = sum(STEPS[name] for name in names[: names.index(step)])

        def report(text: str, share: float = 0.0) -> None:
            of_step = SHARE_OF_RULES * share
            if "baseline" not in text:
                of_step = SHARE_OF_RULES + (1 - SHARE_OF_RULES) * share
            self._done = max(self._done, begin + STEPS[step] * of_step)
            if self._progress:
                self._progress(text, self._done)

        return report


def _judge(
    jobs: pd.DataFrame,
    target: Target,
    windows: Windows,
    report: Progress,
    not_judged: list[tuple[str, int, str]],
) -> Judged | None:
    """Backtest a target; None, with the reason noted, where too few jobs report it."""
    outcomes = target.value(jobs)
    rows, name = counted_rows(outcomes, WARM_UP), NAMES[target.name]
    missing = int((~np.isfinite(outcomes)).sum())
    if len(rows) < MIN_TARGET_JOBS or (target.name == "wait" and not (outcomes > 0).any()):
        why = f"too few jobs report their {name}" if missing else f"every {name} is 0"
        not_judged.append((name, missing or len(jobs), why))
        return None
    if missing:
        why = f"these jobs report no {name}: never started or measured"
        not_judged.append((name, missing, why))
    is_wait = target.name == "wait"
    rules = WAIT_RULES if is_wait else HEURISTICS
    points = list(WAIT_POINTS) if is_wait else [OURS]
    upper_levels = () if is_wait else LEVELS
    evaluation = evaluate(
        jobs, target, WARM_UP, [*points, *rules], report, upper_levels=upper_levels
    )
    early = ~windows.contains(CHECK, rows)
    frame = evaluation.jobs
    errors = frame[list(rules)].sub(frame["actual"], axis=0).abs()
    simple = [rule for rule in rules if rule != "request"]
    chosen_on = early if early.any() else ~early
    best = str(errors.loc[chosen_on, simple].mean().idxmin())
    late = ~early
    shown_rules = dict.fromkeys((OURS, best, *(["request"] if "request" in frame else [])))
    has_request = np.isfinite(target.limit(jobs)[rows])
    accuracy = []
    for rule in shown_rules:
        chosen = late & has_request if rule == "request" else late
        if chosen.any():
            actual, point = frame.loc[chosen, ["actual", rule]].to_numpy(float).T
            row: Row = {"predictor": rule, "target": target.name, "unit": target.unit}
            row |= {"jobs": int(chosen.sum())}
            row |= point_errors(actual, point, lowest_counted(target.grid))
            row["coverage_90"] = within_range(frame)[chosen].mean() if rule == OURS else None
            accuracy.append(row)
    return Judged(evaluation, rows, best, accuracy)


def _cost(jobs: pd.DataFrame) -> list[Row]:
    """What the jobs of the last 30 days requested and used; None where no job states it."""
    month = jobs[jobs["submitted_at"] > jobs["submitted_at"].max() - MONTH]
    hours = month["walltime"].to_numpy(np.float64) / HOUR
    cores = cores_of(month)
    rows = []
    for resource, unit, requested, used in (
        (
            "core hours",
            "core hours",
            month["requested_walltime"].to_numpy(np.float64) / HOUR * cores,
            hours * cores,
        ),
        (
            "memory",
            "GiB·h",
            month["requested_memory"].to_numpy(np.float64) / GIB * hours,
            month["peak_memory"].to_numpy(np.float64) / GIB * hours,
        ),
    ):
        has_use = np.isfinite(used)
        both = np.isfinite(requested) & has_use
        counted = both if both.any() else has_use
        rows.append(
            {
                "resource": resource,
                "unit": unit,
                "jobs": int(counted.sum()),
                "not_counted": int((~counted).sum()),
                "requested": float(requested[both].sum()) if both.any() else None,
                "used": float(used[counted].sum()) if counted.any() else None,
            }
        )
    return rows


def _owner_unseen(jobs: pd.DataFrame, target: Target) -> Flags:
    """Jobs of an owner of whom no outcome was available at submission."""
    owner = next((name for name in target.subject.owners if jobs[name].notna().any()), None)
    return np.zeros(len(jobs), bool) if owner is None else is_unseen(jobs, owner, target.subject)


def _write_limits(
    jobs: pd.DataFrame,
    judged: Judged | None,
    windows: Windows,
    risk: float,
    not_judged: list[tuple[str, int, str]],
) -> LimitStudy | None:
    request = jobs["requested_walltime"].to_numpy(np.float64)
    lacking = int((~(request > 0)).sum())
    if lacking:
        not_judged.append(("time limits", lacking, "these jobs state no requested walltime"))
    if judged is None:
        return None
    has_request = request[judged.rows] > 0
    if has_request.sum() < MIN_TARGET_JOBS:
        return None
    rows = judged.rows[has_request]
    upper = judged.evaluation.upper[has_request]
    run = Requested(
        upper,
        request[rows],
        jobs["walltime"].to_numpy(np.float64)[rows],
        cores_of(jobs)[rows],
        _owner_unseen(jobs, find_target("walltime"))[rows],
    )
    early = windows.contains(CHOICE, rows, jobs["ended_at"].iloc[rows])
    setting = choose_setting(run.take(early), risk)
    return LimitStudy(setting, rows, write_limits(run, setting))


def _allocate(
    jobs: pd.DataFrame,
    judged: bool,
    report: Progress,
    not_judged: list[tuple[str, int, str]],
) -> MemoryStudy | None:
    if not judged:
        return None
    backtest = backtest_allocation(jobs, WARM_UP, progress=report)
    lacking = int((~backtest.has_request).sum())
    if lacking:
        why = "these jobs state no requested memory: 4 GiB, many sites' default, is assumed"
        not_judged.append(("memory requests", lacking, why))
    return MemoryStudy(backtest, lacking > 0.5 * len(backtest.rows))


def _replay(
    jobs: pd.DataFrame,
    machine: Machine | None,
    limits: LimitStudy | None,
    windows: Windows,
    report: Progress,
    not_judged: list[tuple[str, int, str]],
) -> WaitStudy | None:
    """Replay the check window with the site's requests, then with Gridcast's limits.

    A job that its limit kills holds its cores for the limit and then for its run time.
    """
    if limits is None or machine is None:
        why = "without requested walltimes" if limits is None else "the machine's size is unknown"
        not_judged.append(("replayed waits", len(jobs), why))
        return None
    inside = np.flatnonzero(windows.contains(CHECK, np.arange(len(jobs))))
    rows = inside[-MAX_REPLAYED_JOBS:]
    seconds = {name: jobs[name].to_numpy(np.float64).copy() for name in REPLACED}
    first, killed = limits.limits.limit, limits.limits.killed
    seconds["walltime"][limits.rows] += np.where(killed, first, 0.0)
    request = seconds["requested_walltime"]
    request[limits.rows] = np.where(killed, first + request[limits.rows], first)
    replays = list[Replay]()
    try:
        for text, sample in (
            ("replaying with the site's requests", jobs.iloc[rows]),
            ("replaying with Gridcast's limits", jobs.assign(**seconds).iloc[rows]),
        ):
            at = 0.5 * len(replays)

            def share_done(share: float, text: str = text, at: float = at) -> None:
                report(text, at + 0.5 * share)

            share_done(0.0)
            replays.append(replay(sample, machine, progress=share_done))
    except (MachineError, TraceError) as error:
        not_judged.append(("replayed waits", len(rows), str(error)))
        return None
    replayed = replays[0].trace.jobs
    recorded: Floats = waits_of(replayed)
    recorded = recorded[np.isfinite(recorded)]
    has_waits = len(recorded) > 0 and bool((recorded > 0).any())
    return WaitStudy(replays[0], replays[1], recorded if has_waits else None, len(inside))


REPLACED = ("walltime", "requested_walltime")


def _per_job(
    jobs: pd.DataFrame,
    judged: dict[str, Judged],
    limits: LimitStudy | None,
    memory: MemoryStudy | None,
) -> pd.DataFrame:
    """What was predicted of each job, unused and saved: as ``winners`` takes it."""
    columns = {
        name: np.full(len(jobs), np.nan)
        for name in (*ADVISED, "unused_hours", "saved_hours", "waste_gibh", "saved_gibh")
    }
    for target in ADVISED:
        if target in judged:
            points = judged[target].evaluation.jobs[OURS].to_numpy(np.float64)
            columns[target][judged[target].rows] = points
    if limits:
        rows, of_jobs = limits.rows, limits.limits
        used = jobs["walltime"].to_numpy(np.float64)[rows] / HOUR * cores_of(jobs)[rows]
        columns["unused_hours"][rows] = np.maximum(of_jobs.requested - used, 0.0)
        columns["saved_hours"][rows] = of_jobs.requested - of_jobs.written
    if memory:
        rows, backtest = memory.backtest.rows, memory.backtest
        columns["waste_gibh"][rows] = backtest.waste["request"]
        columns["saved_gibh"][rows] = backtest.waste["request"] - backtest.waste[OURS]
    return pd.DataFrame(columns, index=jobs.index)
