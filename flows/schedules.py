"""The schedules: register the deployments of ``infra/prefect.yaml`` and run their worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import infra
from infra.settings import environment_with, prepare_environment

POOL = "gridcast"
DEPLOYMENTS = Path(infra.__file__).parent / "prefect.yaml"


def register() -> None:
    """Create or update the work pool and all deployments."""
    prepare_environment()
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(
            WorkPoolCreate(name=POOL, type="process", base_job_template=template), overwrite=True
        )
    command = [
        sys.executable,
        "-m",
        "prefect",
        "--no-prompt",
        "deploy",
        "--all",
        "--prefect-file",
        str(DEPLOYMENTS),
    ]
    subprocess.run(command, check=True, env=environment_with({}))  # noqa: S603


def main() -> None:
    """Register the deployments, and replace this process by their worker."""
    register()
    command = [
        sys.executable,
        "-m",
        "prefect",
        "worker",
        "start",
        "--pool",
        POOL,
        "--name",
        "gridcast",
        "--type",
        "process",
        "--limit",
        "2",
    ]
    os.execve(sys.executable, command, environment_with({}))  # noqa: S606


if __name__ == "__main__":
    main()
