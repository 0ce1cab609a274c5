"""What the router costs: processor time of a call through it beside one predictor's.

    uv run python benchmarks/router.py [--shards 4] [--calls 40] [--jobs 20000] [--match]

One predictor, shards and a router run on a store of generated jobs, without a model: histories
alone answer. Each call is of other waiting jobs; the same calls go to the predictor and through
the router, in turn. Processor time is that of the servers, by process.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.logs import show  # noqa: E402
from benchmarks.serving import (  # noqa: E402
    SENT,
    Server,
    as_arrow,
    as_rows,
    processor,
    serving_process,
)

SIZES = (1_000, 10_000)
WARM_UP = 3


def main() -> None:
    """Start everything, call, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shards", type=int, default=4)
    parser.add_argument("--calls", type=int, default=40)
    parser.add_argument("--jobs", type=int, default=20_000, help="in the store")
    parser.add_argument("--match", action="store_true", help="call /match, not /predict")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gridcast-router-") as folder, ExitStack() as stack:
        waiting, url = fill(Path(folder), options.jobs)

        def start(name: str, command: str = "serve", **more: str) -> Server:
            variables = {"GRIDCAST_DATABASE_URL": url, "GRIDCAST_HOME": f"{folder}/{name}", **more}
            return stack.enter_context(serving_process(ROOT, variables, command))

        one = start("one")
        shards = [
            start(f"shard-{n}", GRIDCAST_SHARD=f"{n}/{options.shards}")
            for n in range(1, options.shards + 1)
        ]
        ring = ",".join(
            f"{n}/{options.shards}={shard.address}" for n, shard in enumerate(shards, 1)
        )
        router = start("router", "route", GRIDCAST_SHARD_ADDRESSES=ring)
        rows = measure(one, shards, router, waiting, options)
    show(f"Milliseconds of processor time a call; {os.cpu_count()} cores, {processor()}", rows)


def fill(folder: Path, count: int) -> tuple[Any, str]:
    """Waiting jobs, and the URL of a store of earlier ones."""
    import pyarrow as pa

    from infra.settings import Settings
    from jobs.store import add_jobs, open_store
    from jobs.workload import generate

    jobs = generate(jobs=count + 2 * max(SIZES), days=30, seed=23, sites=20, users=200).jobs
    url = Settings(home=folder / "store").store_url
    engine = open_store(url)
    with engine.begin() as connection:
        add_jobs(connection, jobs.head(count))
    engine.dispose()
    sent = [name for name in SENT if name in jobs]
    waiting = pa.Table.from_pandas(jobs.tail(2 * max(SIZES))[sent], preserve_index=False)
    return waiting.combine_chunks(), url


def measure(
    one: Server, shards: list[Server], router: Server, waiting: Any, options: argparse.Namespace
) -> list[dict[str, Any]]:
    """A row for each form and number of jobs."""
    from services.client import Gridcast

    calls, slot = options.calls, (64, 6 * 3600.0) if options.match else ()
    by_rows: Any = Gridcast.match if options.match else Gridcast.predict
    by_arrow: Any = Gridcast.match_arrow if options.match else Gridcast.predict_arrow
    rows = []
    with Gridcast(one.address, timeout=60) as alone, Gridcast(router.address, timeout=60) as routed:
        for size in SIZES:
            for form in ("JSON", "Arrow"):
                spent: list[list[float]] = [[], [], []]
                walls: list[list[float]] = [[], []]
                for number in range(calls + WARM_UP):
                    start = number * 97 % (len(waiting) - size + 1)
                    batch = waiting.slice(start, size)
                    body = as_rows(batch) if form == "JSON" else as_arrow(batch)
                    for turn, client in enumerate((alone, routed)):
                        before = [seconds([one]), seconds(shards), seconds([router])]
                        began = time.perf_counter()
                        (by_rows if form == "JSON" else by_arrow)(client, body, *slot)
                        wall = time.perf_counter() - began
                        after = [seconds([one]), seconds(shards), seconds([router])]
                        if number >= WARM_UP:
                            walls[turn].append(wall)
                            for server_number in (0,) if turn == 0 else (1, 2):
                                spent[server_number].append(
                                    after[server_number] - before[server_number]
                                )
                mean = [1e3 * sum(values) / len(values) for values in spent]
                rows.append(
                    {
                        "jobs a call": size,
                        "form": form,
                        "one predictor": round(mean[0], 1),
                        f"{len(shards)} shards together": round(mean[1], 1),
                        "router": round(mean[2], 1),
                        "wall, one": round(1e3 * sorted(walls[0])[calls // 2], 1),
                        "wall, routed": round(1e3 * sorted(walls[1])[calls // 2], 1),
                    }
                )
    return rows


def seconds(servers: list[Server]) -> float:
    """Processor seconds that servers have spent."""
    return sum(server.processor_time() for server in servers)


if __name__ == "__main__":
    main()
