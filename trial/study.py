"""The study behind a trial: backtests of a log, figures, claims, replays and advice.

One pass over the log predicts each job from what had ended at its submission; the settings are
chosen, the claims made and checked on three windows of it (``trial.claims``).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Flags, Floats, Integers, Progress
from infra.errors import InputError
from models.baselines.catalogue import HEURISTICS
from models.engine.training import find_target
from models.evaluation.allocation_backtest import AllocationBacktest, backtest_allocation
from models.evaluation.backtest import (
    OURS,
    WAIT_POINTS,
    Evaluation,
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
from trial.advice import Winners, winners
from trial.claims import CHECK, CHOICE, Claim, Figure, Windows, make_claims
from trial.limits import LEVELS, LimitSetting, Requested, TimeLimits, choose_setting, write_limits

Row = dict[str, Any]

MAX_JOBS = 250_000
"""Of a longer log the latest jobs are judged."""
MAX_REPLAYED_JOBS = 40_000
"""Of a longer check window the latest jobs are replayed."""
LEAST_JOBS = 200
"""A trial of fewer jobs says nothing."""
WARM_UP = 0.1
MIN_TARGET_JOBS = 100
"""Jobs with an outcome that the backtest of a target needs."""
MONTH = pd.Timedelta(days=30)
WAIT_RULES = ("last", "median-15", "mean-15", "median-5h", "median-all")
"""The simple rules for waits."""
TARGETS = ("walltime", "peak_memory", "wait")
NAMES = {"walltime": "run time", "peak_memory": "peak memory", "wait": "wait in the queue"}
STEPS = {"walltime": 0.3, "peak_memory": 0.15, "memory": 0.2, "wait": 0.2, "replay": 0.15}
"""The share of the time that each step takes, roughly."""
SHARE_OF_RULES = 0.1
"""The share of a step that the simple rules take, roughly."""
HOUR, GIB = 3600.0, 2.0**30


@dataclass(frozen=True)
class Judged:
    """A target's backtest: ``rows`` are the positions of its jobs, ``best_rule`` the simple rule
    of least mean error on the first 70 % of the log, ``accuracy`` a row a predictor."""

    evaluation: Evaluation
    rows: Integers
    best_rule: str
    accuracy: list[Row]


@dataclass(frozen=True)
class LimitStudy:
    """Time limits of the jobs at ``rows``, their setting, and the killed share aimed at."""

    setting: LimitSetting
    risk: float
    rows: Integers
    limits: TimeLimits


@dataclass(frozen=True)
class MemoryStudy:
    """Memory requests of jobs: the backtest; ``assumed`` where no job states a request."""

    backtest: AllocationBacktest
    assumed: bool


@dataclass(frozen=True)
class WaitStudy:
    """Replays with the site's own requests and with Gridcast's limits, and the recorded waits."""

    before: Replay
    after: Replay
    recorded: Floats | None
    sampled_of: int


@dataclass(frozen=True)
class Trial:
    """All that a page shows.

    Attributes:
        name: Of the log.
        jobs: The judged jobs, in order of submission.
        left_out: Jobs before these that were not judged.
        windows: The windows of the claims.
        cost: A row a resource: what the last 30 days requested and used.
        judged: By target.
        limits: None without requested walltimes.
        memory: None without memory in use.
        waits: None where no replay was possible.
        claims: Claims and what became of them.
        winners: What to ask for, by field.
        not_judged: (subject, jobs, why).
        seconds: How long the trial took.
    """

    name: str
    jobs: pd.DataFrame
    left_out: int
    windows: Windows
    cost: list[Row]
    judged: dict[str, Judged]
    limits: LimitStudy | None
    memory: MemoryStudy | None
    waits: WaitStudy | None
    claims: list[Claim]
    winners: list[Winners]
    not_judged: list[tuple[str, int, str]] = field(default_factory=list)
    seconds: float = 0.0


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
        *_accuracy_figures(jobs, judged),
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
        winners(jobs, *_per_job(jobs, limits, memory), risk, jobs["submitted_at"].max() - MONTH),
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
            row["coverage_90"] = _within(frame)[chosen].mean() if rule == OURS else None
            accuracy.append(row)
    return Judged(evaluation, rows, best, accuracy)


def _within(frame: pd.DataFrame) -> Floats:
    within = frame["actual"].between(frame["low"], frame["high"])
    return np.asarray(within, dtype=np.float64)


def _cores(jobs: pd.DataFrame) -> Floats:
    cores = jobs["requested_cores"].fillna(jobs["cores"]).fillna(1.0)
    return np.maximum(cores.to_numpy(np.float64), 1.0)


def _cost(jobs: pd.DataFrame) -> list[Row]:
    """What the jobs of the last 30 days requested and used."""
    month = jobs[jobs["submitted_at"] > jobs["submitted_at"].max() - MONTH]
    hours = month["walltime"].to_numpy(np.float64) / HOUR
    cores = _cores(month)
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
        both = np.isfinite(requested) & np.isfinite(used)
        rows.append(
            {
                "resource": resource,
                "unit": unit,
                "jobs": int(both.sum()),
                "not_counted": int((~both).sum()),
                "requested": float(requested[both].sum()),
                "used": float(used[both].sum()),
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
        _cores(jobs)[rows],
        _owner_unseen(jobs, find_target("walltime"))[rows],
    )
    early = windows.contains(CHOICE, rows, jobs["ended_at"].iloc[rows])
    setting = choose_setting(run.take(early), risk)
    return LimitStudy(setting, risk, rows, write_limits(run, setting))


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

    A job that outlives its limit holds its cores for the limit and then for its run time.
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


def _accuracy_figures(jobs: pd.DataFrame, judged: dict[str, Judged]) -> list[Figure]:
    figures = []
    for target, of_target in judged.items():
        frame, name = of_target.evaluation.jobs, NAMES[target]
        available_at = jobs[find_target(target).subject.outcome_time].iloc[of_target.rows]
        ones = np.ones(len(frame))
        figures.append(
            Figure(
                f"{name}: outcomes within Gridcast's 90 % range",
                "share of jobs",
                "Outcomes from the 5 % to the 95 % quantile predicted at submission.",
                of_target.rows,
                available_at,
                _within(frame),
                ones,
            )
        )
        actual = frame["actual"].to_numpy(float)
        figures.append(
            Figure(
                f"{name}: Gridcast's mean error over that of the best simple rule",
                "ratio",
                f"Mean absolute errors; the best rule of the first 70 % was {of_target.best_rule}.",
                of_target.rows,
                available_at,
                np.abs(frame[OURS].to_numpy(float) - actual),
                np.abs(frame[of_target.best_rule].to_numpy(float) - actual),
            )
        )
    return figures


def limit_figures(jobs: pd.DataFrame, study: LimitStudy) -> list[Figure]:
    """The figures of time limits; the first is what they save."""
    limits, rows = study.limits, study.rows
    available_at, ones = jobs["ended_at"].iloc[rows], np.ones(len(rows))
    setting = (
        f"Limit: the {study.setting.level:.1%} quantile × {study.setting.factor:g}, at least "
        "10 min, at most the request; a killed job runs again with its request."
    )
    return [
        Figure(
            "requested core hours that Gridcast's time limits take away",
            "share of the core hours requested",
            setting,
            rows,
            available_at,
            limits.requested - limits.written,
            limits.requested,
        ),
        Figure(
            "jobs that end within Gridcast's time limit",
            "share of jobs",
            setting,
            rows,
            available_at,
            (~limits.killed).astype(float),
            ones,
            of_successes=True,
        ),
    ]


def memory_figures(jobs: pd.DataFrame, study: MemoryStudy) -> list[Figure]:
    """The figures of memory requests; the first is what they save."""
    backtest = study.backtest
    available_at = jobs["ended_at"].iloc[backtest.rows]
    requested = backtest.waste["request"] + backtest.used
    assumed = " No job states a request: 4 GiB is assumed." if study.assumed else ""
    how = "Memory held times run time, failed attempts included." + assumed
    return [
        Figure(
            "memory that Gridcast's requests free",
            "share of the GiB·h requested",
            how,
            backtest.rows,
            available_at,
            backtest.waste["request"] - backtest.waste[OURS],
            requested,
        ),
        Figure(
            "memory waste that Gridcast's requests save",
            "share of the GiB·h wasted",
            how,
            backtest.rows,
            available_at,
            backtest.waste["request"] - backtest.waste[OURS],
            backtest.waste["request"],
        ),
        Figure(
            "jobs that fit Gridcast's first memory request",
            "share of jobs",
            "The first rung of the retry ladder holds the job's peak memory.",
            backtest.rows,
            available_at,
            (backtest.failures[OURS] == 0).astype(float),
            np.ones(len(backtest.rows)),
            of_successes=True,
        ),
    ]


def _per_job(
    jobs: pd.DataFrame, limits: LimitStudy | None, memory: MemoryStudy | None
) -> tuple[pd.DataFrame]:
    """What each job requested, would have and used: core hours, GiB·h, limits and rungs."""
    columns = {
        name: np.full(len(jobs), np.nan)
        for name in ("limit", "unused_hours", "saved_hours", "rung", "waste_gibh", "saved_gibh")
    }
    if limits:
        rows, of_jobs = limits.rows, limits.limits
        used = jobs["walltime"].to_numpy(np.float64)[rows] / HOUR * _cores(jobs)[rows]
        columns["limit"][rows] = of_jobs.limit
        columns["unused_hours"][rows] = np.maximum(of_jobs.requested - used, 0.0)
        columns["saved_hours"][rows] = of_jobs.requested - of_jobs.written
    if memory:
        rows, backtest = memory.backtest.rows, memory.backtest
        columns["rung"][rows] = backtest.first_rung
        columns["waste_gibh"][rows] = backtest.waste["request"]
        columns["saved_gibh"][rows] = backtest.waste["request"] - backtest.waste[OURS]
    return (pd.DataFrame(columns, index=jobs.index),)


def savings(trial: Trial, window: str = CHECK) -> list[Row]:
    """What the check window would have saved, in core hours and GiB·h, and what it would lose."""
    rows: list[Row] = []
    if trial.limits:
        inside = trial.windows.contains(window, trial.limits.rows)
        limits = trial.limits.limits
        rows.append(
            {
                "resource": "core hours",
                "jobs": int(inside.sum()),
                "requested": float(limits.requested[inside].sum()),
                "with_gridcast": float(limits.written[inside].sum()),
                "killed_or_retried": int(limits.killed[inside].sum()),
                "lost": float(limits.lost[inside].sum()),
            }
        )
    if trial.memory:
        backtest = trial.memory.backtest
        inside = trial.windows.contains(window, backtest.rows)
        held = backtest.used[inside].sum()
        rows.append(
            {
                "resource": "GiB·h",
                "jobs": int(inside.sum()),
                "requested": float(backtest.waste["request"][inside].sum() + held),
                "with_gridcast": float(backtest.waste[OURS][inside].sum() + held),
                "killed_or_retried": int((backtest.failures[OURS][inside] > 0).sum()),
                "lost": None,
            }
        )
    return rows


def rows_of(trial: Trial) -> Sequence[Row]:
    """The rows of ``--json``: costs, claims, killed shares and replayed waits."""
    blank = {"claimed": None, "low": None, "high": None}
    rows: list[Row] = []
    for cost in trial.cost:
        for name in ("requested", "used"):
            if cost["jobs"]:
                label = f"{cost['resource']} {name} by the jobs of the last 30 days"
                rows.append(
                    {"what": label, **blank, "realised": cost[name], "unit": cost["unit"]}
                    | {"jobs": cost["jobs"]}
                )
    rows += [claim.row() for claim in trial.claims]
    for saving in savings(trial):
        label = "killed at Gridcast's time limit"
        if saving["resource"] == "GiB·h":
            label = "over Gridcast's first memory request, run again"
        share = saving["killed_or_retried"] / max(saving["jobs"], 1)
        rows.append(
            {"what": f"jobs {label}", **blank, "realised": share, "unit": "share of jobs"}
            | {"jobs": saving["jobs"]}
        )
    if trial.waits:
        study = trial.waits
        for label, values in (
            ("recorded", study.recorded),
            ("replayed with the site's requests", study.before.waits),
            ("replayed with Gridcast's time limits", study.after.waits),
        ):
            if values is not None:
                rows.append(
                    {"what": f"mean wait, {label}", **blank, "realised": float(values.mean())}
                    | {"unit": "s", "jobs": len(values)}
                )
    return rows
