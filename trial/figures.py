"""The figures of a trial, each a ratio of two sums over jobs."""

from __future__ import annotations

import numpy as np
import pandas as pd

from models.engine.training import find_target
from models.evaluation.backtest import OURS
from trial.claims import Figure
from trial.results import NAMES, Judged, LimitStudy, MemoryStudy, within_range


def accuracy_figures(jobs: pd.DataFrame, judged: dict[str, Judged]) -> list[Figure]:
    """Coverage of ranges, and mean errors over those of the best simple rule, by target."""
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
                within_range(frame),
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
        f"Limit: {study.setting.in_words()}, at least 10 min, at most the request; a job that it "
        "kills earlier than its request would runs again with its request."
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
            "jobs that Gridcast's time limit does not kill earlier than their request would",
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
