"""The BentoML service: starts the live predictor, guards the endpoints and mounts them.

The only importer of BentoML. ``bentoml serve services.predictor:Predictor`` serves it. One worker
holds one live state: the store's history when the champion was loaded, outcomes reported to this
worker since, and, some seconds later, what others stored.
"""

from __future__ import annotations

import sys
from typing import Any

from infra.settings import prepare_environment

settings = prepare_environment()  # before BentoML is imported: it turns its telemetry off

import bentoml  # noqa: E402
from bentoml._internal.utils import circus  # noqa: E402

from services.http.authentication import Guard  # noqa: E402
from services.http.callers import settings_tokens, with_metrics_token  # noqa: E402
from services.http.connection import use_bounded_connections  # noqa: E402
from services.http.endpoints import Endpoints  # noqa: E402
from services.http.errors import ProblemResponses  # noqa: E402
from services.http.issuers import read_issuers  # noqa: E402
from services.http.metrics import make_metrics  # noqa: E402
from services.http.routes import SCOPE_OF_PATH, answers_owners  # noqa: E402
from services.http.tracing import Traces  # noqa: E402
from services.live.live_predictor import LivePredictor  # noqa: E402

use_bounded_connections()
endpoints = Endpoints()

SWITCH_SECONDS = 0.0005


class PrivateArbiter(circus.Arbiter):  # type: ignore[misc, unused-ignore]
    """BentoML's parent process without control ports.

    BentoML binds Circus's control and event sockets to TCP ports without authentication: any local
    account could start programs there as this user. Nothing uses them here.
    """

    def __init__(self, watchers: list[Any], **options: Any) -> None:
        inside = {"endpoint": "inproc://control", "pubsub_endpoint": "inproc://events"}
        super().__init__(watchers, **options | inside)


# BentoML imports this module in its parent process before it makes the arbiter.
circus.Arbiter = PrivateArbiter


class Service:
    """Predicts how long a grid job will run and what it will use, before it runs."""

    def __init__(self) -> None:
        # A thread that works in Python keeps others waiting for so long, each time: the prediction
        # log must not cost a request 5 ms.
        sys.setswitchinterval(SWITCH_SECONDS)
        self.live = LivePredictor(settings, make_metrics())
        self.traces = Traces(settings.otel_endpoint)
        endpoints.attach(self.live, self.traces)
        self.live.start()

    @bentoml.on_shutdown
    def stop(self) -> None:
        """Record the answers that wait to be recorded, end the threads and send the traces."""
        self.live.stop()
        self.traces.stop()

    def __is_ready__(self) -> bool:
        return self.live.ready


Predictor: Any = bentoml.service(
    name="gridcast",
    http={"host": settings.host, "port": settings.predictor_port},
    # BentoML's own request metrics make a series of every path; ours are at /metrics.
    metrics={"enabled": False},
    logging={"access": {"enabled": False}},
    # Gridcast makes spans of its own; BentoML's, one for each part of a body, take time.
    tracing={"excluded_urls": ".*"},
    traffic={"timeout": 60},
    workers=1,
)(Service)
Predictor.mount_asgi_app(endpoints.app(), path="/")
Predictor.add_asgi_middleware(ProblemResponses, waits_for=endpoints.waits_for)
Predictor.add_asgi_middleware(
    Guard,
    tokens=with_metrics_token(settings_tokens(settings), settings),
    hosts=frozenset(settings.host_names),
    scope_of_path=SCOPE_OF_PATH,
    open_on_loopback=settings.open_on_loopback,
    issuers=read_issuers(settings),
    owner_paths=answers_owners,
    when_refused=endpoints.note_refused,
)
