"""Prometheus metrics: base units, ``_total`` counters, and no label that a caller can make up.

BentoML's own request metrics are off: they label by path, of which anybody could make series
without end. A predictor is one worker, so its numbers are kept in memory: in BentoML's mapped
files a full disk would kill the worker.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

SECONDS = (0.001, 0.002, 0.005, 0.01, 0.02, 0.04, 0.08, 0.16, 0.32, 0.64, 1.28, 2.56, 5.12, 10.24)
SIZES = (1, 10, 100, 1_000, 10_000, 100_000)


@dataclass(frozen=True)
class Metrics:
    """Every metric of the predictor, by the name of what it measures."""

    requests: Any
    request_seconds: Any
    jobs: Any
    cold_starts: Any
    clusters: Any
    outcomes: Any
    swaps: Any
    model_version: Any
    model_trained: Any
    model_degraded: Any
    trouble: Any
    history_jobs: Any
    history_newest: Any
    log_waiting: Any
    log_answers: Any
    shadow_jobs: Any
    canary_jobs: Any
    canary_version: Any
    thread_failures: Any
    thread_failing: Any


def make_metrics() -> Metrics:
    """Register the metrics of this process.

    Imports prometheus_client, which must happen inside the worker.
    """
    from prometheus_client import Counter, Gauge, Histogram, values

    # BentoML sets PROMETHEUS_MULTIPROC_DIR for its workers, which would map a file for each number.
    values.ValueClass = values.MutexValue

    return Metrics(
        requests=Counter(
            "gridcast_requests_total", "Requests answered", ("endpoint", "door", "status")
        ),
        request_seconds=Histogram(
            "gridcast_request_duration_seconds",
            "Time from the request's headers to its answer",
            ("endpoint", "door", "jobs"),
            buckets=SECONDS,
        ),
        jobs=Counter("gridcast_jobs_total", "Jobs predicted", ("door", "model_version")),
        cold_starts=Counter(
            "gridcast_cold_start_jobs_total", "Jobs predicted without any history of their owner"
        ),
        clusters=Counter(
            "gridcast_cluster_jobs_total", "Jobs by the cluster whose model answered", ("cluster",)
        ),
        outcomes=Counter(
            "gridcast_outcomes_total", "Finished jobs reported, by what became of them", ("result",)
        ),
        swaps=Counter(
            "gridcast_model_swaps_total", "Attempts to take over a new champion", ("result",)
        ),
        model_version=Gauge(
            "gridcast_model_version", "Version of the model set that answers, 0 for none"
        ),
        model_trained=Gauge(
            "gridcast_model_trained_timestamp_seconds", "When the champion's training window ended"
        ),
        model_degraded=Gauge(
            "gridcast_model_degraded", "1 while the champion in the registry cannot be served"
        ),
        trouble=Gauge(
            "gridcast_trouble",
            "1 while something that the predictor depends on is in trouble",
            ("what",),
        ),
        history_jobs=Gauge("gridcast_history_jobs", "Finished jobs in the live history"),
        history_newest=Gauge(
            "gridcast_history_newest_timestamp_seconds",
            "When the newest finished job of the history ended",
        ),
        log_waiting=Gauge(
            "gridcast_prediction_log_waiting_answers", "Answers that wait to be recorded"
        ),
        log_answers=Counter(
            "gridcast_prediction_log_answers_total",
            "Answers by what the prediction log did with them",
            ("result",),
        ),
        shadow_jobs=Counter(
            "gridcast_shadow_jobs_total",
            "Jobs for the challenger, by what became of them",
            ("result",),
        ),
        canary_jobs=Counter(
            "gridcast_canary_jobs_total",
            "Jobs chosen for the canary, by whether it answered them or failed",
            ("result",),
        ),
        canary_version=Gauge(
            "gridcast_canary_version", "Version that answers a share of the jobs, 0 for none"
        ),
        thread_failures=Counter(
            "gridcast_background_failures_total", "Failed steps of background threads", ("thread",)
        ),
        thread_failing=Gauge(
            "gridcast_background_failing",
            "1 while a background thread fails or has ended",
            ("thread",),
        ),
    )


def size_class(jobs: int) -> str:
    """The batch size as one of few labels: the least power of ten that holds it.

    >>> size_class(1), size_class(999), size_class(100_000)
    ('1', '1000', '100000')
    """
    return str(next((size for size in SIZES if jobs <= size), SIZES[-1]))


def expose() -> tuple[str, bytes]:
    """Content type and text of all metrics."""
    from prometheus_client import CONTENT_TYPE_LATEST, generate_latest

    return CONTENT_TYPE_LATEST, generate_latest()
