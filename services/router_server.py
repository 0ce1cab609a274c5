"""Serves the router of shards."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable

from starlette.types import ASGIApp

from infra.settings import Settings, prepare_environment
from services.http.connection import BoundedProtocol
from services.router.app import Router

SWITCH_SECONDS = 0.0005
"""For how long a thread that divides or merges a large call keeps the others waiting."""


def create_app() -> ASGIApp:
    """Make the app as ``gridcast up --site`` serves it."""
    sys.setswitchinterval(SWITCH_SECONDS)
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(levelname)s %(message)s")
    return Router(prepare_environment()).app()


def run(settings: Settings, begin: Callable[[int], None]) -> None:
    """Serve the router until Ctrl-C.

    Args:
        settings: Say where the shards are.
        begin: Called with the number of shards before the router listens.

    Raises:
        SettingsError: The addresses of the shards are wrong.
    """
    import uvicorn

    sys.setswitchinterval(SWITCH_SECONDS)
    router = Router(settings)
    begin(router.ring.count)
    uvicorn.run(
        router.app(),
        host=settings.host,
        http=BoundedProtocol,
        port=settings.router_port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
    )
