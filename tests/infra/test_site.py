"""``gridcast up --site`` as real processes: PostgreSQL, MLflow, Prefect, two predictors behind HAProxy, Prometheus; and down again."""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
from websockets.exceptions import ConnectionClosed
from websockets.sync.client import connect

from infra.components import Component
from infra.process_groups import MARK
from infra.processes import running_components, status
from infra.settings import Settings, SettingsError
from infra.site import RULES, proxy_text, replica_ports, scrapes_text, site_components
from infra.supervision import log_path
from monitoring.doctor import examine
from services.client import Gridcast
from services.router.metrics import RouterMetrics
from tests.ports import free_port

ROOT = Path(__file__).parents[2]
RULE_TESTS = [Path(__file__).with_name(name) for name in ("alerts.yml", "alerts_by_the_hour.yml")]
WAITING = {"jobs": [{"job_id": "1", "source": "site", "user": "ann", "requested_walltime": 7200}]}
needs = {
    name: shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin")
    for name in ("haproxy", "prometheus", "promtool")
}
pytestmark = pytest.mark.skipif(
    None in needs.values(),
    reason=f"not installed: {', '.join(name for name in needs if not needs[name])}",
)


def wait_for(holds: Callable[[], Any], description: str, patience: float = 120) -> Any:
    deadline = time.monotonic() + patience
    while not (results := holds()):
        assert time.monotonic() < deadline, f"waited in vain for: {description}"
        time.sleep(0.1)
    return results


@dataclass
class Site:
    settings: Settings
    environment: dict[str, str]
    output: Path

    def run(self, *words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "gridcast", *words]
        return subprocess.run(
            command, cwd=ROOT, env=self.environment, capture_output=True, text=True, check=False
        )

    def address(self, name: str) -> str:
        return next(
            component.address
            for component in running_components(self.settings, [])
            if component.name == name
        )

    def http(self, **options: Any) -> httpx.Client:
        """A caller with the token that ``up`` made."""
        token = self.settings.token_path.read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        return httpx.Client(headers=headers, trust_env=False, timeout=60, **options)

    def pid(self, name: str) -> int:
        return next(
            int(row["pid"] or 0) for row in status(self.settings, []) if row["part"] == name
        )

    def marked_processes(self) -> list[psutil.Process]:
        """Every process that bears the mark of this data folder."""
        results = []
        for process in psutil.process_iter():
            try:
                if process.environ().get(MARK) == str(self.settings.home):
                    results.append(process)
            except (psutil.Error, OSError):
                continue
        return results


@pytest.fixture(scope="module")
def site(postgres: Any) -> Iterator[Site]:
    """The site, up. (The fixture ``postgres`` makes the wheel's programs fit to be run by another user, which as root they must be.)"""
    # Not under pytest's own folder, which no other user may enter: as root the database is another's.
    folder = Path(tempfile.mkdtemp(prefix="gridcast-site-"))
    folder.chmod(0o755)
    names = (
        "predictor_port",
        "mlflow_port",
        "prefect_port",
        "dashboard_port",
        "postgres_port",
        "prometheus_port",
    )
    ports = [free_port() for _ in range(len(names) + 2)]
    chosen: dict[str, Any] = dict(zip(names, ports, strict=False)) | {
        "replica_ports": f"{ports[-2]},{ports[-1]}",
        "home": folder / "home",
    }
    settings = Settings(_env_file=None, **chosen)
    environment = {
        name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")
    }
    environment |= {f"GRIDCAST_{name.upper()}": str(value) for name, value in chosen.items()}
    output = folder / "said"
    with output.open("wb") as file:
        command = [sys.executable, "-m", "gridcast", "up", "--site"]
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=file, stderr=file, start_new_session=True
        )
    site = Site(settings, environment, output)
    try:
        wait_for(
            lambda: "Up" in output.read_text() or process.poll() is not None,
            "the site to be up",
            240,
        )
        assert process.poll() is None, output.read_text()
        yield site
    finally:
        site.run("down")
        process.wait(240)
        shutil.rmtree(folder, ignore_errors=True)


def wait_until_ready(site: Site) -> None:
    """Wait until every component is up and both predictors answer, whatever an earlier test did."""

    def is_ready(name: str) -> bool:
        try:
            with site.http(base_url=site.address(name)) as http:
                return http.get("/readyz").status_code == 200
        except httpx.HTTPError:
            return False

    def all_ready() -> bool:
        states = {row["part"]: row["state"] for row in status(site.settings, [])}
        replicas = [name for name in states if name.startswith("predictor-")]
        return all(states[name] == "up" and is_ready(name) for name in replicas)

    wait_for(all_ready, "both predictors to be ready", 240)


@pytest.fixture
def up(site: Site) -> Site:
    """The site with both predictors ready."""
    wait_until_ready(site)
    return site


def test_a_call_through_the_proxy_is_answered_and_what_one_predictor_hears_the_other_learns(
    up: Site,
) -> None:
    with up.http(base_url=up.address("proxy")) as http:
        (answer,) = http.post("/predict", json=WAITING).json()["rows"]
        assert answer["walltime_low"] < answer["walltime"] < answer["walltime_high"]
        times = {
            "submitted_at": "2026-01-01T00:00:00Z",
            "started_at": "2026-01-01T01:00:00Z",
            "ended_at": "2026-01-01T02:00:00Z",
        }
        answer = http.post(
            "/outcomes", json={"jobs": [{**WAITING["jobs"][0], **times, "walltime": 3600.0}]}
        ).json()
        assert answer["added"] == 1

    def heard(name: str) -> int:
        with up.http(base_url=up.address(name)) as http:
            return int(http.get("/model").json()["history"]["jobs"])

    wait_for(
        lambda: (heard("predictor-1"), heard("predictor-2")) == (1, 1),
        "both predictors to know the job",
    )
    # It is in PostgreSQL, which the command line finds by itself.
    (row,) = json.loads(up.run("jobs", "--json").stdout)["rows"]
    assert (row["source"], row["ended"]) == ("site", 1)


REPETITIONS = 4
"""How often a caller makes a call whose connection was reset, as the page about sites advises."""


def status_of_call(http: httpx.Client) -> int:
    """The status of a call, repeated where it was reset while a killed predictor had it."""
    status = 502
    for _ in range(REPETITIONS):
        try:
            status = http.post("/predict", json=WAITING).status_code
        except (httpx.RemoteProtocolError, httpx.ReadError):
            status = 502
        if status != 502:
            break
        time.sleep(0.2)
    return status


def kill_in_turn(leader: psutil.Process) -> None:
    for process in [leader, *leader.children(recursive=True)]:
        process.kill()


def kill_the_group(leader: psutil.Process) -> None:
    os.killpg(os.getpgid(leader.pid), signal.SIGKILL)


@pytest.mark.parametrize("kill", [kill_in_turn, kill_the_group])
def test_a_predictor_is_killed_and_no_call_fails(
    up: Site, kill: Callable[[psutil.Process], None]
) -> None:
    statuses: list[int] = []
    fallbacks: list[str] = []
    done = threading.Event()

    def call_on() -> None:
        with up.http(base_url=up.address("proxy")) as http:
            while not done.is_set():
                statuses.append(status_of_call(http))

    def predict_on() -> None:
        options: dict[str, Any] = {"token_file": up.settings.token_path, "timeout": 60}
        with Gridcast(up.address("proxy"), **options) as grid:
            while not done.is_set():
                (row,) = grid.predict(WAITING["jobs"])
                statuses.append(200)
                fallbacks.extend([row["fallback"]] if row.get("fallback") else [])

    callers = [threading.Thread(target=target) for target in (call_on, predict_on)]
    for caller in callers:
        caller.start()
    try:
        wait_for(lambda: len(statuses) > 50, "calls before")
        pid = up.pid("predictor-1")
        kill(psutil.Process(pid))
        before = len(statuses)
        wait_for(lambda: len(statuses) > before + 200, "calls after")
    finally:
        done.set()
        for caller in callers:
            caller.join()
    assert set(statuses) == {200} and fallbacks == []
    wait_for(lambda: up.pid("predictor-1") not in (0, pid), "the killed one to be started again")
    wait_until_ready(up)


def test_prometheus_sees_everything_and_knows_the_rules(up: Site) -> None:
    with httpx.Client(
        base_url=f"{up.address('prometheus')}/api/v1", trust_env=False, timeout=60
    ) as http:

        def asked(query: str) -> dict[str, float]:
            results = http.get("/query", params={"query": query}).json()["data"]["result"]
            return {
                f"{site['metric'].get('proxy', '')}{site['metric'].get('job', '')}": float(
                    site["value"][1]
                )
                for site in results
            }

        wait_for(
            lambda: (
                asked("min by (job) (up)")
                == dict.fromkeys(("predictor", "proxy", "dashboard", "prefect", "prometheus"), 1.0)
            ),
            "all targets",
        )
        targets = http.get("/targets").json()["data"]["activeTargets"]
        assert sorted(site["labels"]["job"] for site in targets) == [
            "dashboard",
            "predictor",
            "predictor",
            "prefect",
            "prometheus",
            "proxy",
        ]
        checked = {
            "predictor": 2.0,
            "postgres": 1.0,
            "mlflow": 1.0,
            "prefect": 1.0,
            "dashboard": 1.0,
        }
        wait_for(
            lambda: (
                {
                    name.removesuffix("proxy"): value
                    for name, value in asked("haproxy_backend_active_servers").items()
                }
                == checked
            ),
            "all",
        )
        rules = [
            rule for group in http.get("/rules").json()["data"]["groups"] for rule in group["rules"]
        ]
        assert {rule["health"] for rule in rules} <= {"ok", "unknown"}
        assert len(rules) == RULES.read_text().count("- alert:")


def test_prometheus_has_a_token_that_reads_metrics_and_nothing_else(up: Site) -> None:
    file = up.settings.home / "site" / "token"
    token = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600
    secrets = [up.settings.token_path.read_text().strip(), "0123456789abcdef"]
    config = (up.settings.home / "site" / "prometheus.yml").read_text()
    assert token not in secrets and not any(secret in config for secret in secrets)
    headers = {"Authorization": f"Bearer {token}"}
    with httpx.Client(headers=headers, trust_env=False, timeout=60) as http:

        def statuses(*paths: str) -> list[int]:
            return [
                http.get(f"{up.address(name)}{path}").status_code
                for name, _, path in (text.partition(" ") for text in paths)
            ]

        read = ("predictor-1 /metrics", "proxy /proxy/metrics", "dashboard /metrics")
        assert statuses(*read, "prefect /api/metrics") == [200] * 4
        refused = ("predictor-1 /model", "proxy /docs", "dashboard /", "dashboard /api/overview")
        assert statuses(*refused) == [403] * 4
        assert http.post(f"{up.address('proxy')}/predict", json=WAITING).status_code == 403
        assert http.post(f"{up.address('prefect')}/api/flows/filter", json={}).status_code == 401
        assert statuses("mlflow /", "prefect /api/admin/settings") == [401, 401]


def test_every_metric_of_the_rules_and_boards_is_exported(up: Site) -> None:
    with up.http() as http:
        api = f"{up.address('prometheus')}/api/v1/targets"
        targets = http.get(api).json()["data"]["activeTargets"]
        pages = [http.get(target["scrapeUrl"]).text for target in targets]
    pages.append(RouterMetrics().expose()[1].decode())  # runs at a site with shards only
    exported = set(re.findall(r"^# TYPE (\w+)", "\n".join(pages), flags=re.MULTILINE))
    boards = [path.read_text() for path in (ROOT / "infra" / "grafana").glob("*.json")]
    texts = "\n".join([RULES.read_text(), *boards])
    queried = set(re.findall(r"\b(?:gridcast|haproxy)_[a-z_]+", texts))
    # By the file that `gridcast table` writes for Prometheus' node exporter.
    queried -= {"gridcast_table_written_timestamp_seconds"}
    assert {re.sub(r"_bucket$", "", name) for name in queried} <= exported


def test_every_server_logs_its_start_its_address_and_no_call(up: Site) -> None:
    components = running_components(up.settings, [])
    for component in components:
        log = log_path(up.settings, component).read_text()
        assert log.strip(), component.name
        assert "GET /" not in log, component.name
        if component.address.startswith("http") and component.name != "proxy":
            assert component.address.rpartition(":")[2] in log, component.name


def test_every_server_demands_the_token_that_up_made(up: Site) -> None:
    """Whoever reaches Prefect's API may run code as its worker: no other user of the machine may."""
    file = up.settings.token_path
    token = file.read_text().strip()
    assert file.stat().st_mode & 0o777 == 0o600 and len(token) > 40
    assert token not in up.output.read_text(), "others may read a log file"
    versions = f"{up.address('mlflow')}/api/2.0/mlflow/registered-models/search"
    deployments = f"{up.address('prefect')}/api/deployments/filter"
    with httpx.Client(trust_env=False, timeout=60) as http:
        basic = httpx.BasicAuth("gridcast", token)

        def statuses(auth: httpx.Auth | None) -> list[int]:
            read = http.get(versions, auth=auth) if auth else http.get(versions)
            posted = http.post(deployments, json={}, auth=auth)
            return [read.status_code, posted.status_code]

        assert statuses(None) == [401, 401]
        assert statuses(httpx.BasicAuth("gridcast", "wrong")) == [401, 401]
        assert statuses(basic) == [200, 200]
        assert http.get(versions, headers={"Authorization": f"Bearer {token}"}).status_code == 200
        for path in ("/", "/ajax-api/2.0/mlflow/experiments/search", "/graphql", "/version"):
            assert http.get(f"{up.address('mlflow')}{path}").status_code == 401, path
        for path in ("/api/variables/filter", "/api/block_documents/filter", "/api/flows/filter"):
            assert http.post(f"{up.address('prefect')}{path}", json={}).status_code == 401, path
    # So do the predictors, the page and the metrics of all, also for callers on this machine.
    page = up.address("dashboard")
    with httpx.Client(trust_env=False, timeout=60) as http:
        for name in ("predictor-1", "predictor-2", "proxy"):
            assert http.post(f"{up.address(name)}/predict", json=WAITING).status_code == 401, name
            for path in ("/model", "/metrics", "/docs"):
                assert http.get(f"{up.address(name)}{path}").status_code == 401, (name, path)
            for path in ("/livez", "/readyz"):
                assert http.get(f"{up.address(name)}{path}").status_code == 200, (name, path)
        assert http.get(f"{up.address('proxy')}/proxy/metrics").status_code == 401
        for path in ("/", "/metrics", "/api/overview", "/api/jobs/1", "/reports/x.html"):
            assert http.get(f"{page}{path}").status_code == 401, path
        # The page's address with the token, as a terminal prints it, logs a browser in.
        assert f"The page of tasks: {page} (a token is asked for, that of {file})" in (
            up.output.read_text()
        )
        links = dict(line.split(": ") for line in up.run("login").stdout.splitlines())
        assert http.get(links["page"]).status_code == 200
        assert http.get(f"{page}/api/overview").status_code == 200
        # So do the links of MLflow and Prefect, whose other pages on this host get nothing.
        assert token not in "".join(links.values())
        prefect = up.address("prefect")
        elsewhere = {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors"}
        assert http.get(f"{prefect}/ui-settings").json()["auth"] == "BASIC"
        for name in ("MLflow", "Prefect"):
            assert http.get(links[name]).status_code == 200, name
        assert statuses(None) == [200, 200]
        assert http.get(versions, headers=elsewhere).status_code == 401
        assert http.post(deployments, json={}, headers=elsewhere).status_code == 401
        assert http.get(f"{prefect}/ui-settings").json()["auth"] is None
        cookies = "; ".join(f"{name}={value}" for name, value in http.cookies.items())
        stream = f"ws://{prefect.partition('//')[2]}/api/events/in"
        for header, word in (({"Cookie": cookies}, "auth_success"), ({}, "")):
            with connect(stream, subprotocols=["prefect"], additional_headers=header) as socket_:
                socket_.send('{"type": "auth", "token": null}')
                try:
                    said = str(socket_.recv(timeout=120))
                except ConnectionClosed:
                    said = ""
                assert (word in said) and bool(word) == bool(said), said
        http.cookies.clear()
        assert statuses(None) == [401, 401]
        assert http.get(links["MLflow"]).status_code == 401, "used"
    # The command line logs in by itself.
    rows = {row["part"]: row for row in json.loads(up.run("status", "--json").stdout)["rows"]}
    assert rows["champion"]["state"] == "none", rows["champion"]
    assert "401" not in log_path(up.settings, Component("prefect", ())).read_text()


def test_the_doctor_finds_nothing_wrong(up: Site) -> None:
    findings = {finding.subject: finding for finding in examine(up.settings, [])}
    assert [finding for finding in findings.values() if finding.state == "wrong"] == []
    assert {"predictor-1", "predictor-2", "Prefect", "database"} <= findings.keys()
    assert "a worker is there" in findings["Prefect"].summary
    assert "the database" in findings["clock"].summary


def test_down_leaves_no_process_record_socket_or_taken_port(up: Site) -> None:
    settings = up.settings
    assert len(up.marked_processes()) >= 9
    run = up.run("down")
    assert run.returncode == 0, run.stderr
    assert up.marked_processes() == []
    assert list(settings.folder("run").iterdir()) == []
    left = [
        path
        for path in settings.home.rglob("*")
        if path.is_socket() or path.suffix in (".pid", ".lock") or path.name == "postmaster.pid"
    ]
    assert left == []
    # The store is in that PostgreSQL now: without it nothing is begun.
    again = up.run("up")
    assert (again.returncode, "start it so" in again.stderr) == (2, True), again.stderr
    ports = [value for name, value in settings if name.endswith("_port")] + replica_ports(settings)
    for port in ports:
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))


@pytest.mark.parametrize("token", ["", "0123456789abcdef"])
def test_haproxy_and_prometheus_take_what_is_written_for_them(tmp_path: Path, token: str) -> None:
    servers = {"predictor-1": "127.0.0.1:3001", "predictor-2": "127.0.0.1:3002"}
    watched = {
        "mlflow": ("127.0.0.1:5000", "/health"),
        "postgres": ("127.0.0.1:5433", ""),
        "dashboard": ("127.0.0.1:3100", "/"),
    }
    (tmp_path / "haproxy.cfg").write_text(proxy_text("127.0.0.1:3000", servers, watched, token))
    proxy = subprocess.run(
        [str(needs["haproxy"]), "-c", "-f", str(tmp_path / "haproxy.cfg")],
        capture_output=True,
        text=True,
        check=False,
    )
    assert (proxy.returncode, proxy.stderr) == (0, ""), proxy.stderr
    doors = {
        "predictors": [*servers.values()],
        "proxy": "127.0.0.1:3000",
        "dashboard": "127.0.0.1:3100",
        "prefect": "127.0.0.1:4200",
        "own": "127.0.0.1:9090",
    }
    (tmp_path / "token").write_text(token)
    (tmp_path / "prometheus.yml").write_text(
        scrapes_text(**doors, rules=str(RULES), token_file=str(tmp_path / "token") if token else "")
    )  # type: ignore[arg-type]
    checked = subprocess.run(
        [str(needs["promtool"]), "check", "config", str(tmp_path / "prometheus.yml")],
        capture_output=True,
        text=True,
    )
    assert checked.returncode == 0, checked.stderr


def test_each_alert_goes_off_when_it_should_and_not_before() -> None:
    tested = subprocess.run(
        [str(needs["promtool"]), "test", "rules", *map(str, RULE_TESTS)],
        capture_output=True,
        text=True,
        check=False,
    )
    assert tested.returncode == 0, tested.stdout + tested.stderr
    alerts = {
        line.split("alert:")[1].strip()
        for line in RULES.read_text().splitlines()
        if "- alert:" in line
    }
    assert {
        *re.findall(r'ALERTS\{alertname="(\w+)"', "".join(path.read_text() for path in RULE_TESTS))
    } == alerts


@pytest.mark.parametrize(
    ("changes", "why"),
    [
        ({"host": "0.0.0.0"}, "set GRIDCAST_TOKENS"),
        (
            {"replica_ports": "3000,3001", "predictor_port": 3000},
            "none of them GRIDCAST_PREDICTOR_PORT",
        ),
        ({"replica_ports": "many"}, "GRIDCAST_REPLICA_PORTS must be different ports"),
        (
            {"database_url": "postgresql://db/jobs"},
            "GRIDCAST_MLFLOW_URL and GRIDCAST_PREFECT_DATABASE_URL",
        ),
    ],
)
def test_settings_that_do_not_fit_together_are_one_sentence(
    tmp_path: Path, changes: dict[str, Any], why: str
) -> None:
    with pytest.raises(SettingsError, match=why):
        site_components(Settings(home=tmp_path, _env_file=None, **changes))  # type: ignore[arg-type]


def test_no_password_or_token_is_an_argument(tmp_path: Path) -> None:
    urls = {
        "database_url": "postgresql://a:hunter2@db/j",
        "mlflow_url": "postgresql://a:hunter2@db/m",
    }
    urls["prefect_database_url"] = "postgresql://a:hunter2@db/p"
    declared = site_components(
        Settings(home=tmp_path, _env_file=None, tokens="0123456789abcdef:predict", **urls)
    )  # type: ignore[arg-type]
    assert [component.name for component in declared] == [
        *(
            "mlflow",
            "prefect",
            "predictor-1",
            "predictor-2",
            "proxy",
            "dashboard",
            "schedules",
            "prometheus",
        )
    ]
    words = " ".join(word for component in declared for word in component.command)
    assert "hunter2" not in words
    assert "0123456789abcdef" not in words
