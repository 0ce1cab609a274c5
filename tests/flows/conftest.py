"""One Prefect server and one data folder for all tests of flows."""

import os
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import httpx
import pandas as pd
import pytest

from infra.components import Component, local_components
from infra.settings import Settings, prepare_environment
from jobs.workload import START, generate
from jobs.writers import write_jobs
from tests.monitoring.test_alerts import Hook, Receiver
from tests.ports import free_port


@contextmanager
def worker_process(
    settings: Settings, log: Path, patience: float
) -> Iterator[subprocess.Popen[bytes]]:
    """The schedules' worker, as Gridcast starts it, from when it is ready; killed at the end."""
    component = next(
        component for component in local_components(settings) if component.name == "schedules"
    )
    with log.open("wb") as file:
        worker = subprocess.Popen(
            component.command,
            env={**os.environ, **component.environment},
            stdout=file,
            stderr=file,
            start_new_session=True,
        )
    try:
        deadline = time.monotonic() + patience
        while component.ready_log_text not in log.read_text():
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        yield worker
    finally:
        worker.kill()
        assert worker.wait(240) is not None


@pytest.fixture(scope="session")
def settings(data_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    """The settings of all flows of these tests: a data folder and ports of their own."""
    ours = {
        "GRIDCAST_HOME": str(tmp_path_factory.mktemp("flows")),
        "GRIDCAST_LINEAGE": str(tmp_path_factory.mktemp("lineage") / "events.jsonl"),
        **{
            f"GRIDCAST_{name}_PORT": str(free_port())
            for name in ("PREFECT", "PREDICTOR", "MLFLOW", "DASHBOARD")
        },
    }
    before = {name: os.environ.get(name) for name in ours}
    os.environ.update(ours)
    prepare_environment.cache_clear()
    yield prepare_environment()
    for name, value in before.items():
        if value is None:
            del os.environ[name]
        else:
            os.environ[name] = value
    prepare_environment.cache_clear()
    prepare_environment()


@pytest.fixture(scope="session")
def prefect_part(settings: Settings) -> Component:
    return next(
        component for component in local_components(settings) if component.name == "prefect"
    )


@pytest.fixture(scope="session")
def prefect_server(settings: Settings, prefect_part: Component) -> Iterator[str]:
    """The address of Prefect's server, as Gridcast starts it, for all flows of these tests."""
    log = (settings.folder("logs") / "prefect.log").open("wb")
    environment = {**os.environ, **prefect_part.environment}
    process = subprocess.Popen(
        prefect_part.command, env=environment, stdout=log, stderr=log, start_new_session=True
    )
    deadline = time.monotonic() + 600
    while True:
        try:
            if httpx.get(prefect_part.address + prefect_part.ready_path).status_code == 200:
                break
        except httpx.TransportError:
            assert process.poll() is None, Path(log.name).read_text()
        assert time.monotonic() < deadline, Path(log.name).read_text()
        time.sleep(0.2)
    from prefect.settings import PREFECT_API_URL, temporary_settings

    with temporary_settings({PREFECT_API_URL: f"{prefect_part.address}/api"}):
        yield prefect_part.address
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(240)
    log.close()


@pytest.fixture(scope="session")
def logs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two logs of a generated grid: what had ended by a day, and what ended after it."""
    folder = tmp_path_factory.mktemp("logs")
    jobs = generate(4000, 20, 7).jobs
    cut = START + pd.Timedelta(days=12)
    parts = {"first.csv": jobs[jobs["ended_at"] <= cut], "second.csv": jobs[jobs["ended_at"] > cut]}
    first, second = (write_jobs(component, folder / name) for name, component in parts.items())
    return first, second


@pytest.fixture
def hook(settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Iterator[Receiver]:
    """A webhook that the flows' alerts go to."""
    receiver = Receiver(Hook)
    monkeypatch.setenv("GRIDCAST_ALERTS", f"json://127.0.0.1:{receiver.port}")
    prepare_environment.cache_clear()
    yield receiver
    monkeypatch.undo()
    prepare_environment.cache_clear()
    receiver.stop()
