"""The worker of the schedules: it runs the flows of ``infra/prefect.yaml`` and nothing else.

Prefect's own worker does what a deployment or a run says: pull steps, a command, variables, a
folder, an entrypoint anywhere. Whoever reaches Prefect's API would have a shell by that.
"""

from __future__ import annotations

import sys
import warnings
from typing import TYPE_CHECKING, Any

import yaml

from flows.schedules import DEPLOYMENTS, POOL
from infra.errors import GridcastError
from infra.settings import prepare_environment

prepare_environment()  # before Prefect is imported: it moves its files into the data folder

from prefect import get_client  # noqa: E402
from prefect.flows import load_flow_from_entrypoint  # noqa: E402
from prefect.utilities.processutils import command_to_string, get_sys_executable  # noqa: E402
from prefect.workers import process  # noqa: E402

if TYPE_CHECKING:
    from prefect.client.schemas.objects import FlowRun
    from prefect.flows import Flow

ENGINE = command_to_string([get_sys_executable(), "-m", "prefect.engine"])
ENTRYPOINTS = frozenset(
    row["entrypoint"] for row in yaml.safe_load(DEPLOYMENTS.read_text())["deployments"]
)


async def entrypoint_of(flow_run: FlowRun) -> str:
    """The entrypoint of a run's deployment; raises GridcastError if it is none of ours."""
    if flow_run.deployment_id is None:
        raise GridcastError("a run without a deployment is not run")
    async with get_client() as client:
        deployment = await client.read_deployment(flow_run.deployment_id)
    entrypoint = deployment.entrypoint or ""
    if entrypoint not in ENTRYPOINTS:
        raise GridcastError(f"the deployment {deployment.name!r} is not of infra/prefect.yaml")
    return entrypoint


async def load_own_flow(flow_run: FlowRun) -> Flow[..., Any]:
    """The flow of a run, for its hooks; raises GridcastError if it is none of ours."""
    return load_flow_from_entrypoint(await entrypoint_of(flow_run))


with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # that it takes the place of Prefect's own is meant

    class OwnFlowsWorker(process.ProcessWorker):
        """Prefect's worker of processes, which takes only the entrypoint from a deployment.

        The engine gets it in its environment, and so reads no pull steps.
        """

        type = "process"

        async def run(
            self,
            flow_run: FlowRun,
            configuration: process.ProcessJobConfiguration,
            task_status: Any = None,
        ) -> process.ProcessWorkerResult:
            """Run a flow in a process with the worker's environment, in an empty folder."""
            configuration.command, configuration._command_configured = ENGINE, True
            configuration.env = {"PREFECT__FLOW_ENTRYPOINT": await entrypoint_of(flow_run)}
            configuration.working_dir = None
            return await super().run(flow_run, configuration, task_status)


def main() -> None:
    """Work for the pool of the schedules, two runs at a time, until the process is stopped."""
    from prefect.cli import app

    # Prefect's worker would load a run's flow by its deployment to call the flow's hooks.
    vars(process)["load_flow_from_flow_run"] = load_own_flow
    options = {"--pool": POOL, "--name": "gridcast", "--type": "process", "--limit": "2"}
    arguments = [word for option in options.items() for word in option]
    sys.argv = ["prefect", "worker", "start", *arguments]
    app()


if __name__ == "__main__":
    main()
