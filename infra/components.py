"""The parts that ``gridcast up`` runs on the embedded default: which command each is, where it answers and what it waits for.

The commands are plain text for other processes: nothing of what they start is imported here.
"""

from __future__ import annotations

import signal
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field

from infra.settings import Settings


@dataclass(frozen=True)
class Component:
    """One server or worker: its command, its door, how it shows that it is ready and which parts must be ready before it.

    ``ready_path`` is a path below ``address`` that answers 200 once the part is ready; a part without a door has ``ready_log_text``, a text
    that its log shows by then. ``port_setting`` names the variable that moves its port; ``stop_seconds`` is how many seconds the part has to
    stop by itself, asked by ``stop_signal``, before it is killed. ``token`` opens its door to who asks whether it is ready.
    ``files`` are written before it starts, by path, for its eyes only.
    """

    name: str
    command: tuple[str, ...]
    address: str = ""
    ready_path: str = "/"
    ready_log_text: str = ""
    port_setting: str = ""
    environment: Mapping[str, str] = field(default_factory=dict)
    after: tuple[str, ...] = ()
    stop_seconds: float = 10.0
    stop_signal: int = int(signal.SIGTERM)
    token: str = field(default="", repr=False)
    files: Mapping[str, str] = field(default_factory=dict, repr=False)


def local_components(settings: Settings, servers: bool = True) -> list[Component]:
    """MLflow, Prefect, the predictor, the shifter's page and the schedules, each told where the others answer.

    Without ``servers`` there are neither MLflow nor Prefect, and the others use MLflow's database directly.
    """
    mlflow_is_ours = servers and not settings.mlflow_url.startswith("http")
    shared = environment(
        settings,
        address(settings, settings.mlflow_port) if mlflow_is_ours else settings.tracking_url,
    )
    registry = ("mlflow",) if mlflow_is_ours else ()
    first = [mlflow(settings)] if mlflow_is_ours else []
    if servers:
        first.append(prefect(settings, shared))
    return [
        *first,
        predictor(settings, shared, registry),
        dashboard(settings, shared, registry),
        schedules(shared, tuple(part.name for part in first)),
    ]


def address(settings: Settings, port: int) -> str:
    """Where a server of ours answers."""
    return f"http://{settings.host}:{port}"


def environment(settings: Settings, mlflow_address: str) -> dict[str, str]:
    """What every part is told: the data folder, and where the others are."""
    return {
        "GRIDCAST_HOME": str(settings.home.absolute()),
        "GRIDCAST_MLFLOW_URL": mlflow_address,
        "PREFECT_API_URL": f"{settings.prefect_url or address(settings, settings.prefect_port)}/api",
        # The CLI would ask a question of nobody.
        "PREFECT_CLI_PROMPT": "false",
    }


def predictor(
    settings: Settings, shared: Mapping[str, str], after: tuple[str, ...] = ()
) -> Component:
    """The predictor."""
    return Component(
        "predictor",
        python(
            "bentoml",
            "serve",
            "services.predictor:Predictor",
            *_bind(settings.host, settings.predictor_port),
        ),
        address=address(settings, settings.predictor_port),
        ready_path="/readyz",
        port_setting="GRIDCAST_PREDICTOR_PORT",
        environment=shared,
        after=after,
        token=settings.any_token,
    )


def dashboard(
    settings: Settings, shared: Mapping[str, str], after: tuple[str, ...] = ()
) -> Component:
    """The shifter's page."""
    return Component(
        "dashboard",
        python(
            *(
                "uvicorn",
                "--factory",
                "services.dashboard.app:create_app",
                *_bind(settings.host, settings.dashboard_port),
            ),
            # An open page listens for news and would hold up the end.
            *("--log-level", "warning", "--no-access-log", "--timeout-graceful-shutdown", "2"),
        ),
        address=address(settings, settings.dashboard_port),
        port_setting="GRIDCAST_DASHBOARD_PORT",
        environment=shared,
        after=after,
    )


def schedules(shared: Mapping[str, str], after: tuple[str, ...] = ()) -> Component:
    """What registers the flows and is their worker."""
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
    """Prefect's server, on the database of the settings if they name one."""
    where = {
        "PREFECT_SERVER_API_HOST": settings.host,
        "PREFECT_SERVER_API_PORT": str(settings.prefect_port),
    }
    where["PREFECT_SERVER_METRICS_ENABLED"] = "true"
    # Runs older than 90 days go, as events do by themselves: what they found is in the store.
    where["PREFECT_SERVER_SERVICES_DB_VACUUM_ENABLED"] = "events,flow_runs"
    database = settings.prefect_database_url or settings.own_postgres_url("prefect")
    if database:
        where["PREFECT_SERVER_DATABASE_CONNECTION_URL"] = (
            "postgresql+asyncpg://" + database.partition("://")[2]
        )
    return Component(
        "prefect",
        python(
            "uvicorn",
            "--factory",
            "flows.server:create_app",
            *_bind(settings.host, settings.prefect_port),
            "--log-level",
            "warning",
        ),
        address=address(settings, settings.prefect_port),
        ready_path="/api/ready",
        port_setting="GRIDCAST_PREFECT_PORT",
        environment={**shared, **where},
        after=after,
    )


def mlflow(settings: Settings, after: tuple[str, ...] = ()) -> Component:
    """MLflow's server, on the database of the settings."""
    allowed = settings.allowed_host_headers(settings.mlflow_port)
    artifacts = (settings.folder("mlflow") / "artifacts").as_uri()
    return Component(
        "mlflow",
        # One worker answers a handful of engineers; MLflow's guard of Host and Origin exists only under uvicorn, its default.
        # Artifacts are files of the data folder: nobody can write one through the server.
        python(
            "mlflow",
            "server",
            *_bind(settings.host, settings.mlflow_port),
            # A line a request, and the predictor asks every 3 s: the log would grow for ever.
            *("--uvicorn-opts", "--no-access-log"),
            *("--workers", "1", "--default-artifact-root", artifacts, "--no-serve-artifacts"),
            *(
                "--allowed-hosts",
                ",".join(allowed),
                "--cors-allowed-origins",
                ",".join(f"http://{host}" for host in allowed),
            ),
        ),
        address=address(settings, settings.mlflow_port),
        ready_path="/health",
        port_setting="GRIDCAST_MLFLOW_PORT",
        # By the environment and not as an argument: a database's URL may carry a password, and arguments are for all to see.
        environment={"MLFLOW_BACKEND_STORE_URI": settings.tracking_url},
        after=after,
    )


def python(*arguments: str) -> tuple[str, ...]:
    """A command of this environment's Python."""
    return (sys.executable, "-m", *arguments)


def _bind(host: str, port: int) -> tuple[str, ...]:
    return ("--host", host, "--port", str(port))
