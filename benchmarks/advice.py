"""Accuracy of advice: advice on days of a log, compared with the jobs of the next 28 days.

    uv run python benchmarks/advice.py [KTH CTC …]

A row a log, quantity, risk and rule: the share of later jobs that got advice, of those that needed
more than advised, of those advised less than their request that needed more, and what was asked
for: core hours (memory: GiB · core hours of the job's own run), by users who request what is
advised where it is less than their request, else what they requested. ``before`` is the larger of
the prediction and of what all but the risk of the past jobs used; ``calibrated`` is the advice.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator

import numpy as np
import pandas as pd
from logs import load, selected_logs, show

from infra.aliases import Floats
from jobs.schema import conform
from models.engine.forecaster import Forecaster
from monitoring.advice_calibration import (
    HISTORY,
    REQUESTS,
    UNITS,
    Kinds,
    advised_amounts,
    later_needs,
)
from monitoring.advising import SITE_JOBS, larger, next_job, plausible_jobs

MONTH = pd.Timedelta(days=28)
DAYS = 7
RISKS = (0.01, 0.05)
LOGS = "KTH CTC SDSC LPC LANL HPC2N-2002-2.2-cln.swf.gz " + " ".join(
    f"nextflow-{pipeline}.csv.gz" for pipeline in ("mag", "rnaseq", "chipseq", "eager")
)


def days_of_advice(
    name: str, targets: tuple[str, ...]
) -> Iterator[tuple[pd.Timestamp, Forecaster, pd.DataFrame, pd.DataFrame]]:
    """For each day: a forecaster of the ended jobs, these jobs, and those of the next month.

    Args:
        name: The log.
        targets: What is predicted.
    """
    jobs = load(name)
    forecaster, learned_until = Forecaster(targets=targets), jobs["submitted_at"].min()
    span = jobs["submitted_at"].max() - learned_until
    for day in [learned_until + span * step / (DAYS + 2) for step in range(2, DAYS + 2)]:
        forecaster.learn(jobs[(jobs["ended_at"] > learned_until) & (jobs["ended_at"] <= day)])
        learned_until = day
        begin = day - pd.Timedelta(microseconds=HISTORY)
        past, _ = plausible_jobs(jobs[(jobs["submitted_at"] >= begin) & (jobs["ended_at"] <= day)])
        later, _ = plausible_jobs(
            jobs[(jobs["submitted_at"] > day) & (jobs["submitted_at"] <= day + MONTH)]
        )
        yield day, forecaster, past.tail(SITE_JOBS), later


def advise_log(name: str) -> list[dict[str, object]]:
    """The rows of a log."""
    sums: dict[tuple[str, float, str], Floats] = defaultdict(lambda: np.zeros(8))
    has_memory = load(name)["peak_memory"].notna().mean() > 0.1
    targets = ("walltime", "peak_memory") if has_memory else ("walltime",)
    for day, forecaster, past, later in days_of_advice(name, targets):
        # Coded together, so that later jobs have the kinds of the past ones.
        jobs = pd.concat([past, later], ignore_index=True)
        future = pd.Timestamp("2100-01-01", tz="UTC")
        jobs["ended_at"] = jobs["ended_at"].where(jobs.index < len(past), future)
        now = int(pd.Series([day]).astype("datetime64[us, UTC]").astype("int64")[0])
        for target in targets:
            unit = UNITS[target]
            coded = Kinds.of(jobs, target, by_user=True)
            of_jobs, kinds = coded.at(now)
            arrays = {name: values[: len(past)] for name, values in vars(coded).items()}
            arrays["queue_limits"] = coded.queue_limits
            needs = later_needs(Kinds(**arrays), unit)
            recent = (past["submitted_at"] >= day - MONTH).to_numpy()
            alike = {
                kind: group
                for kind, group in past[recent].groupby(of_jobs[: len(past)][recent])
                if kind in kinds.index
            }
            kinds = kinds.loc[list(alike)]
            if kinds.empty:
                continue
            queries = conform(pd.DataFrame([next_job(group) for group in alike.values()]))
            answers = forecaster.predict(
                queries.assign(submitted_at=day, job_id=queries.index.astype(str)),
                tuple(1 - risk for risk in RISKS),
                day,
            )
            for risk in RISKS:
                predicted = answers[f"{target}_q{1 - risk:g}"]
                least = np.array(
                    [
                        larger(float(value), group[target].dropna(), risk)
                        for value, group in zip(predicted, alike.values(), strict=True)
                    ]
                )
                advised = advised_amounts(kinds, needs, needs, least, risk, unit)
                before = advised.assign(enough=True, amount=np.ceil(least / unit) * unit)
                for rule, table in (("before", before), ("calibrated", advised)):
                    sums[target, risk, rule] += outcomes(later, of_jobs[len(past) :], table, target)
    return [row(name, key, values) for key, values in sums.items() if values[0]]


def outcomes(jobs: pd.DataFrame, kinds: Floats, table: pd.DataFrame, target: str) -> Floats:
    """Count what later jobs needed, and sum what is asked for.

    Args:
        jobs: The jobs of the month after the advice.
        kinds: Their kinds.
        table: What is advised, by kind.
        target: walltime or peak_memory.
    """
    advised = table.reindex(kinds)
    need, request = jobs[target].to_numpy(float), jobs[REQUESTS[target]].to_numpy(float)
    amount = advised["amount"].to_numpy(float)
    similar = advised["longest"].notna().to_numpy() & np.isfinite(need)
    enough = similar & advised["enough"].eq(True).to_numpy()
    lower = enough & ~(amount >= request)
    more = need > amount
    weights = jobs["requested_cores"].fillna(1.0).to_numpy(float) / 3600
    if target == "peak_memory":
        weights = weights * jobs["walltime"].to_numpy(float) / 2**30
    wanted = np.where(lower, amount, request)
    summed = similar & np.isfinite(request * weights)
    return np.array(
        [
            similar.sum(),
            enough.sum(),
            (enough & more).sum(),
            lower.sum(),
            (lower & more).sum(),
            (request * weights)[summed].sum(),
            (wanted * weights)[summed].sum(),
            (need * weights)[summed].sum(),
        ]
    )


def row(name: str, key: tuple[str, float, str], values: Floats) -> dict[str, object]:
    """One line of the table."""
    target, risk, rule = key
    similar, advised, more, lower, lower_more, requested, wanted, used = values
    return {
        "log": name.split(".")[0],
        "quantity": target,
        "risk": f"{risk:.0%}",
        "rule": rule,
        "jobs": int(similar),
        "advised": f"{advised / similar:.0%}",
        "needed more": f"{more / advised:.2%}" if advised else "–",
        "advised less": f"{lower / similar:.0%}",
        "of these needed more": f"{lower_more / lower:.2%}" if lower else "–",
        "requested": requested,
        "asked for": wanted,
        "share": f"{wanted / requested:.3f}" if requested else "–",
        "used": f"{used / requested:.3f}" if requested else "–",
    }


def main() -> None:
    """Print the table."""
    for log in selected_logs(__doc__ or "", LOGS):
        rows = advise_log(log)
        show(log, rows) if rows else print(f"\n{log}: no later job of a kind that ran before")


if __name__ == "__main__":
    main()
