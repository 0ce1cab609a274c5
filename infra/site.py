"""The parts of ``gridcast up --site``: what compose and the Helm chart run in containers, as processes of one machine.

Two predictors behind a proxy, which has the predictor's own address; PostgreSQL under the store, MLflow and Prefect; Prometheus, which
asks all that tell numbers, and through the proxy's checks whether the others answer.
"""

from __future__ import annotations

import shutil
import signal
from dataclasses import replace
from pathlib import Path
from string import Template

import infra
from infra.components import (
    Component,
    address,
    dashboard,
    environment,
    mlflow,
    predictor,
    prefect,
    python,
    schedules,
)
from infra.database_server import READY, binaries, make_password
from infra.settings import Settings, SettingsError, split_list

HERE = Path(infra.__path__[0])
PROXY = HERE / "proxy" / "haproxy.cfg"
SCRAPES = HERE / "prometheus" / "prometheus.yml"
RULES = HERE / "prometheus" / "rules.yml"
LOOKED_AFTER = ("mlflow", "prefect", "dashboard", "postgres")
KEPT = "30d"
"""How long Prometheus keeps its numbers."""


def site_components(settings: Settings) -> list[Component]:
    """PostgreSQL (unless the settings name one), MLflow, Prefect, the predictors, their proxy, the page, the schedules and Prometheus.

    Raises SettingsError where a program is missing or the settings do not fit together.
    """
    ports = replica_ports(settings)
    if not settings.any_token and settings.host not in ("127.0.0.1", "localhost", "::1"):
        raise SettingsError(
            f"behind a proxy at {settings.host} every caller would pass for this machine: set GRIDCAST_TOKENS"
        )
    if settings.database_url and not (settings.mlflow_url and settings.prefect_database_url):
        raise SettingsError(
            "beside GRIDCAST_DATABASE_URL, GRIDCAST_MLFLOW_URL and GRIDCAST_PREFECT_DATABASE_URL must name a database each"
        )
    database = [] if settings.database_url else [postgres(settings)]
    if database:
        settings = _on_own_postgres(settings)
    tracked = [] if settings.mlflow_url.startswith("http") else [mlflow(settings, _named(database))]
    shared = environment(settings, tracked[0].address if tracked else settings.mlflow_url)
    shared["GRIDCAST_DATABASE_URL"] = settings.store_url
    first = [*database, *tracked, prefect(settings, shared, _named(database))]
    replicas = [
        replica(settings, number, port, shared, _named(first))
        for number, port in enumerate(ports, 1)
    ]
    rest = [dashboard(settings, shared, _named(first)), schedules(shared, _named(first))]
    return [
        *first,
        *replicas,
        proxy(settings, [*first, *replicas, *rest]),
        *rest,
        prometheus(settings, [*first, *replicas]),
    ]


def replica_ports(settings: Settings) -> list[int]:
    """The ports of the predictors; raises SettingsError."""
    try:
        ports = [int(text) for text in split_list(settings.replica_ports)]
    except ValueError:
        ports = []
    if not ports or len({*ports, settings.predictor_port}) != len(ports) + 1:
        raise SettingsError(
            "GRIDCAST_REPLICA_PORTS must be different ports, comma-separated, none of them GRIDCAST_PREDICTOR_PORT"
        )
    return ports


def _named(parts: list[Component]) -> tuple[str, ...]:
    return tuple(part.name for part in parts)


def postgres(settings: Settings) -> Component:
    """PostgreSQL in the data folder."""
    folder = settings.postgres_folder
    binaries()  # which must be there before anything is made
    make_password(folder)
    return Component(
        "postgres",
        python("infra.database_server", str(folder), str(settings.postgres_port)),
        address=f"postgresql://127.0.0.1:{settings.postgres_port}",
        ready_log_text=READY,
        port_setting="GRIDCAST_POSTGRES_PORT",
        # Asked by SIGTERM it waits for its clients to leave, by SIGINT it ends in order at once.
        stop_signal=int(signal.SIGINT),
        stop_seconds=30.0,
    )


def _on_own_postgres(settings: Settings) -> Settings:
    password = (settings.postgres_folder / "password").read_text()
    urls = {
        name: f"postgresql://gridcast:{password}@127.0.0.1:{settings.postgres_port}/{database}"
        for name, database in (
            ("database_url", "gridcast"),
            ("mlflow_url", "mlflow"),
            ("prefect_database_url", "prefect"),
        )
    }
    return settings.model_copy(update=urls)


def replica(
    settings: Settings, number: int, port: int, shared: dict[str, str], after: tuple[str, ...]
) -> Component:
    """One of the predictors: it shares nothing with the others but the store and MLflow."""
    alone = settings.model_copy(update={"predictor_port": port})
    home = {"GRIDCAST_HOME": str(settings.home.absolute() / "replicas" / str(number))}
    part = predictor(alone, {**shared, **home}, after)
    return replace(part, name=f"predictor-{number}", port_setting="GRIDCAST_REPLICA_PORTS")


def proxy(settings: Settings, checked: list[Component]) -> Component:
    """HAProxy before the predictors; it also looks after the other servers, and tells Prometheus how they stand."""
    config = settings.folder("site") / "haproxy.cfg"
    text = proxy_text(
        bind=f"{settings.host}:{settings.predictor_port}",
        predictors={
            part.name: _door(part) for part in checked if part.name.startswith("predictor")
        },
        others={
            part.name: (_door(part), part.ready_path if part.address.startswith("http") else "")
            for part in checked
            if part.name in LOOKED_AFTER
        },
        token=settings.any_token,
    )
    return Component(
        "proxy",
        (_program("haproxy"), "-W", "-db", "-f", str(config)),
        address=address(settings, settings.predictor_port),
        ready_path="/readyz",
        port_setting="GRIDCAST_PREDICTOR_PORT",
        after=tuple(part.name for part in checked if part.name.startswith("predictor")),
        token=settings.any_token,
        files={str(config): text},
    )


def proxy_text(
    bind: str,
    predictors: dict[str, str],
    others: dict[str, tuple[str, str]],
    token: str = "",
    resolver: str = "",
) -> str:
    """HAProxy's configuration: where it listens, its predictors (host:port by name), and others (host:port, path) that it only checks.

    With ``resolver`` (host:port of a name server) a name may be known later, and move, as those of containers do.
    """
    secret = f' hdr Authorization "Bearer {token}"' if token else ""
    guard = f' {{ req.hdr(Authorization) -m str "Bearer {token}" }}' if token else ""
    found = "\n    default-server resolvers names init-addr none" if resolver else ""
    names = (
        f"\nresolvers names\n    nameserver first {resolver}\n    hold valid 2s\n"
        if resolver
        else ""
    )
    checks = "".join(_checked(name, door, path, secret) for name, (door, path) in others.items())
    servers = "\n".join(f"    server {name} {door} check" for name, door in predictors.items())
    filled = {
        "secret": secret,
        "guard": guard,
        "found": found,
        "names": names,
        "servers": servers,
        "others": checks,
    }
    return Template(PROXY.read_text()).substitute(bind=bind, **filled)


def _checked(name: str, door: str, path: str, secret: str) -> str:
    """A backend that nothing is sent to: only looked after, by its page, or where it has none by whether it takes a connection."""
    asked = secret if name == "dashboard" else ""
    page = (
        f"    option httpchk GET {path} HTTP/1.1\n    http-check send hdr Host {door}{asked}\n"
        if path
        else ""
    )
    return f"\nbackend {name}\n{page}    server {name} {door} check\n"


def prometheus(settings: Settings, known: list[Component]) -> Component:
    """Prometheus, with the rules by which it warns."""
    folder, config = settings.folder("prometheus"), settings.folder("site") / "prometheus.yml"
    door, secret = f"{settings.host}:{settings.prometheus_port}", settings.folder("site") / "token"
    text = scrapes_text(
        predictors=[_door(part) for part in known if part.name.startswith("predictor")],
        proxy=f"{settings.host}:{settings.predictor_port}",
        prefect=next(_door(part) for part in known if part.name == "prefect"),
        own=door,
        rules=str(RULES),
        token_file=str(secret) if settings.any_token else "",
    )
    options = (
        f"--web.listen-address={door}",
        f"--storage.tsdb.retention.time={KEPT}",
        "--log.level=warn",
    )
    return Component(
        "prometheus",
        (
            _program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}",
            *options,
        ),
        address=f"http://{door}",
        ready_path="/-/ready",
        port_setting="GRIDCAST_PROMETHEUS_PORT",
        files={str(config): text, str(secret): settings.any_token},
    )


def scrapes_text(
    *, predictors: list[str], proxy: str, prefect: str, own: str, rules: str, token_file: str = ""
) -> str:
    """Prometheus' configuration: whom it asks (host:port), and the file that holds a token of ours."""
    targets = ", ".join(f'"{door}"' for door in predictors)
    secret = f'\n    authorization: {{credentials_file: "{token_file}"}}' if token_file else ""
    return Template(SCRAPES.read_text()).substitute(
        predictors=targets, proxy=proxy, prefect=prefect, own=own, rules=rules, secret=secret
    )


def _door(part: Component) -> str:
    return part.address.partition("://")[2]


def _program(name: str) -> str:
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if found is None:
        raise SettingsError(
            f"gridcast up --site needs {name}, which is not on this machine: install Debian's package {name}"
        )
    return found
