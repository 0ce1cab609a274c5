"""MLflow's server, which demands a token with the scope admin.

Tokens are those of the settings, or the one that ``gridcast up`` made; a browser logs in by a link
or gives one as the password, MLflow's client by MLFLOW_TRACKING_TOKEN.
"""

from __future__ import annotations

from typing import Any

from infra.settings import prepare_environment
from models.releases.mlflow_server import create_app as create_mlflow
from services.http.authentication import Guard
from services.http.callers import settings_tokens
from services.http.logins import BrowserLogins, Logins

HEALTH = "/health"
"""For whoever starts and watches the server; it tells that the process runs."""


def create_app() -> Any:
    """MLflow's API and pages, guarded; for ``uvicorn --factory``."""
    settings = prepare_environment()
    app = create_mlflow()
    if not settings.admin_token:
        return app
    tokens = settings_tokens(settings)
    guard = Guard(app, tokens, frozenset(settings.host_names), {}, "admin", (HEALTH,))
    logins = Logins(settings, settings.mlflow_port)
    return BrowserLogins(guard, logins, f"Bearer {settings.admin_token}")
