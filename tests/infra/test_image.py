"""The images, built and started: all components of compose, read-only and as user 10001, do the whole loop.

`just image` runs it, some 20 minutes: it needs root, Docker's daemon and debootstrap (`apt-get install docker.io
debootstrap`), and skips with the reason without them. The images that the recipe and the compose file name are made
from Debian, since no registry is needed then: the base by debootstrap, the servers from Debian's packages.
"""

import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import yaml

ROOT = Path(__file__).parents[2]
COMPOSE = ROOT / "infra" / "compose"
TOKEN = "0123456789abcdef0123456789abcdef"
SUITE, PYTHON = os.environ.get("GRIDCAST_TEST_IMAGE", "bookworm:3.11").split(":")
BASE = f"docker.io/library/python:{PYTHON}-slim-{SUITE}"
CERTIFICATES = Path("/etc/ssl/certs/ca-certificates.crt")
SERVERS = """
FROM {base}
RUN echo 'exit 101' > /usr/sbin/policy-rc.d && chmod +x /usr/sbin/policy-rc.d && apt-get update -qq \\
    && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql haproxy prometheus
"""
PREDICTOR_MEGABYTES = 700
CODE_MEGABYTES = 20
"""What a change of code ships."""
PREFIX = "gridcast-test-"
"""Of names of containers and volumes: a daemon may have others."""
PREDICTORS = ("predictor-1", "predictor-2")
PORTS = {
    "postgres": (5432, 25432),
    "mlflow": (5000, 25000),
    "prefect": (4200, 24200),
    "proxy": (3000, 23000),
    "dashboard": (3100, 23100),
    "prometheus": (9090, 29090),
    "predictor-1": (3000, 23001),
    "predictor-2": (3000, 23002),
}
"""The port of compose, and that of the test on the host's network."""
GIVEN = {
    "POSTGRES_PASSWORD": "secret",
    "GRIDCAST_TOKENS": f"{TOKEN}:admin",
    "GRIDCAST_TOKEN": TOKEN,
    "GRAFANA_PASSWORD": "secret",
}

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(
        "GRIDCAST_TEST_IMAGE" not in os.environ, reason="builds images for 20 minutes: `just image`"
    ),
]


class Engine:
    """Docker's daemon of the test and what is started in it."""

    def __init__(self, address: str) -> None:
        self.address = address

    def __call__(self, *arguments: str, check: bool = True, **options: Any) -> str:
        """Run a command of Docker; its standard output."""
        run = subprocess.run(
            ["docker", "--host", self.address, *arguments],
            capture_output=True,
            text=True,
            check=False,
            **options,
        )
        assert not check or run.returncode == 0, (
            f"{arguments}: {run.stdout[-3000:]}{run.stderr[-3000:]}"
        )
        return run.stdout.strip()

    def answers(self) -> bool:
        """Whether the daemon answers."""
        return bool(self("version", "--format", "{{.Server.Version}}", check=False))


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
    log = (folder / "log").open("w")
    roots = ["--data-root", str(folder / "data"), "--exec-root", str(folder / "exec")]
    where = ["--pidfile", str(folder / "pid"), "--host", engine.address]
    daemon = subprocess.Popen(
        ["dockerd", "--bridge", "none", "--iptables=false", "--ip6tables=false", *roots, *where],
        stdout=log,
        stderr=log,
    )
    try:
        wait(engine.answers, "the daemon", 60)
        yield engine
    finally:
        daemon.terminate()
        daemon.wait(60)
        shutil.rmtree(folder, ignore_errors=True)


def wait(holds: Callable[[], Any], description: str, seconds: float = 300) -> None:
    """Wait until it holds."""
    end = time.monotonic() + seconds
    while not holds():
        assert time.monotonic() < end, f"waited {seconds:g} s for {description}"
        time.sleep(1)


@pytest.fixture(scope="module")
def base(engine: Engine, tmp_path_factory: pytest.TempPathFactory) -> str:
    """The base image, made from Debian where the daemon does not have it."""
    if engine("images", "--quiet", BASE):
        return BASE
    if not shutil.which("debootstrap"):
        pytest.skip("no debootstrap: there is no base image")
    root = tmp_path_factory.mktemp("base")
    wanted = "--include=python3,python3-venv,ca-certificates"
    subprocess.run(
        ["debootstrap", "--variant=minbase", wanted, SUITE, str(root)],
        check=True,
        capture_output=True,
    )
    for unneeded in (
        "var/cache/apt",
        "var/lib/apt/lists",
        "usr/share/doc",
        "usr/share/man",
        "usr/share/locale",
    ):
        shutil.rmtree(root / unneeded)
    shutil.copy(
        CERTIFICATES, root / CERTIFICATES.relative_to("/")
    )  # those of the package index of this machine
    (root / "usr/local/bin/python").symlink_to("/usr/bin/python3")
    variables = [
        f"ENV PIP_CERT={CERTIFICATES}",
        f"ENV SSL_CERT_FILE={CERTIFICATES}",
        "ENV LANG=C.UTF-8",
    ]
    changes = [word for variable in variables for word in ("--change", variable)]
    with subprocess.Popen(["tar", "-C", str(root), "-c", "."], stdout=subprocess.PIPE) as archive:
        engine("import", *changes, "-", BASE, stdin=archive.stdout)
    shutil.rmtree(root)
    return BASE


@pytest.fixture(scope="module")
def context(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The files of the checkout that the recipe's list of ignored files lets in."""
    folder = tmp_path_factory.mktemp("context")
    ignored = (ROOT / "infra/image/Containerfile.dockerignore").read_text()
    names = [line[1:] for line in ignored.splitlines() if line.startswith("!")]
    files = subprocess.run(
        ["git", "ls-files", *names], cwd=ROOT, capture_output=True, text=True, check=True
    ).stdout.split()
    subprocess.run(["cp", "--parents", "-t", str(folder), *files], cwd=ROOT, check=True)
    (folder / ".dockerignore").write_text(ignored)  # the older builder knows this name only
    return folder


def build(engine: Engine, base: str, context: Path, target: str) -> dict[str, Any]:
    """Build a target; the image's description."""
    tag = {"gridcast": "gridcast", "predictor": "gridcast-predictor"}[target]
    options = ["--network", "host", "--build-arg", f"PYTHON={base}", "--target", target, "-t", tag]
    engine("build", *options, "-f", f"{context}/infra/image/Containerfile", str(context))
    layers = engine("history", "--format", "{{.Size}}\t{{.CreatedBy}}", "--no-trunc", tag)
    described: dict[str, Any] = json.loads(engine("image", "inspect", tag))[0]
    print(f"\n{tag}: {described['Size'] / 1e6:.0f} MB", layers, sep="\n")
    return described


def listing(engine: Engine, image: str) -> list[str]:
    """The files of an image's environment and code."""
    find = ["--entrypoint", "find", image, "/opt", "-type", "f"]
    return engine("run", "--rm", "--network", "none", *find).splitlines()


def test_the_predictors_image_is_small_and_its_code_is_a_layer_of_its_own(
    engine: Engine, base: str, context: Path
) -> None:
    image = build(engine, base, context, "predictor")
    assert image["Size"] < PREDICTOR_MEGABYTES * 1e6
    files = listing(engine, "gridcast-predictor")
    assert not [file for file in files if re.search(r"^/opt/venv/.*/tests?/", file)]
    assert not [
        file
        for file in files
        if re.match(r"/opt/venv/.*/(prefect|evidently|plotly|sklearn)/", file)
    ]
    layers = engine(
        "history", "--format", "{{.Size}}\t{{.CreatedBy}}", "gridcast-predictor"
    ).splitlines()
    size = re.match(r"([\d.]+)MB", layers[0])
    assert size, layers
    assert float(size[1]) < CODE_MEGABYTES


class Site:
    """The services of the compose file, each started as it says, on the host's network."""

    def __init__(self, engine: Engine, folder: Path) -> None:
        self.engine, self.folder = engine, folder
        text = (COMPOSE / "compose.yaml").read_text()
        text = re.sub(
            r"\$\{(\w+)(?::\?|:-([^}]*))?\}",
            lambda match: GIVEN.get(match[1], match[2] or ""),
            text,
        )
        for name, (usual, port) in PORTS.items():
            text = re.sub(rf"(?<=[/@]){name}:{usual}\b", f"{name}:{port}", text)
        self.services: dict[str, Any] = yaml.safe_load(text)["services"]

    def options(self, name: str) -> list[str]:
        """Docker's options for what the compose file declares of a service."""
        service = self.services[name]
        options = [
            "--network=host",
            *(f"--add-host={host}:127.0.0.1" for host in self.services),
            *(f"--cap-drop={right}" for right in service["cap_drop"]),
            *(f"--cap-add={right}" for right in service.get("cap_add", ())),
            *(f"--security-opt={option}" for option in service["security_opt"]),
            *(f"--tmpfs={mount}" for mount in service.get("tmpfs", ())),
            *(["--read-only"] if service["read_only"] else []),
            *([f"--user={service['user']}"] if "user" in service else []),
        ]
        for volume in service.get("volumes", ()):
            source, rest = volume.split(":", 1)
            source = str((COMPOSE / source).resolve()) if source[0] == "." else PREFIX + source
            options.append(f"--volume={source}:{rest}")
        variables = dict(service.get("environment", {}))
        if name in PORTS and service["image"].startswith("gridcast"):
            component = name.partition("-")[0].upper()
            variables[f"GRIDCAST_{component}_PORT"] = PORTS[name][1]
        return options + [f"--env={key}={value}" for key, value in variables.items()]

    def start(
        self, name: str, command: list[str] | None = None, *more: str, image: str = ""
    ) -> None:
        """Start a service.

        Args:
            name: of the service.
            command: in place of that of the compose file.
            more: more options of Docker.
            image: in place of that of the compose file.
        """
        self.remove(name)
        service = self.services[name]
        options = ["--detach", "--name", PREFIX + name, *self.options(name), *more]
        command = service["command"] if command is None else command
        self.engine("run", *options, image or service["image"], *command)

    def remove(self, name: str) -> None:
        """End a service; its named volumes stay."""
        self.engine("rm", "--force", "--volumes", PREFIX + name, check=False)

    def forget(self) -> None:
        """End all services and remove their volumes."""
        for name in self.services:
            self.remove(name)
        volumes = self.engine("volume", "ls", "--quiet", "--filter", f"name={PREFIX}").split()
        if volumes:
            self.engine("volume", "rm", *volumes)

    def run(self, name: str, *command: str) -> "subprocess.CompletedProcess[str]":
        """Run a command in a service's container."""
        line = ["docker", "--host", self.engine.address, "exec", PREFIX + name, *command]
        return subprocess.run(line, capture_output=True, text=True, check=False)

    def wait_until_healthy(self, name: str) -> None:
        """Run the service's own check until it passes."""
        check = self.services[name]["healthcheck"]["test"][1:]

        def passes() -> bool:
            state = self.engine("inspect", "--format", "{{.State.Status}}", PREFIX + name)
            assert state == "running", self.log(name)
            return self.run(name, *check).returncode == 0

        wait(passes, f"{name} to be ready")

    def log(self, name: str) -> str:
        """What a service has printed lately."""
        line = ["docker", "--host", self.engine.address, "logs", "--tail", "60", PREFIX + name]
        done = subprocess.run(line, capture_output=True, text=True, check=False)
        return done.stdout + done.stderr

    def gridcast(self, *arguments: str) -> str:
        """A command of Gridcast in the container of the schedules."""
        done = self.run("schedules", "gridcast", *arguments)
        assert done.returncode == 0, f"{arguments}: {done.stdout[-2000:]}{done.stderr[-3000:]}"
        return done.stdout

    def start_postgres(self) -> None:
        """PostgreSQL with the databases of compose, of Debian's package."""
        port = str(PORTS["postgres"][1])
        user = "setpriv --reuid postgres --regid postgres --clear-groups"
        script = f"""set -e
            export PATH=$PATH:$(echo /usr/lib/postgresql/*/bin) PGDATA=/var/lib/postgresql/data
            chown postgres $PGDATA /run/postgresql
            {user} initdb --auth trust >/dev/null
            exec {user} postgres -p {port}"""
        self.start("postgres", ["bash", "-c", script], image="gridcast-servers")
        psql = ["psql", "-h", "/run/postgresql", "-p", port, "-U", "postgres", "-tA"]

        def sql(text: str) -> "subprocess.CompletedProcess[str]":
            return self.run("postgres", *psql, "-c", text)

        wait(lambda: sql("select 1").stdout == "1\n", "PostgreSQL", 120)
        role = "create role gridcast superuser login password 'secret'"
        for line in (role, "create database gridcast", *databases()):
            done = sql(line)
            assert done.returncode == 0, done.stderr

    def start_proxy(self) -> None:
        """HAProxy with the configuration of compose, on the test's ports."""
        text = (COMPOSE / "haproxy.cfg").read_text()
        text = text.replace("bind :3000", f"bind :{PORTS['proxy'][1]}")
        for name, (usual, port) in PORTS.items():
            text = re.sub(rf"\b{name}:{usual}\b(?=.* check)", f"127.0.0.1:{port}", text)
            text = text.replace(f"Host {name}:{usual}", f"Host {name}:{port}")
        # Docker's name server exists on its own networks only.
        text = re.sub(r"(?m)^.*resolvers names.*$|^ +nameserver.*$|^ +hold.*$", "", text)
        config = self.folder / "haproxy.cfg"
        config.write_text(text)
        config.chmod(0o644)
        self.services["proxy"]["volumes"] = [f"{config}:/etc/haproxy.cfg:ro"]
        user = "--user=10001:10001"
        self.start("proxy", ["haproxy", "-f", "/etc/haproxy.cfg"], user, image="gridcast-servers")


def databases() -> list[str]:
    """The statements by which compose makes the other databases."""
    return (COMPOSE / "databases.sql").read_text().splitlines()[1:]


@pytest.fixture(scope="module")
def site(
    engine: Engine, base: str, context: Path, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Site]:
    """The servers of compose and its schedules and page, running and ready."""
    for target in ("predictor", "gridcast"):
        build(engine, base, context, target)
    folder = tmp_path_factory.mktemp("servers")
    (folder / "Dockerfile").write_text(SERVERS.format(base=base))
    engine("build", "--network", "host", "-t", "gridcast-servers", str(folder))
    folder.chmod(0o755)
    site = Site(engine, folder)
    site.forget()
    try:
        site.start_postgres()
        for name in ("mlflow", "prefect"):
            site.start(name)
            site.wait_until_healthy(name)
        for name in ("schedules", "dashboard"):
            site.start(name)
        yield site
    finally:
        for name in site.services:
            print(f"\n== {name}\n{site.log(name)[-1500:]}")
        site.forget()


def test_the_whole_loop_runs_in_containers(site: Site) -> None:
    """Ingest, train, promote, predict by the proxy, monitor, kill and restart, back up."""
    site.gridcast("generate", "/data/jobs.csv", "--jobs", "2000", "--days", "20")
    site.gridcast("ingest", "/data/jobs.csv")
    site.gridcast("train")
    assert '"champion"' in site.gridcast("history", "--json")
    for name in PREDICTORS:
        site.start(name)
    site.start_proxy()
    for name in PREDICTORS:
        site.wait_until_healthy(name)
    login = {"Authorization": f"Bearer {TOKEN}"}
    proxy = f"http://127.0.0.1:{PORTS['proxy'][1]}"
    job = {"job_id": "1", "source": "new", "user": "u1", "requested_walltime": 3600}

    def predicts() -> bool:
        try:
            url = f"{proxy}/predict"
            answer = httpx.post(url, json={"jobs": [job]}, headers=login, timeout=60)
        except httpx.HTTPError:
            return False
        return answer.status_code == 200 and answer.json()["rows"][0]["walltime_median"] > 0

    wait(predicts, "a prediction by the proxy", 120)
    site.gridcast("monitor")
    site.engine("kill", f"{PREFIX}predictor-1")
    wait(predicts, "a prediction by the other predictor", 30)
    site.engine("start", f"{PREFIX}predictor-1")
    site.wait_until_healthy("predictor-1")
    site.gridcast("backup", "/data/backup.tar")
    page = httpx.get(f"http://127.0.0.1:{PORTS['dashboard'][1]}/", headers=login)
    assert page.status_code == 200
    prefect = f"http://127.0.0.1:{PORTS['prefect'][1]}/dashboard"
    flows = httpx.get(prefect, auth=("gridcast", TOKEN), follow_redirects=True)
    assert (flows.status_code, "<html" in flows.text) == (200, True)


def test_prometheus_of_compose_runs_as_it_says(site: Site) -> None:
    """Its configuration is read, and it answers with its data in its volume."""
    port = PORTS["prometheus"][1]
    command = [*site.services["prometheus"]["command"], f"--web.listen-address=127.0.0.1:{port}"]
    secret = site.folder / "token"
    secret.write_text(TOKEN)
    secret.chmod(0o644)
    more = [f"--volume={secret}:/run/secrets/token:ro", "--entrypoint=prometheus", "--user=root"]
    site.start("prometheus", command, *more, image="gridcast-servers")

    def is_ready() -> bool:
        try:
            return httpx.get(f"http://127.0.0.1:{port}/-/ready").status_code == 200
        except httpx.HTTPError:
            return False

    wait(is_ready, "Prometheus", 60)
