"""Runs that died without a word are marked as crashed, which frees their slots for the next.

Prefect's server looks by itself, as long as it runs: at what the runs' states and signs of life in its database say, and not at what it
heard since its start, so that neither its own end nor that of a worker lets a run be forgotten. (An automation of Prefect forgets: it is
begun anew when a worker registers it again, and it never hears of a run whose event was lost.)
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
"""A run that gave no sign of life (each gives one every 30 s) for so long is dead: killed, or its machine is gone."""
STARTING = timedelta(minutes=5)
"""For so long a worker may be about to start a run."""
EVERY = 15.0
"""Seconds between two looks."""
HEARTBEAT = "prefect.flow-run.heartbeat"

log = logging.getLogger("prefect.gridcast")


def start_crash_watch(api: str) -> None:
    """Look for the dead in a thread of its own as long as this process, which serves ``api``, runs."""
    threading.Thread(target=_look, args=(api,), name="look for dead runs", daemon=True).start()


def _look(api: str) -> None:
    from prefect.client.orchestration import SyncPrefectClient

    began = datetime.now(UTC)
    while True:
        time.sleep(EVERY)
        try:
            with SyncPrefectClient(api) as client:
                for name in mark_crashed_runs(client, began):
                    log.warning("%s gave no sign of life and is marked as crashed", name)
        except Exception as error:  # the database may be away, or the server not be ready yet: the next look will do
            log.warning("dead runs cannot be looked for: %s", error)


def mark_crashed_runs(
    client: SyncPrefectClient,
    since: datetime,
    silence: timedelta = SILENCE,
    starting: timedelta = STARTING,
) -> list[str]:
    """Mark what is dead as crashed, with its tasks; returns the names of the runs.

    Nothing counts as silent from before ``since``: while the server was away nobody could give it a sign. Raises httpx.HTTPError.
    """
    dead = []
    for run, allowed in _at_work(client, silence, starting):
        signs = [since, *([run.state.timestamp] if run.state else [])]
        if (
            datetime.now(UTC) - max(signs) > allowed
        ):  # which most are not, and need not be asked about further
            signs += _heartbeats(client, run)
        if datetime.now(UTC) - max(signs) > allowed:
            said = f"It gave no sign of life for {allowed.total_seconds():.0f} s: it was killed, or its machine is gone."
            _crash(client, run, said)
            dead.append(run.name)
    return dead


def _at_work(
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
    """When a run last gave a sign, if it did."""
    wanted: dict[str, Any] = {
        "event": {"name": [HEARTBEAT]},
        "resource": {"id": [f"prefect.flow-run.{run.id}"]},
        "order": "DESC",
    }
    body = {"filter": wanted, "limit": 1}
    answer: httpx.Response = client._client.post(
        "/events/filter", json=body
    )  # which has no method of its own
    answer.raise_for_status()
    return [datetime.fromisoformat(event["occurred"]) for event in answer.json()["events"]]


def _crash(client: SyncPrefectClient, run: FlowRun, said: str) -> None:
    from prefect.client.schemas.filters import (
        FlowRunFilter,
        FlowRunFilterId,
        TaskRunFilter,
        TaskRunFilterState,
        TaskRunFilterStateType,
    )
    from prefect.client.schemas.objects import StateType
    from prefect.states import Crashed

    client.set_flow_run_state(run.id, Crashed(message=said))
    its = FlowRunFilter(id=FlowRunFilterId(any_=[run.id]))
    at_work = TaskRunFilter(
        state=TaskRunFilterState(
            type=TaskRunFilterStateType(any_=[StateType.RUNNING, StateType.PENDING])
        )
    )
    for task in client.read_task_runs(flow_run_filter=its, task_run_filter=at_work):
        client.set_task_run_state(task.id, Crashed(message=said), force=True)
