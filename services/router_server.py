"""Serves the router of shards."""

from __future__ import annotations

import logging
import sys

from starlette.types import ASGIApp

from infra.settings import prepare_environment
from services.http.connection import BoundedProtocol
from services.router.app import Router

SWITCH_SECONDS = 0.0005
"""For how long a thread that divides or merges a large call keeps the others waiting."""


def create_app() -> ASGIApp:
    """Make the app as ``gridcast up --site`` serves it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    return Router(prepare_environment()).app()


def run(router: Router) -> None:
    """Serve the router until Ctrl-C."""
    import uvicorn

    sys.setswitchinterval(SWITCH_SECONDS)
    uvicorn.run(
        router.app(),
        host=router.settings.host,
        http=BoundedProtocol,
        port=router.settings.router_port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
    )
