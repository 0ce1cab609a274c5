"""Serves the shifters' page, and beside it runs the task watch whose results the page reads."""

from __future__ import annotations

from starlette.applications import Starlette

from infra.settings import Settings, prepare_environment
from services.dashboard.app import Dashboard
from services.http.connection import BoundedProtocol
from services.task_watch.service import TaskWatchService

SHUTDOWN_SECONDS = 2
"""How long open pages, which listen for events, may hold up the end."""


def create_app() -> Starlette:
    """Make the app as ``gridcast up`` serves it."""
    return app_with_watch(prepare_environment())


def app_with_watch(settings: Settings) -> Starlette:
    """Make the app of the page; the task watch runs while it does."""
    watch = TaskWatchService(settings)
    return Dashboard(settings).app(watch.start, watch.stop)


def run(settings: Settings) -> None:
    """Serve the page until Ctrl-C."""
    import uvicorn

    uvicorn.run(
        app_with_watch(settings),
        host=settings.host,
        http=BoundedProtocol,
        port=settings.dashboard_port,
        log_level="warning",
        access_log=False,
        proxy_headers=False,
        timeout_graceful_shutdown=SHUTDOWN_SECONDS,
    )
