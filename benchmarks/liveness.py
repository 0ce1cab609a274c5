"""How long ``/livez`` takes while a caller attacks a real predictor by bodies or slow heads.

    uv run python benchmarks/liveness.py [--json] [--seconds S]

One caller posts each kind of body again and again, or holds 200 connections whose heads come a
byte a second; another process asks ``/livez`` every 20 ms on
a connection of its own. The champion is trained on generated jobs in a temporary folder.
"""

from __future__ import annotations

import argparse
import json
import os
import socket
import subprocess
import sys
import tempfile
import threading
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))

from benchmarks.serving import gridcast, print_rows, say, serving  # noqa: E402

MAX_BYTES = 32 * 2**20
INTERVAL = 0.02
SLOW = 200
FIRST = {"a small one": ("/predict", b"{}"), "slow heads": ("", b"")}
PROBE = """
import json, sys, time
import httpx
times, end = [], time.monotonic() + float(sys.argv[2])
with httpx.Client(trust_env=False, timeout=60) as http:
    while time.monotonic() < end:
        began = time.monotonic()
        http.get(sys.argv[1] + "/livez").raise_for_status()
        times.append(time.monotonic() - began)
        time.sleep(max(0.0, float(sys.argv[3]) - times[-1]))
print(json.dumps(times))
"""


def bodies() -> dict[str, tuple[str, bytes]]:
    """Path and body by name, each as large as the limit lets it be."""
    import orjson

    fields = {"source": "load", "group": "physics", "program": "simulate " * 12, "queue": "long"}
    fields |= {"requested_walltime": 7200, "requested_cores": 8, "requested_memory": 16e9}

    def rows(count: int, **more: Any) -> list[dict[str, Any]]:
        return [
            {"job_id": f"{i:07d}", "user": f"u{i % 500}", **fields, **more} for i in range(count)
        ]

    one = len(orjson.dumps(rows(1)[0])) + 1
    count = min(100_000, MAX_BYTES // one - 10)
    columns = {name: [row[name] for row in rows(count)] for name in rows(1)[0]}
    doubles = rows(1, candidates=[{"site": "A"} for _ in range(120_000)])[0]
    of_rank = rows(count // 4, candidates=[{"site": "A"}, {"site": "B", "queue": "q"}])
    return {
        "jobs as rows": ("/predict", orjson.dumps({"jobs": rows(count)})),
        "jobs as columns": ("/predict", orjson.dumps({"columns": columns})),
        "candidates": ("/rank", orjson.dumps({"jobs": of_rank})),
        "one long text": ("/predict", b'{"jobs":[{"job_id":"' + b"x" * (MAX_BYTES - 30) + b'"}]}'),
        "too many values": ("/predict", b'{"columns":{"events":[' + b"1," * (2**24 - 50) + b"1]}}"),
        "brackets without end": ("/outcomes", b"[" * MAX_BYTES),
        "one long name of a field": ("/predict", b'{"jobs":[{"' + b"x" * 2**24 + b'":1}]}'),
        "equal candidates": ("/rank", orjson.dumps({"jobs": [doubles]})),
        "empty objects": ("/predict", b'{"jobs":[' + b"{}," * (3 * 2**20) + b"{}]}"),
    }


def measure(address: str, path: str, body: bytes, seconds: float) -> dict[str, Any]:
    """Percentiles of ``/livez`` in ms while ``body`` is posted to ``path`` again and again.

    Args:
        address: The predictor's.
        path: Where the body is posted; empty: slow heads instead.
        body: The body.
        seconds: How long.
    """
    import httpx
    import numpy as np

    done, statuses = threading.Event(), list[int]()

    def post() -> None:
        with httpx.Client(trust_env=False, timeout=120) as http:
            while not done.is_set():
                headers = {"Content-Type": "application/json"}
                response = http.post(address + path, content=body, headers=headers)
                statuses.append(response.status_code)

    attack = post if path else lambda: hold_heads(address, done)
    caller = threading.Thread(target=attack)
    caller.start()
    try:
        command = [sys.executable, "-c", PROBE, address, str(seconds), str(INTERVAL)]
        asked = subprocess.run(command, check=True, capture_output=True, text=True)
    finally:
        done.set()
        caller.join()
    milliseconds = np.array(json.loads(asked.stdout)) * 1e3
    return {
        "MiB": round(len(body) / 2**20, 1),
        "status": statuses[0] if statuses else None,
        "bodies": len(statuses),
        "livez": len(milliseconds),
        **{f"p{q}_ms": round(float(np.percentile(milliseconds, q)), 1) for q in (50, 99)},
        "max_ms": round(float(milliseconds.max()), 1),
    }


def hold_heads(address: str, done: threading.Event) -> None:
    """Keep SLOW connections open, each sending a byte of its head a second."""
    host, _, port = address.rpartition("//")[2].partition(":")
    sockets: list[socket.socket] = []
    while not done.wait(1.0):
        while len(sockets) < SLOW:
            sockets.append(socket.create_connection((host, int(port)), timeout=60))
            sockets[-1].sendall(b"GET /model HTTP/1.1\r\nX: ")
        for connection in tuple(sockets):
            try:
                connection.sendall(b"x")
            except OSError:  # the predictor has closed it: another takes its place
                sockets.remove(connection)
                connection.close()
    for connection in sockets:
        connection.close()


def main() -> None:
    """Train, serve, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--json", action="store_true", help="print JSON instead of a table")
    parser.add_argument("--seconds", type=float, default=20.0, help="for each body")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="gridcast-liveness-") as folder:
        os.environ["GRIDCAST_HOME"] = folder
        log = Path(folder) / "generated.csv"
        gridcast("generate", str(log), "--jobs", "5000", "--days", "30")
        gridcast("ingest", str(log))
        gridcast("train")
        rows = []
        with serving() as address:
            for name, (path, body) in {**FIRST, **bodies()}.items():
                say(name)
                rows.append({"body": name, **measure(address, path, body, options.seconds)})
    print_rows(rows, options.json)


if __name__ == "__main__":
    main()
