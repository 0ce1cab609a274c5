"""Peers of the predictor with the same model and history: ``mlflow models serve`` and FastAPI.

``benchmarks/serving.py --peers`` starts them one after the other, and sends the same jobs as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path
from typing import Any

# FastAPI looks these up by the names in the annotations.
from starlette.requests import Request
from starlette.responses import Response

ROOT = Path(__file__).parents[1]


def forecaster() -> Any:
    """The champion with the store's history, as the predictor has it."""
    from infra.settings import prepare_environment
    from jobs.store import open_store, read_ended
    from models.engine.forecaster import Forecaster
    from models.releases import registry
    from models.releases.verification import load_model_set

    settings = prepare_environment()
    version = registry.champion(settings)
    assert version is not None
    model = Forecaster(load_model_set(version, settings))
    engine = open_store(settings.store_url)
    model.learn(read_ended(engine))
    engine.dispose()
    return model


def predict(model: Any, rows: Any) -> Any:
    """What such a server does: a DataFrame in, a DataFrame out, every job as one that waits now."""
    import pandas as pd

    from jobs.schema import conform

    return model.predict(conform(pd.DataFrame(rows)), at=pd.Timestamp.now("UTC"))


def app() -> Any:
    """The bare FastAPI app."""
    from fastapi import FastAPI

    model, server = forecaster(), FastAPI()

    @server.get("/ping")
    def ping() -> str:
        return "pong"

    async def answer(request: Request) -> Response:
        rows = json.loads(await request.body())["jobs"]
        return Response(
            predict(model, rows).to_json(orient="records"), media_type="application/json"
        )

    server.add_api_route("/predict", answer, methods=["POST"])
    return server


MODEL = """
import sys
sys.path.insert(0, {root!r})
import mlflow
from benchmarks import serving_peers

class Model(mlflow.pyfunc.PythonModel):
    def load_context(self, context):
        self.made = serving_peers.forecaster()

    def predict(self, context, model_input, params=None):
        return serving_peers.predict(self.made, model_input)

mlflow.models.set_model(Model())
"""


@contextmanager
def started(command: list[str], ready: Callable[[Callable[[], bool]], None]) -> Iterator[None]:
    """A server as a process of its own, ready, and stopped at the end with all that it started."""
    import psutil

    # MLflow starts uvicorn by its name.
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    process = subprocess.Popen(
        command,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": str(ROOT), "PATH": path},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        ready(lambda: process.poll() is not None)
        yield
    finally:
        with suppress(psutil.NoSuchProcess):
            family = psutil.Process(process.pid).children(recursive=True)
            for process_of_family in (process, *family):
                process_of_family.terminate()
            psutil.wait_procs(family, 30)
        process.wait(60)


def save(folder: Path) -> None:
    """The champion as a model that MLflow serves."""
    import mlflow

    script = folder / "served.py"
    script.write_text(MODEL.format(root=str(ROOT)))
    mlflow.pyfunc.save_model(str(folder / "model"), python_model=str(script), pip_requirements=[])


def rows_of(batch: Any) -> list[dict[str, Any]]:
    """Jobs as JSON's rows, times as text."""
    columns = batch.to_pydict()
    columns["submitted_at"] = [moment.isoformat() for moment in columns["submitted_at"]]
    return [
        dict(zip(columns, values, strict=True)) for values in zip(*columns.values(), strict=True)
    ]


def commands(folder: str, ports: Iterator[int]) -> dict[str, tuple[list[str], str, str, str]]:
    """Command, address, path and key of the jobs, by peer."""
    mlflow, fastapi = next(ports), next(ports)
    served = [
        "mlflow",
        "models",
        "serve",
        "-m",
        f"{folder}/model",
        "-p",
        str(mlflow),
        "--env-manager",
        "local",
    ]
    uvicorn = [
        "uvicorn",
        "--factory",
        "benchmarks.serving_peers:app",
        "--port",
        str(fastapi),
        "--log-level",
        "warning",
    ]
    return {
        "mlflow models serve": (
            [sys.executable, "-m", *served],
            f"http://127.0.0.1:{mlflow}",
            "/invocations",
            "dataframe_records",
        ),
        "FastAPI": (
            [sys.executable, "-m", *uvicorn],
            f"http://127.0.0.1:{fastapi}",
            "/predict",
            "jobs",
        ),
    }


def peers(
    ports: Iterator[int],
    wait: Callable[[str, Callable[[], bool]], None],
    timed: Callable[..., dict[str, Any]],
    jobs: Any,
) -> list[dict[str, Any]]:
    """A row for each peer and batch size, timed by ``timed`` as Gridcast's own rows are."""
    import httpx

    rows = []
    with (
        tempfile.TemporaryDirectory() as folder,
        httpx.Client(timeout=120, trust_env=False) as http,
    ):
        save(Path(folder))
        for name, (command, address, path, key) in commands(folder, ports).items():

            def ask(batch: list[dict[str, Any]], url: str = address + path, key: str = key) -> None:
                response = http.post(url, json={key: batch})
                assert response.status_code == 200, response.text[:500]
                answer = response.json()
                assert len(answer["predictions"] if isinstance(answer, dict) else answer) == len(
                    batch
                )

            with started(command, partial(wait, f"{address}/ping")):
                rows += [
                    timed(name, count, ask, jobs, rows_of, calls=calls)
                    for count, calls in ((1, 100), (1_000, 30), (10_000, 15))
                ]
    return rows
