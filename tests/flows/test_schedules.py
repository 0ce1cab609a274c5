"""The deployments of infra/prefect.yaml on a real server, and a real worker that runs one."""

import os
import subprocess
import time
from pathlib import Path

from infra.parts import parts


def test_every_deployment_is_registered_once_and_a_worker_runs_one(settings, prefect_server):
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import DeploymentFilter, DeploymentFilterTags
    from prefect.deployments import run_deployment

    part = next(part for part in parts(settings) if part.name == "schedules")
    log = settings.folder("logs") / "schedules.log"
    with log.open("wb") as file:
        worker = subprocess.Popen(part.command, env={**os.environ, **part.environment}, stdout=file, stderr=file, start_new_session=True)
    try:
        deadline = time.monotonic() + 180
        while part.says not in log.read_text():
            assert worker.poll() is None, log.read_text()
            assert time.monotonic() < deadline, log.read_text()
            time.sleep(0.2)
        with get_client(sync_client=True) as client:
            found = {
                one.entrypoint: one
                for one in client.read_deployments(deployment_filter=DeploymentFilter(tags=DeploymentFilterTags(is_null_=True)))
            }
            assert sorted(found) == [f"flows.{name}.{name}" for name in ("deploy", "ingest", "monitor", "promote", "retrain", "train")]
            assert {name.split(".")[1] for name, one in found.items() if one.schedules} == {"deploy", "ingest", "monitor", "retrain"}
            assert all(one.work_pool_name == "gridcast" and one.concurrency_limit is None for one in found.values())
            assert all(one.global_concurrency_limit.limit == 1 for one in found.values())

            names = {one.id: name.split(".")[1] for name, one in found.items()}
            scheduled: set[str] = set()
            while scheduled != {"deploy", "ingest", "monitor", "retrain"}:  # the server's calendar, filled by itself
                assert time.monotonic() < deadline, f"the server has scheduled {scheduled} only"
                scheduled = {
                    names[run.deployment_id] for run in client.read_flow_runs() if run.auto_scheduled and run.deployment_id in names
                }

        run = run_deployment("ingest/inbox", timeout=180, poll_interval=0.5)

        assert run.state.is_completed(), log.read_text()
        assert run.state.message.startswith(f"no file waits in {settings.folder('inbox')}")
    finally:
        worker.terminate()
        assert worker.wait(60) is not None
    assert not Path(f"/proc/{worker.pid}").exists()
