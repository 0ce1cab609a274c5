"""Speed of ranking: the real service as a process, called through the client on the same cores.

    uv run python benchmarks/ranking.py [--json] [--calls N]

The grid is generated: 30,000 jobs sent to 20 sites at random, with their waits, runs and transfers
stored as of one moment. Each call ranks 20 candidates of 1,000 consecutive jobs as of that moment,
by Arrow. The times include encoding, loopback, decoding, the distributions of runs, waits and
transfers, chances, and order. The time of each step is measured in this process, on the same store.
The first run prepares a folder that later runs use.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import patch

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving import processor, say, serving, timed  # noqa: E402

JOBS, SITES, MANY = 30_000, 20, 1_000
AT = 0.9
"""The moment asked about, as a share of the log."""


def main() -> None:
    """Prepare, serve, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--calls", type=int, default=200, help="calls to make; default 200")
    options = parser.parse_args()
    source = b"".join(
        path.read_bytes() for path in sorted((ROOT / "jobs" / "workload").glob("*.py"))
    )
    default = (
        Path(tempfile.gettempdir())
        / f"gridcast-ranking-{os.getuid()}-{hashlib.sha256(source).hexdigest()[:12]}"
    )
    home = Path(os.environ.setdefault("GRIDCAST_HOME", str(default)))
    jobs, moment = prepare(home)
    with serving() as address:
        row = measure(address, jobs, moment, options.calls)
    parts = shares(jobs, moment)
    about = {
        "grid": "generated",
        "machine": f"{os.cpu_count()} cores, {processor()}",
        "load": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps({"rows": [row], "parts": parts, **about}, indent=1))
        return
    print(
        f"{SITES} candidates a job; a generated grid; "
        f"client and server on {about['machine']}, load {about['load']:.1f}"
    )
    print(
        f"{row['door']} {row['jobs']:,} jobs   p50 {row['p50_ms']:.1f} ms   "
        f"p99 {row['p99_ms']:.1f} ms   {row['calls']} calls"
    )
    for name, milliseconds in parts.items():
        print(f"    {name:24s} {milliseconds:6.1f} ms")


def prepare(home: Path) -> tuple[Any, str]:
    """Fill the store; return the jobs to rank (a pyarrow Table) and the moment."""
    import numpy as np
    import pyarrow as pa

    from infra.settings import prepare_environment
    from jobs.store import add_jobs, count_jobs, open_store
    from jobs.transfers import TRANSFER
    from jobs.workload.grid import NO_SITE, generate_grid
    from scheduling.brokering.brokers import Random
    from scheduling.brokering.grid import job_records, simulate, start_of, transfer_records

    grid = generate_grid(JOBS, days=30.0, sites=SITES)
    now = float(np.quantile((grid.jobs["submitted_at"] - start_of(grid)).dt.total_seconds(), AT))
    home.mkdir(parents=True, exist_ok=True)
    engine = open_store(prepare_environment().store_url)
    if count_jobs(engine).empty:
        say("filling the store with what a generated grid did")
        state = simulate(grid, Random())
        for times in (state.sent, state.there, state.started, state.ended):
            times[times > now] = np.nan
        moved = np.flatnonzero(
            (grid.input_at != NO_SITE) & (grid.input_at != state.site) & ~np.isnan(state.sent)
        )
        with engine.begin() as connection:
            add_jobs(connection, job_records(state, np.flatnonzero(~np.isnan(state.sent))))
            add_jobs(connection, transfer_records(state, moved), TRANSFER)
    engine.dispose()
    places = np.array([*grid.sites, None], dtype=object)
    described = grid.jobs.drop(columns=["site", "submitted_at", "job_id"]).assign(
        job_id=grid.jobs["job_id"], input_at=places[grid.input_at]
    )
    moment = start_of(grid) + np.timedelta64(round(now * 1e6), "us")
    return pa.Table.from_pandas(
        described.iloc[int(JOBS * AT) :], preserve_index=False
    ).combine_chunks(), moment.isoformat()


def candidates(jobs: Any) -> Any:
    """Each of ``jobs`` (a pyarrow Table) once for every site."""
    import numpy as np
    import pyarrow as pa

    rows = jobs.take(np.repeat(np.arange(len(jobs)), SITES))
    sites = pa.array([f"site-{number + 1:02d}" for number in range(SITES)]).dictionary_encode()
    return rows.append_column(
        "site", sites.take(pa.array(np.tile(np.arange(SITES), len(jobs))))
    ).combine_chunks()


def measure(address: str, jobs: Any, moment: str, calls: int) -> dict[str, Any]:
    """Ask the service ``calls`` times, each time about other jobs."""
    from services.client import Gridcast

    with Gridcast(address, timeout=300) as broker:

        def ask(table: Any) -> None:
            assert len(broker.rank_arrow(table, at=moment, policy="conservative")) == len(table)

        return timed(f"arrow, {SITES} candidates", MANY, ask, jobs, candidates, calls)


def shares(jobs: Any, moment: str) -> dict[str, float]:
    """Milliseconds that each part of a call takes in this process, the median of several calls."""
    import numpy as np
    import pyarrow as pa

    from infra.settings import prepare_environment
    from jobs.store import open_store, read_ended
    from models.engine.forecaster import Forecaster
    from models.ranking import ranker as ranking
    from models.ranking.ranker import build_ranker
    from services.http.contract import ARROW_TYPE
    from services.http.rank import read_rank, write_rank

    engine = open_store(prepare_environment().store_url)
    runs = Forecaster()
    runs.learn(read_ended(engine))
    built_ranker = build_ranker(engine, runs)
    assert built_ranker.waits is not None and built_ranker.transfers is not None
    taken: dict[str, list[float]] = {}

    def clocked(name: str, work: Any, *arguments: Any) -> Any:
        began = time.perf_counter()
        answer = work(*arguments)
        taken.setdefault(name, []).append((time.perf_counter() - began) * 1000)
        return answer

    steps = {"predicted_points": "run times", "rank": "sums, chances, order"}
    waits, transfers = built_ranker.waits.points, built_ranker.transfers.points
    for start in np.linspace(0, len(jobs) - MANY, 15).astype(int):
        table = candidates(jobs.slice(int(start), MANY))
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, table.schema) as stream:
            stream.write_table(table)
        body = sink.getvalue().to_pybytes()
        request = clocked(
            "reading the body",
            read_rank,
            ARROW_TYPE,
            body,
            {"at": moment, "policy": "conservative"},
        )
        patches: list[Any] = [
            patch.object(ranking, name, partial(clocked, label, getattr(ranking, name)))
            for name, label in steps.items()
        ]
        patches.append(
            patch.object(
                type(built_ranker.waits),
                "points",
                new=lambda predictor, *arguments: clocked_points(predictor, arguments),
            )
        )

        def clocked_points(predictor: Any, arguments: Any) -> Any:
            return (
                clocked("waits", waits, *arguments)
                if predictor is built_ranker.waits
                else clocked("transfers", transfers, *arguments)
            )

        for active_patch in patches:
            active_patch.start()
        ranked = clocked(
            "ranking, in all", built_ranker.rank, request.candidates, request.rule, request.at
        )
        for active_patch in patches:
            active_patch.stop()
        clocked("writing the answer", write_rank, ranked, "none", True)
    engine.dispose()
    return {name: round(float(np.median(values[2:])), 2) for name, values in taken.items()}


if __name__ == "__main__":
    main()
