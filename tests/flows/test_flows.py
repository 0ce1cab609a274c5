"""The flows as an operator runs them, against real servers and files, on one data folder.

The fixtures build the story: a log is ingested, a first version is trained, more jobs come.
"""

import json
import os
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gridcast
from infra.errors import InputError
from infra.settings import Settings, prepare_environment
from jobs.store import count_jobs, open_store, read_jobs, read_measurements
from jobs.workload import generate
from jobs.writers import write_jobs
from models.engine.model_set import ModelError
from models.releases import registry
from models.releases.registry import RegistryError

pytestmark = pytest.mark.usefixtures("prefect_server")


def stored() -> int:
    return int(count_jobs(open_store(prepare_environment().store_url))["jobs"].sum())


def artifact(key: str) -> Any:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import ArtifactCollectionFilter, ArtifactCollectionFilterKey

    with get_client(sync_client=True) as client:
        result = client.read_latest_artifacts(
            artifact_filter=ArtifactCollectionFilter(key=ArtifactCollectionFilterKey(any_=[key]))
        )
    return result[0]


def runs(flow_name: str) -> list[Any]:
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import FlowFilter, FlowFilterName

    with get_client(sync_client=True) as client:
        return client.read_flow_runs(flow_filter=FlowFilter(name=FlowFilterName(any_=[flow_name])))


@pytest.fixture(scope="session")
def said_while_empty(settings: Settings, prefect_server: str) -> list[str]:
    """What the scheduled flows say of a store without a job and a registry without a champion."""
    from flows.advise import advise
    from flows.collect import collect
    from flows.deploy import deploy
    from flows.ingest import ingest
    from flows.monitor import monitor
    from flows.prune import prune
    from flows.retrain import retrain

    return [
        flow(return_state=True).message
        for flow in (ingest, collect, advise, prune, retrain, monitor, deploy)
    ]


@pytest.fixture(scope="session")
def ingested(said_while_empty: list[str], logs: tuple[Path, Path]) -> list[dict[str, Any]]:
    from flows.ingest import ingest

    return ingest([str(logs[0])])


@pytest.fixture(scope="session")
def trained(ingested: list[dict[str, Any]]) -> dict[str, Any]:
    from flows.train import train

    return train()


def test_nothing_fails_before_there_is_a_job_or_a_champion(said_while_empty, settings):
    assert said_while_empty == [
        f"no file waits in {settings.folder('inbox')}",
        "GRIDCAST_COLLECT names no batch system",
        "nobody left unused what they requested in the last week",
        "GRIDCAST_RETENTION_MONTHS is 0: all is kept",
        "no job in the store has ended yet",
        "there is no champion yet: nothing to compare with",
        "there is no champion yet: train one first (gridcast train)",
    ]


def test_flows_and_predictions_leave_lineage_without_the_names_of_owners(
    trained, settings, logs, tmp_path
):
    from commands.predicting import predict

    predict(logs[1], output=tmp_path / "predicted.csv")
    text = Path(settings.lineage.get_secret_value()).read_text()
    events = [json.loads(line) for line in text.splitlines()]
    ended = {}
    for event in events:
        if event["eventType"] == "COMPLETE":
            ended.setdefault(event["job"]["name"], event)
        assert event["eventType"] in ("START", "COMPLETE")

    def datasets(job, side):
        return [
            (one["name"], one.get("facets", {}).get("version", {}).get("datasetVersion"))
            for one in ended[job][side]
        ]

    source = count_jobs(open_store(settings.store_url))["source"].iloc[0]
    [(stored_name, revision)] = datasets("ingest", "outputs")
    assert stored_name == f"jobs.db.jobs.{source}" and int(revision) > 0
    assert datasets("ingest", "inputs") == [(logs[0].name, None)]
    assert datasets("train", "inputs")[0] == (stored_name, revision)
    assert datasets("train", "outputs") == [("gridcast", "1")]
    assert datasets("promote", "inputs") == [("gridcast", "1")]
    assert datasets("promote", "outputs") == [("gridcast@champion", "1")]
    assert [name for name, _ in datasets("predict", "inputs")] == [logs[1].name, "gridcast"]
    assert datasets("predict", "outputs") == [("predicted.csv", None)]
    # The promotion is a part of the training, a run of its own.
    assert ended["promote"]["run"]["runId"] != ended["train"]["run"]["runId"]
    owners = pd.concat([pd.read_csv(log) for log in logs])
    for name in {*owners["user"], *owners["group"]}:
        assert f'"{name}"' not in text
    assert "promoted" not in text


def test_ingest_stores_a_log_once_and_shows_what_became_of_it(ingested, logs):
    from flows.ingest import ingest

    rows = len(pd.read_csv(logs[0]))
    assert [(row["added"], row["rejected"], row["error"]) for row in ingested] == [(rows, 0, "")]
    before = stored()
    again = ingest([str(logs[0])])
    assert (again[0]["added"], again[0]["unchanged"]) == (0, rows)
    assert stored() == before
    assert f'"unchanged": {rows}' in artifact("ingest").data
    assert {run.name for run in runs("ingest")} == {"ingest: the inbox", "ingest: first.csv"}


def test_ingest_takes_what_has_settled_in_the_inbox_and_fails_at_the_end_for_what_cannot_be_read(
    ingested, settings, logs
):
    from flows.ingest import ingest

    inbox = settings.folder("inbox")
    (inbox / "good.csv").write_text("".join(logs[0].read_text().splitlines(keepends=True)[:14]))
    (inbox / "bad.csv").write_bytes(bytes(range(256)) * 40)
    (inbox / "unfinished.csv").write_text("job_id")
    for name in ("good.csv", "bad.csv"):
        os.utime(inbox / name, (time.time() - 3600,) * 2)

    with pytest.raises(InputError, match=r"bad\.csv"):
        ingest()

    assert [path.name for path in inbox.iterdir() if path.is_file()] == ["unfinished.csv"]
    assert (inbox / "done" / "good.csv").is_file()
    assert (inbox / "refused" / "bad.csv").is_file()
    (inbox / "unfinished.csv").unlink()
    assert ingest(return_state=True).message.startswith("no file waits")


def test_a_refused_file_overwrites_no_other_of_its_name(ingested, settings):
    from flows.ingest import ingest

    contents = {bytes(range(256)) * 40, bytes(range(255, -1, -1)) * 40}
    for content in contents:
        log = settings.folder("inbox") / "again.csv"
        log.write_bytes(content)
        os.utime(log, (time.time() - 3600,) * 2)
        with pytest.raises(InputError, match=r"again\.csv"):
            ingest()
    refused = sorted(settings.folder("inbox/refused").glob("again*"))
    assert [path.name for path in refused] == ["again-2.csv", "again.csv"]
    assert {path.read_bytes() for path in refused} == contents


def test_collect_fails_for_a_system_that_is_not_there_once_the_others_are_stored(
    ingested, settings, tmp_path, monkeypatch
):
    from flows.collect import collect

    (tmp_path / "more.csv").write_text("job_id,submitted_at,walltime\nc1,2026-03-01T00:00:00Z,60\n")
    os.utime(tmp_path / "more.csv", (time.time() - 3600,) * 2)
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setenv("GRIDCAST_COLLECT", f"condor, folder={tmp_path}")
    prepare_environment.cache_clear()
    before = stored()
    state = collect(return_state=True)
    assert state.is_failed() and "condor_history is not on this machine's PATH" in state.message
    assert stored() == before + 1
    monkeypatch.undo()
    prepare_environment.cache_clear()


def test_an_inbox_may_have_a_column_map_and_a_time_zone_of_its_own(ingested, settings):
    from flows.ingest import ingest

    log = settings.folder("inbox") / "times.csv"
    log.write_text("id,queued\nmapped,2026-07-01 12:00\n")
    os.utime(log, (time.time() - 3600,) * 2)
    assert (
        ingest(mapping=["id=job_id", "queued=submitted_at"], timezone="Europe/Paris")[0]["added"]
        == 1
    )
    jobs = read_jobs(open_store(settings.store_url), sources=["times"])
    assert jobs[["job_id", "submitted_at"]].values.tolist() == [
        ["mapped", pd.Timestamp("2026-07-01 10:00", tz="UTC")]
    ]


def test_the_first_training_is_promoted_and_explains_itself_in_prefect(trained, settings):
    assert (trained["version"], trained["promoted"], trained["why"]) == (
        1,
        True,
        "the first version",
    )
    champion = registry.champion(settings)
    assert champion.version == 1
    assert champion.tags["promoted_by"] == "flow train"
    card_artifact = artifact("train")
    assert card_artifact.description == f"**{champion.label} is champion**: the first version"
    assert "# How it did on later jobs" in card_artifact.data
    assert runs("train")[0].name == "train: asked for"


def test_the_first_training_beats_the_request_on_later_jobs_and_its_range_holds(trained, settings):
    measured = registry.metrics(registry.champion(settings), settings)
    assert measured["walltime.candidate.mae"] < measured["walltime.request.mae"]
    assert 0.8 < measured["walltime.candidate.coverage_90"] < 0.99
    stored_rows = read_measurements(
        open_store(settings.store_url), kind="evaluation", segment="gridcast-1 candidate"
    )
    assert stored_rows.set_index("name")["value"]["walltime mae"] == pytest.approx(
        measured["walltime.candidate.mae"]
    )


def test_retraining_with_nothing_new_changes_nothing_and_says_so(trained, settings):
    from flows.retrain import retrain

    state = retrain(return_state=True)
    assert state.message.startswith(
        "Nothing to compare by: only 0 jobs that ended were submitted since gridcast-1"
    )
    assert [run_row.version for run_row in registry.versions(settings)] == [1]


def test_deploy_tries_the_champion_out_and_says_that_no_predictor_runs(trained):
    from flows.deploy import deploy

    assert deploy() == {"version": 1, "served": False}
    assert (
        "gridcast-1 works; no predictor answers at http://127.0.0.1:"
        in artifact("deploy").description
    )


def test_promoting_altered_files_is_refused_and_the_champion_stays(trained, settings):
    from flows.promote import promote
    from models.releases.versions import Evidence

    spoiled = settings.folder("tmp") / "spoiled"
    fetched = registry.fetch(registry.champion(settings), settings=settings)
    spoiled.mkdir()
    for path in fetched.iterdir():
        (spoiled / path.name).write_bytes(path.read_bytes())
    (spoiled / "walltime.json").write_bytes(
        (spoiled / "walltime.json").read_bytes().replace(b"1", b"2", 1)
    )
    version = registry.publish(spoiled, Evidence(card="# Spoiled"), settings=settings)

    with pytest.raises(ModelError, match="SHA-256 differs"):
        promote(version.version)
    typed = CliRunner().invoke(gridcast.app, ["promote", str(version.version)])
    assert isinstance(typed.exception, ModelError)

    assert registry.champion(settings).version == 1
    registry.mark_refused(version, why="spoiled", settings=settings)


def test_later_jobs_are_looked_at_and_retraining_on_them_is_judged(trained, settings, logs):
    from flows.ingest import ingest
    from flows.monitor import monitor
    from flows.retrain import retrain

    ingest([str(logs[1])])
    result = monitor()
    assert result["verdict"] in ("none", "local", "drift")
    assert all(Path(page).is_file() for page in result["pages"])
    assert result["sentence"] in artifact("monitor").description
    assert all(page in artifact("monitor").data for page in result["pages"])
    assert len(read_measurements(open_store(settings.store_url), kind="drift")) > 0

    done = retrain("more jobs")
    version = registry.get(done["version"], settings)
    assert version.tags["why_trained"] == "more jobs"
    assert "later jobs its mean absolute error of walltime is" in done["why"]
    champion = registry.champion(settings)
    assert champion.version == (done["version"] if done["promoted"] else 1)
    assert version.state == ("champion" if done["promoted"] else "refused")
    assert "retrain: more jobs" in {run.name for run in runs("retrain")}


def test_a_model_trained_on_a_poisoned_batch_is_refused_and_the_alias_stays_and_an_alert_goes_out(
    trained, settings, tmp_path, hook
):
    from flows.ingest import ingest
    from flows.retrain import retrain

    registry.promote(
        max(run_row.version for run_row in registry.versions(settings)),
        by="the test",
        why="what comes is new to it",
        settings=settings,
    )
    before = registry.champion(settings)
    ingest([str(write_jobs(poisoned(), tmp_path / "poisoned.csv"))])

    done = retrain("a poisoned batch")

    assert not done["promoted"]
    assert "% higher" in done["why"]
    assert registry.get(done["version"], settings).state == "refused"
    assert registry.champion(settings).version == before.version
    [alert] = hook.got
    assert (alert["title"], alert["message"]) == (
        "Gridcast gridcast: retraining",
        f"gridcast-{done['version']} does not serve: {done['why']}",
    )


def poisoned() -> pd.DataFrame:
    """Eight more days of the grid; in the first half outcomes are those of other jobs."""
    jobs = generate(1600, 8, 7).jobs.sort_values("submitted_at", ignore_index=True)
    jobs["job_id"] = "later-" + jobs["job_id"]
    for name in ("submitted_at", "started_at", "ended_at"):
        jobs[name] += pd.Timedelta(days=20)
    first = jobs.index[: len(jobs) // 2]
    took = np.random.default_rng(0).permutation((jobs["ended_at"] - jobs["started_at"]).loc[first])
    jobs.loc[first, "ended_at"] = jobs.loc[first, "started_at"] + took
    jobs.loc[first, "walltime"] = took / pd.Timedelta(seconds=1)
    return jobs


def test_a_step_is_tried_again_while_the_registry_is_away_and_fails_in_one_sentence(
    settings, prefect_server
):
    from prefect import flow
    from prefect.client.orchestration import get_client

    from flows.deploy import current_champion

    away = settings.model_copy(update={"mlflow_url": f"http://127.0.0.1:{settings.mlflow_port}"})

    @flow(name="away")
    def look() -> None:
        current_champion.with_options(retry_delay_seconds=0)(away)

    with pytest.raises(RegistryError, match="nobody answers there"):
        look()
    with get_client(sync_client=True) as client:
        deadline = time.monotonic() + 240
        while True:  # the server records task runs from events, a moment later
            tried = [
                run_row.run_count
                for run_row in client.read_task_runs()
                if run_row.name == "the champion" and run_row.state.is_failed()
            ]
            if tried or time.monotonic() > deadline:
                break
            time.sleep(0.2)
    assert tried == [4]


def test_wrong_input_is_not_tried_again(settings, prefect_server):
    from flows.promote import promote

    with pytest.raises(InputError, match="no challenger waits"):
        promote()
    failed = next(run for run in runs("promote") if "no challenger" in run.state.message)
    assert failed.name == "promote: the challenger"
    assert failed.state.is_failed()
    assert failed.run_count == 1


def log_lines(flow_name: str) -> str:
    """Everything that the newest runs of a flow logged."""
    from prefect.client.orchestration import get_client
    from prefect.client.schemas.filters import LogFilter, LogFilterFlowRunId

    ids = [run.id for run in runs(flow_name)]
    with get_client(sync_client=True) as client:
        logs = client.read_logs(LogFilter(flow_run_id=LogFilterFlowRunId(any_=ids)), limit=200)
    return "\n".join(entry.message for entry in logs)


def awaited_lines(flow_name: str, text: str) -> str:
    """The same once ``text`` is among them: the server takes logs a moment later."""
    deadline = time.monotonic() + 240
    while text not in (lines := log_lines(flow_name)):
        assert time.monotonic() < deadline, lines
        time.sleep(0.5)
    return lines


def test_flows_log_what_they_did(trained, settings):
    from flows.deploy import deploy

    deploy()
    awaited_lines("deploy", "gridcast-1 works; no predictor answers")
    lines = awaited_lines("train", "gridcast-1 is champion: the first version")
    assert "done: train on all jobs" in lines
    assert "records read" in awaited_lines("ingest", "first.csv (")
    link = artifact("train-mlflow").data
    assert f"http://127.0.0.1:{settings.mlflow_port}/#/models/gridcast/versions/" in link


def test_a_command_runs_plainly_where_prefect_refuses_the_login_or_is_anothers(
    tmp_path, monkeypatch
):
    from flows.from_command_line import as_flow_run

    class Refusing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(401)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusing) as server:
        Thread(target=server.serve_forever, daemon=True).start()
        monkeypatch.setenv("GRIDCAST_HOME", str(tmp_path))
        monkeypatch.setenv("GRIDCAST_PREFECT_PORT", str(server.server_port))
        assert as_flow_run("collect", lambda: 7) == 7, "another data folder's Prefect has the port"
        monkeypatch.setenv("GRIDCAST_PREFECT_URL", f"http://127.0.0.1:{server.server_port}")
        assert as_flow_run("collect", lambda: 8) == 8, "it refuses the login"
        server.shutdown()


def test_a_command_is_a_flow_run_while_the_site_is_up(trained, settings, monkeypatch):
    from flows import from_command_line
    from flows.from_command_line import as_flow_run

    def called() -> int:
        from prefect import runtime

        return len(runtime.flow_run.name or "")

    assert as_flow_run("prune", called) == 0, "the site is not up"
    monkeypatch.setattr(from_command_line, "is_up", lambda _, part: part == "prefect")
    assert as_flow_run("prune", called, lambda count: f"counted {count}") > 0
    newest = max(runs("prune"), key=lambda run: run.created)
    assert (newest.name, newest.state.message) == ("prune: from the command line", "counted 28")

    def fail() -> None:
        raise InputError("no such file")

    with pytest.raises(InputError, match="no such file"):
        as_flow_run("prune", fail)
    newest = max(runs("prune"), key=lambda run: run.created)
    assert newest.state.is_failed()
