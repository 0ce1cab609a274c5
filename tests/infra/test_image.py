"""The images, built and started: compose and the chart, read-only and as user 10001, do the whole loop.

`just image` runs it, some 40 minutes: it needs root and Docker's daemon (`apt-get install docker.io
debootstrap`), and skips with the reason without them. Images of registries are made from Debian,
since no registry may be in reach: the base by debootstrap, the servers of others and Compose from
Debian's packages. GRIDCAST_TEST_DOCKER is the address of a running daemon, whose build cache is used.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from copy import deepcopy
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose"
TOKEN = "0123456789abcdef0123456789abcdef"
BASE = "docker.io/library/python:3.11-slim-bookworm"
SERVERS_BASE = "docker.io/library/python:3.13-slim-trixie"
SERVERS = "gridcast-test-servers"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SERVERS_RECIPE = f"""
FROM {SERVERS_BASE}
RUN echo 'exit 101' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && apt-get update -qq \\
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends \\
        postgresql haproxy prometheus docker-compose docker-cli
COPY postgres-entry /usr/local/bin/
RUN chmod 755 /usr/local/bin/postgres-entry \\
    && install --directory --owner=postgres /run/postgresql /var/lib/postgresql/data \\
    && install --directory --owner=nobody /prometheus
"""
POSTGRES_ENTRY = r"""#!/bin/bash
# What the entry of PostgreSQL's own image does: a cluster as the variables say, and then the server.
set -e
export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) PGDATA=/var/lib/postgresql/data
if [ "$(id -u)" = 0 ]; then
    chown postgres "$PGDATA" /run/postgresql
    exec setpriv --reuid postgres --regid postgres --clear-groups "$0"
fi
if [ ! -s "$PGDATA/complete" ]; then
    initdb --username "$POSTGRES_USER" --pwfile <(echo "$POSTGRES_PASSWORD") \
        --auth-host scram-sha-256 --auth-local trust >/dev/null
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
    pg_ctl --wait --options "-c listen_addresses=" start >/dev/null
    createdb --username "$POSTGRES_USER" --host /run/postgresql "$POSTGRES_DB"
    for file in /docker-entrypoint-initdb.d/*.sql; do
        psql --quiet --username "$POSTGRES_USER" --host /run/postgresql --file "$file" "$POSTGRES_DB"
    done
    pg_ctl --wait stop >/dev/null
    echo yes >"$PGDATA/complete"
fi
exec postgres -c 'listen_addresses=*'
"""
# Debian's servers take the place of images that only a registry has; host ports may be in use.
OVERRIDE = f"""
services:
  postgres: {{image: {SERVERS}, entrypoint: [postgres-entry]}}
  mlflow: {{ports: !reset []}}
  prefect: {{ports: !reset []}}
  dashboard: {{ports: !reset []}}
  prometheus: {{image: {SERVERS}, ports: !reset []}}
  proxy:
    image: {SERVERS}
    user: "99:99"
    ports: !reset []
    command: [haproxy, -W, -db, -f, /usr/local/etc/haproxy/haproxy.cfg]
"""
VARIABLES = {
    "POSTGRES_PASSWORD": "secret",
    "GRIDCAST_TOKENS": f"{TOKEN}:admin",
    "GRIDCAST_TOKEN": TOKEN,
    "GRAFANA_PASSWORD": "secret",
}
SERVICES = (
    *("postgres", "mlflow", "prefect", "schedules", "predictor-1", "predictor-2"),
    *("dashboard", "proxy", "prometheus"),
)
PROJECT = "gridcast-test"
PREVIOUS = os.environ.get("GRIDCAST_TEST_PREVIOUS", "9289137")
"""A commit or tag to upgrade from: its code, with the packages of today. Its store is of 0011."""
PREVIOUS_RECIPE = """
FROM gridcast
ENV PYTHONPATH=/opt/previous
WORKDIR /opt/previous
COPY . .
"""
PREDICTOR_MEGABYTES = 700
CODE_MEGABYTES = 20
"""What a change of code ships."""
JOB = {"job_id": "1", "source": "new", "user": "u1", "requested_walltime": 3600}
# Runs in a container, which has httpx and the addresses of the others.
ASK = """
import json, os, sys, httpx
method, url, body = json.loads(sys.argv[1])
token = os.environ["GRIDCAST_TOKENS"].partition(":")[0]
login = ("gridcast", token) if ":4200" in url or ":5000" in url else None
headers = {} if login else {"Authorization": "Bearer " + token}
answer = httpx.request(method, url, json=body, headers=headers, auth=login, timeout=60)
print(json.dumps([answer.status_code, answer.text]))
"""

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "GRIDCAST_TEST_IMAGE" not in os.environ, reason="builds images for 40 minutes: `just image`"
    ),
]


class Engine:
    """Docker's daemon."""

    def __init__(self, address: str) -> None:
        self.address = address

    def run(self, *arguments: str, **options: Any) -> "subprocess.CompletedProcess[str]":
        """Run a command of Docker, which may fail."""
        line = ["docker", "--host", self.address, *arguments]
        return subprocess.run(line, capture_output=True, text=True, check=False, **options)

    def __call__(self, *arguments: str, **options: Any) -> str:
        """Run a command of Docker; its standard output."""
        run = self.run(*arguments, **options)
        assert run.returncode == 0, f"{arguments}: {run.stdout[-3000:]}{run.stderr[-3000:]}"
        return run.stdout.strip()

    def ask(self, container: str, url: str, body: Any = None) -> tuple[int, str]:
        """Status and text of an HTTP answer, requested in a container; a POST if there is a body."""
        request = json.dumps(["GET" if body is None else "POST", url, body])
        run = self.run("exec", container, "python", "-c", ASK, request)
        if run.returncode:
            return 0, run.stderr[-1000:]
        status, text = json.loads(run.stdout)
        return status, text

    def predicts(self, container: str, address: str) -> bool:
        """Whether a predictor, or the proxy before it, answers with a walltime."""
        status, text = self.ask(container, f"{address}/predict", {"jobs": [JOB]})
        return status == 200 and json.loads(text)["rows"][0]["walltime_median"] > 0


def wait(holds: Callable[[], Any], description: str, seconds: float = 600) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:g} s for {description}"
        time.sleep(1)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Engine]:
    """A daemon: that of GRIDCAST_TEST_DOCKER, or one of the test's own."""
    if address := os.environ.get("GRIDCAST_TEST_DOCKER"):
        yield Engine(address)
        return
    if not (shutil.which("dockerd") and shutil.which("docker")) or os.getuid():
        pytest.skip("no dockerd, or not root: no image is built")
    folder = tmp_path_factory.mktemp("docker")
    engine = Engine(f"unix://{folder}/socket")
    roots = ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    addresses = ["--pidfile", str(folder / "pid"), "--host", engine.address]
    network = ["--bridge", "none", "--iptables=false", "--ip6tables=false"]
    with (folder / "log").open("w") as log:
        daemon = subprocess.Popen(
            ["dockerd", *network, *roots, *addresses], stdout=log, stderr=subprocess.STDOUT
        )
        try:
            wait(lambda: engine.run("version").returncode == 0, "the daemon", 120)
            yield engine
        finally:
            daemon.terminate()
            daemon.wait(120)
            shutil.rmtree(folder, ignore_errors=True)


def import_base(engine: Engine, tag: str, root: Path) -> None:
    """Make the base image from Debian where the daemon does not have it."""
    if engine.run("image", "inspect", tag).returncode == 0:
        return
    if not shutil.which("debootstrap"):
        pytest.skip("no debootstrap: there is no base image")
    packages = "--include=python3,python3-venv,ca-certificates"
    suite = tag.rpartition("-")[2]
    line = ["debootstrap", "--variant=minbase", packages, suite, str(root)]
    subprocess.run(line, check=True, capture_output=True)
    for name in ("cache/apt", "lib/apt/lists"):
        shutil.rmtree(root / "var" / name)
    for name in ("doc", "man", "locale"):
        shutil.rmtree(root / "usr/share" / name)
    # Those of this machine's package index.
    shutil.copy(CERTIFICATES, root / CERTIFICATES.relative_to("/"))
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    variables = [f"PIP_CERT={CERTIFICATES}", f"SSL_CERT_FILE={CERTIFICATES}", "LANG=C.UTF-8"]
    changes = [word for variable in variables for word in ("--change", f"ENV {variable}")]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
        engine("import", *changes, "-", tag, stdin=archive.stdout)
    shutil.rmtree(root)


@pytest.fixture(scope="module")
def context(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the checkout that the recipe's list of ignored files lets in."""
    import_base(engine, BASE, tmp_path_factory.mktemp("base"))
    folder = tmp_path_factory.mktemp("context")
    ignored = (ROOT / "infra/image/Containerfile.dockerignore").read_text()
    names = [line[1:] for line in ignored.splitlines() if line.startswith("!")]
    names.append("infra/image")
    listing = ["git", "ls-files", *names]
    files = subprocess.run(listing, cwd=ROOT, capture_output=True, text=True, check=True)
    copy = ["cp", "--parents", "-t", str(folder), *files.stdout.split()]
    subprocess.run(copy, cwd=ROOT, check=True)
    (folder / ".dockerignore").write_text(ignored)  # the older builder reads this name only
    return folder


def build(engine: Engine, context: Path, target: str) -> list[tuple[float, str]]:
    """Build a target; megabytes and command of its layers, the last one first."""
    tag = {"gridcast": "gridcast", "predictor": "gridcast-predictor"}[target]
    options = ["--network", "host", "--target", target, "--tag", tag]
    engine("build", *options, "--file", f"{context}/infra/image/Containerfile", str(context))
    history = engine("history", "--human=false", "--format", "{{.Size}}\t{{.CreatedBy}}", tag)
    rows = [line.partition("\t") for line in history.splitlines()]
    layers = [(float(size) / 1e6, command or "the base") for size, _, command in rows]
    print(f"\n{tag}: {sum(size for size, _ in layers):.0f} MB")
    print("\n".join(f"{size:6.0f} MB  {command[:70]}" for size, command in layers if size > 0.1))
    return layers


@pytest.fixture(scope="module")
def predictor_layers(engine: Engine, context: Path) -> list[tuple[float, str]]:
    """The layers of the predictor's image."""
    return build(engine, context, "predictor")


@pytest.fixture(scope="module")
def images(
    engine: Engine,
    context: Path,
    predictor_layers: list[tuple[float, str]],
    tmp_path_factory: pytest.TempPathFactory,
) -> None:
    """The images of all parts, of the predictor, and of the servers of others."""
    build(engine, context, "gridcast")
    import_base(engine, SERVERS_BASE, tmp_path_factory.mktemp("servers-base"))
    folder = tmp_path_factory.mktemp("servers")
    (folder / "Dockerfile").write_text(SERVERS_RECIPE)
    (folder / "postgres-entry").write_text(POSTGRES_ENTRY)
    engine("build", "--network", "host", "--tag", SERVERS, str(folder))


def test_the_predictors_image_is_small_and_its_code_is_a_layer_of_its_own(
    engine: Engine, predictor_layers: list[tuple[float, str]]
) -> None:
    assert sum(size for size, _ in predictor_layers) < PREDICTOR_MEGABYTES
    assert 1 < predictor_layers[0][0] < CODE_MEGABYTES
    find = ["--entrypoint", "find", "gridcast-predictor", "/opt", "-type", "f"]
    files = engine("run", "--rm", "--network", "none", *find).splitlines()
    assert len(files) > 1000
    unused = "prefect|evidently|plotly|sklearn|river|distributed|matplotlib"
    assert not [file for file in files if re.search(r"^/opt/venv/.*/tests?/", file)]
    assert not [file for file in files if re.match(rf"/opt/venv/.*-packages/({unused})/", file)]


class Composition:
    """The compose file, run by Compose of Debian in a container that reaches the daemon."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        (folder / "override.yaml").write_text(OVERRIDE)

    def compose(self, *arguments: str) -> str:
        """Run a command of Compose."""
        socket = self.engine.address.removeprefix("unix://")
        options = [
            "--rm",
            "--network=none",
            f"--volume={socket}:/var/run/docker.sock",
            f"--volume={ROOT}:{ROOT}:ro",
            f"--volume={self.folder}:{self.folder}:ro",
            *(f"--env={name}={value}" for name, value in VARIABLES.items()),
        ]
        files = ["--file", str(COMPOSE / "compose.yaml"), "--file", f"{self.folder}/override.yaml"]
        line = ["docker-compose", "--project-name", PROJECT, *files, *arguments]
        return self.engine("run", *options, SERVERS, *line)

    def container(self, service: str) -> str:
        """The name of a service's container."""
        return f"{PROJECT}-{service}-1"

    def gridcast(self, *arguments: str) -> str:
        """A command of Gridcast in the container of the schedules."""
        return self.engine("exec", self.container("schedules"), "gridcast", *arguments)

    def described(self, service: str, field: str) -> Any:
        """A field of Docker's description of a service's container."""
        return json.loads(self.engine("inspect", "--format", f"{{{{json {field}}}}}", service))

    def is_healthy(self, service: str) -> bool:
        """Whether a service's own check passed last."""
        health = self.described(self.container(service), ".State.Health.Status")
        return bool(health == "healthy")

    def predicts(self, address: str = "http://proxy:3000") -> bool:
        """Whether the predictors answer, asked from the page's container."""
        return self.engine.predicts(self.container("dashboard"), address)


@pytest.fixture(scope="module")
def composition(
    engine: Engine, images: None, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Composition]:
    """Everything of the compose file but Grafana, started by one command."""
    folder = tmp_path_factory.mktemp("compose")
    composition = Composition(engine, folder)
    composition.compose("down", "--volumes")
    try:
        composition.compose("up", "--detach", *SERVICES)
        yield composition
    finally:
        for service in SERVICES:
            log = engine.run("logs", "--tail", "20", composition.container(service))
            print(f"\n== {service}\n{log.stdout[-1500:]}{log.stderr[-1500:]}")
        composition.compose("down", "--volumes")


def test_compose_runs_the_whole_loop(composition: Composition) -> None:
    """Ingest, train, promote, predict by the proxy, monitor, kill, back up and restore."""
    engine = composition.engine
    for service in SERVICES:
        host = composition.described(composition.container(service), ".HostConfig")
        assert host["ReadonlyRootfs"], service
        assert host["CapDrop"] == ["ALL"], service
        assert host["SecurityOpt"] == ["no-new-privileges:true"], service
    for service in ("mlflow", "prefect"):
        wait(lambda service=service: composition.is_healthy(service), service)  # type: ignore[misc]
    composition.gridcast("generate", "/data/jobs.csv", "--jobs", "2000", "--days", "20")
    composition.gridcast("ingest", "/data/jobs.csv")
    composition.gridcast("train")
    assert '"champion"' in composition.gridcast("history", "--json")
    for service in ("predictor-1", "predictor-2"):
        wait(lambda service=service: composition.is_healthy(service), service)  # type: ignore[misc]
    wait(composition.predicts, "a prediction by the proxy")
    composition.gridcast("monitor")

    # A killed predictor: the other answers, and the daemon starts it again.
    first = composition.container("predictor-1")
    os.kill(composition.described(first, ".State.Pid"), 9)
    wait(composition.predicts, "a prediction by the other predictor", 60)
    wait(lambda: composition.described(first, ".RestartCount") == 1, "the restart")
    wait(lambda: composition.predicts("http://predictor-1:3000"), "the restarted predictor")

    page = composition.container("dashboard")
    status, text = engine.ask(page, "http://dashboard:3100/")
    assert (status, "<html" in text) == (200, True)
    status, text = engine.ask(page, "http://prefect:4200/")
    assert (status, "<html" in text) == (200, True)

    def are_all_up() -> bool:
        query = "http://prometheus:9090/api/v1/query?query=up"
        status, text = engine.ask(page, query)
        results = json.loads(text)["data"]["result"] if status == 200 else []
        up = {row["metric"]["job"] for row in results if row["value"][1] == "1"}
        return up == {"predictor", "proxy", "dashboard", "prefect", "prometheus"}

    wait(are_all_up, "Prometheus to reach all that it reads", 180)

    # The container of MLflow's server reaches MLflow's tables, too.
    backup = ["gridcast", "backup", "/data/backup"]
    engine("exec", composition.container("mlflow"), *backup)
    copied = ["gridcast", "restore", "/data/backup"]
    home = [
        "--env=GRIDCAST_HOME=/tmp/copy",
        "--env=GRIDCAST_DATABASE_URL=",
        "--env=GRIDCAST_MLFLOW_URL=",
    ]
    engine("exec", *home, composition.container("mlflow"), *copied)
    jobs = engine("exec", *home, composition.container("mlflow"), "gridcast", "jobs", "--json")
    assert "2000" in jobs


RELEASE = "ours"


@pytest.fixture(scope="module")
def chart() -> list[dict[str, Any]]:
    """The objects that Helm makes of the chart."""
    helm = pytest.importorskip("helm_python", reason="helm-python-sdk is not installed")
    helm.disable_logging()
    with helm.Chart.load(str(ROOT / "infra/helm/gridcast")) as loaded:
        files = loaded.render(values={"image": {"tag": "latest"}}, name=RELEASE)
    return [thing for text in files.values() for thing in yaml.safe_load_all(text) if thing]


class Pods:
    """Pods of the chart as containers of one network, addressed by the names of their Services."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        folder.chmod(0o755)
        self.names: list[str] = []

    def options(self, name: str, pod: dict[str, Any], container: dict[str, Any]) -> list[str]:
        """Docker's options for users, rights, variables and mounts of a pod's container.

        Volumes are folders as the kubelet makes them: owned by root, writable by ``fsGroup``.
        """
        user, rights = pod["securityContext"], container["securityContext"]
        component = pod["component"]
        options = [
            f"--network={PROJECT}-pods",
            f"--network-alias={component}",
            f"--user={user['runAsUser']}:{user['runAsGroup']}",
            f"--group-add={user['fsGroup']}",
            *(["--read-only"] if rights["readOnlyRootFilesystem"] else []),
            *([] if rights["allowPrivilegeEscalation"] else ["--security-opt=no-new-privileges"]),
            *(f"--cap-drop={right}" for right in rights["capabilities"]["drop"]),
        ]
        databases = {"database": "gridcast", "mlflow-database": "mlflow"}
        databases["prefect-database"] = "prefect"
        secrets = {
            f"{key}-url": f"postgresql://gridcast:secret@{PROJECT}-db:5432/{database}"
            for key, database in databases.items()
        }
        secrets["tokens"] = f"{TOKEN}:admin"
        for variable in container["env"]:
            value = variable.get("value") or secrets[variable["valueFrom"]["secretKeyRef"]["key"]]
            options.append(f"--env={variable['name']}={value}")
        volumes = {volume["name"]: volume for volume in pod["volumes"]}
        for mount in container["volumeMounts"]:
            claim = volumes[mount["name"]].get("persistentVolumeClaim", {}).get("claimName")
            source = self.folder / (claim or f"{name}-{mount['name']}")
            source.mkdir(exist_ok=True)
            os.chown(source, 0, user["fsGroup"])
            source.chmod(0o2770)
            mode = "ro" if mount.get("readOnly") else "rw"
            options.append(f"--volume={source}:{mount['mountPath']}:{mode}")
        # Mounts within others come after these.
        return sorted(options, key=lambda option: option.startswith("--volume"))

    def start(self, name: str, template: dict[str, Any], *more: str) -> None:
        """Start a pod's container, in place of an earlier one of that name."""
        component = template["metadata"]["labels"].get("app.kubernetes.io/component", "job")
        pod = {**template["spec"], "component": f"{RELEASE}-{component}"}
        (container,) = pod["containers"]
        command = container.get("command", [])
        entry = [f"--entrypoint={command[0]}"] if command else []
        words = [*command[1:], *container.get("args", [])]
        options = [*self.options(name, pod, container), *entry, *more]
        self.engine.run("rm", "--force", f"{PROJECT}-{name}")
        self.names.append(name)
        self.engine("run", "--name", f"{PROJECT}-{name}", *options, container["image"], *words)

    def query(self, statement: str) -> str:
        """The answer of the job store to a statement of SQL."""
        psql = ["psql", "--host=/run/postgresql", "--username=gridcast", "-tAc", statement]
        return self.engine("exec", f"{PROJECT}-db", *psql, "gridcast")

    def wait_until_ready(self, name: str, template: dict[str, Any]) -> None:
        """Run the probes of a pod's container until they pass."""
        (container,) = template["spec"]["containers"]
        pod = f"{PROJECT}-{name}"
        probe = container["readinessProbe"]["exec"]["command"]

        def passes() -> bool:
            return self.engine.run("exec", pod, *probe).returncode == 0

        wait(passes, f"{name} to be ready")
        if live := container.get("livenessProbe", {}).get("httpGet"):
            (header,) = live["httpHeaders"]
            (port,) = [
                row["containerPort"] for row in container["ports"] if row["name"] == live["port"]
            ]
            script = (
                "import httpx, socket; address = socket.gethostbyname(socket.gethostname()); "
                f"answer = httpx.get(f'http://{{address}}:{port}{live['path']}', "
                f"headers={{{header['name']!r}: {header['value']!r}}}); print(answer.status_code)"
            )
            assert self.engine("exec", pod, "python", "-c", script) == "200", name


@pytest.fixture
def pods(engine: Engine, images: None, tmp_path: Path) -> Iterator[Pods]:
    """A network with a PostgreSQL of its own."""
    database, network = f"{PROJECT}-db", f"{PROJECT}-pods"
    engine.run("rm", "--force", "--volumes", database)
    engine.run("network", "rm", network)
    engine("network", "create", network)
    variables = {"POSTGRES_USER": "gridcast", "POSTGRES_DB": "gridcast"}
    variables["POSTGRES_PASSWORD"] = VARIABLES["POSTGRES_PASSWORD"]
    environment = [f"--env={name}={value}" for name, value in variables.items()]
    statements = f"{COMPOSE}/databases.sql:/docker-entrypoint-initdb.d/databases.sql:ro"
    options = ["--detach", f"--name={database}", f"--network={network}", f"--volume={statements}"]
    engine("run", *options, *environment, "--entrypoint=postgres-entry", SERVERS)
    check = ["exec", database, "pg_isready", "--host=localhost", "--username=gridcast"]
    wait(lambda: engine.run(*check).returncode == 0, "PostgreSQL")
    pods = Pods(engine, tmp_path)
    try:
        yield pods
    finally:
        for name in pods.names:
            log = engine.run("logs", "--tail", "20", f"{PROJECT}-{name}")
            print(f"\n== {name}\n{log.stdout[-1500:]}{log.stderr[-1500:]}")
            engine.run("rm", "--force", "--volumes", f"{PROJECT}-{name}")
        engine("rm", "--force", "--volumes", database)
        engine("network", "rm", network)


@pytest.fixture(scope="module")
def previous_image(engine: Engine, images: None, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The tag of an image with the code of an earlier commit."""
    folder = tmp_path_factory.mktemp("previous")
    archive = subprocess.run(
        ["git", "archive", PREVIOUS], cwd=ROOT, capture_output=True, check=True
    )
    subprocess.run(["tar", "-x", "-C", str(folder)], input=archive.stdout, check=True)
    (folder / "Dockerfile").write_text(PREVIOUS_RECIPE)
    tag = "gridcast-test-previous"
    engine("build", "--network", "host", "--tag", tag, str(folder))
    return tag


def test_the_charts_pods_run_as_it_says(
    pods: Pods, chart: list[dict[str, Any]], previous_image: str
) -> None:
    """The job migrates an earlier store, pods become ready by their probes, predictors are replaced."""
    (job,) = [thing for thing in chart if thing["kind"] == "Job"]
    templates = {
        thing["metadata"]["name"]: thing["spec"]["template"]
        for thing in chart
        if thing["kind"] == "Deployment"
    }
    predictor, page = f"{RELEASE}-predictor", f"{RELEASE}-dashboard"

    def migrate() -> None:
        pods.start(job["metadata"]["name"], job["spec"]["template"], "--rm")

    # The job's pod with the earlier code stores jobs, in tables of its version.
    earlier = deepcopy(job["spec"]["template"])
    script = "gridcast generate /tmp/a.csv --jobs 1500 --days 15 && gridcast ingest /tmp/a.csv"
    earlier["spec"]["containers"][0] |= {"image": previous_image, "command": ["sh", "-c", script]}
    pods.start("earlier", earlier, "--rm")
    before = pods.query("SELECT version_num FROM gridcast_version")
    assert pods.query("SELECT count(*) FROM jobs") == "1500"
    migrate()
    assert pods.query("SELECT version_num FROM gridcast_version") > before
    assert pods.query("SELECT count(*) FROM jobs") == "1500"
    # As the kubelet does: a pod that ends because a server is not there yet starts again.
    running = ["--detach", "--restart=always"]
    for name, template in templates.items():
        if name != predictor:
            pods.start(name, template, *running)
    for name in (f"{RELEASE}-mlflow", f"{RELEASE}-prefect", page):
        pods.wait_until_ready(name, templates[name])
    schedules = f"{PROJECT}-{RELEASE}-schedules"
    wait(lambda: pods.engine.run("exec", schedules, "true").returncode == 0, "the schedules")
    pods.engine("exec", schedules, "gridcast", "train")
    replicas = [f"{predictor}-{number}" for number in (1, 2)]
    for name in replicas:
        pods.start(name, templates[predictor], *running)
    for name in replicas:
        pods.wait_until_ready(name, templates[predictor])
    assert pods.engine.predicts(f"{PROJECT}-{page}", f"http://{predictor}:3000")

    # An upgrade: the migration, then the predictors, one after the other; the other one answers.
    migrate()
    for name in replicas:
        pods.engine("rm", "--force", f"{PROJECT}-{name}")
        (other,) = {*replicas} - {name}
        assert pods.engine.predicts(f"{PROJECT}-{other}", "http://localhost:3000")
        pods.start(name, templates[predictor], *running)
        pods.wait_until_ready(name, templates[predictor])
