"""Speed and memory of the engine: histories, predictions, training; docs/benchmarks/speed.md.

    uv run python benchmarks/engine.py [history|generated|answers|training ...]

Each part runs in its own process, whose peak memory is printed. The engine is measured alone: jobs
are in memory, and nothing is served.
"""

from __future__ import annotations

import resource
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import numpy as np
import pandas as pd
from logs import load, show

from jobs.coded_jobs import encode_jobs
from jobs.workload import generate
from models.engine.forecaster import Forecaster
from models.engine.target_predictor import BATCH_ROWS, TargetPredictor
from models.engine.training import find_target, train
from models.histories.components import MixtureSettings
from models.histories.features import choose_levels, encode
from models.histories.mixture import PrequentialReplay

PARTS = ("history", "generated", "answers", "training")
GENERATED = (10_000, 100_000, 1_000_000)
CALL, CALLS = 10_000, 40
MEBI = 1 << 20


def main() -> None:
    """Print the parts asked for, each from a child of its own."""
    selected = sys.argv[1:] or PARTS
    if selected[0] == "--here":
        show(
            selected[1],
            {"history": history, "generated": generated, "answers": answers, "training": training}[
                selected[1]
            ](),
        )
        return
    for name in selected:
        subprocess.run([sys.executable, __file__, "--here", name], check=True)


def history() -> list[dict[str, Any]]:
    """LCG's jobs: histories alone, and a backtest with all weights."""
    jobs = load("LCG")
    live_through(jobs.head(5000), True)  # compiled, or read from where it is kept
    return [live_through(jobs, asking) for asking in (False, True)]


def generated() -> list[dict[str, Any]]:
    """The same for ever more generated jobs of as many users."""
    live_through(generate(5000).jobs, True)
    return [live_through(generate(count, days=count / 700).jobs, False) for count in GENERATED]


def live_through(jobs: pd.DataFrame, asking: bool) -> dict[str, Any]:
    """A row of how long it took."""
    jobs, aim = (
        jobs.sort_values("submitted_at", kind="stable", ignore_index=True),
        find_target("walltime"),
    )
    began = time.perf_counter()
    levels = choose_levels(jobs)
    contexts = encode(jobs, levels)
    encoded = time.perf_counter() - began
    mixture = TargetPredictor.create(aim, levels, MixtureSettings()).mixture
    walk = PrequentialReplay(mixture, contexts, aim.value(jobs), aim.limit(jobs))
    began = time.perf_counter()
    for start in range(0, len(jobs), BATCH_ROWS) if asking else ():
        walk.advance(np.arange(start, min(start + BATCH_ROWS, len(jobs))))
    walk.advance(np.empty(0, np.int64), asking)
    taken = time.perf_counter() - began
    lists = mixture.state.outcomes
    return {
        "jobs": len(jobs),
        "what": "histories, weights and a distribution a job" if asking else "histories alone",
        "levels": len(levels.levels),
        "keys": int(lists.used[0]),
        "s to encode": encoded,
        "s to backtest": taken,
        "µs a job": 1e6 * (encoded + taken) / len(jobs),
        "MiB of histories": sum(array.nbytes for array in lists) / MEBI,
    }


def answers() -> list[dict[str, Any]]:
    """CALL consecutive jobs of LCG a call, as waiting now and each at its submission."""
    jobs = load("LCG")
    forecaster = Forecaster(train(jobs))
    forecaster.learn(jobs)
    fields = ("submitted_at", "source", "job_id", *forecaster.fields)
    coded = [
        encode_jobs(jobs.iloc[start : start + CALL], fields)
        for start in np.linspace(0, len(jobs) - CALL, CALLS).astype(int)
    ]
    now = jobs["ended_at"].max().to_pydatetime()
    return [
        timed("as they wait", coded, lambda batch: forecaster.predict_encoded(batch, (), now)),
        timed(
            "each as of its submission (all distinct)",
            coded,
            lambda batch: forecaster.predict_encoded(batch),
        ),
    ]


def timed(how: str, parts: list[Any], ask: Callable[[Any], Any]) -> dict[str, Any]:
    """A row of how long calls took; kinds are the distinct answers among the jobs of a call."""
    kinds = [len(np.unique(ask(batch).context_of_row)) for batch in parts[:4]]
    taken = []
    for batch in parts:
        began = time.perf_counter()
        ask(batch)
        taken.append(1000 * (time.perf_counter() - began))
    row = {"jobs a call": CALL, "asked": how, "kinds": float(np.mean(kinds)), "calls": len(parts)}
    return row | {
        "fastest ms": min(taken),
        "median ms": float(np.median(taken)),
        "p95 ms": float(np.quantile(taken, 0.95)),
    }


def training() -> list[dict[str, Any]]:
    """The whole set on all of LCG's jobs."""
    jobs = load("LCG")
    before = peak()
    began, busy = time.perf_counter(), time.process_time()
    model_set = train(jobs)
    rows = {
        "jobs": len(jobs),
        "s": time.perf_counter() - began,
        "s of CPU": time.process_time() - busy,
    }
    metrics = model_set.card.metrics["walltime"]
    return [
        rows | {"GiB before": before, "GiB at its peak": peak(), "validation MAE": metrics["mae"]}
    ]


def peak() -> float:
    """The most memory that this process ever took, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / MEBI


if __name__ == "__main__":
    main()
