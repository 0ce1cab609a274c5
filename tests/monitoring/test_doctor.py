"""The doctor on real data folders: a sound one, and one for each thing that it finds wrong."""

import json
import os
import socket
import subprocess
import sys
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import text
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse
from starlette.routing import Route

from infra.components import local_components
from infra.mapped_arrays import write_description
from infra.settings import Settings
from infra.supervision import is_responding
from jobs.schema import conform
from jobs.store import add_jobs, connect, open_store
from monitoring.doctor import Finding, examine
from services.local_table import MAGIC
from tests.ports import free_port, served_in_thread

NOW = datetime.now(UTC)


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    ports = {
        f"{name}_port": free_port() for name in ("predictor", "mlflow", "prefect", "dashboard")
    }
    return Settings(home=tmp_path / "home", _env_file=None, **ports)


def found(settings: Settings, **more: object) -> dict[str, Finding]:
    return {
        finding.subject: finding
        for finding in examine(settings, local_components(settings), **more)
    }  # type: ignore[arg-type]


def stored(settings: Settings, ended: datetime) -> None:
    engine = open_store(settings.store_url)
    with engine.begin() as connection:
        times = {
            "submitted_at": ended - timedelta(hours=2),
            "started_at": ended - timedelta(hours=1),
            "ended_at": ended,
        }
        add_jobs(connection, conform(pd.DataFrame([{"job_id": "1", "source": "made", **times}])))
    engine.dispose()


def test_a_new_data_folder_is_sound_and_says_what_to_do_next(settings: Settings) -> None:
    findings = found(settings)
    assert {name: finding.state for name, finding in findings.items()} == {
        "versions": "ok",
        "disk": "ok",
        "ports": "ok",
        "parts": "watch",
        "database": "ok",
        "clock": "ok",
        "MLflow": "ok",
        "champion": "watch",
        "Prefect": "watch",
    }
    assert all(bool(finding.remedy) == (finding.state != "ok") for finding in findings.values())
    assert not (settings.home / "store" / "jobs.db").exists(), "the doctor makes nothing"


def test_a_port_where_a_component_of_systemd_answers_is_no_conflict(
    settings: Settings, tmp_path: Path
) -> None:
    (tmp_path / "health").touch()
    command = (sys.executable, "-m", "http.server", str(settings.mlflow_port))
    server = subprocess.Popen(
        [*command, "--bind", "127.0.0.1"], cwd=tmp_path, stderr=subprocess.DEVNULL
    )
    try:
        (mlflow,) = [part for part in local_components(settings) if part.name == "mlflow"]
        deadline = time.monotonic() + 120
        while not is_responding(mlflow):
            assert time.monotonic() < deadline
            time.sleep(0.1)
        findings = found(settings)
    finally:
        server.kill()
        server.wait()
    assert findings["ports"].state == "ok"
    down = "prefect is down; predictor is down; dashboard is down"
    assert findings["parts"].summary == down


def test_a_data_folder_that_others_may_read_is_named_with_the_chmod_to_type(
    settings: Settings,
) -> None:
    (settings.folder("store") / "jobs.db").touch()
    settings.home.chmod(0o755)
    finding = found(settings)["data folder"]
    assert finding.state == "watch" and "(mode 0755)" in finding.summary
    subprocess.run(finding.remedy.split(), check=True)
    assert settings.home.stat().st_mode & 0o777 == 0o700
    settings.home.chmod(0o711)  # as a PostgreSQL of another account needs it
    assert "data folder" not in found(settings)


def test_what_is_wrong_is_named_with_what_to_do(settings: Settings) -> None:
    stored(settings, NOW + timedelta(hours=5))
    with connect(settings.store_url).begin() as connection:
        connection.execute(text("UPDATE gridcast_version SET version_num = '9999'"))
    elsewhere = settings.model_copy(update={"mlflow_url": f"http://127.0.0.1:{free_port()}"})
    with socket.socket() as taker:
        taker.bind(("127.0.0.1", settings.predictor_port))
        taker.listen()
        findings = found(elsewhere, table=settings.home / "none.tsv")
    wrong = {name: finding for name, finding in findings.items() if finding.state == "wrong"}
    assert set(wrong) == {"ports", "database", "clock", "MLflow", "table"}
    assert (
        f"port {settings.predictor_port}: address already in use; set GRIDCAST_PREDICTOR_PORT"
        in wrong["ports"].summary
    )
    assert "has tables of version 9999" in wrong["database"].summary
    assert wrong["clock"].summary.startswith("the newest record is 1")
    assert "nobody answers there" in wrong["MLflow"].summary
    assert all(finding.remedy for finding in wrong.values())


def test_prefects_server_of_another_container_is_asked(settings: Settings) -> None:
    elsewhere = {"prefect_url": f"http://127.0.0.1:{free_port()}"}
    finding = found(settings.model_copy(update=elsewhere))["Prefect"]
    assert finding.state == "wrong"
    assert finding.summary.startswith(f"{elsewhere['prefect_url']} does not answer as it should")


def test_an_unreachable_database_is_told_without_its_password(settings: Settings) -> None:
    away = settings.model_copy(
        update={"database_url": f"postgresql://someone:hunter2@127.0.0.1:{free_port()}/jobs"}
    )
    finding = found(away)["database"]
    assert finding.state == "wrong"
    assert "hunter2" not in finding.summary


def test_the_clock_is_compared_with_the_databases(settings: Settings, postgres_url: str) -> None:
    on_postgres = settings.model_copy(update={"database_url": postgres_url})
    stored(on_postgres, NOW - timedelta(days=2))
    assert "agrees with the database" in found(on_postgres)["clock"].summary
    late = found(on_postgres, now=datetime.now(UTC) - timedelta(seconds=40))["clock"]
    assert (late.state, late.summary) == ("watch", "the database is 40 s ahead of this machine")


def test_the_age_of_the_table_is_read_from_its_first_line(settings: Settings) -> None:
    table = settings.folder("tables") / "predictions.tsv"
    for hours, state in ((0.2, "ok"), (1.0, "watch"), (30.0, "wrong")):
        table.write_text(
            f"{MAGIC}\t{(NOW - timedelta(hours=hours)).timestamp():.0f}\tx\tgridcast-1\t1\nkey\tjobs\tnew\nall\t1\t0\n"
        )
        finding = found(settings, now=NOW)["table"]
        assert (finding.state, finding.summary) == (state, f"{table} was written {hours} h ago")
    table.write_text(f"{MAGIC}\t{NOW.timestamp() - 360:.0f}\tx\tnone\t0\nkey\tjobs\tnew\n")
    finding = found(settings, now=NOW)["table"]
    assert (finding.state, finding.summary) == (
        "wrong", f"{table} was written 0.1 h ago and has no rows"
    )  # fmt: skip


def test_a_home_of_another_shard_and_a_wrong_list_of_shards_are_named(
    settings: Settings, tmp_path: Path
) -> None:
    file = settings.folder("predictor") / "history.arrays"
    with file.open("wb") as out:
        write_description(out, [], {"learned": {"shard": "1/4"}, "point": {}})
    assert found(settings.model_copy(update={"shard": "1/4"}))["shard"].state == "ok"
    for shard, name in (("1/5", "shard 1/5"), ("", "all users")):
        finding = found(settings.model_copy(update={"shard": shard}))["shard"]
        assert finding.state == "wrong" and finding.remedy
        assert finding.summary.endswith(f"is of shard 1/4, and GRIDCAST_SHARD says {name}")
    listed = settings.model_copy(update={"shard_addresses": str(tmp_path / "shards")})
    (tmp_path / "shards").write_text("1/2=http://127.0.0.1:1")
    finding = found(listed)["shards"]
    assert finding.state == "wrong" and "the address of shard 2/2 is missing" in finding.summary
    answers = {1: "1/2", 2: "1/2"}

    def model_of(number: int) -> Starlette:
        async def model(_: Request) -> JSONResponse:
            return JSONResponse({"shard": answers[number]})

        return Starlette(routes=[Route("/model", model)])

    with served_in_thread(model_of(1)) as first, served_in_thread(model_of(2)) as second:
        (tmp_path / "shards").write_text(
            f"1/2={first}\n2/2={second}|http://127.0.0.1:{free_port()}"
        )
        findings = examine(listed, local_components(listed))
        wrong = [finding for finding in findings if finding.subject == "shard 2/2"]
        assert [finding.state for finding in wrong] == ["wrong", "wrong"]
        assert wrong[0].summary == f"{second} has the histories of shard 1/2"
        assert "does not answer: " in wrong[1].summary
        answers[2] = "2/2"
        (tmp_path / "shards").write_text(f"1/2={first}\n2/2={second}")
        finding = found(listed)["shards"]
        assert finding.state == "ok"
        assert finding.summary == "the 2 predictors of 2 shards answer as those"


def test_the_command_ends_with_1_where_something_is_wrong(settings: Settings) -> None:
    environment = {**os.environ, "GRIDCAST_HOME": str(settings.home)}
    environment |= {
        f"GRIDCAST_{name.upper()}": str(getattr(settings, name))
        for name in Settings.model_fields
        if name.endswith("_port")
    }
    command = [
        sys.executable,
        "-m",
        "gridcast",
        "doctor",
        "--json",
        "--table",
        str(settings.home / "none.tsv"),
    ]
    run = subprocess.run(
        command,
        cwd=Path(__file__).parents[2],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 1, run.stderr
    rows = {row["what"]: row["state"] for row in json.loads(run.stdout)["rows"]}
    assert {name for name, state in rows.items() if state == "wrong"} == {"table"}
