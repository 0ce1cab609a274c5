"""Prometheus metrics of the page's server: tasks, accuracy, drift, decay, promotions, collectors.

No label is made of what a caller sends: kinds, states, targets, versions and configured collectors.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import datetime
from typing import TYPE_CHECKING, Any

from monitoring.tasks.latest_tasks import LatestTasks
from monitoring.tasks.task_sets import STATES_BY_SEVERITY
from services.dashboard.tasks import KINDS

if TYPE_CHECKING:
    from prometheus_client.core import Metric


def metrics(latest: LatestTasks) -> bytes:
    """The text of all metrics, of the latest update."""
    from prometheus_client import CollectorRegistry, generate_latest

    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Families(list(_families(latest))))
    return generate_latest(registry)


class _Families:
    """Families of metrics as prometheus_client collects them."""

    def __init__(self, families: list[Metric]) -> None:
        self.families = families

    def collect(self) -> list[Metric]:
        return self.families


def _families(latest: LatestTasks) -> Iterator[Metric]:
    yield from _task_families(latest)
    yield from _thread_families(latest.read_status())
    yield from _site_families(latest)
    yield from _host_families(latest)


def _task_families(latest: LatestTasks) -> Iterator[Metric]:
    tasks, updated_at = latest.read()
    moments = {(): _seconds(datetime.fromisoformat(updated_at))} if updated_at else {}
    yield _family(
        "tasks_updated_timestamp_seconds", "When the tasks were last updated", (), moments
    )
    counts: Any = tasks[["kind", "state"]].value_counts()
    by_state = {
        (kind, state): float(counts.get((kind, state), 0))
        for kind in KINDS
        for state in STATES_BY_SEVERITY
        if updated_at
    }
    text = "Tasks, chains and requests that are open or lately done, by state"
    yield _family("tasks", text, ("kind", "state"), by_state)


def _thread_families(status: dict[str, dict[str, Any]]) -> Iterator[Metric]:
    from prometheus_client.core import CounterMetricFamily

    failures = CounterMetricFamily(
        "gridcast_background_failures", "Failed steps of background threads", labels=("thread",)
    )
    for thread, values in status.items():
        failures.add_metric((thread,), values["failures"])
    yield failures
    yield _family(
        "background_failing",
        "1 while a background thread fails or has ended",
        ("thread",),
        {(thread,): float(bool(values["trouble"])) for thread, values in status.items()},
    )


def _host_families(latest: LatestTasks) -> Iterator[Metric]:
    activity = latest.read_activity()
    counts = dict.fromkeys([(name,) for name in ("cpu", "io", "unknown")], 0.0)
    for host in activity.get("slow_hosts", ()):
        counts[host["resource"],] += 1
    text = "Hosts on which jobs take longer than elsewhere, by what they wait for"
    yield _family("slow_hosts", text, ("resource",), counts if activity else {})


def _site_families(latest: LatestTasks) -> Iterator[Metric]:
    site = latest.read_site_status()
    accuracies = site.accuracies if site else ()
    for name, text in (
        ("error", "Mean absolute error of the latest predictions, in the target's unit"),
        ("baseline_error", "That of the best baseline, in the target's unit"),
        ("coverage", "Share of outcomes within the 90 % range"),
    ):
        suffix = f"prediction_{name}{'_ratio' if name == 'coverage' else ''}"
        values = {(item.target,): getattr(item, name) for item in accuracies}
        yield _family(suffix, text, ("target",), values)
    verdicts = {"decay": site.decay, "drift": site.drift} if site else {}
    present = {kind: verdict for kind, verdict in verdicts.items() if verdict}
    for kind, name, text in (
        ("decay", "decay_alarms", "Active alarms about the champion's predictions"),
        ("drift", "drift_columns", "Columns and clusters that drifted since the training"),
    ):
        counts = {(): float(present[kind].count)} if kind in present else {}
        yield _family(name, text, (), counts)
    moments = {(kind,): _seconds(verdict.measured_at) for kind, verdict in present.items()}
    text = "When decay and drift were last measured"
    yield _family("measured_timestamp_seconds", text, ("kind",), moments)
    promoted = {(item.version,): _seconds(item.at) for item in site.promotions} if site else {}
    text = "When a version was last promoted"
    yield _family("promoted_timestamp_seconds", text, ("version",), promoted)
    collected = {
        (item.system, item.where): _seconds(item.until) if item.until else 0.0
        for item in (site.collections if site else ())
    }
    text = "Until when a batch system was read, 0 for never"
    yield _family("collected_until_timestamp_seconds", text, ("system", "where"), collected)
    moments_read = {(): _seconds(site.read_at)} if site else {}
    text = "When accuracy, drift, promotions and collectors were last read"
    yield _family("site_status_timestamp_seconds", text, (), moments_read)


def _family(
    name: str, text: str, labels: tuple[str, ...], values: Mapping[Any, float | None]
) -> Metric:
    """A gauge with a value for each tuple of labels; None is left out."""
    from prometheus_client.core import GaugeMetricFamily

    family = GaugeMetricFamily(f"gridcast_{name}", text, labels=labels)
    for label_values, value in values.items():
        if value is not None:
            family.add_metric(label_values, value)
    return family


def _seconds(moment: datetime) -> float:
    return round(moment.timestamp())
