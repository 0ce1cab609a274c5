"""One worker of Dask and two: six logs, the groups of a log, and models of clusters.

    uv run python benchmarks/side_by_side.py [--json] [--only groups|logs|training]

Each worker has one thread. ``groups``: the groups of LPC, evaluated by themselves; ``logs``: six
logs, evaluated by Gridcast and two simple rules; ``training``: LPC with models of its groups. The
workers start and load compiled code before. On a machine with other work the wall time says
little: ``busiest_s`` is the processor time of the worker that computed longest (with ``training``
that of the process itself added), and ``ratio`` that of one worker to that of two.
"""

from __future__ import annotations

import argparse
import json
import os
import time
from collections.abc import Callable
from functools import partial
from typing import Any

import pandas as pd
from distributed import LocalCluster
from logs import LOGS, TRACES, load, show

from infra.dask_workers import Workers
from infra.settings import Settings
from jobs.ingest import read_arguments
from jobs.partitions import Partition, logs_of, sizes_of
from models.engine.training import train
from models.evaluation.backtest import OURS
from models.evaluation.partitions import EvaluationTask, evaluate_partition
from models.releases.refiner_fitting import refiner_fitting

ARGUMENTS = read_arguments()
PREDICTORS = (OURS, "last-two", "template")


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--only", choices=("groups", "logs", "training"), help="one of the three")
    options = parser.parse_args()
    logs = dict(
        zip(LOGS, logs_of([str(TRACES / log) for log in LOGS.values()], ARGUMENTS), strict=True)
    )
    parts: dict[str, Callable[[Workers, str], None]] = {
        "groups": partial(evaluate_each, *logs["LPC"].split("group")),
        "logs": partial(evaluate_each, list(logs.values()), sizes_of(list(logs.values()))),
        "training": partial(train_clusters, load("LPC")),
    }
    rows = []
    for name, work in parts.items():
        if options.only in (None, name):
            one, two = (measure(work, count) for count in (1, 2))
            rows += [
                {"part": name, **one, "ratio": 1.0},
                {"part": name, **two, "ratio": round(one["busiest_s"] / two["busiest_s"], 2)},
            ]
    if options.json:
        print(json.dumps({"rows": rows}, indent=1))
    else:
        show("One worker and two", rows)


def measure(work: Callable[[Workers, str], None], count: int) -> dict[str, Any]:
    """Do some work by a number of workers, and measure it."""
    cluster = LocalCluster(
        n_workers=count, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    )
    with cluster, Workers(cluster.scheduler_address) as workers:
        warm_up = EvaluationTask(logs_of([str(TRACES / LOGS["KTH"])], ARGUMENTS)[0])
        client = workers.connect()
        client.gather([
            client.submit(evaluate_partition, warm_up, workers=[worker], pure=False)
            for worker in client.scheduler_info()["workers"]
        ])  # fmt: skip
        before, own, began = client.run(time.process_time), time.process_time(), time.perf_counter()
        work(workers, cluster.scheduler_address)
        wall, own = time.perf_counter() - began, time.process_time() - own
        spent = [after - before[name] for name, after in client.run(time.process_time).items()]
    return {
        "workers": count,
        "wall_s": round(wall, 1),
        "workers_s": " + ".join(f"{seconds:.1f}" for seconds in spent),
        "busiest_s": round(max(spent) + own, 1),
        "load": round(os.getloadavg()[0], 1),
    }


def evaluate_each(
    partitions: list[Partition], sizes: list[float], workers: Workers, _address: str
) -> None:
    """Evaluate partitions by workers, which read them."""
    tasks = [EvaluationTask(partition, predictors=PREDICTORS) for partition in partitions]
    workers.map(evaluate_partition, tasks, sizes)


def train_clusters(jobs: pd.DataFrame, _workers: Workers, address: str) -> None:
    """Train with models of groups, as ``gridcast train`` does."""
    with refiner_fitting(Settings(dask=address), "group") as fits:
        train(jobs, cluster_by="group", fits=fits)


if __name__ == "__main__":
    main()
