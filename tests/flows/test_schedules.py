"""The deployments of infra/prefect.yaml on a real server, and a real worker that runs one."""

import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import psutil

from flows.dead_runs import mark_crashed_runs
from jobs.workload import generate
from jobs.writers import write_csv
from tests.flows.conftest import worker_process

CALENDAR = {"advise", "collect", "deploy", "ingest", "monitor", "prune", "retrain", "shadow"}


def test_a_worker_runs_a_registered_deployment_and_a_killed_run_crashes_and_frees_its_slot(
    settings, prefect_server
):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import (
        DeploymentFilter,
        DeploymentFilterTags,
        FlowRunFilter,
        FlowRunFilterId,
    )
    from prefect.deployments import run_deployment
    from prefect.states import Pending

    log = settings.folder("logs") / "schedules.log"
    deadline = time.monotonic() + 600
    with worker_process(settings, log, patience=600) as worker:
        with get_client(sync_client=True) as client:
            deployments = {
                deployment.entrypoint: deployment
                for deployment in client.read_deployments(
                    deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(is_null_=True))
                )
            }
            assert sorted(deployments) == sorted(
                f"flows.{name}.{name}" for name in (*CALENDAR, "promote", "train")
            )
            assert {
                name.split(".")[1]
                for name, deployment in deployments.items()
                if deployment.schedules
            } == CALENDAR
            assert all(
                deployment.work_pool_name == "gridcast" and deployment.concurrency_limit is None
                for deployment in deployments.values()
            )
            assert all(
                deployment.global_concurrency_limit.limit == 1
                for deployment in deployments.values()
            )

            names = {deployment.id: name.split(".")[1] for name, deployment in deployments.items()}
            scheduled: set[str] = set()
            while scheduled != CALENDAR:  # the server's calendar, filled by itself
                assert time.monotonic() < deadline, f"the server has scheduled {scheduled} only"
                scheduled = {
                    names[run.deployment_id]
                    for run in client.read_flow_runs()
                    if run.auto_scheduled and run.deployment_id in names
                }

        run = run_deployment("ingest/inbox", timeout=180, poll_interval=0.5)
        while run.state.is_cancelled():  # the calendar's own run was at work: one at a time
            assert time.monotonic() < deadline, log.read_text()
            run = run_deployment("ingest/inbox", timeout=180, poll_interval=0.5)

        assert run.state.is_completed(), log.read_text()
        assert run.state.message.startswith(f"no file waits in {settings.folder('inbox')}")

        write_csv(generate(60_000, seed=7).jobs, settings.folder("inbox") / "long.csv")
        os.utime(settings.folder("inbox") / "long.csv", (1, 1))
        with get_client(sync_client=True) as client:
            dying = run_deployment("ingest/inbox", timeout=0)
            its = FlowRunFilter(id=FlowRunFilterId(any_=[dying.id]))
            while not client.read_task_runs(flow_run_filter=its):
                assert time.monotonic() < deadline + 120
                time.sleep(0.2)
            everyone = [
                psutil.Process(worker.pid),
                *psutil.Process(worker.pid).children(recursive=True),
            ]
            for process in everyone:  # all at once: none is left that could report it
                process.suspend()
            for process in everyone:
                process.kill()
            killed = datetime.now(UTC)
            assert mark_crashed_runs(client, killed) == []
            while datetime.now(UTC) < killed + timedelta(seconds=2):
                time.sleep(0.1)
            # The minute of every day would be a minute of every test.
            assert mark_crashed_runs(client, killed, silence=timedelta(seconds=1)) == [
                "ingest: the inbox"
            ]
            state = client.read_flow_run(dying.id).state
            assert state.is_crashed(), state
            assert "no heartbeat" in state.message
            slots = client.read_deployment_by_name("ingest/inbox").global_concurrency_limit
            assert slots.active_slots == 0
            assert {
                task.state.is_crashed() for task in client.read_task_runs(flow_run_filter=its)
            } == {True}

            # One that a worker took and never started holds a slot as well.
            never = run_deployment("ingest/inbox", timeout=0)
            client.set_flow_run_state(never.id, Pending())
            assert (
                client.read_deployment_by_name("ingest/inbox").global_concurrency_limit.active_slots
                == 1
            )
            assert mark_crashed_runs(client, killed) == []
            # A run of the calendar, too, may have been taken and not started at that minute.
            marked = mark_crashed_runs(client, killed, starting=timedelta(0))
            assert [name for name in marked if name.partition(":")[0] not in CALENDAR] == [
                never.name
            ]
            assert client.read_flow_run(never.id).state.is_crashed()
            assert (
                client.read_deployment_by_name("ingest/inbox").global_concurrency_limit.active_slots
                == 0
            )
    assert not Path(f"/proc/{worker.pid}").exists()
