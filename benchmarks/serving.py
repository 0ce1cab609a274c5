"""Speed of the HTTP endpoints: a real service, called through the client on the same cores.

    uv run python benchmarks/serving.py [--json] [--peers] [--sustained MINUTES] [--four]
        [--against COMMIT]

The jobs are consecutive submissions of LCG's log, predicted as waiting now by a champion trained on
it, each call other jobs. The times include encoding, loopback, decoding, history, mixture, CatBoost
and ranges. ``arrow, all distinct`` predicts each job at its own submission, so that no two have the
same history; ``beside calls of 10,000`` one job while another process sends 10,000 a call without
pause. ``--four`` predicts four targets with ranges and classes, of generated jobs, since no
public log has all four. ``--against`` checks out an earlier commit and serves it, too: each call
goes to both, in turn, and each row has the processor time of its server. The first run prepares a folder that later runs use (GRIDCAST_HOME, else
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
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving_peers import peers  # noqa: E402
from benchmarks.serving_sustained import sustain  # noqa: E402

LOG = "LCG-2005-1.first70.swf.gz"
CALLS = {1: 600, 1_000: 200, 10_000: 200, 100_000: 15}
Send = Callable[[Any, Any], None]
Shape = Callable[[Any], Any]
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
    parser.add_argument(
        "--against", metavar="COMMIT", help="beside it the service as of an earlier commit"
    )
    options = parser.parse_args()
    log = None if options.four else find_log()
    targets, ending = (FOUR, "-four") if options.four else ((), "")
    home = os.environ.setdefault("GRIDCAST_HOME", str(default_home(log)) + ending)
    with ExitStack() as stack:
        codes = {"": (ROOT, Path(home))}
        if options.against:
            checkout = stack.enter_context(checked_out(options.against))
            earlier = Path(str(default_home(log, checkout)) + ending)
            codes[f", {options.against}"] = (checkout, earlier)
        for root, folder in codes.values():
            prepare(folder, log, targets, root)
        jobs = waiting_jobs()
        servers = {
            label: stack.enter_context(serving_process(root, {"GRIDCAST_HOME": str(folder)}))
            for label, (root, folder) in codes.items()
        }
        rows = (
            [sustain(servers[""].address, jobs, options.sustained)]
            if options.sustained
            else measure(servers, jobs, classes=options.four)
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


@contextmanager
def checked_out(commit: str) -> Iterator[Path]:
    """The files of an earlier commit, in a temporary folder."""
    with tempfile.TemporaryDirectory(prefix="gridcast-against-") as folder:
        packed = subprocess.run(
            ["git", "archive", commit], cwd=ROOT, check=True, stdout=subprocess.PIPE
        )
        subprocess.run(["tar", "-x", "-C", folder], input=packed.stdout, check=True)
        yield Path(folder)


def default_home(log: Path | None, root: Path = ROOT) -> Path:
    """A folder for this engine and log: another engine's champion would not be this one's."""
    engine = hashlib.sha256(
        b"".join(path.read_bytes() for path in sorted((root / "models").rglob("*.py")))
    )
    engine.update(str(log and log.stat().st_size).encode())
    return Path(tempfile.gettempdir()) / f"gridcast-serving-{os.getuid()}-{engine.hexdigest()[:12]}"


def prepare(home: Path, log: Path | None, targets: tuple[str, ...], root: Path = ROOT) -> None:
    """Store the log and train a champion on it, unless an earlier run has."""
    done = home / "prepared"
    if done.exists():
        return
    if log is None:
        log = home / "generated.csv"
        home.mkdir(parents=True, exist_ok=True)
        gridcast("generate", str(log), "--jobs", "120000", "--days", "60", root=root, home=home)
    gridcast("ingest", str(log), root=root, home=home)
    words = (word for target in targets for word in ("--target", target))
    gridcast("train", *words, root=root, home=home)
    done.touch()


def gridcast(*words: str, root: Path = ROOT, home: Path | None = None) -> None:
    """Run a command of Gridcast's as a user would."""
    say(f"gridcast {' '.join(words)}")
    subprocess.run(
        [sys.executable, "-m", "gridcast", *words],
        cwd=root,
        env=os.environ | ({"GRIDCAST_HOME": str(home)} if home else {}),
        check=True,
        stdout=subprocess.DEVNULL,
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


class Server(NamedTuple):
    """A service that runs."""

    address: str
    pid: int

    def processor_time(self) -> float:
        """Seconds of processor time of the service and its workers so far."""
        import psutil

        service = psutil.Process(self.pid)
        times = [process.cpu_times() for process in (service, *service.children(recursive=True))]
        return float(sum(time.user + time.system for time in times))


@contextmanager
def serving() -> Iterator[str]:
    """``gridcast serve`` on a free port; yields its address once it is ready."""
    with serving_process(ROOT) as server:
        yield server.address


@contextmanager
def serving_process(
    root: Path, variables: Mapping[str, str] | None = None, command: str = "serve"
) -> Iterator[Server]:
    """``gridcast serve``, or ``route``, on a free port, once it is ready.

    Args:
        root: The folder of its code.
        variables: Variables of its environment beside those of this process.
        command: The command.
    """
    port = free_port()
    address = f"http://127.0.0.1:{port}"
    setting = "GRIDCAST_ROUTER_PORT" if command == "route" else "GRIDCAST_PREDICTOR_PORT"
    chosen = {setting: str(port), "GRIDCAST_OPEN_ON_LOOPBACK": "true", **(variables or {})}
    process = subprocess.Popen(
        [sys.executable, "-m", "gridcast", command],
        cwd=root,
        env=os.environ | chosen,
        stdout=subprocess.DEVNULL,
    )
    try:
        await_ready(f"{address}/readyz", lambda: process.poll() is not None)
        yield Server(address, process.pid)
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


def measure(servers: dict[str, Server], jobs: Any, classes: bool = False) -> list[dict[str, Any]]:
    """A row for each server (by the end of its name), door and batch size."""
    from services.client import Gridcast

    rows = []

    def time_each(door: str, count: int, send: Send, shape: Shape = as_arrow, **more: int) -> None:
        asks = {
            f"{door}{label}": (partial(send, brokers[label]), server.processor_time)
            for label, server in servers.items()
        }
        rows.extend(time_in_turn(asks, count, jobs, shape, **more))

    def arrow(broker: Any, batch: Any, at: str | None = "now") -> None:
        assert len(broker.predict_arrow(batch, at=at, classes=classes)) == len(batch)

    def rows_of_json(broker: Any, batch: list[dict[str, Any]]) -> None:
        assert len(broker.predict(batch, at="now", classes=classes)) == len(batch)

    def ends_within(broker: Any, batch: Any) -> None:
        assert len(broker.predict_arrow(batch, at="now", within=7200)) == len(batch)

    def match(broker: Any, batch: Any, **more: float) -> None:
        assert len(broker.match_arrow(batch, 8, 36_000.0, policy="gain", **more)) == len(batch)

    with ExitStack() as stack:
        brokers = {
            label: stack.enter_context(Gridcast(server.address, timeout=60))
            for label, server in servers.items()
        }
        for count in CALLS:
            time_each("arrow", count, arrow)
        time_each("arrow, within", 10_000, ends_within, calls=60)
        time_each("match, arrow", 10_000, match)
        if classes:
            time_each("match in memory", 10_000, partial(match, memory=8e9), calls=60)
        for count in (1, 1_000):
            time_each("json", count, rows_of_json, as_rows)
        time_each("arrow, all distinct", 10_000, partial(arrow, at=None), calls=60)
    for label, server in servers.items():
        with (
            calling_without_pause(server.address, jobs.slice(0, 10_000)),
            Gridcast(server.address) as broker,
        ):
            door = f"json, beside calls of 10,000{label}"
            rows.append(timed(door, 1, partial(rows_of_json, broker), jobs, as_rows))
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


def as_arrow(batch: Any) -> Any:
    """Jobs as Arrow sends them."""
    return batch


def timed(
    door: str,
    count: int,
    ask: Callable[[Any], None],
    jobs: Any,
    shape: Shape,
    calls: int | None = None,
) -> dict[str, Any]:
    """Time ``calls`` calls of ``count`` consecutive jobs, each of other jobs."""
    return time_in_turn({door: (ask, None)}, count, jobs, shape, calls)[0]


def time_in_turn(
    asks: Mapping[str, tuple[Callable[[Any], None], Callable[[], float] | None]],
    count: int,
    jobs: Any,
    shape: Shape,
    calls: int | None = None,
) -> list[dict[str, Any]]:
    """Time calls of ``count`` consecutive jobs, each of other jobs, by each door in turn.

    Args:
        asks: By the door's name: how it is called, and what reads the seconds of processor time
            that its server has taken.
        count: Jobs of a call.
        jobs: All jobs.
        shape: What turns jobs into the body of a call.
        calls: How many calls.
    """
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
        for ask, _ in asks.values():
            ask(shape(jobs.slice(int(start), count)))
    taken: dict[str, list[float]] = {door: [] for door in asks}
    busy = {door: -processor_time() for door, (_, processor_time) in asks.items() if processor_time}
    gc.collect()
    gc.disable()  # the time of our own garbage must not be taken for the server's
    for number, batch in enumerate(parts):
        for door in list(asks)[:: 1 if number % 2 else -1]:
            began = time.perf_counter()
            asks[door][0](batch)
            taken[door].append((time.perf_counter() - began) * 1000)
    gc.enable()
    rows = []
    for door, (_, processor_time) in asks.items():
        p50, p99 = np.percentile(taken[door], [50, 99])
        row = {"door": door, "jobs": count, "p50_ms": round(float(p50), 3)}
        row |= {"p99_ms": round(float(p99), 3), "calls": calls}
        if processor_time:
            row["server_cpu_ms"] = round(1000 * (busy[door] + processor_time()) / calls, 3)
        say(" ".join(str(value) for value in row.values()))
        rows.append(row)
    return rows


def print_rows(rows: list[dict[str, Any]], as_json: bool) -> None:
    """Print measurements with the machine and its load, as lines or as JSON."""
    about = {"machine": f"{os.cpu_count()} cores, {processor()}", "load": os.getloadavg()[0]}
    if as_json:
        print(json.dumps({"rows": rows, **about}, indent=1))
        return
    print(f"{about['machine']}, load {about['load']:.1f}")
    for row in rows:
        print("   ".join(_text(name, value) for name, value in row.items()))


def _text(name: str, value: Any) -> str:
    """A value after its name; a text by itself."""
    if isinstance(value, str):
        return value
    number = f"{value:,}" if isinstance(value, int | float) else value
    return f"{name.replace('_', ' ')} {number}"


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
