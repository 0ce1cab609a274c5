import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from infra.components import local_components, predictor, prefect
from infra.processes import port_conflict
from infra.settings import (
    Settings,
    SettingsError,
    environment_with,
    prepare_environment,
    read_settings,
)
from services.http.callers import own_token
from tests.ports import free_port


def test_mlflow_prefect_and_what_a_proxy_reaches_listen_on_the_loopback_at_any_host(
    tmp_path: Path,
) -> None:
    settings = Settings(host="0.0.0.0", home=tmp_path, _env_file=None)
    hosts = {
        component.name: component.command[component.command.index("--host") + 1]
        for component in local_components(settings)
        if component.address
    }
    outside = {"predictor": "0.0.0.0", "dashboard": "0.0.0.0"}
    assert hosts == {"mlflow": "127.0.0.1", "prefect": "127.0.0.1"} | outside
    (schedules,) = (c for c in local_components(settings) if c.name == "schedules")
    assert schedules.environment["PREFECT_API_URL"] == "http://127.0.0.1:4200/api"
    assert schedules.environment["GRIDCAST_MLFLOW_URL"] == "http://127.0.0.1:5000"
    # In a container the network is its own.
    within = local_components(settings, in_containers=True)
    assert {c.address.rpartition(":")[0] for c in within if c.address} == {"http://0.0.0.0"}


def test_the_embedded_default_lies_in_one_data_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    settings = Settings(_env_file=None, home=Path("data"))
    assert settings.store_url == f"sqlite:///{tmp_path}/data/store/jobs.db"
    assert settings.tracking_url == f"sqlite:///{tmp_path}/data/mlflow/mlflow.db"


def test_only_the_owner_enters_a_new_data_folder(tmp_path: Path) -> None:
    before = os.umask(0o022)
    try:
        settings = Settings(_env_file=None, home=tmp_path / "above" / "data")
        made = [settings.folder("a/b"), settings.folder("a"), settings.folder(".")]
    finally:
        os.umask(before)
    assert [path.stat().st_mode & 0o777 for path in made] == [0o700] * 3
    assert (tmp_path / "above").stat().st_mode & 0o777 == 0o755


def test_a_data_folder_that_exists_keeps_its_permissions(tmp_path: Path) -> None:
    (tmp_path / "data").mkdir()
    (tmp_path / "data").chmod(0o755)
    settings = Settings(_env_file=None, home=tmp_path / "data")
    assert settings.folder("store").is_dir()
    assert settings.home.stat().st_mode & 0o777 == 0o755


def test_every_setting_is_a_variable_of_the_environment(monkeypatch):
    monkeypatch.setenv("GRIDCAST_PREDICTOR_PORT", "8123")
    monkeypatch.setenv("GRIDCAST_DATABASE_URL", "postgresql+psycopg://db/jobs")
    settings = read_settings()
    assert settings.predictor_port == 8123
    assert settings.store_url == "postgresql+psycopg://db/jobs"


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("GRIDCAST_PREDICTOR_PORT", "eighty"),
        ("GRIDCAST_PREFECT_PORT", "70000"),
        ("GRIDCAST_PROMOTION", "maybe"),
    ],
)
def test_a_wrong_setting_is_one_sentence_that_names_it(monkeypatch, name, value):
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError) as caught:
        read_settings()
    assert str(caught.value).startswith(f"the setting {name} is wrong: ")
    assert "\n" not in str(caught.value)
    assert caught.value.exit_code == 2


def test_a_misspelt_setting_has_no_effect_and_a_warning_names_the_near_one(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setenv("GRIDCAST_DSK", "off")
    monkeypatch.setenv("GRIDCAST_PREDICTOR_SERVICE_PORT", "3000")  # as Kubernetes sets it
    read_settings()
    assert [record.getMessage() for record in caplog.records] == [
        "GRIDCAST_DSK is no setting and has no effect: is GRIDCAST_DASK meant?"
    ]


def test_tokens_do_not_show_when_settings_are_printed():
    assert "hunter2" not in repr(Settings(tokens="hunter2:predict", _env_file=None))


def test_telemetry_is_off_before_anything_heavy_is_imported():
    prepare_environment()
    wanted = {
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    }
    assert {name: os.environ.get(name) for name in wanted} == wanted


def test_a_child_is_given_the_prepared_environment_and_its_own_additions():
    environment = environment_with({"GRIDCAST_EXTRA": "1"})
    assert environment["GRIDCAST_EXTRA"] == "1"
    assert environment["MLFLOW_DISABLE_TELEMETRY"] == "true"
    assert "GRIDCAST_EXTRA" not in os.environ


def test_an_ipv6_host_is_in_brackets_in_urls_and_its_port_is_probed():
    port = free_port()
    settings = Settings(host="::1", predictor_port=port)
    assert settings.predictor_address == f"http://[::1]:{port}"
    component = predictor(settings, {})
    assert component.address == f"http://[::1]:{port}"
    assert port_conflict(component) == ""
    with socket.socket(socket.AF_INET6) as taken:
        taken.bind(("::1", port))
        taken.listen()
        assert f"predictor cannot listen on ::1 port {port}" in port_conflict(component)


@pytest.mark.parametrize("password", ["a[b", "a/b", "a]@b", "a?b"])
def test_a_password_of_any_characters_is_not_displayed(password):
    settings = Settings(
        mlflow_url=f"postgresql://someone:{password}@db:5432/mlflow?sslmode=require"
    )
    assert settings.displayed_tracking_url == "postgresql://db:5432/mlflow"


ADMIN = "admin-0123456789"


def own(home: Path, **values: Any) -> Settings:
    return Settings(home=home, _env_file=None, **values)


def test_up_makes_a_token_once_where_no_admin_token_is_set(tmp_path: Path) -> None:
    settings = own(tmp_path / "home", tokens="reader-0123456789:predict")
    assert settings.admin_token == "" and settings.prefect_login == ""
    assert settings.make_token() and not settings.make_token()
    token = settings.admin_token
    assert settings.token_path.stat().st_mode & 0o777 == 0o600
    assert settings.all_tokens == f"reader-0123456789:predict,{token}:admin"
    assert settings.prefect_login == f"gridcast:{token}"
    assert token not in repr(settings)
    assert [path.name for path in settings.home.iterdir()] == ["token"]
    with_admin = own(tmp_path / "other", tokens=f"{ADMIN}:predict+admin")
    assert not with_admin.make_token() and with_admin.admin_token == ADMIN
    assert not with_admin.token_path.exists()


def test_a_token_file_without_a_token_is_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "token").touch()
    with pytest.raises(SettingsError, match="token has no token and cannot be made: File exists"):
        own(tmp_path).make_token()
    assert [path.name for path in tmp_path.iterdir()] == ["token"]


def test_the_token_of_the_data_folder_goes_to_no_other_machine(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("0123456789abcdef\n")
    here, elsewhere = own(tmp_path), own(tmp_path, predictor_url="https://predictor.example")
    assert own_token(here, "predict", "report") == here.any_token == "0123456789abcdef"
    assert own_token(elsewhere, "predict") is None
    chosen = elsewhere.model_copy(update={"token_file": tmp_path / "token"})
    assert own_token(chosen, "predict") == "0123456789abcdef"


def test_the_predictor_is_open_only_on_the_loopback(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDCAST_OPEN_ON_LOOPBACK", "true")
    assert read_settings().open_on_loopback
    monkeypatch.setenv("GRIDCAST_HOST", "0.0.0.0")
    with pytest.raises(SettingsError, match="GRIDCAST_OPEN_ON_LOOPBACK is wrong: other machines"):
        read_settings()


@pytest.mark.parametrize(
    ("name", "value"),
    [("GRIDCAST_TLS_IN_FRONT", "true"), ("GRIDCAST_ALLOWED_HOSTS", "grid.example")],
)
def test_the_predictor_is_not_open_behind_a_proxy(
    name: str, value: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDCAST_OPEN_ON_LOOPBACK", "true")
    monkeypatch.setenv("GRIDCAST_HOST", "127.0.0.2")  # a loopback address as well
    assert read_settings().open_on_loopback
    monkeypatch.setenv(name, value)
    with pytest.raises(SettingsError, match="GRIDCAST_OPEN_ON_LOOPBACK is wrong: behind a proxy"):
        read_settings()


def test_a_login_goes_to_our_own_servers_only(tmp_path: Path) -> None:
    settings = own(tmp_path, tokens=f"{ADMIN}:admin")
    login = f"gridcast:{ADMIN}"
    assert settings.logins == {"PREFECT_API_AUTH_STRING": login}
    ours = settings.model_copy(update={"mlflow_url": "http://127.0.0.1:5000"})
    assert ours.logins == {"MLFLOW_TRACKING_TOKEN": ADMIN, "PREFECT_API_AUTH_STRING": login}
    elsewhere = {"mlflow_url": "https://mlflow.example", "prefect_url": "https://prefect.example"}
    assert settings.model_copy(update=elsewhere).logins == {}
    named = elsewhere | {"allowed_hosts": "mlflow.example,prefect.example"}
    assert settings.model_copy(update=named).logins == ours.logins


def test_prefects_own_setting_of_its_login_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PREFECT_SERVER_API_AUTH_STRING", "someone:secret")
    settings = own(tmp_path, tokens=f"{ADMIN}:admin")
    assert settings.prefect_login == "someone:secret"
    assert settings.logins["PREFECT_API_AUTH_STRING"] == "someone:secret"
    assert prefect(settings, {}).environment["PREFECT_SERVER_API_AUTH_STRING"] == "someone:secret"


@pytest.mark.parametrize("command", ["up", "serve", "dashboard"])
@pytest.mark.parametrize(
    ("values", "sentence"),
    [
        ({"GRIDCAST_HOST": "0.0.0.0"}, "GRIDCAST_TLS_IN_FRONT=true"),
        ({"GRIDCAST_HOST": "0.0.0.0", "GRIDCAST_TLS_IN_FRONT": "true"}, "set GRIDCAST_TOKENS"),
        (
            {"GRIDCAST_HOST": "192.0.2.1", "GRIDCAST_TOKENS": f"{ADMIN}:admin"},
            "GRIDCAST_TLS_IN_FRONT=true",
        ),
        ({"GRIDCAST_TOKENS": "short:admin,wrong"}, "the token of entry 1 is shorter"),
        ({"GRIDCAST_TOKENS": f"{ADMIN}:see"}, "entry 1 must be token:scope+scope"),
    ],
)
def test_wrong_access_is_refused_before_a_token_is_made(
    command: str, values: dict[str, str], sentence: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "gridcast", command],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "GRIDCAST_HOME": str(tmp_path / "home"), **values},
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 2, run.stderr
    assert sentence in " ".join(run.stderr.split())
    assert not (tmp_path / "home" / "token").exists()


@pytest.mark.parametrize("text", ["5/4", "0/2", "a/b", "1/"])
def test_a_shard_that_cannot_be_is_refused_when_the_settings_are_read(
    text: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GRIDCAST_SHARD", text)
    with pytest.raises(SettingsError, match="GRIDCAST_SHARD is wrong: a shard is written as 2/4"):
        read_settings()


def test_a_flow_without_prefects_address_starts_no_server_that_is_open_to_all(
    tmp_path: Path,
) -> None:
    call = (
        "from infra.settings import use_home; use_home(sys.argv[1])\n"
        "from flows.ingest import ingest; ingest(files=[])"
    )
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("PREFECT_")
    }
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; {call}", str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.strip().endswith(
        "Please set PREFECT_API_URL to the address of a running Prefect server."
    )
