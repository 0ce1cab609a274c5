"""The worker of the schedules runs our flows only, whatever a deployment asks for."""

import time
from pathlib import Path
from typing import Any

import pytest

from infra.settings import Settings
from tests.flows.conftest import worker_process

OWN = "flows.ingest.ingest"
STEP = "prefect.deployments.steps.run_shell_script"
FLOW = """
from pathlib import Path
from prefect import flow

Path({file!r}).touch()

@flow
def ingest(*_, **__):
    pass
"""


def attacks(folder: Path) -> dict[str, dict[str, Any]]:
    """Deployments that make Prefect's own worker run something else, by the file that it makes."""

    def evil(name: str, module: str) -> Path:
        file = folder / f"{name}.folder" / module
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(FLOW.format(file=str(folder / name)))
        return file.parent

    evil("working-dir", "flows.py")
    evil("python-path", "sitecustomize.py")
    evil("entrypoint", "evil.py")
    shell = f"touch {folder / 'pull-steps'}"
    python_path = str(folder / "python-path.folder")
    return {
        "pull-steps": {"entrypoint": OWN, "pull_steps": [{STEP: {"script": shell}}]},
        "command": {
            "entrypoint": OWN,
            "job_variables": {"command": f"touch {folder / 'command'}"},
        },
        "working-dir": {
            "entrypoint": OWN,
            "job_variables": {"working_dir": str(folder / "working-dir.folder")},
        },
        "python-path": {
            "entrypoint": OWN,
            "job_variables": {"env": {"PYTHONPATH": python_path}},
        },
        "entrypoint": {
            "entrypoint": "evil.py:ingest",
            "path": str(folder / "entrypoint.folder"),
        },
    }


@pytest.fixture
def worker_log(settings: Settings, prefect_server: str) -> Any:
    """The log of the schedules' worker, which runs."""
    log = settings.folder("logs") / "worker.log"
    with worker_process(settings, log, patience=600):
        yield log


def test_a_deployment_makes_the_worker_run_nothing_but_our_flows(
    worker_log: Path, tmp_path: Path
) -> None:
    """Who reaches Prefect's API creates deployments with a shell in them, and runs them."""
    from prefect.client.orchestration import get_client

    attempts = attacks(tmp_path)
    with get_client(sync_client=True) as client:
        flow_id = client.create_flow_from_name("ingest")
        runs = {}
        for name, values in attempts.items():
            deployment = client.create_deployment(
                flow_id, name=name, work_pool_name="gridcast", enforce_parameter_schema=False,
                parameters={"files": []},  # the inbox is of one run at a time
                **values,
            )  # fmt: skip
            runs[name] = client.create_flow_run_from_deployment(deployment).id
        deadline = time.monotonic() + 600
        states = {}
        while len(states) < len(runs):
            assert time.monotonic() < deadline, worker_log.read_text()
            time.sleep(0.5)
            for name, run in runs.items():
                state = client.read_flow_run(run).state
                if state is not None and state.is_final():
                    states[name] = state
    assert [name for name in attempts if (tmp_path / name).exists()] == []
    assert states["entrypoint"].is_crashed() or states["entrypoint"].is_failed()
    # What is left of the others is our own flow.
    for name in attempts.keys() - {"entrypoint"}:
        assert states[name].is_completed(), (name, states[name], worker_log.read_text())
