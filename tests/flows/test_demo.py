"""The demo's own servers: they ask for a login, and end with it."""

import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import httpx
import psutil


def server_ports(process: psutil.Process) -> dict[int, int]:
    """The pids and ports of the uvicorn servers that a process has started."""
    ports = {}
    for child in process.children(recursive=True):
        with suppress(psutil.NoSuchProcess):
            words = child.cmdline()
            if "prefect.server.api.server:create_app" in words:
                ports[child.pid] = int(words[words.index("--port") + 1])
    return ports


def test_prefects_server_of_the_demo_asks_for_a_login_and_ends_with_it(tmp_path: Path) -> None:
    demo = subprocess.Popen(
        [sys.executable, "-m", "gridcast", "demo"],
        env=os.environ | {"GRIDCAST_HOME": str(tmp_path)},
        cwd=Path(__file__).parents[2],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        deadline = time.monotonic() + 600
        while not (servers := server_ports(psutil.Process(demo.pid))):
            assert time.monotonic() < deadline and demo.poll() is None
            time.sleep(0.1)
        [(pid, port)] = servers.items()
        with httpx.Client(base_url=f"http://127.0.0.1:{port}/api", trust_env=False) as http:
            while True:
                assert time.monotonic() < deadline and demo.poll() is None
                try:
                    if http.get("/health").status_code == 200:
                        break
                except httpx.TransportError:
                    time.sleep(0.1)
            for path in ("/flow_runs/filter", "/variables/"):
                assert http.post(path, json={}).status_code == 401
            assert http.get("/admin/settings").status_code == 401
        demo.send_signal(signal.SIGTERM)
        assert demo.wait(240) == 128 + signal.SIGTERM
        assert not psutil.pid_exists(pid)
    finally:
        demo.kill()
        demo.wait()
