"""The components of ``gridcast up`` on the embedded default: servers and workers.

Their commands are text for other processes: nothing that they run is imported here.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from infra.setting_values import LOOPBACK, is_loopback
from infra.settings import Settings

UVICORN = "uvicorn --http services.http.connection:BoundedProtocol --factory"
"""A server that bounds the heads of requests in bytes and seconds, before it reads a token."""
WEBHOOKS_ALLOWED = {
    "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "https,http",
    "MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true",
}
"""Variables by which MLflow's server sends webhooks to addresses of this network."""


@dataclass(frozen=True)
class Component:
    """A server or worker, run as a process.

    Attributes:
        name: its name.
        command: program and arguments.
        address: where it answers; empty where it does not listen.
        ready_path: path below ``address`` that answers 200 once it is ready.
        ready_log_text: without an address, the text that its log contains once it is ready.
        port_setting: the environment variable of its port.
        environment: variables added to this process's environment.
        after: names of the components that must be ready before it starts.
        stop_seconds: time to stop after ``stop_signal``, before it is killed.
        stop_signal: the signal by which it is asked to stop.
        token: bearer token of requests to ``ready_path``.
        files: texts by path, written before it starts, readable by its user only.
    """

    name: str
    command: tuple[str, ...]
    address: str = ""
    ready_path: str = "/"
    ready_log_text: str = ""
    port_setting: str = ""
    environment: Mapping[str, str] = field(default_factory=dict, repr=False)
    after: tuple[str, ...] = ()
    stop_seconds: float = 10.0
    stop_signal: int = int(signal.SIGTERM)
    token: str = field(default="", repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


def local_components(
    settings: Settings, servers: bool = True, in_containers: bool = False
) -> list[Component]:
    """MLflow, Prefect, the predictor, the dashboard and the schedules.

    Args:
        settings: the settings.
        servers: whether MLflow and Prefect are among them; else the others use MLflow's database
            directly.
        in_containers: whether MLflow and Prefect listen at the address of the others; else at a
            loopback one always.
    """
    inner = settings if in_containers else on_loopback(settings)
    runs_mlflow = servers and not settings.mlflow_url.startswith("http")
    shared = environment(
        settings,
        address(inner, inner.mlflow_port) if runs_mlflow else settings.tracking_url,
    )
    registry = ("mlflow",) if runs_mlflow else ()
    first = [mlflow(inner)] if runs_mlflow else []
    if servers:
        first.append(prefect(inner, shared))
    return [
        *first,
        predictor(settings, shared, registry),
        dashboard(settings, shared, registry),
        schedules(shared, tuple(component.name for component in first)),
    ]


def on_loopback(settings: Settings) -> Settings:
    """The settings for servers that only this machine may reach.

    >>> [on_loopback(Settings(host=host)).host for host in ("0.0.0.0", "127.0.0.2")]
    ['127.0.0.1', '127.0.0.2']
    """
    host = settings.host if is_loopback(settings.host) else LOOPBACK[1]
    return settings.model_copy(update={"host": host})


def address(settings: Settings, port: int) -> str:
    """The URL of a server on ``port``.

    >>> address(Settings(host="::1"), 4200)
    'http://[::1]:4200'
    """
    return f"http://{settings.host_in_url}:{port}"


def prefect_address(settings: Settings) -> str:
    """The URL of Prefect's server: that of the settings, or of this machine's own."""
    return settings.prefect_url or address(on_loopback(settings), settings.prefect_port)


def _server(settings: Settings, name: str, command: tuple[str, ...], **details: Any) -> Component:
    """A server that listens on the port of its name in the settings.

    Args:
        settings: the settings.
        name: its name.
        command: a program with its first arguments, and what follows host and port.
        details: further attributes of the component.
    """
    port = getattr(settings, f"{name}_port")
    return Component(
        name,
        python(command[0], *_bind(settings.host, port), *command[1:]),
        address=address(settings, port),
        port_setting=f"GRIDCAST_{name.upper()}_PORT",
        **details,
    )


def environment(settings: Settings, mlflow_address: str) -> dict[str, str]:
    """The variables of every component: the data folder, and the addresses of the servers."""
    return {
        "GRIDCAST_HOME": str(settings.home.absolute()),
        "GRIDCAST_TOKEN_FILE": str(settings.token_path),
        "GRIDCAST_MLFLOW_URL": mlflow_address,
        "PREFECT_API_URL": f"{prefect_address(settings)}/api",
        "PREFECT_CLI_PROMPT": "false",  # nobody could answer it
        **settings.model_copy(update={"mlflow_url": mlflow_address}).logins,
    }


def predictor(
    settings: Settings, shared: Mapping[str, str], after: tuple[str, ...] = ()
) -> Component:
    """The predictor.

    Args:
        settings: the settings.
        shared: the variables of every component.
        after: names of the components that must be ready before it.
    """
    return _server(
        settings,
        "predictor",
        ("bentoml serve services.predictor:Predictor",),
        ready_path="/readyz",
        environment=shared,
        after=after,
        token=settings.any_token,
    )


def router(settings: Settings, shared: Mapping[str, str], after: tuple[str, ...] = ()) -> Component:
    """The router before shards.

    Args:
        settings: the settings.
        shared: the variables of every component.
        after: names of the components that must be ready before it.
    """
    return _server(
        settings,
        "router",
        _app_server("services.router_server", 5),
        ready_path="/readyz",
        environment=shared,
        after=after,
        token=settings.any_token,
    )


def dashboard(
    settings: Settings, shared: Mapping[str, str], after: tuple[str, ...] = ()
) -> Component:
    """The dashboard.

    Args:
        settings: the settings.
        shared: the variables of every component.
        after: names of the components that must be ready before it.
    """
    # An open page waits for events: without a time-out the server would never stop.
    return _server(
        settings,
        "dashboard",
        _app_server("services.dashboard_server", 2),
        environment=shared,
        after=after,
        token=settings.any_token,
    )


def _app_server(module: str, stop_seconds: int) -> tuple[str, ...]:
    """The command that serves an app of ours, and how long it waits for calls when it stops."""
    # Uvicorn would take the address that X-Forwarded-For names for that of the connection.
    options = "--log-level info --no-access-log --no-proxy-headers --timeout-graceful-shutdown"
    return (f"{UVICORN} {module}:create_app", *options.split(), str(stop_seconds))


def schedules(shared: Mapping[str, str], after: tuple[str, ...] = ()) -> Component:
    """The worker that registers and runs the scheduled flows."""
    return Component(
        "schedules",
        python("flows.schedules"),
        ready_log_text="started!",
        environment=shared,
        after=after,
    )


def prefect(
    settings: Settings, shared: Mapping[str, str], after: tuple[str, ...] = ()
) -> Component:
    """Prefect's server, on the database of the settings or on SQLite.

    Args:
        settings: the settings.
        shared: the variables of every component.
        after: names of the components that must be ready before it.
    """
    variables = {
        "PREFECT_SERVER_API_HOST": settings.host,
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
        "PREFECT_SERVER_METRICS_ENABLED": "true",
        # It writes its pages anew with its address; beside its code it may be unable to.
        "PREFECT_SERVER_UI_STATIC_DIRECTORY": str(settings.folder("prefect") / "pages"),
        # Prefect sets Uvicorn's level: by default its start and address are not logged.
        "PREFECT_LOGGING_LOGGERS_UVICORN_LEVEL": "INFO",
        # Runs older than 90 days are deleted, as events are by default: the results are stored.
        "PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED": "events,flow_runs",
    }
    if settings.prefect_login:
        variables["PREFECT_SERVER_API_AUTH_STRING"] = settings.prefect_login
    if database := settings.prefect_database_url or settings.own_postgres_url("prefect"):
        url = "postgresql+asyncpg://" + database.partition("://")[2]
        variables["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = url
    return _server(
        settings,
        "prefect",
        (
            f"{UVICORN} flows.server:create_app",
            *("--log-level", "info", "--no-access-log"),
        ),
        ready_path="/api/ready",
        environment={**shared, **variables},
        after=after,
    )


def mlflow(settings: Settings, after: tuple[str, ...] = ()) -> Component:
    """MLflow's server, on the database of the settings."""
    hosts = settings.allowed_host_headers(settings.mlflow_port)
    artifacts = (settings.folder("mlflow") / "artifacts").as_uri()
    return _server(
        settings,
        "mlflow",
        # One process suffices for a few engineers. The access log would grow without end, since
        # the predictor sends a request every 3 s.
        (f"{UVICORN} services.mlflow_server:create_app", "--no-access-log"),
        ready_path="/health",
        # What ``mlflow server`` passes to its workers. MLflow checks Host and Origin only under
        # uvicorn. Artifacts are files: nobody can write one through the server.
        environment={
            "GRIDCAST_HOME": str(settings.home.absolute()),
            "GRIDCAST_TOKEN_FILE": str(settings.token_path),
            "MLFLOW_BACKEND_STORE_URI": settings.tracking_url,
            "_MLFLOW_SERVER_FILE_STORE": settings.tracking_url,
            "_MLFLOW_SERVER_ARTIFACT_ROOT": artifacts,
            "_MLFLOW_SGI_NAME": "uvicorn",
            "_MLFLOW_IN_JOB_EXECUTOR": "false",
            # It sends requests to addresses of its callers' choice (CVE-2026-71211), and is no
            # part of this.
            "MLFLOW_ENABLE_AI_GATEWAY": "false",
            "MLFLOW_SERVER_ALLOWED_HOSTS": ",".join(hosts),
            "MLFLOW_SERVER_CORS_ALLOWED_ORIGINS": ",".join(f"http://{host}" for host in hosts),
            # Webhooks to the operator's own addresses, which may be of this network.
            **(WEBHOOKS_ALLOWED if settings.webhook_urls else {}),
        },
        after=after,
    )


def python(command: str, *arguments: str) -> tuple[str, ...]:
    """The command of a module in this environment: its words, then ``arguments`` as they are."""
    return (sys.executable, "-m", *command.split(), *arguments)


def _bind(host: str, port: int) -> tuple[str, ...]:
    return ("--host", host, "--port", str(port))
