"""How advice holds: what is advised on seven days of a log, beside the jobs of the 28 days after each.

    uv run python benchmarks/advice.py [KTH CTC]

A line a rule and a risk: the jobs of the kinds that got advice, the share that needed more time than was advised, and the time asked for
then as a share of what was asked for.
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
from monitoring.advising import FEWEST, larger, next_job, plausible_jobs

MONTH = pd.Timedelta(days=28)
DAYS = 7
RISKS = (0.01, 0.05)
KINDS = {
    "a program": ["user", "name", "cores"],
    "a program and a time asked for": ["user", "name", "cores", "asked"],
}


def lived(name: str) -> Iterator[tuple[pd.Timestamp, Forecaster, pd.DataFrame, pd.DataFrame]]:
    """Each day of advice: a forecaster that knows what had ended, the jobs looked at, and those of the month after."""
    jobs = load(name)
    jobs["name"], jobs["cores"] = (
        jobs["program"].fillna(jobs["job_name"]).fillna("–"),
        jobs["requested_cores"].fillna(1.0),
    )
    jobs["asked"] = jobs["requested_walltime"].fillna(0.0)
    forecaster, known = Forecaster(), jobs["submitted_at"].min()
    span = jobs["submitted_at"].max() - known
    for day in [known + span * part / (DAYS + 2) for part in range(2, DAYS + 2)]:
        forecaster.learn(jobs[(jobs["ended_at"] > known) & (jobs["ended_at"] <= day)])
        known = day
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
        for day, forecaster, past, later in lived(log):
            for shape, fields in KINDS.items():
                kinds = {key: part for key, part in past.groupby(fields) if len(part) >= FEWEST}
                asked = conform(pd.DataFrame([next_job(part) for part in kinds.values()])).assign(
                    submitted_at=day
                )
                answers = forecaster.predict(
                    asked.assign(job_id=asked.index.astype(str)),
                    tuple(1 - risk for risk in RISKS),
                    day,
                )
                following = dict(list(later.groupby(fields)))
                for place, (key, part) in enumerate(kinds.items()):
                    for risk in RISKS if key in following else ():
                        foreseen = float(answers[f"walltime_q{1 - risk:g}"].iloc[place])
                        kept = larger(0.0, part["walltime"], risk)
                        for rule, value in (
                            ("foreseen", foreseen),
                            ("kept to", kept),
                            ("the larger", max(foreseen, kept)),
                        ):
                            add(sums[shape, risk, rule], following[key], value)
        for (shape, risk, rule), (jobs, more, asked_for, advised) in sums.items():
            told = f"{jobs:,.0f} jobs, {more / jobs:.1%} needed more, {advised / asked_for:.2f} of the time"
            print(f"{log} {shape}, risk {risk:g}, {rule}: {told}")


def add(sums: list[float], jobs: pd.DataFrame, advised: float) -> None:
    """Count what became of the jobs that were to ask for so much, or for what they asked for where that was less."""
    asked = jobs["requested_walltime"].fillna(advised)
    for place, value in enumerate(
        (
            len(jobs),
            (jobs["walltime"] > advised).sum(),
            asked.sum(),
            np.minimum(asked, advised).sum(),
        )
    ):
        sums[place] += float(value)


if __name__ == "__main__":
    main()
