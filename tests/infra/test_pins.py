"""Prefect's filters answer on the installed set: beside a wrong fastapi each answers 422, and neither resolver nor `pip check` sees it."""

import json
import os
import subprocess
import sys
from pathlib import Path

ASK = """
import asyncio, json
from infra.settings import prepare_environment
prepare_environment()
import httpx
from prefect.server.api.server import create_app

async def ask():
    app = create_app(ephemeral=True)
    async with app.router.lifespan_context(app):
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://here/api") as client:
            doors = ("deployments", "flows", "flow_runs", "task_runs", "artifacts", "work_pools")
            return {door: (await client.post(f"/{door}/filter", json={"limit": 1})).status_code for door in doors}

print(json.dumps(asyncio.run(ask())))
"""


def test_prefect_filters_answer_beside_the_installed_fastapi(tmp_path):
    environment = {**os.environ, "GRIDCAST_HOME": str(tmp_path)}
    run = subprocess.run(
        [sys.executable, "-c", ASK],
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    answers = json.loads(run.stdout.splitlines()[-1])
    assert answers == dict.fromkeys(answers, 200)
    assert len(answers) == 6
