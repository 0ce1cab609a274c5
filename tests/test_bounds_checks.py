"""Compiled code with every index checked, on inputs that exceed arrays sized by a guess.

Machine code checks no index by itself: an index past the end writes into other memory. The
workloads run in a process of their own with Numba's bounds checks, with a cache of its own.
"""

import importlib
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest

ROOT = Path(__file__).parents[1]


def crowd(count: int, seed: int, cores: int, gap: float = 40.0) -> pd.DataFrame:
    """Jobs, ``gap`` seconds apart, that wait for each other: some exceed their request, some have
    none, all are in a queue."""
    from jobs.schema import conform

    generator = np.random.default_rng(seed)
    begin = pd.Timestamp("2026-01-01", tz="UTC")
    submitted = np.sort(generator.uniform(0, gap * count, count))
    walltime = np.round(generator.lognormal(6.0, 1.5, count)) + 1
    request = np.where(
        generator.random(count) < 0.1, np.nan, walltime * generator.uniform(0.7, 5, count)
    )
    waited = generator.exponential(600, count)
    started = begin + pd.to_timedelta(submitted + waited, unit="s")
    return conform(
        pd.DataFrame(
            {
                "job_id": [str(number) for number in range(count)],
                "source": "generated",
                "user": generator.choice(["ada", "bob", "eve", "kim"], count),
                "group": generator.choice(["atlas", "cms"], count),
                "queue": generator.choice(["short", "long"], count),
                "submitted_at": begin + pd.to_timedelta(submitted, unit="s"),
                "started_at": started,
                "ended_at": started + pd.to_timedelta(walltime, unit="s"),
                "walltime": walltime,
                "requested_walltime": request,
                "requested_cores": generator.integers(1, cores + 1, count).astype(float),
                "requested_memory": generator.choice([0.0, 2e9, 4e9], count),
                "status": "completed",
            }
        )
    )


def replay_policies() -> None:
    """Every policy, with corrections and repeated predictions, on one host, several and pilots."""
    from dataclasses import replace

    from scheduling.machine import Machine, Pool, processors
    from scheduling.owners import Owners
    from scheduling.pilots.replay import RULES, Pilots, replay_pilots
    from scheduling.policies import POLICIES
    from scheduling.replay import replay
    from scheduling.trace import trace_of

    jobs = crowd(400, 1, cores=8)
    hosts = Machine((Pool("farm", cores=8, hosts=3, memory=16e9),))
    for policy in POLICIES.values():
        replay(jobs, processors(16), policy, "last-two", "incremental", bound=4 * 3600)
        replay(jobs, hosts, replace(policy, refresh=True), "template", "remaining")
        replay(jobs, hosts, policy, "request", owners=Owners(("group", "user"), {"user": 12}))
    replay(crowd(1200, 2, cores=8), hosts, "conservative", "template", "incremental")
    replay(crowd(500, 3, cores=8), processors(64), "gridcast", "gridcast", "remaining")
    trace = trace_of(crowd(400, 5, cores=4), processors(8))
    for rule in RULES:
        replay_pilots(trace, Pilots(12 * 3600.0, cores=4), rule)


def predict_jobs() -> None:
    """Run times, memory and classes of generated jobs, with their baselines and refiners."""
    from jobs.coded_jobs import encode_jobs
    from jobs.schema import QUERY_FIELDS
    from jobs.workload import generate
    from models.engine.forecaster import Forecaster
    from models.engine.training import find_target
    from models.evaluation.allocation_backtest import evaluate_allocation
    from models.evaluation.backtest import evaluate
    from models.evaluation.class_backtest import evaluate_classes

    jobs = generate(1500, days=6, seed=2).jobs
    evaluate(jobs, find_target("walltime"), predictors=("gridcast", "last", "group-p95"))
    evaluate_allocation(jobs)
    evaluate_classes(jobs, refit_every=1.0)
    forecaster = Forecaster()
    for _, frame in jobs.groupby(jobs["submitted_at"].dt.date):
        forecaster.learn(frame)
        forecaster.predict(frame, (0.5, 0.9))
    latest = jobs.tail(20)
    forecaster.explain(encode_jobs(latest, latest.columns.intersection(QUERY_FIELDS)))


def fill_histories() -> None:
    """More outcomes of a few keys than are kept, partly out of order."""
    from jobs.workload import generate
    from models.engine.target_predictor import TargetPredictor
    from models.engine.training import find_target
    from models.histories.features import choose_levels, encode

    jobs, target = generate(14_000, days=6, seed=5).jobs, find_target("walltime")
    levels = choose_levels(jobs)
    contexts, values, limits = encode(jobs, levels), target.value(jobs), target.limit(jobs)
    mixture = TargetPredictor.create(target, levels).mixture
    for rows in (np.arange(0, 12_000), np.arange(13_900, 12_000, -1), np.arange(11_900, 14_000)):
        mixture.learn(contexts.take(rows), values[rows], limits[rows], weigh=False)
    assert mixture.state.outcomes.slots["total"].max() > 13_000
    mixture.distributions(contexts.take(np.arange(0, 14_000, 100)), limits[::100])


def predict_tasks() -> None:
    """Ends of generated tasks, and planted stalls."""
    from jobs.workload import generate
    from models.tasks.backtest import evaluate_tasks
    from monitoring.tasks.stalls import score_stall_detection

    evaluate_tasks(generate(2000, days=8, seed=3).jobs)
    score_stall_detection(generate(8000, days=15, seed=3).jobs)


def predict_waits_and_transfers() -> None:
    """Waits by the state of the queues, transfer times by the traffic, and both in a ranking."""
    from jobs.workload.grid import NO_SITE, generate_grid
    from models.engine.training import find_target
    from models.evaluation.backtest import evaluate
    from models.ranking.order import Rule
    from scheduling.brokering.brokers import Random
    from scheduling.brokering.grid import simulate, transfer_records
    from scheduling.brokering.ranking_broker import RankingBroker

    evaluate(
        crowd(1500, 4, cores=8, gap=1000), find_target("wait"), predictors=("gridcast", "qbets")
    )
    grid = generate_grid(1500, days=2.0, sites=6)
    state = simulate(grid, Random())
    moved = np.flatnonzero((state.sent < state.there) & (grid.input_at != NO_SITE))
    transfers = transfer_records(state, moved).sort_values("submitted_at", ignore_index=True)
    evaluate(transfers, find_target("transfer_time"), predictors=("gridcast",))
    simulate(grid, RankingBroker(grid, Rule("first", overlap=True)))


WORKLOADS = (
    replay_policies,
    predict_jobs,
    fill_histories,
    predict_tasks,
    predict_waits_and_transfers,
)


def compiled_functions(packages: tuple[str, ...]) -> dict[str, bool]:
    """Every compiled function of some packages by name, and whether it ran in this process."""
    from numba.core.dispatcher import Dispatcher

    ran = {}
    for package in packages:
        for path in sorted((ROOT / package).rglob("*.py")):
            if "\n@compiled" in path.read_text(encoding="utf-8"):
                name = ".".join(path.relative_to(ROOT).with_suffix("").parts)
                for function in vars(importlib.import_module(name)).values():
                    if isinstance(function, Dispatcher) and function.__module__ == name:
                        ran[f"{name}.{function.__name__}"] = bool(function.signatures)
    return ran


@pytest.fixture(scope="module")
def ran(tmp_path_factory: pytest.TempPathFactory) -> dict[str, bool]:
    """Which compiled functions ran in the workloads with bounds checks.

    The cache is empty at first: a function that is called by a cached one is not seen to run.
    """
    folder = tmp_path_factory.mktemp("machine-code")
    run = subprocess.run(
        [sys.executable, __file__],
        cwd=ROOT,
        env=os.environ
        | {
            "NUMBA_BOUNDSCHECK": "1",
            "NUMBA_OPT": "1",  # checks stay; compiling takes three quarters of the time
            "NUMBA_CACHE_DIR": f"{folder}/bounds-checked",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    used: dict[str, bool] = json.loads(run.stdout.splitlines()[-1])
    return used


def test_no_workload_reads_or_writes_past_an_array_and_compiled_functions_run(
    ran: dict[str, bool],
) -> None:
    assert sum(ran.values()) > 80
    missed = [name for name, used in ran.items() if not used]
    assert [name for name in missed if name.startswith("scheduling.")] == []
    assert len(missed) < 10, missed


def test_an_index_past_the_end_is_caught_at_all() -> None:
    script = (
        "import numpy as np; from infra.compiled import compiled\n"
        "import scheduling.state as state\n"
        "events = np.zeros(2, dtype=state.EVENT); state._insert(events, 2, 1.0, 1)\n"
    )
    folder = os.environ.get("NUMBA_CACHE_DIR", str(ROOT / ".numba_cache"))
    run = subprocess.run(
        [sys.executable, "-c", script],
        cwd=ROOT,
        env=os.environ
        | {
            "NUMBA_BOUNDSCHECK": "1",
            "NUMBA_CACHE_DIR": f"{folder}/bounds-checked",
            "PYTHONPATH": str(ROOT),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert "IndexError" in run.stderr


if __name__ == "__main__":
    from tests.trees import few_trees

    with few_trees():  # CatBoost's code is not ours
        for workload in WORKLOADS:
            workload()
    print(json.dumps(compiled_functions(("models", "scheduling"))))
