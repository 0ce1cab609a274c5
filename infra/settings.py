"""The settings: the only reader of the environment.

Every setting is an environment variable ``GRIDCAST_<NAME>`` or a line of ``.env``; Gridcast writes
only below ``GRIDCAST_HOME``. ``prepare_environment`` must run before Prefect, MLflow, Evidently or
BentoML is imported: it turns off their telemetry and moves their files into the data folder.
"""

from __future__ import annotations

import logging
import os
import re
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from secrets import token_urlsafe
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_settings import BaseSettings, DotEnvSettingsSource, SettingsConfigDict

from infra import setting_values
from infra.errors import InputError
from infra.setting_values import split_list as split_list
from infra.setting_values import split_login as split_login

log = logging.getLogger(__name__)
THREADS = int(os.environ.get("OMP_NUM_THREADS") or 2)
"""The threads of one fit; Dask sets the variable in its workers. No result depends on it."""
# CatBoost's allocator: freed memory is kept a second; page faults were a quarter of a fit's time.
os.environ.setdefault("MIMALLOC_PURGE_DELAY", "1000")


class SettingsError(InputError):
    """A setting is wrong; the message names it."""


class Settings(BaseSettings):
    """All settings, with the defaults of an embedded installation."""

    model_config = SettingsConfigDict(env_prefix="GRIDCAST_", env_file=".env", extra="ignore")

    home: Path = Field(
        Path("gridcast-data"), description="folder of everything that Gridcast writes"
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
        "", description="Prefect's server on another machine, http://…; default the one of `up`"
    )
    predictor_url: str = Field(
        "",
        description="URL of the predictors or their proxy, http://…; default this machine's port",
    )
    model_name: str = Field("gridcast", description="name of the registered model set in MLflow")
    host: str = Field("127.0.0.1", description="address that the servers bind to")
    predictor_port: int = Field(
        3000, ge=0, le=65535, description="port of the predictor, or of the proxy of `up --site`"
    )
    mlflow_port: int = Field(5000, ge=0, le=65535, description="port of MLflow")
    prefect_port: int = Field(4200, ge=0, le=65535, description="port of Prefect")
    dashboard_port: int = Field(3100, ge=0, le=65535, description="port of the shifter's page")
    replica_ports: str = Field(
        "",
        description="ports of the predictors behind the proxy of `up --site`, several for each "
        "shard where there are shards; default from 3001 on, two, or one a shard",
    )
    shards: int = Field(
        1, ge=1, le=64, description="among how many shards `up --site` divides the users"
    )
    shard_addresses: setting_values.ShardAddressesText = Field(
        "",
        description="where the router finds each shard, as 1/2=http://a:3001,2/2=http://b:3001 "
        "(| between several predictors of one), or a file of such lines, which it reads again "
        "when it changes",
    )
    router_port: int = Field(3200, ge=0, le=65535, description="port of the router of shards")
    shard: setting_values.ShardText = Field(
        "", description="shard of the users that a predictor holds, as 2/4; empty: all users"
    )
    postgres_port: int = Field(
        5433, ge=0, le=65535, description="port of the PostgreSQL of `up --site`"
    )
    prometheus_port: int = Field(
        9090, ge=0, le=65535, description="port of the Prometheus of `up --site`"
    )
    dashboard_seconds: float = Field(
        60.0, gt=0, description="seconds between two updates of the tasks"
    )
    collect: SecretStr = Field(
        SecretStr(""),
        description="batch systems to collect from every ten minutes, as slurm, pbs=FOLDER, "
        "panda=URL or FOLDER; empty: none",
    )
    retention_months: int = Field(
        0,
        ge=0,
        le=1200,
        description="full months, before this one, for which records are kept; 0: for ever",
    )
    panda_url: str = Field(
        "",
        description="URL that accepts ttcPredicted and ttcPredictionDate of each task; empty: none",
    )
    promotion: Literal["auto", "ask"] = Field(
        "auto", description="promote a better challenger at once, or ask an operator"
    )
    canary: float = Field(
        0.0,
        ge=0,
        le=0.5,
        description="share of the jobs that a challenger answers before it may be promoted, "
        "as 0.05; 0: a challenger answers none",
    )
    thresholds: str = Field(
        "",
        description="thresholds of classes by target, as walltime=600,3600; "
        "memory_per_core=ladder; default quantiles of the training jobs",
    )
    dask: str = Field(
        "local",
        description="who computes logs, settings and models of clusters side by side: local "
        "(a worker for two cores), local:2, off, or a Dask scheduler such as tls://host:8786",
    )
    failure_price: float = Field(
        1.0,
        ge=0,
        description="cost of a job killed for lack of memory, beside what it used, in GiB·h",
    )
    left_alone: str = Field(
        "", description="programs, comma-separated, whose jobs are allocated what they request"
    )
    request_users: str = Field(
        "", description="users, comma-separated, whose jobs' requests adapters may write; * for all"
    )
    request_programs: str = Field(
        "", description="programs whose jobs' requests adapters may write; * for all"
    )
    request_queues: str = Field(
        "", description="queues (partitions) in which adapters may write requests; * for all"
    )
    request_mode: Literal["off", "observe", "suggest", "act"] = Field(
        "off",
        description="what adapters do with the requests they would write for jobs in all of the "
        "three lists that are given: off, observe (note them for administrators), suggest (tell "
        "the user), act (write them)",
    )
    request_least_jobs: int = Field(
        5, ge=1, description="ended jobs that a prediction must rest on before a request is written"
    )
    request_least_memory: int = Field(
        256, ge=1, description="least memory that adapters write for a job, in MiB"
    )
    request_least_walltime: int = Field(
        600, ge=60, description="least time limit that adapters write, in s"
    )
    request_above: bool = Field(
        False,
        description="adapters may write more than a job requested, and a request where it has none",
    )
    cooldown_hours: float = Field(
        6.0, ge=0, description="least hours between two trainings triggered by decay or drift"
    )
    watch_seconds: float = Field(
        3.0, gt=0, description="seconds between two looks of a predictor at registry and store"
    )
    mlflow_seconds: int = Field(10, ge=1, description="seconds for MLflow to answer a request")
    alerts: SecretStr = Field(
        SecretStr(""),
        description="Apprise URLs, comma-separated, that are notified of alerts and of their end",
    )
    lineage: SecretStr = Field(
        SecretStr(""),
        description="file or server (http://…) that gets OpenLineage events, a password in the "
        "URL being its API key; empty: none",
    )
    allowed_hosts: str = Field(
        "",
        description="more names of the servers, comma-separated, that callers may use in requests",
    )
    otel_endpoint: str = Field(
        "",
        validation_alias="OTEL_EXPORTER_OTLP_ENDPOINT",
        description="OpenTelemetry collector (OTLP over HTTP) of the predictor's traces",
    )
    prefect_auth_string: SecretStr = Field(
        SecretStr(""),
        validation_alias="PREFECT_SERVER_API_AUTH_STRING",
        description="user:password that Prefect's server demands; default gridcast and a token "
        "with the scope admin",
    )
    tls_in_front: bool = Field(
        False,
        description="a proxy ends TLS before the servers, so that GRIDCAST_HOST may be another "
        "address than a loopback one",
    )
    tokens: SecretStr = Field(
        SecretStr(""),
        description="bearer tokens as token:scope+scope, comma-separated, beside that of the "
        "file; user=NAME, group=NAME or vo=NAME among the scopes bind one to these owners",
    )
    issuers: Path | None = Field(
        None, description="TOML file of the issuers of accepted JSON Web Tokens; empty: none"
    )
    login_proxies: str = Field(
        "",
        description="networks, comma-separated, of a proxy that logs people in to the page "
        "(OIDC), names them in headers and sends a token of the scope login; empty: none",
    )
    login_user_header: str = Field("X-Forwarded-User", description="where it names the user")
    login_rights: str = Field(
        "",
        description="rights of the users of that proxy by group (X-Forwarded-Groups), as "
        "operators:admin,cms:predict+vo=cms; others see their own jobs",
    )
    token_file: Path | None = Field(
        None,
        description="file of one token with the scope admin, which `up` makes where there is "
        "none; default token in the data folder",
    )
    open_on_loopback: bool = Field(
        False,
        description="the predictor and the page answer every user of this machine without a "
        "token; refused for another address than a loopback one",
    )

    @field_validator("request_users", "request_programs", "request_queues")
    @classmethod
    def _no_white_space(cls, names: str) -> str:
        if any(len(item.split()) > 1 or "=" in item for item in split_list(names)):
            raise ValueError("names are separated by commas, and have neither blanks nor =")
        return names

    @field_validator("request_mode")
    @classmethod
    def _names_jobs(cls, mode: str, info: ValidationInfo) -> str:
        lists = ("request_users", "request_programs", "request_queues")
        if mode != "off" and not any(split_list(info.data.get(name, "")) for name in lists):
            raise ValueError(
                f"{mode} needs GRIDCAST_REQUEST_USERS, _PROGRAMS or _QUEUES (* for all)"
            )
        return mode

    @field_validator("open_on_loopback")
    @classmethod
    def _only_on_loopback(cls, is_open: bool, info: ValidationInfo) -> bool:
        if is_open and not setting_values.is_loopback(info.data.get("host", "")):
            raise ValueError("other machines reach the address that the servers bind to")
        if is_open and (info.data.get("tls_in_front") or info.data.get("allowed_hosts")):
            raise ValueError(
                "behind a proxy of this machine (GRIDCAST_TLS_IN_FRONT, GRIDCAST_ALLOWED_HOSTS) "
                "callers of other machines appear local"
            )
        return is_open

    @property
    def host_names(self) -> tuple[str, ...]:
        """Names of the servers: of the loopback, the address they bind to, and ``allowed_hosts``.

        >>> Settings(host="192.168.1.2", allowed_hosts=" Grid.Example ,").host_names
        ('localhost', '127.0.0.1', '::1', '192.168.1.2', 'grid.example')
        """
        named = (self.host.lower(), *split_list(self.allowed_hosts.lower()))
        return tuple(dict.fromkeys((*setting_values.LOOPBACK, *named)))

    def allowed_host_headers(self, port: int) -> tuple[str, ...]:
        """The valid Host headers of requests to the server on ``port``."""
        return tuple(
            f"[{name}]:{port}" if ":" in name else f"{name}:{port}" for name in self.host_names
        )

    @property
    def host_in_url(self) -> str:
        """``host`` as URLs have it: an IPv6 address in brackets."""
        return f"[{self.host}]" if ":" in self.host else self.host

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
        """URL of the predictor for Gridcast's own requests."""
        own = f"http://{self.host_in_url}:{self.predictor_port}"
        return self.predictor_url.rstrip("/") or own

    @property
    def tracking_url(self) -> str:
        """MLflow's tracking and registry URI."""
        return (
            self.mlflow_url
            or self.own_postgres_url("mlflow")
            or f"sqlite:///{self.folder('mlflow') / 'mlflow.db'}"
        )

    @property
    def webhook_urls(self) -> tuple[str, ...]:
        """The addresses of ``alerts`` that take JSON, as URLs for MLflow's webhooks."""
        return setting_values.webhook_urls(self.alerts.get_secret_value())

    @property
    def displayed_tracking_url(self) -> str:
        """``tracking_url`` without a password."""
        return setting_values.without_password(self.tracking_url)

    @property
    def postgres_folder(self) -> Path:
        """Folder of the PostgreSQL that ``gridcast up --site`` runs, and of its password."""
        return self.home.absolute() / "postgres"

    def own_postgres_url(self, database: str) -> str:
        """URL of a database of the data folder's own PostgreSQL; empty where there is none."""
        if not (self.postgres_folder / "data").exists():
            return ""
        password = (self.postgres_folder / "password").read_text()
        return f"postgresql://gridcast:{password}@127.0.0.1:{self.postgres_port}/{database}"

    @property
    def token_path(self) -> Path:
        """File of the token with the scope admin that ``gridcast up`` makes."""
        return (self.token_file or self.home / "token").absolute()

    @property
    def file_token(self) -> str:
        """The token of the token file; empty where there is none."""
        try:
            return self.token_path.read_text().strip()
        except OSError:
            return ""

    @property
    def all_tokens(self) -> str:
        """The tokens of the settings, and the one of the file, as ``tokens``."""
        own = self.file_token and f"{self.file_token}:admin"
        return ",".join(filter(None, (self.tokens.get_secret_value(), own)))

    @property
    def predictor_tokens(self) -> str:
        """The tokens for requests to ``predictor_address``, as ``tokens``.

        That of the data folder opens every server here, so no other machine is sent it.
        """
        is_own = urlsplit(self.predictor_address).hostname in self.host_names
        return self.all_tokens if is_own or self.token_file else self.tokens.get_secret_value()

    @property
    def admin_token(self) -> str:
        """The first token with the scope admin, which MLflow and Prefect demand; empty for none.

        >>> Settings(tokens="0123456789abcdef:predict,fedcba9876543210:admin").admin_token
        'fedcba9876543210'
        """
        entries = [entry.rpartition(":") for entry in split_list(self.all_tokens)]
        admins = (secret for secret, _, scopes in entries if "admin" in scopes.split("+"))
        return next(admins, "")

    @property
    def prefect_login(self) -> str:
        """What Prefect's server demands, ``user:password``; empty for nothing."""
        chosen = self.prefect_auth_string.get_secret_value()
        return chosen or (f"gridcast:{self.admin_token}" if self.admin_token else "")

    @property
    def logins(self) -> dict[str, str]:
        """The variables by which clients of MLflow and Prefect log in to our own servers."""
        variables = {}
        if self.admin_token and urlsplit(self.tracking_url).hostname in self.host_names:
            variables["MLFLOW_TRACKING_TOKEN"] = self.admin_token
        if self.prefect_login and urlsplit(self.prefect_url).hostname in (None, *self.host_names):
            variables["PREFECT_API_AUTH_STRING"] = self.prefect_login
        return variables

    def make_token(self) -> bool:
        """Make the token file, readable by its owner only; False where an admin token is there."""
        if self.admin_token:
            return False
        self.folder(".")
        draft = self.token_path.with_name(f"{self.token_path.name}.{os.getpid()}")
        try:
            with os.fdopen(
                os.open(draft, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o600), "w"
            ) as file:
                file.write(f"{token_urlsafe(32)}\n")
            os.link(draft, self.token_path)
        except OSError as error:
            if self.admin_token:  # made by another process meanwhile
                return False
            raise SettingsError(
                f"{self.token_path} has no token and cannot be made: {error.strerror}"
            ) from None
        finally:
            draft.unlink(missing_ok=True)
        return True

    @property
    def any_token(self) -> str:
        """The first token that reads everything, for requests that need any; empty for none.

        >>> Settings(tokens="0123456789abcdef:metrics,fedcba9876543210:predict").any_token
        'fedcba9876543210'
        """
        entries = (entry.rpartition(":") for entry in split_list(self.all_tokens))
        is_bound = re.compile(r"(^|\+)(login($|\+)|(user|group|vo)=)|^metrics($|\+name=)").search
        return next((secret for secret, _, rights in entries if not is_bound(rights)), "")

    def folder(self, name: str) -> Path:
        """The absolute path of a folder of the data folder, which is made if it does not exist.

        Only the owner may enter what is made; folders that exist keep their permissions.
        """
        home = self.home.absolute()
        path = home / name
        try:
            home.parent.mkdir(parents=True, exist_ok=True)
            levels = (path, *path.parents)
            for level in reversed(levels[: levels.index(home) + 1]):
                level.mkdir(mode=0o700, exist_ok=True)
        except (NotADirectoryError, PermissionError, FileExistsError) as error:
            raise SettingsError(f"GRIDCAST_HOME: {path} cannot be made: {error.strerror}") from None
        return path


def read_settings() -> Settings:
    """Read the settings from the environment; raises SettingsError, naming the first wrong one."""
    names = (*DotEnvSettingsSource(Settings).env_vars, *os.environ)
    if wrong := setting_values.misspelt_request(names, Settings.model_fields):
        raise SettingsError(wrong)
    for name, near in setting_values.near_settings(names, Settings.model_fields).items():
        log.warning("%s is no setting and has no effect: is %s meant?", name, near)
    try:
        return Settings()
    except ValidationError as error:
        first = error.errors()[0]
        name = "GRIDCAST_" + "_".join(map(str, first["loc"])).upper()
        reason = first["msg"].removeprefix("Value error, ")
        reason = reason[:1].lower() + reason[1:] + setting_values.EXAMPLES.get(name, "")
        raise SettingsError(f"the setting {name} is wrong: {reason}") from None


@lru_cache(maxsize=1)
def prepare_environment() -> Settings:
    """Set the variables of other packages, once a process; returns the settings."""
    settings = read_settings()
    variables = {
        # MLflow accepts only "true".
        "DO_NOT_TRACK": "true",
        "MLFLOW_DISABLE_TELEMETRY": "true",
        "BENTOML_DO_NOT_TRACK": "True",
        "PREFECT_SERVER_ANALYTICS_ENABLED": "false",
        "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": "30",
        # Otherwise seven job workers of 255 MB each start, and one more API must be guarded.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "MLFLOW_ALLOW_PICKLE_DESERIALIZATION": "false",
        # By default a call takes minutes to fail when MLflow is down, and prints to stdout.
        "MLFLOW_HTTP_REQUEST_TIMEOUT": str(settings.mlflow_seconds),
        "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
        "MLFLOW_LOGGING_LEVEL": "WARNING",
        "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
        "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
        "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
        "PREFECT_SERVER_ALLOW_EPHEMERAL_MODE": "false",  # such a server has no login
        "BENTOML_HOME": str(settings.folder("bentoml")),
        "PREFECT_HOME": str(settings.folder("prefect")),
        "MLFLOW_TRACKING_URI": settings.tracking_url,
        "MPLBACKEND": "Agg",
    }
    os.environ.update(variables)
    for name, value in settings.logins.items():
        os.environ.setdefault(name, value)
    os.environ.setdefault("PREFECT_LOGGING_TO_API_WHEN_MISSING_FLOW", "ignore")
    return settings


def use_home(home: str | Path) -> Settings:
    """Make ``home`` the data folder of this process; returns the settings that follow."""
    os.environ["GRIDCAST_HOME"] = str(home)
    prepare_environment.cache_clear()
    return prepare_environment()


def use_own_folder(name: str) -> Settings:
    """Keep all that follows in a folder of the data folder, on embedded databases.

    To be called before Prefect, MLflow, Evidently or BentoML is imported.
    """
    home = prepare_environment().home.absolute() / name
    databases = ("DATABASE_URL", "MLFLOW_URL", "PREFECT_DATABASE_URL")
    os.environ.update({f"GRIDCAST_{setting}": "" for setting in databases})
    return use_home(home)


def environment_with(extra: Mapping[str, str]) -> dict[str, str]:
    """The environment of a child process: this one's, prepared, and ``extra``."""
    prepare_environment()
    return {**os.environ, **extra}
