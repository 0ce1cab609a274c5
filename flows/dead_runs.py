"""Runs whose process was killed are marked as crashed, which frees their slots for the next.

Prefect's server checks as long as it runs, by the states and heartbeats in its database and not by
the events since its start, so that no end of a server or worker loses a run. (An automation of
Prefect loses them: it begins anew when a worker registers it again, and never hears of a run whose
event was lost.)
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import httpx

if TYPE_CHECKING:
    from prefect.client.orchestration import SyncPrefectClient
    from prefect.client.schemas.objects import FlowRun

SILENCE = timedelta(seconds=60)
"""A run without a heartbeat (one every 30 s) for so long was killed, or its machine is gone."""
STARTING = timedelta(minutes=5)
"""For so long a worker may be about to start a run."""
PERIOD_SECONDS = 15.0
"""The time between two checks."""
HEARTBEAT = "prefect.flow-run.heartbeat"

log = logging.getLogger("prefect.gridcast")


def start_crash_watch(api: str, login: str = "") -> None:
    """Check for dead runs in a thread as long as this process, which serves ``api``, runs."""
    threading.Thread(target=_watch, args=(api, login), name="dead runs", daemon=True).start()


def _watch(api: str, login: str) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    began = datetime.now(UTC)
    while True:
        time.sleep(PERIOD_SECONDS)
        try:
            with SyncPrefectClient(api, auth_string=login or None) as client:
                for name in mark_crashed_runs(client, began):
                    log.warning("%s had no heartbeat and is marked as crashed", name)
        except Exception as error:  # the database may be away, or the server not ready yet
            log.warning("dead runs cannot be checked for: %s", error)


def mark_crashed_runs(
    client: SyncPrefectClient,
    since: datetime,
    silence: timedelta = SILENCE,
    starting: timedelta = STARTING,
) -> list[str]:
    """Mark dead runs, and their tasks, as crashed.

    Args:
        client: A client of the server.
        since: Nothing counts as silent before it: while the server was away none could hear.
        silence: A run at work without a heartbeat for so long is dead.
        starting: A pending run is dead after so long.

    Returns:
        The names of the runs.

    Raises:
        httpx.HTTPError: The server cannot be asked.
    """
    dead = []
    for run, allowed in _active_runs(client, silence, starting):
        signs = [since, *([run.state.timestamp] if run.state else [])]
        if datetime.now(UTC) - max(signs) > allowed:  # for most runs the state is enough
            signs += _heartbeats(client, run)
        if datetime.now(UTC) - max(signs) > allowed:
            message = (
                f"It had no heartbeat for {allowed.total_seconds():.0f} s: it was killed, "
                "or its machine is gone."
            )
            _crash(client, run, message)
            dead.append(run.name)
    return dead


def _active_runs(
    client: SyncPrefectClient, silence: timedelta, starting: timedelta
) -> Iterator[tuple[FlowRun, timedelta]]:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterState,
        FlowRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType

    for kinds, allowed in (
        ([StateType.RUNNING, StateType.CANCELLING], silence),
        ([StateType.PENDING], starting),
    ):
        states = FlowRunFilterState(type=FlowRunFilterStateType(any_=kinds))
        for run in client.read_flow_runs(flow_run_filter=FlowRunFilter(state=states)):
            yield run, allowed


def _heartbeats(client: SyncPrefectClient, run: FlowRun) -> list[datetime]:
    """The time of a run's last heartbeat, if it had one."""
    wanted: dict[str, Any] = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    # The client has no method for it.
    answer: httpx.Response = client._client.post(
        "/events/filter", json={"filter": wanted, "limit": 1}
    )
    answer.raise_for_status()
    return [datetime.fromisoformat(event["occurred"]) for event in answer.json()["events"]]


def _crash(client: SyncPrefectClient, run: FlowRun, message: str) -> None:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        TaskRunFilter,
        TaskRunFilterState,
        TaskRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    client.set_flow_run_state(run.id, Crashed(message=message))
    of_run = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    active = TaskRunFilter(
        state=TaskRunFilterState(
            type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
        )
    )
    for task in client.read_task_runs(flow_run_filter=of_run, task_run_filter=active):
        client.set_task_run_state(task.id, Crashed(message=message), force=True)
