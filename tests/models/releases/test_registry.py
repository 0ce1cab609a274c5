"""The registry on a real MLflow: its SQLite database directly, and its server over HTTP."""

import fcntl
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import httpx
import pandas as pd
import pytest
from pydantic import SecretStr

from infra.actor import local_account
from infra.components import local_components, mlflow
from infra.errors import InputError
from infra.settings import Settings
from infra.temporary import running
from jobs.schema import conform
from jobs.store import StoreError, open_store, read_audit
from models.releases import noted_champion, registry
from models.releases.champion import challenge
from models.releases.registry import OvertakenError, RegistryError
from models.releases.versions import Evidence
from models.releases.webhooks import update_webhooks
from tests.monitoring.test_alerts import Hook, Receiver
from tests.ports import free_port

JOBS = conform(
    pd.DataFrame(
        {"job_id": ["1", "2"], "source": "log", "user": ["ada", None], "submitted_at": "2026-01-01"}
    )
)


def evidence(**changes: object) -> Evidence:
    from matplotlib.figure import Figure

    figure = Figure()
    figure.add_subplot().plot([1, 2], [3, 4])
    fields = {
        "card": "# A model\nTrained on **two** jobs.",
        "metrics": {"walltime mae": 12.5},
        "parameters": {"targets": "walltime"},
        "tags": {"trained_until": "2026-01-02T00:00:00+00:00"},
        "tables": {
            "errors": pd.DataFrame({"predictor": ["gridcast", "request"], "mae": [12.5, 40.0]})
        },
        "figures": {"predicted-against-actual": figure},
        "inputs": JOBS,
        "outputs": pd.DataFrame({"job_id": ["1", "2"], "walltime": [60.0, 70.0]}),
    }
    return Evidence(**{**fields, **changes})


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory) -> Settings:
    """One MLflow database for all tests; each test registers a model of its own name."""
    return Settings(home=tmp_path_factory.mktemp("registry"), _env_file=None)


@pytest.fixture(scope="session")
def server(embedded: Settings) -> Iterator[Settings]:
    """MLflow's server as Gridcast starts it, over the same database: its callers' settings."""
    ours = embedded.model_copy(update={"mlflow_port": free_port()})
    component = next(
        component for component in local_components(ours) if component.name == "mlflow"
    )
    log = (embedded.folder("logs") / "mlflow.log").open("wb")
    process = subprocess.Popen(
        component.command,
        env={**os.environ, **component.environment},
        stdout=log,
        stderr=log,
        start_new_session=True,
    )
    deadline = time.monotonic() + 120
    while True:
        try:
            if httpx.get(component.address + component.ready_path).status_code == 200:
                break
        except httpx.TransportError:
            assert process.poll() is None, (embedded.folder("logs") / "mlflow.log").read_text()
            assert time.monotonic() < deadline
            time.sleep(0.2)
    yield ours.model_copy(update={"mlflow_url": component.address})
    os.killpg(process.pid, signal.SIGTERM)
    process.wait(240)
    log.close()


@pytest.fixture
def settings(embedded: Settings, request: pytest.FixtureRequest) -> Settings:
    return embedded.model_copy(update={"model_name": request.node.name})


@pytest.fixture
def over_http(server: Settings, request: pytest.FixtureRequest) -> Settings:
    return server.model_copy(update={"model_name": request.node.name})


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    created = tmp_path / "made"
    created.mkdir()
    (created / "model_set.json").write_text('{"format": 1}')
    (created / "walltime.0.cbm").write_bytes(bytes(range(256)))
    return created


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_before_anything_is_published_there_is_no_champion_and_no_version(settings):
    assert registry.champion(settings) is None
    assert registry.challenger(settings) is None
    assert registry.versions(settings) == []


def test_a_version_comes_back_byte_for_byte_and_waits_as_a_candidate(settings, folder, capfd):
    version = registry.publish(folder, evidence(), settings=settings)
    assert (version.version, version.state, version.aliases) == (1, "candidate", ())
    assert version.tags["trained_until"] == "2026-01-02T00:00:00+00:00"
    assert registry.champion(settings) is None
    fetched = contents(registry.fetch(version, settings=settings))
    assert {name: fetched[name] for name in contents(folder)} == contents(folder)
    assert registry.metrics(version, settings) == {"walltime mae": 12.5}
    assert capfd.readouterr().out == ""


def test_the_run_shows_what_an_engineer_decides_by(settings, folder, monkeypatch):
    from mlflow import MlflowClient

    # MLflow lists the files of a logged model by its default address only.
    monkeypatch.setenv("MLFLOW_TRACKING_URI", settings.tracking_url)
    version = registry.publish(folder, evidence(), run_name="first", settings=settings)
    client = MlflowClient(settings.tracking_url)
    run = client.get_run(version.run_id)
    assert (run.info.run_name, run.info.status) == ("first", "FINISHED")
    assert run.data.params == {"targets": "walltime"}
    assert run.data.tags["mlflow.note.content"] == "# A model\nTrained on **two** jobs."
    listed = {
        item.path
        for folder_path in ("", "tables", "plots", "model")
        for item in client.list_artifacts(version.run_id, folder_path)
    }
    assert {
        "card.md",
        "tables/errors.json",
        "plots/predicted-against-actual.png",
        "model/MLmodel",
        "model/input_example.json",
    } <= listed
    assert (
        client.get_model_version(settings.model_name, "1").description
        == "# A model\nTrained on **two** jobs."
    )


def test_the_mlmodel_carries_a_signature_and_names_gridcasts_own_loader(settings, folder):
    from mlflow.models import Model

    version = registry.publish(folder, evidence(), settings=settings)
    fetched = registry.fetch(version, settings=settings)
    model = Model.load(str(fetched / "MLmodel"))
    flavour = model.flavors["python_function"]
    assert set(model.flavors) == {"python_function"}
    assert flavour["loader_module"] == "models.releases.logged_model"
    assert {"code", "model_code_path", "python_model"}.isdisjoint(flavour)
    inputs = {column.name: column for column in model.signature.inputs}
    assert inputs["source"].required
    assert not inputs["submitted_at"].required  # the loader takes the present time
    assert not inputs["user"].required
    assert not inputs["ended_at"].required
    assert model.signature.outputs.input_names() == ["job_id", "walltime"]
    assert not [path for path in fetched.rglob("*") if path.suffix in (".pkl", ".pickle", ".py")]


def test_promotion_is_explained_and_promoting_again_changes_nothing(settings, folder):
    first, second = (
        registry.publish(folder, evidence(), settings=settings).version for _ in range(2)
    )
    registry.promote(first, by="ada", why="the first", settings=settings)
    champion = registry.promote(second, by="retrain", why="7 % better", settings=settings)
    assert champion.version == second
    assert (
        champion.tags["promoted_by"],
        champion.tags["promoted_why"],
        champion.tags["replaces"],
    ) == ("retrain", "7 % better", "1")
    again = registry.promote(second, by="somebody", why="again", settings=settings)
    assert again.tags["promoted_by"] == "retrain"
    assert [(version.version, version.state) for version in registry.versions(settings)] == [
        (2, "champion"),
        (1, "retired"),
    ]


def test_rollback_gives_the_place_back_step_by_step(settings, folder):
    for _ in range(3):
        version = registry.publish(folder, evidence(), settings=settings)
        registry.promote(version.version, by="retrain", why="better", settings=settings)
    assert registry.rollback(by="ada", why="worse live", settings=settings).version == 2
    assert registry.rollback(by="ada", why="worse live", settings=settings).version == 1
    with pytest.raises(RegistryError, match="no earlier champion"):
        registry.rollback(by="ada", why="worse live", settings=settings)
    assert registry.champion(settings).tags["promoted_why"] == "worse live"


def test_of_two_retrains_that_race_one_wins_and_the_other_stays_a_candidate(settings, folder):
    start = registry.promote(
        registry.publish(folder, evidence(), settings=settings).version,
        by="ada",
        why="the first",
        settings=settings,
    )
    rivals = [registry.publish(folder, evidence(), settings=settings).version for _ in range(2)]
    both_decided = threading.Barrier(2)
    lost: list[int] = []

    def decide(version: int) -> None:
        both_decided.wait()
        try:
            registry.promote(
                version, by="retrain", why="better", expected=start.version, settings=settings
            )
        except OvertakenError:
            lost.append(version)

    threads = [threading.Thread(target=decide, args=(version,)) for version in rivals]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert len(lost) == 1
    states = {version.version: version.state for version in registry.versions(settings)}
    assert states == {
        start.version: "retired",
        lost[0]: "candidate",
        (set(rivals) - set(lost)).pop(): "champion",
    }


def test_a_person_who_moves_the_alias_in_mlflow_is_honoured(settings, folder):
    from mlflow import MlflowClient

    first, second = (registry.publish(folder, evidence(), settings=settings) for _ in range(2))
    registry.promote(second.version, by="retrain", why="better", settings=settings)
    MlflowClient(settings.tracking_url).set_registered_model_alias(
        settings.model_name, "champion", "1"
    )
    assert registry.champion(settings).version == first.version
    assert [(version.version, version.state) for version in registry.versions(settings)] == [
        (2, "retired"),
        (1, "champion"),
    ]


def test_a_challenger_waits_under_its_alias_until_it_is_promoted_or_refused(settings, folder):
    first, second = (registry.publish(folder, evidence(), settings=settings) for _ in range(2))
    registry.set_challenger(first, settings)
    assert registry.challenger(settings).version == 1
    registry.promote(1, by="ada", why="better", settings=settings)
    assert registry.challenger(settings) is None
    registry.set_challenger(second, settings)
    with pytest.raises(InputError, match="-1 is champion"):
        challenge(1, settings, by="ada", why="")
    with pytest.raises(InputError, match="there is no version 7"):
        challenge(7, settings, by="ada", why="")
    registry.mark_refused(second, why="3 % worse on later jobs", settings=settings)
    assert registry.challenger(settings) is None
    assert registry.versions(settings)[0].state == "refused"
    assert registry.champion(settings).version == 1


KILLED = """
import sys
from pathlib import Path
from infra.components import local_components, mlflow
from infra.settings import read_settings
from models.releases import registry
from models.releases.versions import Evidence
import mlflow
def stop(*_, **__):
    print("reached", flush=True)
    import time; time.sleep(600)
mlflow.MlflowClient.set_terminated = stop  # the next step after the version is made
registry.publish(Path(sys.argv[1]), Evidence(card="# Never finished"), settings=read_settings())
"""


def test_killed_between_upload_and_alias_the_old_champion_serves_and_the_orphan_is_marked(
    settings, folder
):
    from mlflow import MlflowClient

    registry.promote(
        registry.publish(folder, evidence(), settings=settings).version,
        by="ada",
        why="the first",
        settings=settings,
    )
    environment = {
        **os.environ,
        "GRIDCAST_HOME": str(settings.home),
        "GRIDCAST_MODEL_NAME": settings.model_name,
    }
    command = [sys.executable, "-c", KILLED, str(folder)]
    with subprocess.Popen(
        command, env=environment, stdout=subprocess.PIPE, cwd=Path(__file__).parents[3]
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == b"reached\n"
        process.kill()

    assert registry.champion(settings).version == 1
    assert [(version.version, version.state) for version in registry.versions(settings)] == [
        (2, "unfinished"),
        (1, "champion"),
    ]
    with pytest.raises(RegistryError, match="was never finished"):
        registry.promote(2, by="ada", why="by mistake", settings=settings)

    again = registry.publish(folder, evidence(), settings=settings)
    registry.promote(again.version, by="retrain", why="better", settings=settings)

    assert registry.champion(settings).version == again.version
    client = MlflowClient(settings.tracking_url)
    experiment = client.get_experiment_by_name(settings.model_name).experiment_id
    assert sorted(run.info.status for run in client.search_runs([experiment])) == [
        "FINISHED",
        "FINISHED",
        "KILLED",
    ]


def test_fetching_again_uses_the_copy_and_fresh_replaces_a_spoiled_one(settings, folder):
    version = registry.publish(folder, evidence(), settings=settings)
    copy = registry.fetch(version, settings=settings)
    (copy / "model_set.json").write_text("spoiled")
    assert (registry.fetch(version, settings=settings) / "model_set.json").read_text() == "spoiled"
    assert (
        registry.fetch(version, fresh=True, settings=settings) / "model_set.json"
    ).read_text() == '{"format": 1}'
    (copy / "model_set.json").write_text("spoiled")
    assert contents(folder)["model_set.json"] == b'{"format": 1}'


def test_an_mlflow_that_is_down_is_one_sentence(settings, folder):
    down = settings.model_copy(update={"mlflow_url": f"http://127.0.0.1:{free_port()}"})
    for call in (
        lambda: registry.champion(down),
        lambda: registry.publish(folder, evidence(), settings=down),
    ):
        with pytest.raises(
            RegistryError,
            match=r"^MLflow at http://127.0.0.1:\d+ did not do it: nobody answers there",
        ) as caught:
            call()
        assert "\n" not in str(caught.value)


def test_a_database_that_is_down_is_one_sentence_without_its_password(settings):
    down = settings.model_copy(
        update={
            "mlflow_url": f"postgresql+psycopg://someone:hunter2@127.0.0.1:{free_port()}/mlflow"
        }
    )
    with pytest.raises(RegistryError, match="nobody answers there") as caught:
        registry.champion(down)
    assert "hunter2" not in str(caught.value)


def test_the_lock_of_the_alias_is_freed_by_its_holder(settings, folder):
    version = registry.publish(folder, evidence(), settings=settings)
    registry.promote(version.version, by="ada", why="the first", settings=settings)
    with (settings.folder("mlflow") / "alias.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


def test_all_of_it_works_over_http_and_the_database_sees_the_same(
    over_http, folder, embedded, capfd
):
    first = registry.publish(folder, evidence(), settings=over_http)
    second = registry.publish(folder, evidence(), settings=over_http)
    assert (first.version, second.version, second.state) == (1, 2, "candidate")
    registry.set_challenger(second, over_http)
    assert registry.challenger(over_http).version == 2
    registry.promote(1, by="ada", why="the first", settings=over_http)
    assert (
        registry.promote(2, by="retrain", why="better", expected=1, settings=over_http).state
        == "champion"
    )
    assert registry.challenger(over_http) is None
    fetched = contents(registry.fetch(second, settings=over_http))
    assert {name: fetched[name] for name in contents(folder)} == contents(folder)
    assert registry.rollback(by="ada", why="worse", settings=over_http).version == 1

    direct = embedded.model_copy(update={"model_name": over_http.model_name})
    assert [
        (version.version, version.state, version.aliases) for version in registry.versions(direct)
    ] == [
        (version.version, version.state, version.aliases)
        for version in registry.versions(over_http)
    ]
    assert registry.champion(direct) == registry.champion(over_http)
    assert capfd.readouterr().out == ""


def test_the_server_answers_only_its_own_name_and_pages_and_takes_no_jobs_and_no_files(server):
    url = server.mlflow_url
    search = f"{url}/api/2.0/mlflow/experiments/search?max_results=1"
    create = f"{url}/api/2.0/mlflow/experiments/create"
    assert httpx.get(search).status_code == 200
    assert httpx.get(search, headers={"Host": "evil.example"}).status_code == 403
    assert (
        httpx.post(
            create, json={"name": "x"}, headers={"Origin": "http://evil.example"}
        ).status_code
        == 403
    )
    assert (
        httpx.put(f"{url}/api/2.0/mlflow-artifacts/artifacts/0/x.json", content=b"{}").status_code
        >= 400
    )
    assert (
        httpx.post(
            f"{url}/ajax-api/3.0/jobs/", json={"function_fullname": "os.system", "params": {}}
        ).status_code
        >= 400
    )


def test_the_server_sends_no_request_to_an_address_of_its_callers(server):
    secret = {
        "secret_name": "inside",
        "secret_value": {"api_key": "x"},
        "provider": "openai",
        "auth_config": {"api_base": server.predictor_url},
    }
    answer = httpx.post(f"{server.mlflow_url}/api/3.0/mlflow/gateway/secrets/create", json=secret)
    assert (answer.status_code, answer.json()["error_code"]) == (501, "NOT_IMPLEMENTED")
    call = httpx.post(f"{server.mlflow_url}/gateway/any/mlflow/invocations", json={})
    assert call.status_code == 501


def test_no_experiment_with_a_folder_of_its_callers_hands_out_files_by_a_link(
    server: Settings, tmp_path: Path
) -> None:
    post = partial(httpx.post, timeout=60)
    secret = tmp_path / "secret"
    secret.write_text("a file of the server's user")
    folder = tmp_path / "theirs"
    folder.mkdir()
    (folder / "link").symlink_to(tmp_path)
    api = f"{server.mlflow_url}/api/2.0/mlflow"
    ajax = f"{server.mlflow_url}/ajax-api/2.0/mlflow"
    for prefix in (api, ajax):
        answer = post(
            f"{prefix}/experiments/create",
            json={"name": f"theirs {prefix}", "artifact_location": folder.as_uri()},
        )
        assert answer.status_code == 400, answer.text
        assert "this server decides where artifacts are" in answer.json()["message"]
    answer = post(f"{api}/experiments/create", json={"name": "without a folder"})
    assert answer.status_code == 200
    run = post(f"{api}/runs/create", json=answer.json()).json()["run"]["info"]
    assert run["artifact_uri"].startswith((server.folder("mlflow") / "artifacts").as_uri())


def published(settings, folder, count):
    for _ in range(count):
        registry.publish(folder, evidence(), settings=settings)


def test_a_pinned_version_stays_until_it_is_unpinned(settings, folder):
    published(settings, folder, 2)
    registry.promote(1, by="ada", why="the first", settings=settings)
    assert registry.pin(by="ada", why="a campaign", settings=settings).version == 1
    assert registry.pinned(settings) == f"{settings.model_name}-1 is pinned by ada: a campaign"
    for expected in (-1, 1):
        with pytest.raises(OvertakenError, match="is pinned by ada: a campaign"):
            registry.promote(2, by="flow train", why="better", expected=expected, settings=settings)
    assert registry.promote(1, by="ada", why="again", settings=settings).version == 1
    registry.unpin(settings)
    registry.unpin(settings)
    assert (
        registry.promote(2, by="flow train", why="better", expected=1, settings=settings).version
        == 2
    )
    registry.pin(by="ada", why="a campaign", settings=settings)
    with pytest.raises(OvertakenError, match="is pinned"):
        registry.rollback(by="flow", why="worse", settings=settings)


def audited(settings) -> list[tuple[str, ...]]:
    """Of each change of the model, by time: action, who, before, after and result."""
    engine = open_store(settings.store_url)
    log = read_audit(engine, limit=1000)
    engine.dispose()
    columns = ["action", "who", "before", "after", "result"]
    rows = log[log["object"] == settings.model_name][columns].fillna("").iloc[::-1]
    name = f"{settings.model_name}-"
    return [tuple(text.replace(name, "") for text in row) for row in rows.to_numpy().tolist()]


def test_every_change_of_the_model_is_in_the_audit_log(settings, folder):
    from mlflow import MlflowClient

    published(settings, folder, 4)
    registry.promote(1, by="ada", why="the first", settings=settings)
    registry.promote(2, by="flow retrain", why="better", expected=1, settings=settings)
    with pytest.raises(OvertakenError):
        registry.promote(3, by="flow retrain", why="better", expected=1, settings=settings)
    registry.rollback(by="ada", why="worse", settings=settings)
    registry.set_challenger(registry.get(3, settings), settings)
    registry.withdraw(by="ada", why="worse", settings=settings)
    registry.mark_refused(registry.get(2, settings), why="worse", settings=settings)
    registry.pin(by="ada", why="a campaign", settings=settings)
    registry.unpin(settings)
    client = MlflowClient(settings.tracking_url)
    client.set_registered_model_alias(settings.model_name, "champion", "4")
    for _ in range(2):
        registry.reconcile(settings)
    account = local_account()
    assert audited(settings) == [
        *(("register", "a training", "", str(number), "done") for number in (1, 2, 3, 4)),
        ("promote", "ada", "", "1", "done"),
        ("promote", "flow retrain", "1", "2", "done"),
        ("promote", "flow retrain", "2", "3", "failed"),
        ("rollback", "ada", "2", "1", "done"),
        ("challenger", account, "", "3", "done"),
        ("withdraw", "ada", "3", "", "done"),
        ("refuse", account, "2", "", "done"),
        ("pin", "ada", "", "1", "done"),
        ("unpin", account, "1 is pinned by ada: a campaign", "", "done"),
        ("promote", "a person, in MLflow's page", "1", "4", "done"),
    ]


def test_a_version_is_not_promoted_where_that_cannot_be_recorded(settings, folder, tmp_path):
    published(settings, folder, 2)
    registry.promote(1, by="ada", why="the first", settings=settings)
    broken = settings.model_copy(
        update={"database_url": f"sqlite:///{tmp_path / 'no' / 'jobs.db'}"}
    )
    for change in (
        lambda: registry.promote(2, by="ada", why="better", settings=broken),
        lambda: registry.rollback(by="ada", why="worse", settings=broken),
        lambda: registry.pin(by="ada", why="a campaign", settings=broken),
        lambda: registry.set_challenger(registry.get(2, settings), broken),
        lambda: registry.unpin(broken),
    ):
        with pytest.raises(StoreError, match="cannot be opened"):
            change()
    assert [(version.version, version.state) for version in registry.versions(settings)] == [
        (2, "candidate"),
        (1, "champion"),
    ]
    assert registry.challenger(settings) is None and not registry.pinned(settings)


def test_an_alias_that_a_person_moved_in_mlflows_page_is_recorded_as_theirs(settings, folder):
    from mlflow import MlflowClient

    published(settings, folder, 3)
    registry.promote(1, by="flow train", why="the first", settings=settings)
    assert registry.reconcile(settings).tags["promoted_by"] == "flow train"
    MlflowClient(settings.tracking_url).set_registered_model_alias(
        settings.model_name, "champion", "3"
    )
    with pytest.raises(OvertakenError, match="version 3 is champion meanwhile, not 1"):
        registry.promote(2, by="flow train", why="better", expected=1, settings=settings)
    theirs = registry.reconcile(settings)
    assert (theirs.version, theirs.tags["promoted_by"], theirs.tags["replaces"]) == (
        3,
        "a person, in MLflow's page",
        "1",
    )
    left = registry.get(1, settings)
    assert (left.state, left.tags["retired_for"]) == ("retired", "3")
    assert left.tags["served"] == f"{left.tags['promoted_at']} to {left.tags['retired_at']}"
    assert registry.reconcile(settings) == theirs
    assert registry.rollback(by="ada", why="worse", settings=settings).version == 1


def test_a_first_champion_that_a_person_chose_in_mlflows_page_is_recorded_as_theirs(
    settings, folder
):
    from mlflow import MlflowClient

    published(settings, folder, 2)
    MlflowClient(settings.tracking_url).set_registered_model_alias(
        settings.model_name, "champion", "2"
    )
    theirs = registry.reconcile(settings)
    assert (theirs.version, theirs.state) == (2, "champion")
    assert theirs.tags["promoted_by"] == "a person, in MLflow's page"
    assert registry.reconcile(settings) == theirs


@pytest.mark.parametrize("tagged", [("promoted_by",), ("promoted_by", "promoted_why")])
def test_a_person_who_moves_the_alias_to_a_version_that_a_failed_promotion_had_tagged_is_recorded(
    settings, folder, monkeypatch, tagged
):
    from mlflow import MlflowClient

    from models.releases import alias_moves as moves

    published(settings, folder, 2)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moves, "_complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        registry.promote(1, by="flow train", why="the first", settings=settings)
    client = MlflowClient(settings.tracking_url)
    for name in tagged:
        client.set_model_version_tag(settings.model_name, "2", name, "flow train")
    client.set_registered_model_alias(settings.model_name, "champion", "2")
    theirs = registry.reconcile(settings)
    assert (theirs.tags["promoted_by"], theirs.tags["promoted_why"]) == (
        "a person, in MLflow's page",
        "the alias was moved by hand",
    )
    assert registry.reconcile(settings) == theirs


def test_a_move_that_a_crash_cut_short_is_completed_as_its_movers(settings, folder, monkeypatch):
    from models.releases import alias_moves as moves

    published(settings, folder, 2)
    registry.promote(1, by="flow train", why="the first", settings=settings)
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(moves, "_complete", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
        registry.promote(2, by="flow train", why="7 % better", expected=1, settings=settings)
    assert registry.get(1, settings).tags["state"] == "champion"
    settled = registry.reconcile(settings)
    assert (settled.version, settled.tags["promoted_by"], settled.tags["promoted_why"]) == (
        2,
        "flow train",
        "7 % better",
    )
    assert registry.get(1, settings).tags["retired_why"] == "7 % better"


def test_a_rollback_by_a_flow_does_not_undo_what_a_person_did_meanwhile(settings, folder):
    published(settings, folder, 3)
    for version in (1, 2, 3):
        registry.promote(version, by="ada", why="chosen", settings=settings)
    with pytest.raises(OvertakenError, match="nothing is rolled back"):
        registry.rollback(by="flow", why="worse", expected=2, settings=settings)
    assert registry.champion(settings).version == 3


def test_versions_deleted_in_mlflows_page_stop_nothing(settings, folder):
    """Whatever else is deleted there, reading, moving and publishing go on."""
    from mlflow import MlflowClient

    client, name = MlflowClient(settings.tracking_url), settings.model_name
    published(settings, folder, 4)
    for version in (1, 2):
        registry.promote(version, by="flow train", why="better", settings=settings)
    client.delete_model_version(name, "1")
    assert registry.reconcile(settings).version == 2
    assert registry.find(1, settings) is None
    with pytest.raises(RegistryError, match=r"version 1, which .*-2 replaced, is deleted"):
        registry.rollback(by="ada", why="worse", settings=settings)

    # The alias was moved by hand, and the version that it left is deleted.
    client.set_registered_model_alias(name, "champion", "3")
    client.delete_model_version(name, "2")
    champion = registry.reconcile(settings)
    assert (champion.version, champion.state) == (3, "champion")
    assert "replaces" not in champion.tags
    assert [version.version for version in registry.versions(settings)] == [4, 3]
    registry.set_challenger(registry.get(4, settings), settings)
    client.delete_model_version(name, "4")
    assert registry.challenger(settings) is None
    assert registry.reconcile(settings) == champion

    client.delete_run(champion.run_id)
    client.delete_experiment(client.get_experiment_by_name(name).experiment_id)
    again = registry.publish(folder, evidence(), settings=settings)
    assert registry.promote(
        again.version, by="flow train", why="better", expected=3, settings=settings
    ).state == "champion"  # fmt: skip
    client.delete_model_version(name, str(again.version))
    assert registry.champion(settings) is None, "the alias goes with its version"
    assert registry.reconcile(settings) is None
    assert registry.pinned(settings) == ""


def test_a_rollback_of_a_flow_has_nothing_to_return_to_where_that_was_deleted(settings, folder):
    from mlflow import MlflowClient

    from jobs.store import open_store
    from models.releases.automatic_rollback import roll_back_if_worse

    published(settings, folder, 2)
    for version in (1, 2):
        registry.promote(version, by="flow train", why="better", settings=settings)
    MlflowClient(settings.tracking_url).delete_model_version(settings.model_name, "1")
    assert roll_back_if_worse(open_store(settings.store_url), settings) is None


def test_mlflow_itself_tells_an_alert_address_of_a_promotion(
    embedded: Settings, folder: Path, request: pytest.FixtureRequest
) -> None:
    from mlflow import MlflowClient

    receiver = Receiver(Hook)
    alerts = f"json://127.0.0.1:{receiver.port}/moves,json://someone:secret@127.0.0.1/x"
    ours = embedded.model_copy(
        update={
            "mlflow_port": free_port(),
            "alerts": SecretStr(alerts),
            "model_name": request.node.name,
        }
    )
    with running(ours, mlflow(ours)):
        url = f"http://127.0.0.1:{ours.mlflow_port}"
        over_http = ours.model_copy(update={"mlflow_url": url})
        # One that an earlier release made tells of aliases only, and is replaced.
        hook_url = f"http://127.0.0.1:{receiver.port}/moves"
        client = MlflowClient(over_http.tracking_url)
        client.create_webhook("gridcast-alerts", hook_url, ["model_version_alias.created"])
        for _ in range(2):
            assert update_webhooks(over_http) == [hook_url]
        assert [len(hook.events) for hook in client.list_webhooks()] == [2]
        version = registry.publish(folder, evidence(), settings=over_http)
        registry.promote(version.version, by="ada", why="the first", settings=over_http)
        deadline = time.monotonic() + 240
        while len(receiver.got) < 2:
            assert time.monotonic() < deadline
            time.sleep(0.1)
        sent = {message["entity"]: message for message in receiver.got}
        assert set(sent) == {"model_version", "model_version_alias"}
        registered = sent["model_version"]
        assert registered["action"] == "created"
        assert (registered["data"]["name"], registered["data"]["version"]) == (
            request.node.name,
            "1",
        )
        moved = sent["model_version_alias"]["data"]
        assert (moved["name"], moved["alias"], moved["version"]) == (
            request.node.name,
            "champion",
            "1",
        )
        silent = over_http.model_copy(update={"alerts": SecretStr("")})
        assert update_webhooks(silent) == []
    receiver.stop()


def refuse(settings):
    raise RegistryError("the registry is asked")


def test_the_noted_champion_is_used_until_the_database_changes(settings, folder, monkeypatch):
    monkeypatch.setattr(noted_champion, "SETTLED_NS", 0)
    published(settings, folder, 2)
    assert noted_champion.find_champion(settings) is None
    promoted = registry.promote(1, by="ada", why="the first", settings=settings)
    assert noted_champion.find_champion(settings) == promoted
    with monkeypatch.context() as without_registry:
        without_registry.setattr(registry, "champion", refuse)
        assert noted_champion.find_champion(settings) == promoted
        elsewhere = settings.model_copy(update={"model_name": "another"})
        with pytest.raises(RegistryError):
            noted_champion.find_champion(elsewhere)
    assert registry.promote(2, by="ada", why="better", settings=settings).version == 2
    assert noted_champion.find_champion(settings).version == 2
    monkeypatch.setattr(noted_champion, "SETTLED_NS", 10**18)
    with monkeypatch.context() as without_registry, pytest.raises(RegistryError):
        without_registry.setattr(registry, "champion", refuse)
        noted_champion.find_champion(settings)
