"""Measurements of a soak: memory and files by component, disk usage, lag of the predictors."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg

from benchmarks.soaking.site import Site
from benchmarks.soaking.week import Clock

EVERY = 8.0
"""Seconds between two looks."""
SIZES = "SELECT datname, pg_database_size(datname) FROM pg_database WHERE datname IN ('gridcast', 'mlflow', 'prefect')"
STORED = "SELECT (SELECT count(*) FROM jobs WHERE ended_at IS NOT NULL), (SELECT count(*) FROM predictions)"


@dataclass(frozen=True)
class Sample:
    """One sample: MB and open files by component, MB on the disk, rows stored, jobs in each history."""

    at: float
    day: float
    memory: dict[str, float]
    files: dict[str, int]
    disk: dict[str, float]
    stored: tuple[int, int] | None
    known: tuple[int | None, ...]


@dataclass
class Watch:
    """Looks every few seconds, from a thread."""

    site: Site
    clock: Clock
    samples: list[Sample] = field(default_factory=list)
    done: threading.Event = field(default_factory=threading.Event)

    def run(self) -> None:
        """Look until ``done``."""
        while not self.done.wait(EVERY):
            self.samples.append(self.look())

    def look(self) -> Sample:
        """One sample; what is away is left out."""
        memory, files = self.memory()
        disk = {name: megabytes(folder) for name, folder in self.places().items()}
        stored = None
        with suppress(psycopg.Error, OSError), self.database() as connection:
            ((ended, predictions),) = connection.execute(STORED).fetchall()
            stored = (int(ended), int(predictions))
            disk |= {
                f"database {name}": size / 2**20
                for name, size in connection.execute(SIZES).fetchall()
            }
        known = tuple(history(address) for address in self.site.predictors)
        return Sample(time.monotonic(), self.clock.day, memory, files, disk, stored, known)

    def database(self, name: str = "gridcast") -> Any:
        """A connection to the store."""
        return psycopg.connect(self.site.settings.own_postgres_url(name), connect_timeout=3)

    def memory(self) -> tuple[dict[str, float], dict[str, int]]:
        """Memory and open files of each component; runs of flows are counted separately."""
        values: dict[str, float] = {}
        files: dict[str, int] = {}
        leaders = {
            window: leader for window in self.site.parts() if (leader := self.site.leader(window))
        }
        if self.site.process:
            leaders["up"] = psutil.Process(self.site.process.pid)
        for window, leader in leaders.items():
            with suppress(psutil.Error):
                family = [leader] if window == "up" else [leader, *leader.children(recursive=True)]
                for process in family:
                    name = "flow runs" if window == "schedules" and process != leader else window
                    with suppress(psutil.Error):
                        used = process.memory_full_info()
                        values[name] = (
                            values.get(name, 0.0)
                            + (used.pss if window == "postgres" else used.uss) / 2**20
                        )
                        files[name] = files.get(name, 0) + process.num_fds()
        return values, files

    def places(self) -> dict[str, Path]:
        """The folders that grow, by name."""
        home = self.site.settings.home
        return {
            "write-ahead log": home / "postgres" / "data" / "pg_wal",
            "artifacts of MLflow": home / "mlflow",
            "predictors' folders": home / "replicas",
            "Prefect's folder": home / "prefect",
            "Prometheus": home / "prometheus",
            "reports": home / "reports",
            "models fetched": home / "models",
            "logs": home / "logs",
            "temporary": self.site.temporary,
        }


def megabytes(folder: Path) -> float:
    """What the files of a folder hold on the disk."""
    total = 0
    for path in folder.rglob("*"):
        with suppress(OSError):
            total += path.lstat().st_blocks * 512
    return total / 2**20


def history(address: str) -> int | None:
    """How many jobs a predictor's history holds, None while it does not answer."""
    with suppress(httpx.HTTPError, KeyError, ValueError):
        return int(
            httpx.get(f"{address}/model", trust_env=False, timeout=3).json()["history"]["jobs"]
        )
    return None


def serves(address: str) -> str:
    """The version that a predictor answers with; raises httpx.HTTPError."""
    return str(httpx.get(f"{address}/model", trust_env=False, timeout=3).json()["model_version"])


def lags(samples: list[Sample], replica: int) -> list[float]:
    """For each sample the seconds until a predictor had learned the jobs then stored."""
    values = []
    for index, sample in enumerate(samples):
        if sample.stored is None:
            continue
        for later in samples[index:]:
            if (later.known[replica] or 0) >= sample.stored[0]:
                values.append(later.at - sample.at)
                break
    return values


def middle(values: list[float]) -> float:
    """The median, 0 of nothing."""
    return sorted(values)[len(values) // 2] if values else 0.0


def growth(
    samples: list[Sample], since: float, of: Callable[[Sample], Mapping[str, float]]
) -> list[tuple[str, float, float, float]]:
    """Median in the first and last quarter since a day, and the largest value, by name."""
    calm = [sample for sample in samples if sample.day >= since]
    quarter = max(1, len(calm) // 4)
    rows = []
    for name in sorted({name for sample in samples for name in of(sample)}):
        ends = [
            middle(
                [
                    of(sample_of_window)[name]
                    for sample_of_window in window
                    if name in of(sample_of_window)
                ]
            )
            for window in (calm[:quarter], calm[-quarter:])
        ]
        rows.append((name, ends[0], ends[1], max(of(sample).get(name, 0.0) for sample in samples)))
    return rows
