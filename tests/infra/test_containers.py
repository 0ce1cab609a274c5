"""Image, compose file and Helm chart say what the code says, and are what the tools of their kind take.

No container engine runs here: nothing is built or started. What they start is what ``tests/infra/test_site.py`` starts as processes.
"""

import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from infra.component import component_named
from infra.components import local_components
from infra.ring import read_ring
from infra.settings import Settings
from infra.site import RULES, proxy_text, scrapes_text

INFRA = Path(__file__).parents[2] / "infra"
COMPOSE, CHART, IMAGE = (
    INFRA / "compose",
    INFRA / "helm" / "gridcast",
    INFRA / "image" / "Containerfile",
)
PORTS = {"mlflow": 5000, "prefect": 4200, "predictor": 3000, "dashboard": 3100}
ROUTER_PORT = 3200
SETTINGS = {f"GRIDCAST_{name.upper()}" for name in Settings.model_fields}
RELEASE = "ours"


@pytest.fixture(autouse=True)
def no_settings(monkeypatch: pytest.MonkeyPatch) -> None:
    """What other tests of this process set is not what a container has."""
    for name in [name for name in os.environ if name in SETTINGS]:
        monkeypatch.delenv(name)


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """The services of the compose file, with its shared parts put in."""
    compose: dict[str, Any] = yaml.safe_load((COMPOSE / "compose.yaml").read_text())["services"]
    return compose


@pytest.fixture(scope="module")
def ours(services: dict[str, Any]) -> dict[str, Any]:
    """Those of our image."""
    return {
        name: service
        for name, service in services.items()
        if service["image"].startswith("gridcast")
    }


def render(**values: Any) -> list[dict[str, Any]]:
    """The objects that Helm makes of the chart with these values."""
    helm = pytest.importorskip(
        "helm_python", reason="helm-python-sdk is not installed: the chart is not rendered"
    )
    helm.disable_logging()
    assert helm.lint(str(CHART), strict=True)["errors"] == []
    with helm.Chart.load(str(CHART)) as chart:
        files = chart.render(values={"monitoring": {"enabled": True}, **values}, name=RELEASE)
    return [thing for text in files.values() for thing in yaml.safe_load_all(text) if thing]


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    """The objects of the chart."""
    return render(allowedHosts="gridcast.example", settings={"GRIDCAST_PROMOTION": "ask"})


@pytest.fixture(scope="module")
def sharded() -> list[dict[str, Any]]:
    """The objects of the chart with three shards."""
    return render(shards=3)


def of_kind(rendered: list[dict[str, Any]], kind: str) -> dict[str, dict[str, Any]]:
    return {
        thing["metadata"]["name"].removeprefix(f"{RELEASE}-"): thing
        for thing in rendered
        if thing["kind"] == kind
    }


def settings_from(environment: dict[str, Any]) -> Settings:
    """The settings that a container reads, of which what an operator must fill in is filled in."""
    variables: dict[str, Any] = {
        name.removeprefix("GRIDCAST_").lower(): str(value) for name, value in environment.items()
    }
    return Settings(
        _env_file=None,
        **variables
        | {"host": "0.0.0.0", "home": Path("/data"), "tokens": "0123456789abcdef:admin"},
    )


def test_compose_takes_the_file(services: dict[str, Any]) -> None:
    compose = pytest.importorskip("compose_spec", reason="compose-spec is not installed")
    # What an operator must give is given, and what he may is left as it is.
    text = re.sub(
        r"\$\{\w+(?::\?|:-([^}]*))\}",
        lambda compose: compose[1] or "given",
        (COMPOSE / "compose.yaml").read_text(),
    )
    document = yaml.safe_load(text)
    compose.PyCompose.from_yaml(
        yaml.safe_dump(
            {name: component for name, component in document.items() if not name.startswith("x-")}
        )
    )
    assert {
        "postgres",
        "mlflow",
        "prefect",
        "schedules",
        "predictor-1",
        "predictor-2",
        "proxy",
        "prometheus",
        "grafana",
    } <= services.keys()
    for name, service in services.items():
        assert set(service.get("depends_on", ())) <= services.keys(), name
        assert service["cap_drop"] == ["ALL"], name
        assert service["read_only"] is True, name
        assert service["security_opt"] == ["no-new-privileges:true"], name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (
                (COMPOSE / source).exists()
                if source.startswith(".")
                else source in document["volumes"]
            ), volume
        for port in service.get("ports", ()):
            assert port.startswith(("127.0.0.1:", "${GRIDCAST_ADDRESS:-127.0.0.1}:")), (
                "nothing answers other machines unless asked to"
            )


def test_a_service_of_compose_becomes_the_part_that_is_declared(ours: dict[str, Any]) -> None:
    assert {service["command"][0] for service in ours.values()} == {
        component.name for component in local_components(Settings(_env_file=None))
    }
    for name, service in ours.items():
        assert set(service["environment"]) <= SETTINGS, name
        assert service["user"] == "10001:10001"
        (wanted,) = service["command"]
        settings = settings_from(service["environment"])
        component = component_named(wanted, settings)
        if component.address:
            assert component.address == f"http://0.0.0.0:{PORTS[wanted]}"
            assert component.command[component.command.index("--port") + 1] == str(PORTS[wanted])
        if "healthcheck" in service:
            assert service["healthcheck"]["test"] == [
                "CMD",
                "python",
                "-m",
                "infra.component",
                wanted,
                "ready",
            ]
        for port in service.get("ports", ()):
            assert port.rpartition(":")[2] == str(PORTS[wanted])
        variables_of_component = component.environment
        if wanted not in ("mlflow",):
            assert (
                variables_of_component["GRIDCAST_MLFLOW_URL"],
                variables_of_component["PREFECT_API_URL"],
            ) == (
                "http://mlflow:5000",
                "http://prefect:4200/api",
            )


def test_servers_of_compose_have_a_database_each_and_answer_by_their_names(
    ours: dict[str, Any],
) -> None:
    mlflow = component_named("mlflow", settings_from(ours["mlflow"]["environment"]))
    prefect = component_named("prefect", settings_from(ours["prefect"]["environment"]))
    databases = {
        mlflow.environment["MLFLOW_BACKEND_STORE_URI"].rpartition("/")[2],
        prefect.environment["PREFECT_SERVER_DATABASE_CONNECTION_URL"].rpartition("/")[2],
        ours["predictor-1"]["environment"]["GRIDCAST_DATABASE_URL"].rpartition("/")[2],
    }
    assert databases == {"mlflow", "prefect", "gridcast"}
    assert {
        line.split()[2].rstrip(";")
        for line in (COMPOSE / "databases.sql").read_text().splitlines()[1:]
    } == {"mlflow", "prefect"}
    assert "mlflow:5000" in mlflow.environment["MLFLOW_SERVER_ALLOWED_HOSTS"].split(",")
    assert {"prefect", "predictor-1", "proxy"} <= {
        *ours["prefect"]["environment"]["GRIDCAST_ALLOWED_HOSTS"].split(",")
    }


@pytest.mark.parametrize("prefix", ["", "shards-"])
def test_proxy_and_prometheus_of_compose_are_those_of_a_site(prefix: str) -> None:
    doors = {name: f"{name}:3000" for name in ("predictor-1", "predictor-2")}
    router = f"router:{ROUTER_PORT}" if prefix else ""
    watched = {
        "postgres": ("postgres:5432", ""),
        "mlflow": ("mlflow:5000", "/health"),
        "prefect": ("prefect:4200", "/api/ready"),
    }
    proxy = proxy_text(
        ":3000",
        {"router": router} if router else doors,
        watched | {"dashboard": ("dashboard:3100", "/")},
        "${GRIDCAST_TOKEN}",
        "127.0.0.11:53",
    )
    assert (COMPOSE / f"{prefix}haproxy.cfg").read_text() == proxy
    where = {
        "predictors": [*doors.values()],
        "proxy": "proxy:3000",
        "dashboard": "dashboard:3100",
        "prefect": "prefect:4200",
        "own": "localhost:9090",
        "router": router,
    }
    scrapes = scrapes_text(
        **where,
        rules="/etc/prometheus/rules.yml",
        token_file="/run/secrets/token",
        login=("gridcast", "/run/secrets/token"),
    )  # type: ignore[arg-type]
    assert (COMPOSE / f"{prefix}prometheus.yml").read_text() == scrapes
    if haproxy := shutil.which("haproxy", path=f"{os.environ['PATH']}:/usr/sbin"):
        command = [haproxy, "-c", "-f", str(COMPOSE / f"{prefix}haproxy.cfg")]
        checked = subprocess.run(
            command,
            env={"GRIDCAST_TOKEN": "0123456789abcdef"},
            capture_output=True,
            text=True,
            check=False,
        )
        assert (checked.returncode, checked.stderr) == (0, "")
    if promtool := shutil.which("promtool"):
        subprocess.run(
            [
                promtool,
                "check",
                "config",
                "--syntax-only",
                str(COMPOSE / f"{prefix}prometheus.yml"),
            ],
            check=True,
            capture_output=True,
        )


def test_compose_with_shards_has_a_router_that_names_them(
    ours: dict[str, Any], services: dict[str, Any]
) -> None:
    override = yaml.safe_load((COMPOSE / "shards.yaml").read_text())
    changed = override["services"]
    assert changed.keys() - {"router"} <= services.keys()
    variables = {
        name: ours[name if name in ours else "predictor-1"]["environment"]
        | changed[name]["environment"]
        for name in ("predictor-1", "predictor-2", "router")
    }
    assert changed["router"]["extends"] == {"file": "compose.yaml", "service": "predictor-1"}
    settings = settings_from(variables["router"])
    component = component_named(changed["router"]["command"][0], settings)
    assert component.address == f"http://0.0.0.0:{ROUTER_PORT}"
    assert changed["router"]["healthcheck"]["test"][-2:] == ["router", "ready"]
    ring = read_ring(settings)
    assert ring.addresses == (("http://predictor-1:3000",), ("http://predictor-2:3000",))
    for number in range(1, ring.count + 1):
        own = settings_from(variables[f"predictor-{number}"])
        assert own.shard == ring.name(number)
        assert f"predictor-{number}" in own.host_names
    assert "router" in settings.host_names
    for name, service in changed.items():
        for volume in service["volumes"]:
            source, target = volume.split(":")[:2]
            if source.startswith("."):
                assert (COMPOSE / source).exists()
                mounted = [item.split(":")[1] for item in services[name]["volumes"]]
                assert target in mounted, "it replaces the file without shards"
            else:  # histories of all users are those of no shard
                assert source in override["volumes"] and target == "/data"


def test_grafana_finds_the_dashboard_and_prometheus(services: dict[str, Any]) -> None:
    (source,) = yaml.safe_load(
        (INFRA / "grafana/provisioning/datasources/prometheus.yaml").read_text()
    )["datasources"]
    (provider,) = yaml.safe_load(
        (INFRA / "grafana/provisioning/dashboards/gridcast.yaml").read_text()
    )["providers"]
    mounted = {
        volume.split(":")[1]: volume.split(":")[0] for volume in services["grafana"]["volumes"]
    }
    assert source["url"] == "http://prometheus:9090"
    for board in (INFRA / "grafana").glob("*.json"):
        dashboard = mounted[f"{provider['options']['path']}/{board.name}"]
        assert (
            json.loads((COMPOSE / dashboard).read_text())["templating"]["list"][0]["query"]
            == source["type"]
        )


def test_the_recipe_of_the_image_copies_all_that_runs_and_gives_up_root() -> None:
    lines = IMAGE.read_text().splitlines()
    assert "COPY . ." in lines  # of what is let in
    packages = {path.parent.name for path in INFRA.parent.glob("*/__init__.py")}
    let_in = {
        line[1:]
        for line in IMAGE.with_suffix(".dockerignore").read_text().splitlines()
        if line.startswith("!")
    }
    assert packages | {"pyproject.toml", "uv.lock", "gridcast.py"} <= let_in
    assert [line for line in lines if line.startswith("USER")] == ["USER 10001:10001"]
    environment = (
        IMAGE.read_text()
        .partition("ENV PATH")[2]
        .partition("\nWORKDIR")[0]
        .replace("\\", "")
        .split()
    )
    assert {
        word.partition("=")[0] for word in environment if word.startswith("GRIDCAST_")
    } <= SETTINGS
    if hadolint := shutil.which(
        "hadolint", path=f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    ):
        checked = subprocess.run(
            [hadolint, str(IMAGE)], capture_output=True, text=True, check=False
        )
        assert (checked.returncode, checked.stdout) == (0, ""), checked.stdout


def test_kubernetes_takes_every_object_of_the_chart(
    rendered: list[dict[str, Any]], sharded: list[dict[str, Any]]
) -> None:
    validate = pytest.importorskip(
        "kubernetes_validate", reason="kubernetes-validate is not installed"
    ).validate
    for things, least in ((rendered, 17), (sharded, 24)):
        checked = [
            thing
            for thing in things
            if not thing["apiVersion"].startswith("monitoring.coreos.com/")
        ]
        for thing in checked:
            for version in ("1.27", "1.34"):
                validate(thing, version, strict=True)
        assert len(checked) >= least


def selects(service: dict[str, Any], deployment: dict[str, Any]) -> bool:
    """Whether a service sends to the pods of a deployment."""
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    return bool(service["spec"]["selector"].items() <= labels.items())


def test_a_chart_with_shards_has_a_predictor_for_each_and_a_router_that_names_them(
    sharded: list[dict[str, Any]],
) -> None:
    deployments, services, budgets = (
        of_kind(sharded, kind) for kind in ("Deployment", "Service", "PodDisruptionBudget")
    )
    shards = [f"predictor-{number}" for number in (1, 2, 3)]
    assert {*shards, "router"} <= deployments.keys() and "predictor" not in deployments
    assert budgets.keys() == {*shards, "router"}
    variables = {}
    for name in (*shards, "router"):
        (container,) = deployments[name]["spec"]["template"]["spec"]["containers"]
        variables[name] = {
            item["name"]: item.get("value", "postgresql://db/x") for item in container["env"]
        }
        settings = settings_from(variables[name])
        component = component_named(container["args"][0], settings)
        port = int(component.address.rpartition(":")[2])
        assert container["ports"][0]["containerPort"] == port
        assert container["readinessProbe"]["exec"]["command"][-2:] == [*container["args"], "ready"]
        assert f"{RELEASE}-{name}" in settings.host_names
        receivers = [key for key, item in deployments.items() if selects(services[name], item)]
        assert receivers == [name]
        selector = deployments[name]["spec"]["selector"]["matchLabels"]
        assert budgets[name]["spec"]["selector"]["matchLabels"] == selector
    assert [variables[name]["GRIDCAST_SHARD"] for name in shards] == ["1/3", "2/3", "3/3"]
    ring = read_ring(settings_from(variables["router"]))
    assert ring.addresses == tuple((f"http://{RELEASE}-{name}:3000",) for name in shards)
    # Callers find the router where a chart without shards has its predictors.
    assert [key for key, item in deployments.items() if selects(services["predictor"], item)] == [
        "router"
    ]
    assert services["predictor"]["spec"]["ports"][0]["port"] == PORTS["predictor"]
    policies = of_kind(sharded, "NetworkPolicy")
    for name, caller in (("predictor", "router"), ("router", "schedules")):
        (rule,) = policies[name]["spec"]["ingress"]
        callers = [peer["podSelector"].get("matchLabels", {}) for peer in rule["from"]]
        assert caller in {labels.get("app.kubernetes.io/component") for labels in callers}


def test_every_deployment_is_a_part_with_its_port_probes_and_no_rights(
    rendered: list[dict[str, Any]],
) -> None:
    deployments, policies, doors = (
        of_kind(rendered, kind) for kind in ("Deployment", "NetworkPolicy", "Service")
    )
    assert (
        deployments.keys()
        == policies.keys()
        == {component.name for component in local_components(Settings(_env_file=None))}
    )
    assert {name: service["spec"]["ports"][0]["port"] for name, service in doors.items()} == PORTS
    for name, deployment in deployments.items():
        pod = deployment["spec"]["template"]["spec"]
        (container,) = pod["containers"]
        assert container["args"] == [name]
        assert (
            pod["securityContext"]["runAsNonRoot"] and pod["securityContext"]["runAsUser"] == 10001
        )
        rights = {
            "readOnlyRootFilesystem": True,
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
        }
        assert container["securityContext"] == rights
        assert {"requests", "limits"} <= container["resources"].keys()
        environment = {
            variable["name"]: variable.get("value", "postgresql://db/x")
            for variable in container["env"]
        }
        assert environment.keys() <= SETTINGS
        component = component_named(name, settings_from(environment))
        if component.address:
            assert (
                container["ports"][0]["containerPort"]
                == PORTS[name]
                == int(component.address.rpartition(":")[2])
            )
            assert container["readinessProbe"]["exec"]["command"] == [
                "python",
                "-m",
                "infra.component",
                name,
                "ready",
            ]
        if "livenessProbe" in container:
            assert (
                container["livenessProbe"]["httpGet"]["httpHeaders"][0]["value"]
                == f"localhost:{PORTS[name]}"
            )
        assert {mount["mountPath"] for mount in container["volumeMounts"]} >= {"/data", "/tmp"}
    assert deployments["predictor"]["spec"]["replicas"] == 2


def test_only_those_who_must_reach_a_part_may(rendered: list[dict[str, Any]]) -> None:
    policies = of_kind(rendered, "NetworkPolicy")

    def callers(name: str) -> set[str]:
        peers = [peer for rule in policies[name]["spec"]["ingress"] for peer in rule["from"]]
        return {
            peer["podSelector"].get("matchLabels", {}).get("app.kubernetes.io/component", "anybody")
            for peer in peers
        }

    assert {name: callers(name) for name in policies} == {
        "mlflow": {"predictor", "schedules", "dashboard"},
        "prefect": {"schedules", "dashboard"},
        "predictor": {"schedules", "dashboard", "anybody"},
        "dashboard": {"anybody"},
        "schedules": set(),
    }
    assert all(
        policy["spec"]["policyTypes"] == ["Ingress", "Egress"] for policy in policies.values()
    )


def test_the_chart_brings_the_rules_of_prometheus(rendered: list[dict[str, Any]]) -> None:
    (rule,) = of_kind(rendered, "PrometheusRule").values()
    assert rule["spec"] == yaml.safe_load(RULES.read_text())


@pytest.fixture
def door() -> Iterator[int]:
    """A predictor's door that opens to a token."""

    class Door(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(
                200
                if self.headers["Authorization"] == "Bearer 0123456789abcdef"
                and self.path == "/readyz"
                else 401
            )
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Door)
    thread = Thread(target=server.serve_forever)
    thread.start()
    yield server.server_port
    server.shutdown()
    server.server_close()
    thread.join()


def test_a_container_asks_itself_whether_it_is_ready(door: int, tmp_path: Path) -> None:
    ask = [sys.executable, "-m", "infra.component", "predictor", "ready"]
    environment = {
        **os.environ,
        "GRIDCAST_HOME": str(tmp_path),
        "GRIDCAST_PREDICTOR_PORT": str(door),
    }
    with_token = {**environment, "GRIDCAST_TOKENS": "0123456789abcdef:predict"}
    codes = [
        subprocess.run(ask, cwd=INFRA.parent, env=variables, check=False).returncode
        for variables in (environment, with_token)
    ]
    assert codes == [1, 0]
    unknown = [*ask[:3], "cellar"]
    run = subprocess.run(
        unknown, cwd=INFRA.parent, env=environment, capture_output=True, text=True, check=False
    )
    assert (
        run.returncode,
        run.stderr.startswith("there is no component cellar with these settings: mlflow, prefect"),
    ) == (1, True)


@pytest.mark.parametrize("name", ["mlflow", "prefect"])
def test_a_container_starts_no_server_that_would_ask_for_no_login(
    name: str, tmp_path: Path
) -> None:
    run = subprocess.run(
        [sys.executable, "-m", "infra.component", name],
        cwd=INFRA.parent,
        env={
            **os.environ,
            "GRIDCAST_HOME": str(tmp_path),
            "GRIDCAST_TOKENS": "0123456789abcdef:predict",
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert (run.returncode, run.stderr) == (
        1,
        f"{name} would ask for no login: GRIDCAST_TOKENS needs one with admin\n",
    )
