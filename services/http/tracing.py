"""Traces: a span for each request and its steps, sent to an OpenTelemetry collector.

The only importer of OpenTelemetry. A span has the endpoint, the number of jobs and the time;
nothing of a request's content is in it.
"""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING

from opentelemetry.trace import NoOpTracer, Span, SpanKind, Tracer
from opentelemetry.trace.propagation.tracecontext import TraceContextTextMapPropagator

if TYPE_CHECKING:
    from opentelemetry.sdk.trace import TracerProvider

SECONDS = 5.0
"""How long a collector may take; spans that it does not take are dropped, nobody waits for it."""
_CALLER = TraceContextTextMapPropagator()


class Traces:
    """The spans of one process."""

    def __init__(self, endpoint: str = "") -> None:
        self._provider = _provider(endpoint) if endpoint else None
        self._tracer: Tracer = (
            self._provider.get_tracer("gridcast") if self._provider else NoOpTracer()
        )

    def request(self, name: str, headers: Mapping[str, str]) -> AbstractContextManager[Span]:
        """The span of a request, within its caller's where a ``traceparent`` header names one."""
        return self._tracer.start_as_current_span(
            name, _CALLER.extract(headers), SpanKind.SERVER, record_exception=False
        )

    def step(self, name: str) -> AbstractContextManager[Span]:
        """The span of a step of the request in hand; the sentence of a refusal is not in it."""
        return self._tracer.start_as_current_span(
            name, record_exception=False, set_status_on_exception=False
        )

    def stop(self) -> None:
        """Send what waits to be sent."""
        if self._provider:
            self._provider.shutdown()


def _provider(endpoint: str) -> TracerProvider:
    from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter
    from opentelemetry.sdk.resources import SERVICE_NAME, Resource
    from opentelemetry.sdk.trace import TracerProvider
    from opentelemetry.sdk.trace.export import BatchSpanProcessor

    provider = TracerProvider(resource=Resource.create({SERVICE_NAME: "gridcast-predictor"}))
    exporter = OTLPSpanExporter(endpoint=f"{endpoint.rstrip('/')}/v1/traces", timeout=SECONDS)
    provider.add_span_processor(BatchSpanProcessor(exporter))
    return provider
