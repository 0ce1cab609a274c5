"""The components of ``gridcast up --site``: those of compose and of the Helm chart, as processes.

Predictors behind a proxy, which has the predictor's address; PostgreSQL under the store, MLflow and
Prefect; and Prometheus, which scrapes their metrics, and the proxy's checks of the other servers.
"""

from __future__ import annotations

import shutil
import signal
from collections.abc import Mapping, Sequence
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
    on_loopback,
    predictor,
    prefect,
    python,
    router,
    schedules,
)
from infra.database_server import READY, binaries, make_password
from infra.setting_values import is_loopback, metrics_token, split_list
from infra.settings import Settings, SettingsError
from infra.shards import SLOTS, shard_of_slots

INFRA = Path(infra.__path__[0])
PROXY = INFRA / "proxy" / "haproxy.cfg"
SCRAPES = INFRA / "prometheus" / "prometheus.yml"
RULES = INFRA / "prometheus" / "rules.yml"
WATCHED = ("mlflow", "prefect", "dashboard", "postgres")
"""The servers that the proxy only checks."""
PREDICTOR = "\nbackend predictor"
"""Begins the part of the proxy's configuration that each set of predictors has."""
RETENTION = "30d"
"""How long Prometheus keeps its metrics."""
FIRST_REPLICA_PORT, LEAST_REPLICAS = 3001, 2
USER_HEADER = "X-Gridcast-User"
"""Names the user of all jobs of a call, percent-encoded; empty where the jobs name none."""


def site_components(settings: Settings) -> list[Component]:
    """PostgreSQL, MLflow, Prefect, predictors, proxy, dashboard, schedules and Prometheus.

    Without PostgreSQL or MLflow where the settings name another.

    Raises:
        SettingsError: if a program is missing or the settings do not fit together.
    """
    ports = replica_ports(settings)
    if not settings.tokens.get_secret_value() and not is_loopback(settings.host):
        raise SettingsError(f"at {settings.host} others reach the servers: set GRIDCAST_TOKENS")
    if settings.database_url and not (settings.mlflow_url and settings.prefect_database_url):
        raise SettingsError(
            "with GRIDCAST_DATABASE_URL, also GRIDCAST_MLFLOW_URL and "
            "GRIDCAST_PREFECT_DATABASE_URL must name a database each"
        )
    database = [] if settings.database_url else [postgres(settings)]
    if database:
        settings = _on_own_postgres(settings)
    inner = on_loopback(settings)
    tracked = [] if settings.mlflow_url.startswith("http") else [mlflow(inner, _names(database))]
    shared = environment(settings, tracked[0].address if tracked else settings.mlflow_url)
    shared["GRIDCAST_DATABASE_URL"] = settings.store_url
    first = [*database, *tracked, prefect(inner, shared, _names(database))]
    replicas = [
        replica(inner, number, port, shared, _names(first)) for number, port in enumerate(ports, 1)
    ]
    routers = []
    if settings.shards > 1:
        addresses = {"GRIDCAST_SHARD_ADDRESSES": _shard_addresses(settings, replicas)}
        routers = [router(inner, shared | addresses, _names(replicas))]
    rest = [dashboard(settings, shared, _names(first)), schedules(shared, _names(first))]
    return [
        *first,
        *replicas,
        *routers,
        proxy(settings, [*first, *replicas, *routers, *rest]),
        *rest,
        prometheus(settings, [*first, *replicas, *routers]),
    ]


def replica_ports(settings: Settings) -> list[int]:
    """The ports of the predictors.

    Raises:
        SettingsError: if they are not different ports, or not as many for each shard.
    """
    count = max(LEAST_REPLICAS, settings.shards)
    default = ",".join(str(FIRST_REPLICA_PORT + number) for number in range(count))
    try:
        ports = [int(text) for text in split_list(settings.replica_ports or default)]
    except ValueError:
        ports = []
    if not ports or len({*ports, settings.predictor_port}) != len(ports) + 1:
        raise SettingsError(
            "GRIDCAST_REPLICA_PORTS must be different ports, comma-separated, "
            "none of them GRIDCAST_PREDICTOR_PORT"
        )
    if len(ports) % settings.shards:
        raise SettingsError(
            f"GRIDCAST_REPLICA_PORTS must be {settings.shards} ports, one for each of "
            f"GRIDCAST_SHARDS, or as many for each, and not {len(ports)}"
        )
    return ports


def _by_shard(settings: Settings, replicas: list[Component]) -> list[list[Component]]:
    """The predictors of each shard."""
    return [replicas[shard :: settings.shards] for shard in range(settings.shards)]


def _shard_addresses(settings: Settings, replicas: list[Component]) -> str:
    """Where each shard answers, as the router reads it."""
    return ",".join(
        f"{number}/{settings.shards}={'|'.join(component.address for component in predictors)}"
        for number, predictors in enumerate(_by_shard(settings, replicas), 1)
    )


def _names(components: list[Component]) -> tuple[str, ...]:
    return tuple(component.name for component in components)


def postgres(settings: Settings) -> Component:
    """PostgreSQL in the data folder."""
    folder = settings.postgres_folder
    binaries()  # raises an error before anything is written
    make_password(folder)
    return Component(
        "postgres",
        python("infra.database_server", str(folder), str(settings.postgres_port)),
        address=f"postgresql://127.0.0.1:{settings.postgres_port}",
        ready_log_text=READY,
        port_setting="GRIDCAST_POSTGRES_PORT",
        # At SIGTERM it would wait for its clients to disconnect.
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
    """One of the predictors, which share only the store and MLflow.

    Args:
        settings: the settings.
        number: its number, from 1.
        port: its port.
        shared: the variables of every component.
        after: names of the components that must be ready before it.
    """
    own = settings.model_copy(update={"predictor_port": port})
    variables = {"GRIDCAST_HOME": str(settings.home.absolute() / "replicas" / str(number))}
    if settings.shards > 1:
        shard = 1 + (number - 1) % settings.shards
        variables["GRIDCAST_SHARD"] = f"{shard}/{settings.shards}"
    component = predictor(own, {**shared, **variables}, after)
    return replace(component, name=f"predictor-{number}", port_setting="GRIDCAST_REPLICA_PORTS")


def proxy(settings: Settings, checked: list[Component]) -> Component:
    """HAProxy before the predictors, which also checks the other servers for Prometheus.

    With shards it forwards calls of one user (USER_HEADER) to their shard, all others to the
    router.
    """
    folder = settings.folder("site")
    config, slots = folder / "haproxy.cfg", folder / "slots.map"
    predictors = [component for component in checked if component.name.startswith("predictor")]
    entries = [component for component in checked if component.name == "router"] or predictors
    shards = _by_shard(settings, predictors) if settings.shards > 1 else []
    text = proxy_text(
        bind=f"{settings.host_in_url}:{settings.predictor_port}",
        predictors={component.name: _host_port(component) for component in entries},
        shards=[{component.name: _host_port(component) for component in shard} for shard in shards],
        slots=str(slots) if shards else "",
        watched={
            component.name: (
                _host_port(component),
                component.ready_path if component.address.startswith("http") else "",
            )
            for component in checked
            if component.name in WATCHED
        },
        token=settings.any_token,
        metrics_token=metrics_token(settings.admin_token),
    )
    return Component(
        "proxy",
        (_program("haproxy"), "-W", "-db", "-f", str(config)),
        address=address(settings, settings.predictor_port),
        ready_path="/readyz",
        port_setting="GRIDCAST_PREDICTOR_PORT",
        after=_names(entries),
        token=settings.any_token,
        files={str(config): text} | ({str(slots): slots_text(settings.shards)} if shards else {}),
    )


def slots_text(count: int) -> str:
    """The map of HAProxy from each slot of users to the backend of its shard."""
    return "".join(
        f"{slot} shard-{shard}\n" for slot, shard in enumerate(shard_of_slots(count).tolist())
    )


def proxy_text(
    bind: str,
    predictors: dict[str, str],
    watched: dict[str, tuple[str, str]],
    token: str = "",
    resolver: str = "",
    metrics_token: str = "",
    shards: Sequence[Mapping[str, str]] = (),
    slots: str = "",
) -> str:
    """HAProxy's configuration.

    Args:
        bind: host:port to listen on.
        predictors: host:port of each predictor, or with shards of each router, by name.
        watched: host:port and path of each server that it only checks, by name.
        token: bearer token of its checks, and of requests for its metrics.
        resolver: host:port of a name server, where names may change as those of containers do.
        metrics_token: another bearer token of requests for its metrics.
        shards: host:port of each predictor of each shard, by name.
        slots: with shards, file of the map from slots of users to shards.
    """
    secret = f' hdr Authorization "Bearer {token}"' if token else ""
    readers = " ".join(f'"Bearer {reader}"' for reader in (token, metrics_token) if reader)
    guard = f" {{ req.hdr(Authorization) -m str {readers} }}" if token else ""
    resolved = "\n    default-server resolvers names init-addr none" if resolver else ""
    names = (
        f"\nresolvers names\n    nameserver first {resolver}\n    hold valid 2s\n"
        if resolver
        else ""
    )
    text = PROXY.read_text()
    begin, end = text.index(PREDICTOR), text.index("$watched")

    def backend(name: str, servers: Mapping[str, str], retried: str = "502 503") -> str:
        return Template(text[begin:end].replace(PREDICTOR, f"\nbackend {name}")).substitute(
            secret=secret,
            retried=retried,
            servers="\n".join(f"    server {name} {host} check" for name, host in servers.items()),
        )

    # A router has repeated a request already where it answers 503.
    backends = [backend("predictor", predictors, "502" if "router" in predictors else "502 503")]
    backends += [backend(f"shard-{number}", own) for number, own in enumerate(shards, 1)]
    return Template(text[:begin] + "$backends" + text[end:]).substitute(
        bind=bind,
        guard=guard,
        resolved=resolved,
        names=names,
        routes=_routes(slots) if shards else "",
        backends="".join(backends),
        watched="".join(
            _check_only(name, host, path, secret) for name, (host, path) in watched.items()
        ),
    )


def _routes(slots: str) -> str:
    """The rule that forwards calls of one user to the backend of the user's slot."""
    slot = f"req.fhdr({USER_HEADER}),url_dec,crc32,mod({SLOTS})"
    return (
        "\n    # Calls of one user need no router: the header has the user, percent-encoded."
        f"\n    use_backend %[{slot},map({slots},predictor)]"
        f" if {{ req.fhdr({USER_HEADER}) -m found }} {{ path /predict /rank /match /task }}"
    )


def _check_only(name: str, host: str, path: str, secret: str) -> str:
    """A backend that is only checked: by its path, or without one by connecting to it."""
    token = secret if name == "dashboard" else ""
    check = (
        f"    option httpchk GET {path} HTTP/1.1\n    http-check send hdr Host {host}{token}\n"
        if path
        else ""
    )
    return f"\nbackend {name}\n{check}    server {name} {host} check\n"


def prometheus(settings: Settings, scraped: list[Component]) -> Component:
    """Prometheus, with the rules of its alerts."""
    folder, config = settings.folder("prometheus"), settings.folder("site") / "prometheus.yml"
    host, secret = (
        f"{on_loopback(settings).host_in_url}:{settings.prometheus_port}",
        settings.folder("site") / "token",
    )
    text = scrapes_text(
        predictors=[_host_port(c) for c in scraped if c.name.startswith("predictor")],
        proxy=f"{settings.host_in_url}:{settings.predictor_port}",
        dashboard=f"{settings.host_in_url}:{settings.dashboard_port}",
        prefect=next(_host_port(c) for c in scraped if c.name == "prefect"),
        own=host,
        router=next((_host_port(c) for c in scraped if c.name == "router"), ""),
        rules=str(RULES),
        token_file=str(secret) if settings.admin_token else "",
    )
    options = (
        f"--web.listen-address={host}",
        f"--storage.tsdb.retention.time={RETENTION}",
        "--log.level=info",
    )
    return Component(
        "prometheus",
        (
            _program("prometheus"),
            f"--config.file={config}",
            f"--storage.tsdb.path={folder}",
            *options,
        ),
        address=f"http://{host}",
        ready_path="/-/ready",
        port_setting="GRIDCAST_PROMETHEUS_PORT",
        files={
            str(config): text,
            str(secret): metrics_token(settings.admin_token),
        },
    )


def scrapes_text(
    *,
    predictors: list[str],
    proxy: str,
    dashboard: str,
    prefect: str,
    own: str,
    rules: str,
    token_file: str = "",
    router: str = "",
    login: tuple[str, str] = ("", ""),
) -> str:
    """Prometheus' configuration.

    Args:
        predictors: host:port of each predictor.
        proxy: host:port of the proxy.
        dashboard: host:port of the page's server.
        prefect: host:port of Prefect's server.
        own: host:port of Prometheus.
        rules: file of its rules.
        token_file: file of the bearer token of its requests; empty: none.
        router: host:port of the router of shards; empty: none.
        login: user, and file of the password, for Prefect; empty: the bearer token.
    """
    targets = ", ".join(f'"{host}"' for host in predictors)
    secret = f'\n    authorization: {{credentials_file: "{token_file}"}}' if token_file else ""
    user, password_file = login
    basic = (
        f'\n    basic_auth: {{username: {user}, password_file: "{password_file}"}}'
        if user
        else secret
    )
    return Template(SCRAPES.read_text()).substitute(
        predictors=targets,
        router=f"""\
  - job_name: router{secret}
    static_configs:
      - targets: ["{router}"]
"""
        if router
        else "",
        proxy=proxy,
        dashboard=dashboard,
        prefect=prefect,
        own=own,
        rules=rules,
        secret=secret,
        login=basic,
    )


def _host_port(component: Component) -> str:
    return component.address.partition("://")[2]


def _program(name: str) -> str:
    program = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/local/sbin")
    if program is None:
        raise SettingsError(
            f"gridcast up --site needs {name}, which is not on this machine: "
            f"install Debian's package {name}"
        )
    return program
