"""The schedules: register the deployments of ``infra/prefect.yaml`` and run their worker."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import yaml

import infra
from infra.settings import environment_with, prepare_environment
from models.releases.mlflow_client import RegistryError
from models.releases.webhooks import update_webhooks

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient

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
        remove_stale(client)
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


def remove_stale(client: SyncPrefectClient) -> None:
    """Delete deployments of these flows that an earlier Gridcast had registered by other names."""
    listed = yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]
    names = {(row["entrypoint"], row["name"]) for row in listed}
    entrypoints = {entrypoint for entrypoint, _ in names}
    for deployment in client.read_deployments():
        key = (deployment.entrypoint or "", deployment.name)
        if key[0] in entrypoints and key not in names:
            client.delete_deployment(deployment.id)


def main() -> None:
    """Register deployments and MLflow's webhooks, and replace this process by the worker."""
    register()
    try:
        update_webhooks(prepare_environment())
    except RegistryError as error:
        print(f"no webhooks of MLflow: {error}", file=sys.stderr)  # into the component's log
    command = [sys.executable, "-m", "flows.worker"]
    os.execve(sys.executable, command, environment_with({}))  # noqa: S606


if __name__ == "__main__":
    main()
