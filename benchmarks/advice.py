"""Accuracy of advice: advice on seven days of a log, compared with the jobs of the next 28 days.

    uv run python benchmarks/advice.py [KTH CTC]

One line per rule and risk: the jobs that got advice, the share that ran longer than advised, and
the advised walltime as a share of the requested one.
"""

from __future__ import annotations

import argparse
from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd
from logs import load

from jobs.schema import conform
from models.engine.forecaster import Forecaster
from monitoring.advising import MIN_JOBS, larger, next_job, plausible_jobs

MONTH = pd.Timedelta(days=28)
DAYS = 7
RISKS = (0.01, 0.05)
KINDS = {
    "a program": ["user", "name", "cores"],
    "a program and a request": ["user", "name", "cores", "asked"],
}


def days_of_advice(
    name: str,
) -> Iterator[tuple[pd.Timestamp, Forecaster, pd.DataFrame, pd.DataFrame]]:
    """For each day: a forecaster of the ended jobs, the past jobs, and those of the next month."""
    jobs = load(name)
    jobs["name"], jobs["cores"] = (
        jobs["program"].fillna(jobs["job_name"]).fillna("–"),
        jobs["requested_cores"].fillna(1.0),
    )
    jobs["asked"] = jobs["requested_walltime"].fillna(0.0)
    forecaster, learned_until = Forecaster(), jobs["submitted_at"].min()
    span = jobs["submitted_at"].max() - learned_until
    for day in [learned_until + span * step / (DAYS + 2) for step in range(2, DAYS + 2)]:
        forecaster.learn(jobs[(jobs["ended_at"] > learned_until) & (jobs["ended_at"] <= day)])
        learned_until = day
        past, _ = plausible_jobs(
            jobs[(jobs["submitted_at"] >= day - MONTH) & (jobs["ended_at"] <= day)]
        )
        later, _ = plausible_jobs(
            jobs[(jobs["submitted_at"] > day) & (jobs["submitted_at"] <= day + MONTH)]
        )
        yield day, forecaster, past, later


def main() -> None:
    """Print the lines."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="*", default=["KTH", "CTC"])
    for log in parser.parse_args().logs:
        sums: dict[tuple[str, float, str], list[float]] = defaultdict(lambda: [0.0] * 4)
        for day, forecaster, past, later in days_of_advice(log):
            for shape, fields in KINDS.items():
                kinds = {
                    key: jobs_alike
                    for key, jobs_alike in past.groupby(fields)
                    if len(jobs_alike) >= MIN_JOBS
                }
                requested = conform(
                    pd.DataFrame([next_job(jobs_alike) for jobs_alike in kinds.values()])
                ).assign(submitted_at=day)
                answers = forecaster.predict(
                    requested.assign(job_id=requested.index.astype(str)),
                    tuple(1 - risk for risk in RISKS),
                    day,
                )
                following = dict(list(later.groupby(fields)))
                for index, (key, jobs_alike) in enumerate(kinds.items()):
                    for risk in RISKS if key in following else ():
                        predicted = float(answers[f"walltime_q{1 - risk:g}"].iloc[index])
                        observed = larger(0.0, jobs_alike["walltime"], risk)
                        for rule, value in (
                            ("predicted", predicted),
                            ("kept to", observed),
                            ("the larger", max(predicted, observed)),
                        ):
                            add(sums[shape, risk, rule], following[key], value)
        for (shape, risk, rule), (jobs, more, requested_seconds, advised) in sums.items():
            share = advised / requested_seconds
            summary = f"{jobs:,.0f} jobs, {more / jobs:.1%} ran longer, {share:.2f} of the time"
            print(f"{log} {shape}, risk {risk:g}, {rule}: {summary}")


def add(sums: list[float], jobs: pd.DataFrame, advised: float) -> None:
    """Add the outcomes of jobs that request what was advised, or less where they did before."""
    requested = jobs["requested_walltime"].fillna(advised)
    for index, value in enumerate(
        (
            len(jobs),
            (jobs["walltime"] > advised).sum(),
            requested.sum(),
            np.minimum(requested, advised).sum(),
        )
    ):
        sums[index] += float(value)


if __name__ == "__main__":
    main()
