"""The schedules: registers the deployments of ``infra/prefect.yaml`` with the server and becomes the worker that runs them."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import timedelta
from pathlib import Path

import infra
from infra.settings import environment_with, prepare_environment

POOL = "gridcast"
SILENCE = timedelta(seconds=60)
"""A run that gave no sign of life (each gives one every 30 s) for so long is dead: killed, or its machine is gone."""
CRASHED = "Runs that died are marked as crashed"
DEPLOYMENTS = Path(infra.__file__).parent / "prefect.yaml"


def register() -> None:
    """Make the work pool, and create or update every deployment and the automation; may be called at any time."""
    prepare_environment()
    from prefect import get_client
    from prefect.client.schemas.actions import WorkPoolCreate
    from prefect.workers.process import ProcessWorker

    with get_client(sync_client=True) as client:
        template = ProcessWorker.get_default_base_job_template()
        client.create_work_pool(WorkPoolCreate(name=POOL, type="process", base_job_template=template), overwrite=True)
    watch_for_the_dead()
    command = [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all", "--prefect-file", str(DEPLOYMENTS)]
    subprocess.run(command, check=True, env=environment_with({}))  # noqa: S603  our own command


def watch_for_the_dead(silence: timedelta = SILENCE) -> None:
    """Let the server mark a run as crashed that gives no sign of life for ``silence``, which frees its slot for the next."""
    from prefect import get_client
    from prefect.client.schemas.objects import StateType
    from prefect.events.actions import ChangeFlowRunState
    from prefect.events.schemas.automations import AutomationCore, EventTrigger, Posture
    from prefect.events.schemas.events import ResourceSpecification

    sign = "prefect.flow-run.heartbeat"
    trigger = EventTrigger(
        after={sign, "prefect.flow-run.Running"},
        expect={sign, *(f"prefect.flow-run.{end}" for end in ("Completed", "Failed", "Cancelled", "Crashed"))},
        match=ResourceSpecification({"prefect.resource.id": ["prefect.flow-run.*"]}),
        for_each={"prefect.resource.id"},
        posture=Posture.Proactive,
        threshold=1,
        within=silence,
    )
    said = f"It gave no sign of life for {silence.total_seconds():.0f} s: it was killed, or its machine is gone."
    automation = AutomationCore(name=CRASHED, trigger=trigger, actions=[ChangeFlowRunState(state=StateType.CRASHED, message=said)])
    with get_client(sync_client=True) as client:
        known = client.read_automations_by_name(CRASHED)
        if known:
            client.update_automation(known[0].id, automation)
        else:
            client.create_automation(automation)


def main() -> None:
    """Register the deployments, then turn this process into their worker."""
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
    os.execve(sys.executable, command, environment_with({}))  # noqa: S606  our own command


if __name__ == "__main__":
    main()
