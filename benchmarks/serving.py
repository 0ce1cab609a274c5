"""Speed of the HTTP endpoints: a real service, called through the client on the same cores.

    uv run python benchmarks/serving.py [--json] [--peers] [--sustained MINUTES] [--four]

The jobs are consecutive submissions of LCG's log, predicted as waiting now by a champion trained on
it, each call other jobs. The times include encoding, loopback, decoding, history, mixture, CatBoost
and ranges. ``arrow, all distinct`` predicts each job at its own submission, so that no two have the
same history; ``beside calls of 10,000`` one job while another process sends 10,000 a call without
pause. ``--four`` predicts four targets with ranges and classes, of generated jobs, since no
public log has all four. The first run prepares a folder that later runs use (GRIDCAST_HOME, else
one below the system's temporary folder).
"""

from __future__ import annotations

import argparse
import gc
import hashlib
import json
import os
import platform
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving_peers import peers  # noqa: E402
from benchmarks.serving_sustained import sustain  # noqa: E402

LOG = "LCG-2005-1.first70.swf.gz"
CALLS = {1: 600, 1_000: 200, 10_000: 200, 100_000: 15}
FOUR = ("walltime", "peak_memory", "cpu_time", "io")
WARM_UP = 8
PATIENCE = 300.0
PAUSE_BEFORE_MEASURING = 3.0
"""Seconds in which another caller starts."""
SENT = (
    "job_id",
    "source",
    "user",
    "group",
    "site",
    "program",
    "queue",
    "requested_cores",
    "requested_walltime",
    "requested_memory",
)


def main() -> None:
    """Prepare, serve, ask, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument(
        "--sustained",
        type=float,
        metavar="MINUTES",
        help="mixed load instead, with three hot swaps and a killed worker",
    )
    parser.add_argument(
        "--peers",
        action="store_true",
        help="beside it mlflow models serve and a bare FastAPI app with the same model",
    )
    parser.add_argument(
        "--four",
        action="store_true",
        help="walltime, memory, CPU time and I/O with classes, of generated jobs",
    )
    options = parser.parse_args()
    log = None if options.four else find_log()
    home = Path(
        os.environ.setdefault(
            "GRIDCAST_HOME", str(default_home(log)) + ("-four" if options.four else "")
        )
    )
    prepare(home, log, FOUR if options.four else ())
    jobs = waiting_jobs()
    with serving() as address:
        rows = (
            [sustain(address, jobs, options.sustained)]
            if options.sustained
            else measure(address, jobs, classes=options.four)
        )
    if options.peers:
        rows += peers(iter(free_port, None), await_ready, timed, jobs)
    about = {
        "log": log.name if log else "generated jobs",
        "machine": f"{os.cpu_count()} cores, {processor()}",
        "load": os.getloadavg()[0],
    }
    if options.json:
        print(json.dumps({"rows": rows, **about}, indent=1))
        return
    print(f"{about['log']}; client and server on {about['machine']}, load {about['load']:.1f}")
    for row in rows:
        print(
            f"{row['door']:22s} {row['jobs']:>8,d} jobs   p50 {row['p50_ms']:8.2f} ms   "
            f"p99 {row['p99_ms']:8.2f} ms   {row['calls']} calls"
        )
        for name in [
            name for name in row if name not in ("door", "jobs", "p50_ms", "p99_ms", "calls")
        ]:
            print(f"    {name.replace('_', ' ')}: {row[name]}")


def find_log() -> Path | None:
    """The log of the LHC Computing Grid, None where it is not."""
    path = Path(os.environ.get("GRIDCAST_TRACES", ROOT.parent / "shared" / "data")) / LOG
    if path.is_file():
        return path
    say(f"{path} is not there (set GRIDCAST_TRACES): generated jobs stand for it")
    return None


def default_home(log: Path | None) -> Path:
    """A folder for this engine and log: another engine's champion would not be this one's."""
    engine = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted((ROOT / "models").rglob("*.py")))
    )
    engine.update(str(log and log.stat().st_size).encode())
    return Path(tempfile.gettempdir()) / f"gridcast-serving-{os.getuid()}-{engine.hexdigest()[:12]}"


def prepare(home: Path, log: Path | None, targets: tuple[str, ...]) -> None:
    """Store the log and train a champion on it, unless an earlier run has."""
    done = home / "prepared"
    if done.exists():
        return
    if log is None:
        log = home / "generated.csv"
        home.mkdir(parents=True, exist_ok=True)
        gridcast("generate", str(log), "--jobs", "120000", "--days", "60")
    gridcast("ingest", str(log))
    gridcast("train", *(word for target in targets for word in ("--target", target)))
    done.touch()


def gridcast(*words: str) -> None:
    """Run a command of Gridcast's as a user would."""
    say(f"gridcast {' '.join(words)}")
    subprocess.run(
        [sys.executable, "-m", "gridcast", *words], cwd=ROOT, check=True, stdout=subprocess.DEVNULL
    )


def say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def waiting_jobs() -> Any:
    """All jobs of the log as a broker describes them, by submission (an Arrow table)."""
    import pyarrow as pa

    from infra.settings import prepare_environment
    from jobs.store import open_store, read_jobs

    engine = open_store(prepare_environment().store_url)
    jobs = read_jobs(engine, columns=[*SENT, "submitted_at"])
    jobs = jobs[jobs["source"] != "sustained"]  # what an earlier sustained load reported
    engine.dispose()
    fields = [name for name in SENT if jobs[name].notna().any()]
    return pa.Table.from_pandas(
        jobs[[*fields, "submitted_at"]], preserve_index=False
    ).combine_chunks()


@contextmanager
def serving() -> Iterator[str]:
    """``gridcast serve`` on a free port; yields its address once it is ready."""
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    chosen = {"GRIDCAST_PREDICTOR_PORT": str(port), "GRIDCAST_OPEN_ON_LOOPBACK": "true"}
    environment = {**os.environ, **chosen}
    process = subprocess.Popen(
        [sys.executable, "-m", "gridcast", "serve"],
        cwd=ROOT,
        env=environment,
        stdout=subprocess.DEVNULL,
    )
    try:
        await_ready(f"{address}/readyz", lambda: process.poll() is not None)
        yield address
    finally:
        process.terminate()
        process.wait(60)


def free_port() -> int:
    """A port that nobody listens on."""
    with socket.socket() as door:
        door.bind(("127.0.0.1", 0))
        return int(door.getsockname()[1])


def await_ready(url: str, ended: Callable[[], bool]) -> None:
    """Wait until ``url`` answers 200; exit if the server ends or takes too long."""
    import httpx

    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            if httpx.get(url, timeout=2, trust_env=False).status_code == 200:
                return
        except httpx.TransportError:
            pass
        if ended() or time.monotonic() > deadline:
            raise SystemExit(f"{url} does not answer: the server did not start")
        time.sleep(0.3)


def measure(address: str, jobs: Any, classes: bool = False) -> list[dict[str, Any]]:
    """A row for each door and batch size."""
    from services.client import Gridcast

    rows = []
    with Gridcast(address, timeout=60) as broker:
        label = broker.model()["model_version"]

        def arrow(batch: Any, at: str | None = "now") -> None:
            answer = broker.predict_arrow(batch, at=at, classes=classes)
            assert len(answer) == len(batch) and answer["model_version"][0].as_py() == label

        def rows_of_json(batch: list[dict[str, Any]]) -> None:
            answer = broker.predict(batch, at="now", classes=classes)
            assert len(answer) == len(batch) and answer[0]["model_version"] == label

        for count in CALLS:
            rows.append(timed("arrow", count, arrow, jobs, lambda batch: batch))

        def match(batch: Any) -> None:
            assert len(broker.match_arrow(batch, 8, 36_000.0, policy="gain")) == len(batch)

        rows.append(timed("match, arrow", 10_000, match, jobs, lambda batch: batch))
        for count in (1, 1_000):
            rows.append(timed("json", count, rows_of_json, jobs, as_rows))
        rows.append(
            timed(
                "arrow, all distinct",
                10_000,
                lambda batch: arrow(batch, None),
                jobs,
                lambda batch: batch,
                calls=60,
            )
        )
    with calling_without_pause(address, jobs.slice(0, 10_000)), Gridcast(address) as broker:
        rows.append(timed("json, beside calls of 10,000", 1, rows_of_json, jobs, as_rows))
    return rows


@contextmanager
def calling_without_pause(address: str, jobs: Any) -> Iterator[None]:
    """Another caller, in a process of its own, sends ``jobs`` by Arrow as long as this lasts."""
    from multiprocessing import get_context

    context = get_context("spawn")
    stop = context.Event()
    caller = context.Process(target=_call_until, args=(address, jobs, stop))
    caller.start()
    time.sleep(PAUSE_BEFORE_MEASURING)
    try:
        yield
        assert caller.is_alive(), "the other caller ended early"
    finally:
        stop.set()
        caller.join()


def _call_until(address: str, jobs: Any, stop: Any) -> None:
    from services.client import Gridcast

    with Gridcast(address, timeout=60) as broker:
        while not stop.is_set():
            broker.predict_arrow(jobs, at="now")


def as_rows(batch: Any) -> list[dict[str, Any]]:
    """Jobs as JSON's rows, without what is not known."""
    return [
        {name: value for name, value in row.items() if value is not None}
        for row in batch.to_pylist()
    ]


def timed(
    door: str,
    count: int,
    ask: Callable[[Any], None],
    jobs: Any,
    shape: Callable[[Any], Any],
    calls: int | None = None,
) -> dict[str, Any]:
    """Time ``calls`` calls of ``count`` consecutive jobs, each of other jobs."""
    import numpy as np

    calls = calls or CALLS[count]
    count = min(count, len(jobs))
    starts = np.linspace(0, len(jobs) - count, calls).astype(int)
    # Another order than the log's, so that no two calls in a row are about almost the same jobs.
    parts = (
        shape(jobs.slice(int(start), count))
        for start in np.random.default_rng(0).permutation(starts)
    )
    for start in starts[:: max(len(starts) // WARM_UP, 1)]:
        ask(shape(jobs.slice(int(start), count)))
    taken = []
    gc.collect()
    gc.disable()  # the time of our own garbage must not be taken for the server's
    for batch in parts:
        began = time.perf_counter()
        ask(batch)
        taken.append((time.perf_counter() - began) * 1000)
    gc.enable()
    p50, p99 = np.percentile(taken, [50, 99])
    say(f"{door}: {count:,} jobs: p50 {p50:.2f} ms, p99 {p99:.2f} ms")
    return {
        "door": door,
        "jobs": count,
        "p50_ms": round(float(p50), 3),
        "p99_ms": round(float(p99), 3),
        "calls": calls,
    }


def processor() -> str:
    """The processor's name."""
    try:
        names = [
            line.partition(":")[2].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ]
        return names[0]
    except (OSError, IndexError):
        return platform.processor() or platform.machine()


if __name__ == "__main__":
    main()
