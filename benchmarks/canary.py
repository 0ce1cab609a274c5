"""Measure how soon a bad canary is withdrawn at a site: ``python -m benchmarks.canary``.

``gridcast up --site`` runs PostgreSQL, two predictors behind HAProxy and the page, which judges. A
version whose predictions are ten times too large is planted in both predictors, and made the
challenger by ``gridcast challenge``; jobs are predicted and then reported until it is withdrawn.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import httpx
import pandas as pd

from infra.settings import use_home
from jobs.workload import generate
from jobs.writers import write_jobs

SHARE, BATCH, LIMIT_SECONDS = 0.05, 400, 900
PORTS = ("PREDICTOR", "MLFLOW", "PREFECT", "DASHBOARD", "POSTGRES", "PROMETHEUS")
FIRST_PORT = 27300
PLANT = """
import builtins, sys
original = builtins.__import__
def importing(name, *arguments, **options):
    module = original(name, *arguments, **options)
    active = sys.modules.get("services.live.active_model")
    if active is not None and hasattr(active, "load_active_model"):
        builtins.__import__ = original
        load = active.load_active_model
        def load_planted(version, settings, verified=False):
            from dataclasses import replace
            from models.engine.predictions import Predictions
            model = load(version, settings, verified)
            if version is None or version.version != 2:
                return model
            forecaster = model.forecaster
            predict = forecaster.predict_encoded
            def ten_times(*values, **named):
                answers = predict(*values, **named)
                numbers = {key: 10 * column for key, column in answers.numbers.items()}
                return replace(answers, numbers=numbers)
            forecaster.predict_encoded = ten_times
            return model
        active.load_active_model = load_planted
    return module
builtins.__import__ = importing
"""


def gridcast(environment: dict[str, str], *words: str) -> str:
    """The output of a command; raises CalledProcessError."""
    command = [sys.executable, "-m", "gridcast", *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        sys.exit(f"{' '.join(words)}: {done.stderr}")
    return done.stdout


def rows(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """Jobs as a request has them, without what is missing."""
    records = json.loads(jobs.to_json(orient="records", date_format="iso", date_unit="us"))
    return [{key: value for key, value in row.items() if value is not None} for row in records]


def measure(folder: Path) -> dict[str, Any]:
    """Run the site, and return when and after how many answers the canary was withdrawn."""
    (folder / "plant").mkdir()
    (folder / "plant" / "sitecustomize.py").write_text(PLANT)
    environment = {k: v for k, v in os.environ.items() if not k.startswith("GRIDCAST_")}
    environment |= {f"GRIDCAST_{name}_PORT": str(FIRST_PORT + i) for i, name in enumerate(PORTS)}
    environment |= {
        "GRIDCAST_HOME": str(folder / "home"),
        "GRIDCAST_REPLICA_PORTS": f"{FIRST_PORT + 20},{FIRST_PORT + 21}",
        "GRIDCAST_CANARY": str(SHARE),
        "PYTHONPATH": os.pathsep.join((str(folder / "plant"), str(Path.cwd()))),
    }
    log = (folder / "up.log").open("wb")
    command = [sys.executable, "-m", "gridcast", "up", "--site"]
    up = subprocess.Popen(command, env=environment, stdout=log, stderr=log)
    try:
        while "Ctrl-C stops" not in (folder / "up.log").read_text():
            if up.poll() is not None:
                sys.exit((folder / "up.log").read_text())
            time.sleep(0.5)
        print("up", flush=True)
        jobs = generate(6000, 30, 7, sites=3, users=8).jobs
        past, later = jobs.head(2000), jobs.tail(4000).reset_index(drop=True)
        file = folder / "past.csv"
        write_jobs(past, file)
        gridcast(environment, "ingest", str(file))
        gridcast(environment, "train")
        print("trained", flush=True)
        os.environ.update({k: v for k, v in environment.items() if k.startswith("GRIDCAST_")})
        settings = use_home(folder / "home")
        from models.releases import registry
        from models.releases.versions import Evidence

        champion = registry.champion(settings)
        assert champion is not None
        copy = registry.fetch(champion, settings=settings)
        registry.publish(copy, Evidence(card="# Planted"), settings=settings)
        gridcast(environment, "challenge", "2", "--why", "a benchmark")
        print("challenged", flush=True)
        token = settings.token_path.read_text().strip()
        with httpx.Client(
            headers={"Authorization": f"Bearer {token}"}, timeout=120, trust_env=False
        ) as http:
            return follow(http, later, settings)
    finally:
        gridcast(environment, "down")
        up.wait(60)


def follow(http: httpx.Client, later: pd.DataFrame, settings: Any) -> dict[str, Any]:
    """Predict and report jobs until the canary is withdrawn."""
    from jobs.schema import OUTCOMES
    from models.releases import registry

    ports = [int(port) for port in settings.replica_ports.split(",")]
    replicas = [f"http://127.0.0.1:{port}" for port in ports]
    proxy = settings.predictor_address
    while any(
        not (http.get(f"{replica}/model").json().get("canary") or {}) for replica in replicas
    ):
        time.sleep(0.5)
    jobs = by_canary = after = disagreements = 0
    enough_at = withdrawn_at = None
    started = time.monotonic()
    for start in range(0, len(later), BATCH):
        batch = later.iloc[start : start + BATCH]
        body = {"jobs": rows(batch.drop(columns=[n for n in OUTCOMES if n in batch]))}
        answers = [
            [row["model_version"] for row in http.post(f"{url}/predict", json=body).json()["rows"]]
            for url in (proxy, *replicas)
        ]
        disagreements += sum(len(set(versions)) > 1 for versions in zip(*answers, strict=True))
        jobs += len(batch)
        by_canary += answers[0].count("gridcast-2")
        time.sleep(2)  # the answers are logged before the outcomes are known
        http.post(f"{proxy}/outcomes", json={"jobs": rows(batch)}).raise_for_status()
        if by_canary >= 50:
            enough_at = time.monotonic()
            break
    probe = {"jobs": rows(later.tail(200).drop(columns=[n for n in OUTCOMES if n in later]))}
    probe["keep"] = True  # type: ignore[assignment]
    while withdrawn_at is None and time.monotonic() - started < LIMIT_SECONDS:
        if registry.challenger(settings) is None:
            withdrawn_at = time.monotonic()
        time.sleep(1)
    stopped_at = None
    while stopped_at is None and time.monotonic() - started < LIMIT_SECONDS:
        after = sum(
            row["model_version"] == "gridcast-2"
            for url in replicas
            for row in http.post(f"{url}/predict", json=probe).json()["rows"]
        )
        if not after:
            stopped_at = time.monotonic()
        time.sleep(1)
    return {
        "jobs": jobs,
        "by_canary": by_canary,
        "share": by_canary / jobs,
        "jobs_on_which_replicas_differ": disagreements,
        "seconds_until_enough": enough_at and enough_at - started,
        "seconds_from_enough_to_withdrawn": withdrawn_at and enough_at and withdrawn_at - enough_at,
        "seconds_from_enough_to_no_answer": stopped_at and enough_at and stopped_at - enough_at,
        "load": os.getloadavg(),
    }


if __name__ == "__main__":
    place = Path(tempfile.mkdtemp(prefix="gridcast-canary-"))
    place.chmod(0o755)
    print(json.dumps(measure(place), indent=2))
