"""One predictor beside four that divide its users: errors, memory, and time to catch up.

    uv run python benchmarks/shards.py [LOG …] [--count 4] [--jobs N] [--step 500] [--merge 500 5000 0 -1]
    uv run python benchmarks/shards.py --seconds 30 [--merge 1 -1]

A model is trained on the first 30 % of a log. The later jobs are predicted and learned in order of
submission, a step at a time, as a live predictor would: the last step's outcomes are not known yet.
Shards add what the others learned each so many jobs, or never (0); -1 is one predictor again that
learns each step's outcomes shard by shard: what the order alone changes. With ``--seconds`` a step
is a period of the log's time, as in service, where shards exchange each 30 s; with ``--merge 1``
they do so at each step.
Then each predictor learns the whole log anew, which is timed in processor seconds.
"""

from __future__ import annotations

import argparse
import time
from itertools import pairwise

import numpy as np
import pandas as pd
from logs import load, show

from infra.shards import Shard
from models.engine.forecaster import Forecaster
from models.engine.training import train
from models.histories.outcome_index import stored_sizes
from models.quantities.metrics import QUANTILE_LEVELS, distribution_errors, point_errors
from models.quantities.targets import TARGETS

BULK, FIRST_ROWS, IN_ORDER = 20_000, 100, -1
WALLTIME = TARGETS["walltime"]


def main() -> None:
    """Print a row a log for errors, and one a predictor for memory and time."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("logs", nargs="*", default=["LCG", "LPC"], metavar="LOG")
    parser.add_argument("--count", type=int, default=4)
    parser.add_argument("--jobs", type=int, default=0, help="the first so many; 0 for all")
    parser.add_argument("--merge", type=int, nargs="*", default=[500, 5000, 0, -1], metavar="N")
    parser.add_argument("--step", type=int, default=500, help="jobs predicted at a time")
    parser.add_argument("--seconds", type=int, help="predict so many seconds of the log at a time")
    parser.add_argument("--trained", action="store_true", help="not without a model")
    options = parser.parse_args()
    errors, costs = [], []
    for name in options.logs:
        jobs = load(name)
        jobs = jobs.head(options.jobs) if options.jobs else jobs
        first = int(0.3 * len(jobs))
        steps = steps_of(jobs, first, options.step, options.seconds)
        for trained in [True, False][: 1 if options.trained else 2]:
            model_set = train(jobs.head(first)) if trained else None
            shards = [None, *(Shard(number + 1, options.count) for number in range(options.count))]
            for merge in options.merge:
                forecasters = [Forecaster(model_set, shard=shard) for shard in shards]
                if merge == IN_ORDER:
                    forecasters.insert(1, Forecaster(model_set))
                one, four = replay(forecasters, jobs, steps, merge)
                row = {"log": name, "model": "trained" if trained else "none", "jobs": len(jobs)}
                row["step"] = f"{options.seconds} s" if options.seconds else options.step
                row["steps"] = len(steps) - 1
                row["merged each"] = "in order" if merge == IN_ORDER else merge or "never"
                for key in one:
                    row |= {f"{key}, one": one[key], f"{key}, shards": four[key]}
                    row[f"{key}, change %"] = round(100 * (four[key] / one[key] - 1), 2)
                errors.append(row)
            if trained and not options.seconds:
                for shard in shards:
                    costs.append({"log": name, **cost(Forecaster(model_set, shard=shard), jobs)})
    show("Errors", errors)
    if costs:
        show("Cost", costs)


def steps_of(jobs: pd.DataFrame, first: int, rows: int, seconds: int | None) -> list[int]:
    """The first job of each step from job ``first`` on, and the end: of ``rows``, or ``seconds``."""
    if not seconds:
        return [*range(first, len(jobs), rows), len(jobs)]
    since = (jobs["submitted_at"] - jobs["submitted_at"].iloc[0]).dt.total_seconds()
    periods = since.to_numpy()[first:] // seconds
    return [first, *(first + 1 + np.flatnonzero(np.diff(periods))).tolist(), len(jobs)]


def replay(
    forecasters: list[Forecaster], jobs: pd.DataFrame, steps: list[int], merge: int
) -> tuple[dict[str, float], dict[str, float]]:
    """The errors of one predictor, the first, and of the shards together, step by step.

    Shards add what the others learned each ``merge`` jobs, at each step at most, or never (0).
    """
    first, exchanged = steps[0], steps[0]
    ended = jobs.sort_values("ended_at", kind="stable")
    ended_at, learned = ended["ended_at"].to_numpy(), 0
    frames: list[list[pd.DataFrame]] = [[], []]
    rows, answering = max(merge, FIRST_ROWS) if merge > 0 else BULK, forecasters[1:]
    if merge == IN_ORDER:
        answering, forecasters = forecasters[1:2], [forecasters[0], *forecasters[2:]]
    for start, end in pairwise(steps):
        queries = jobs.iloc[start:end]
        stop = int(np.searchsorted(ended_at, queries["submitted_at"].to_numpy()[0], side="right"))
        while learned < stop:
            # The first jobs are many.
            until = min(learned + (rows if start == first else BULK), stop)
            batch, learned = ended.iloc[learned:until], until
            if merge == IN_ORDER:
                forecasters[0].learn(batch)
                for shard in forecasters[1:]:
                    answering[0].learn(batch[shard.owns(batch)])
                continue
            for forecaster in forecasters:
                forecaster.learn(batch)
            if merge and (start == first or start - exchanged >= merge):
                exchange(answering)
                exchanged = start
        frames[0].append(forecasters[0].predict(queries, QUANTILE_LEVELS).set_index(queries.index))
        for shard in answering:
            own = queries[shard.owns(queries)]
            if len(own):
                frames[1].append(shard.predict(own, QUANTILE_LEVELS).set_index(own.index))
    one, four = (errors_of(pd.concat(answers).sort_index(), jobs) for answers in frames)
    return one, four


def exchange(shards: list[Forecaster]) -> None:
    """Let each shard publish what it learned, and then add what the others published."""
    for shard in shards:
        shard.sums.add({})
    publications = {number: shard.sums.learned for number, shard in enumerate(shards, 1)}
    for shard in shards:
        if shard.sums.ready:
            shard.sums.add(publications)


def errors_of(answers: pd.DataFrame, jobs: pd.DataFrame) -> dict[str, float]:
    """APA, MAE, CRPS and the coverage of the 90 % ranges."""
    truth = WALLTIME.value(jobs.loc[answers.index])
    observed = np.isfinite(truth)
    answers, truth = answers[observed], truth[observed]
    quantiles = answers[[f"walltime_q{level:g}" for level in QUANTILE_LEVELS]].to_numpy()
    low, high = answers["walltime_low"].to_numpy(), answers["walltime_high"].to_numpy()
    spread = distribution_errors(truth, quantiles, low, high)
    points = point_errors(truth, answers["walltime"].to_numpy())
    return {
        "APA": float(points["apa"] or 0),
        "MAE s": float(points["mae"] or 0),
        "CRPS s": float(spread["crps"] or 0),
        "coverage": float(spread["coverage_90"] or 0),
    }


def cost(forecaster: Forecaster, jobs: pd.DataFrame) -> dict[str, object]:
    """Bytes of histories and weights, and processor seconds to learn all jobs."""
    ended, started = jobs.sort_values("ended_at", kind="stable"), time.process_time()
    for start in range(0, len(ended), BULK):
        forecaster.learn(ended.iloc[start : start + BULK])
    seconds = time.process_time() - started
    index, tables = forecaster.mixtures["walltime"].state
    sizes = stored_sizes(index)
    used = sum(
        values[: sizes[name][0]].nbytes if name in sizes else values.nbytes
        for name, values in index._asdict().items()
    )
    used += sum(values.nbytes for values in tables)
    return {
        "shard": str(forecaster.shard or "one"),
        "own jobs": int(forecaster.owns(jobs).sum()),
        "MB": round(used / 1e6, 2),
        "bytes a job of all": round(used / len(jobs), 1),
        "CPU s": round(seconds, 1),
    }


if __name__ == "__main__":
    main()
