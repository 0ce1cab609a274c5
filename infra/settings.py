"""Settings: the only reader of the environment.

Every setting is an environment variable ``GRIDCAST_<NAME>`` or a line of ``.env``; everything that Gridcast writes lies
under ``GRIDCAST_HOME``. ``prepare_environment`` must run before Prefect, MLflow, Evidently or BentoML is imported: it turns
their telemetry off and their files into the data folder.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit, urlunsplit

from pydantic import Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from infra.errors import InputError


def split_list(text: str) -> list[str]:
    """What a comma-separated setting names.

    >>> split_list(" one, two ,,")
    ['one', 'two']
    """
    return [part.strip() for part in text.split(",") if part.strip()]


class SettingsError(InputError):
    """A setting is wrong; the message is one sentence that names it."""


class Settings(BaseSettings):
    """What an operator may set, with the embedded defaults."""

    model_config = SettingsConfigDict(env_prefix="GRIDCAST_", env_file=".env", extra="ignore")

    home: Path = Field(
        Path("gridcast-data"), description="folder that holds everything Gridcast writes"
    )
    database_url: str = Field(
        "", description="SQLAlchemy URL of the job store; default that of `up --site`, else SQLite"
    )
    mlflow_url: str = Field(
        "",
        description="MLflow tracking server or database; default that of `up --site`, else SQLite",
    )
    prefect_database_url: str = Field(
        "", description="Prefect's database, postgresql://…; default SQLite in the data folder"
    )
    prefect_url: str = Field(
        "",
        description="Prefect's server where another machine runs it, http://…; default the one of `up`",
    )
    predictor_url: str = Field(
        "",
        description="where the predictors, or their proxy, answer, http://…; default this machine's port",
    )
    model_name: str = Field("gridcast", description="name of the registered model set in MLflow")
    host: str = Field("127.0.0.1", description="address that the servers bind to")
    predictor_port: int = Field(3000, ge=0, le=65535)
    mlflow_port: int = Field(5000, ge=0, le=65535)
    prefect_port: int = Field(4200, ge=0, le=65535)
    dashboard_port: int = Field(3100, ge=0, le=65535)
    replica_ports: str = Field(
        "3001,3002",
        description="ports of the predictors behind the proxy of `up --site`, which has their port",
    )
    postgres_port: int = Field(5433, ge=0, le=65535)
    prometheus_port: int = Field(9090, ge=0, le=65535)
    dashboard_seconds: float = Field(
        60.0, gt=0, description="seconds between two looks at the tasks"
    )
    collect: SecretStr = Field(
        SecretStr(""),
        description="batch systems that are read every ten minutes, as slurm, pbs=FOLDER, panda=URL or FOLDER; empty: none",
    )
    retention_months: int = Field(
        0,
        ge=0,
        le=1200,
        description="full months before this one that jobs and all about them are kept for; 0: nothing is ever dropped",
    )
    panda_url: str = Field(
        "",
        description="address that takes ttcPredicted and ttcPredictionDate of each task; empty: nobody is told",
    )
    promotion: Literal["auto", "ask"] = Field(
        "auto", description="promote a better challenger at once, or wait for a person"
    )
    thresholds: str = Field(
        "",
        description="thresholds of classes by target, as walltime=600,3600; memory_per_core=ladder; else quantiles of the training part",
    )
    dask: str = Field(
        "local",
        description="where models of clusters are trained side by side: local, a Dask scheduler such as tcp://host:8786, or off",
    )
    failure_price: float = Field(
        1.0,
        ge=0,
        description="what a job killed for lack of memory costs beside what it wasted, in GiB·h",
    )
    left_alone: str = Field(
        "", description="programs, comma-separated, whose jobs are set aside just what they ask for"
    )
    cooldown_hours: float = Field(
        6.0, ge=0, description="least hours between two trainings that decay or drift asks for"
    )
    alerts: SecretStr = Field(
        SecretStr(""),
        description="Apprise URLs, comma-separated, that are told when something is wrong and when it is over",
    )
    allowed_hosts: str = Field(
        "",
        description="more names, comma-separated, by which a caller may ask for the servers, such as a proxy's",
    )
    otel_endpoint: str = Field(
        "",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry collector (OTLP over HTTP) that the predictor's traces go to; empty: none are made",
    )
    tokens: SecretStr = Field(
        SecretStr(""),
        description="bearer tokens as token:scope+scope, comma-separated; empty: no authentication",
    )

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names by which a caller may ask for the servers: the loopback's, the address they are bound to, and ``allowed_hosts``.

        >>> Settings(host="192.168.1.2", allowed_hosts=" Grid.Example ,").host_names
        ('localhost', '127.0.0.1', '::1', '192.168.1.2', 'grid.example')
        """
        return tuple(
            dict.fromkeys(
                (
                    "localhost",
                    "127.0.0.1",
                    "::1",
                    self.host.lower(),
                    *split_list(self.allowed_hosts.lower()),
                )
            )
        )

    def allowed_host_headers(self, port: int) -> tuple[str, ...]:
        """What a caller of the server on ``port`` may write into the Host header."""
        return tuple(
            f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in self.host_names
        )

    @property
    def store_url(self) -> str:
        """SQLAlchemy URL of the job store."""
        return (
            self.database_url
            or self.own_postgres_url("gridcast")
            or f"sqlite:///{self.folder('store') / 'jobs.db'}"
        )

    @property
    def predictor_address(self) -> str:
        """Where Gridcast's own calls go to."""
        return self.predictor_url.rstrip("/") or f"http://{self.host}:{self.predictor_port}"

    @property
    def tracking_url(self) -> str:
        """What MLflow calls its tracking and registry URI."""
        return (
            self.mlflow_url
            or self.own_postgres_url("mlflow")
            or f"sqlite:///{self.folder('mlflow') / 'mlflow.db'}"
        )

    @property
    def displayed_tracking_url(self) -> str:
        """``tracking_url`` as it may be shown: without the password that it may carry.

        >>> Settings(mlflow_url="postgresql://someone:secret@db:5432/mlflow").displayed_tracking_url
        'postgresql://db:5432/mlflow'
        """
        parts = urlsplit(self.tracking_url)
        return (
            urlunsplit((parts.scheme, parts.netloc.rpartition("@")[2], parts.path, "", ""))
            if parts.netloc
            else self.tracking_url
        )

    @property
    def postgres_folder(self) -> Path:
        """Where ``gridcast up --site`` keeps a PostgreSQL of its own, with its password."""
        return self.home.absolute() / "postgres"

    def own_postgres_url(self, database: str) -> str:
        """URL of a database of the data folder's own PostgreSQL; empty where there is none."""
        if not (self.postgres_folder / "data").exists():
            return ""
        return f"postgresql://gridcast:{(self.postgres_folder / 'password').read_text()}@127.0.0.1:{self.postgres_port}/{database}"

    @property
    def any_token(self) -> str:
        """One of the tokens, for what may be asked with any; empty where there are none.

        >>> Settings(tokens="0123456789abcdef:predict,fedcba9876543210:admin").any_token
        '0123456789abcdef'
        """
        return self.tokens.get_secret_value().partition(",")[0].strip().rpartition(":")[0]

    def folder(self, name: str) -> Path:
        """An absolute folder of the data folder, made if it is not there."""
        path = self.home.absolute() / name
        try:
            path.mkdir(parents=True, exist_ok=True)
        except (NotADirectoryError, PermissionError, FileExistsError) as error:
            raise SettingsError(f"GRIDCAST_HOME: {path} cannot be made: {error.strerror}") from None
        return path


def read_settings() -> Settings:
    """Read the settings from the environment now.

    Raises SettingsError with one sentence naming the first variable that is wrong.
    """
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "GRIDCAST_" + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(f"the setting {name} is wrong: {first['msg'].lower()}") from None


@lru_cache(maxsize=1)
def prepare_environment() -> Settings:
    """Silence telemetry and point every part's files into the data folder, once a process; returns the settings."""
    settings = read_settings()
    here = {
        # MLflow reads the word "true" only.
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # Seven job workers of 255 MB each start otherwise, and the jobs API is one more door to guard.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        # The defaults keep a caller waiting for minutes when MLflow is down, and print on standard output.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": "10",
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        # On a busy machine a flow's own temporary server takes longer than the default of 20 s.
        "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": "180",
        "BENTOML_HOME": str(settings.folder("bentoml")),
        "PREFECT_HOME": str(settings.folder("prefect")),
        "MLFLOW_TRACKING_URI": settings.tracking_url,
        "MPLBACKEND": "Agg",
    }
    os.environ.update(here)
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    return settings


def environment_with(extra: Mapping[str, str]) -> dict[str, str]:
    """This process's environment, prepared, with ``extra``: what a child process is given."""
    prepare_environment()
    return {**os.environ, **extra}
