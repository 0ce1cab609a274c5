"""The site under test: a disk that can be filled, ``gridcast up --site``, and its processes."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil

from infra.process_groups import marked_processes
from infra.process_records import live_process, read_record
from infra.settings import Settings, split_login
from infra.site import replica_ports

ROOT = Path(__file__).parents[2]
PORTS = (
    "predictor_port",
    "mlflow_port",
    "prefect_port",
    "dashboard_port",
    "postgres_port",
    "prometheus_port",
)
PATIENCE = 300.0
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


@contextmanager
def disk(gigabytes: float) -> Iterator[Path]:
    """An empty, mounted ext4 file system of a number of GB (needs root); removed at the end."""
    folder = Path(tempfile.mkdtemp(prefix="gridcast-soak-"))
    folder.chmod(0o755)  # PostgreSQL is another user's, who must be able to enter
    image, mount = folder / "disk.img", folder / "disk"
    try:
        mount.mkdir()
        with image.open("wb") as file:
            file.truncate(int(gigabytes * 2**30))
        subprocess.run(["mkfs.ext4", "-q", "-m", "0", str(image)], check=True)
        subprocess.run(["mount", "-o", "loop", str(image), str(mount)], check=True)
        yield mount
    finally:
        for how in ([], ["--lazy"]):
            if mount.is_mount():
                subprocess.run(["umount", *how, str(mount)], check=False)
        shutil.rmtree(folder, ignore_errors=True)


@dataclass
class Site:
    """``gridcast up --site`` on a disk; its output is kept beside the disk, which may be full."""

    mount: Path
    first_port: int
    process: subprocess.Popen[bytes] | None = None
    starts: list[Path] = field(default_factory=list)

    def __post_init__(self) -> None:
        chosen: dict[str, Any] = {
            name: self.first_port + number for number, name in enumerate(PORTS)
        }
        chosen |= {
            "replica_ports": f"{self.first_port + 10},{self.first_port + 11}",
            "home": self.mount / "home",
            "open_on_loopback": True,
        }
        # A simulated day lasts minutes, and so must what is said in hours.
        chosen |= {"cooldown_hours": 0.01, "collect": f"pbs={self.accounting},folder={self.dumps}"}
        self.settings = Settings(_env_file=None, **chosen)
        self.environment = {
            name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")
        }
        self.environment |= {
            f"GRIDCAST_{name.upper()}": str(value) for name, value in chosen.items()
        }
        self.environment |= {"TMPDIR": str(self.temporary), "PYTHONPATH": str(ROOT)}
        self.environment.pop("PYTHONDONTWRITEBYTECODE", None)
        for folder in (self.accounting, self.dumps, self.temporary):
            folder.mkdir(parents=True)

    @property
    def accounting(self) -> Path:
        """Where the batch system writes its accounting."""
        return self.mount / "accounting"

    @property
    def dumps(self) -> Path:
        """Where another system puts its dumps."""
        return self.mount / "dumps"

    @property
    def temporary(self) -> Path:
        """What stands for /tmp."""
        return self.mount / "tmp"

    @property
    def predictors(self) -> list[str]:
        """The address of each predictor behind the proxy."""
        return [f"http://127.0.0.1:{port}" for port in replica_ports(self.settings)]

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        """Run a command of Gridcast's as an administrator would."""
        command = [sys.executable, "-m", "gridcast", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def up(self) -> None:
        """Start everything and wait until it is up."""
        output = self.mount.parent / f"said-{len(self.starts) + 1}"
        self.starts.append(output)
        with output.open("wb") as file:
            command = [sys.executable, "-m", "gridcast", "up", "--site"]
            self.process = subprocess.Popen(
                command,
                cwd=ROOT,
                env=self.environment,
                stdout=file,
                stderr=file,
                start_new_session=True,
            )
        wait_for(lambda: "Up" in output.read_text() or not self.supervised, "the site to be up")
        assert self.supervised, output.read_text()

    @property
    def supervised(self) -> bool:
        """Whether the supervisor runs."""
        return self.process is not None and self.process.poll() is None

    def record(self, component: str) -> dict[str, Any]:
        """What the supervisor noted of a part."""
        return read_record(self.settings.home / "run" / f"{component}.json")

    def parts(self) -> list[str]:
        """The names of all parts."""
        return sorted(
            path.stem for path in (self.settings.home / "run").glob("*.json") if path.stem != "up"
        )

    def leader(self, component: str) -> psutil.Process | None:
        """The first process of a part, if it runs."""
        return live_process(self.record(component))

    def marked_processes(self) -> list[psutil.Process]:
        """Every process that any ``up`` of this folder started."""
        return list(marked_processes(self.settings.home))

    def prefect(self, method: str, path: str, **body: Any) -> Any:
        """Ask Prefect's server; raises httpx.HTTPError."""
        url = f"http://127.0.0.1:{self.settings.prefect_port}/api{path}"
        login = split_login(self.settings.prefect_login)
        with httpx.Client(auth=login, trust_env=False, timeout=20) as http:
            answer = http.request(method, url, json=body or None)
        answer.raise_for_status()
        return answer.json()

    def start_flow(self, deployment: str, **parameters: Any) -> str:
        """Ask for a run of a deployment, as its schedule would; returns its id."""
        result = self.prefect("GET", f"/deployments/name/{deployment}")
        return str(
            self.prefect(
                "POST", f"/deployments/{result['id']}/create_flow_run", parameters=parameters
            )["id"]
        )

    def flow_state(self, run: str) -> dict[str, Any]:
        """The state of a run."""
        return dict(self.prefect("GET", f"/flow_runs/{run}")["state"])

    def ended(self, run: str) -> dict[str, Any]:
        """The state of a run that has ended, else nothing."""
        state = self.flow_state(run)
        return state if state["type"] in ENDED else {}

    def left_behind(self) -> list[str]:
        """What is there after ``gridcast down`` and should not be."""
        left = [f"process {process.pid}" for process in self.marked_processes()]
        left += [f"record {path.name}" for path in (self.settings.home / "run").iterdir()]
        left += [
            str(path)
            for path in self.settings.home.rglob("*")
            if path.is_socket() or path.name == "postmaster.pid"
        ]
        for port in [
            *(getattr(self.settings, name) for name in PORTS),
            *map(int, self.settings.replica_ports.split(",")),
        ]:
            with socket.socket() as probe:
                probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    left.append(f"port {port}")
        return left


def wait_for(holds: Callable[[], Any], description: str, patience: float = PATIENCE) -> Any:
    """Wait until ``holds`` returns something true; raises TimeoutError."""
    deadline = time.monotonic() + patience
    while True:
        try:
            if result := holds():
                return result
        except (httpx.HTTPError, OSError):
            pass
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited in vain for {description}")
        time.sleep(0.5)
