"""The router's Prometheus metrics, in a registry of their own."""

from __future__ import annotations

from typing import Any

from services.http.metrics import SECONDS


class RouterMetrics:
    """Every metric of the router."""

    def __init__(self) -> None:
        from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

        self.registry = CollectorRegistry()
        metrics: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter(
            "gridcast_router_requests_total",
            "Requests that the router answered",
            ("endpoint", "door", "status"),
            **metrics,
        )
        self.request_seconds = Histogram(
            "gridcast_router_request_duration_seconds",
            "Time from the request's headers to the router's answer",
            ("endpoint", "door", "jobs"),
            buckets=SECONDS,
            **metrics,
        )
        self.jobs = Counter(
            "gridcast_router_jobs_total", "Jobs sent to each shard", ("shard",), **metrics
        )
        self.failures = Counter(
            "gridcast_router_shard_failures_total",
            "Requests that a predictor of a shard did not answer",
            ("shard", "reason"),
            **metrics,
        )
        self.shards = Gauge(
            "gridcast_router_shards", "Number of shards among which users are divided", **metrics
        )
        self.since = Gauge(
            "gridcast_router_addresses_timestamp_seconds",
            "When the addresses of shards in use were taken over",
            **metrics,
        )
        self.waiting = Gauge(
            "gridcast_router_addresses_waiting",
            "1 while changed addresses of shards are not used, since they are wrong or not ready",
            **metrics,
        )

    def expose(self) -> tuple[str, bytes]:
        """Content type and text of all metrics."""
        from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

        return CONTENT_TYPE_LATEST, generate_latest(self.registry)
