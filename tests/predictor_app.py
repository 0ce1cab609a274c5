"""The app of a predictor as its BentoML service serves it, for tests that serve it themselves."""

from __future__ import annotations

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse
from starlette.routing import Mount, Route

from infra.settings import Settings
from services.http.authentication import Guard
from services.http.callers import settings_tokens
from services.http.endpoints import Endpoints
from services.http.routes import SCOPE_OF_PATH, answers_owners
from services.http.tracing import Traces
from services.live.live_predictor import LivePredictor


def guarded_app(live: LivePredictor, settings: Settings) -> tuple[Guard, Endpoints]:
    """The app of a predictor, and its endpoints, whose threads ``end_threads`` ends.

    Args:
        live: The predictor.
        settings: Whose tokens and names of hosts it takes.
    """

    async def readyz(_: Request) -> PlainTextResponse:
        return PlainTextResponse("", 200 if live.ready else 503)

    endpoints = Endpoints()
    endpoints.attach(live, Traces(""))
    app = Guard(
        Starlette(routes=[Route("/readyz", readyz), Mount("/", endpoints.app())]),
        tokens=settings_tokens(settings),
        hosts=frozenset(settings.host_names),
        scope_of_path=SCOPE_OF_PATH,
        owner_paths=answers_owners,
        when_refused=endpoints.note_refused,
    )
    return app, endpoints


def end_threads(endpoints: Endpoints) -> None:
    """End the threads of a predictor's endpoints."""
    endpoints.predicting.shutdown()
    endpoints.reporting.shutdown()
