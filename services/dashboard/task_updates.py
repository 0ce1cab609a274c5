"""Predictions written where others read them: a PanDA-like update of each task, sent until it is taken, and never twice.

The store is the list of what is still to be sent: a row that was taken carries the time. A row that was sent while the answer was lost is
sent again with the same key, by which the receiver knows it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING

import httpx

from infra.settings import Settings
from jobs.store import mark_notified, unnotified_tasks

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

NAMED = {"task": "taskID", "chain": "chainID", "request": "reqID"}
"""Under which name each kind is told."""
AT_ONCE = 500
PATIENCE = 5.0


def send_task_updates(
    engine: Engine, settings: Settings, now: datetime, send: httpx.Client | None = None
) -> int:
    """Send GRIDCAST_PANDA_URL what is newest of each task and was not taken yet; returns how many were taken.

    The first that is not taken ends the round: the next look tries again.
    """
    if not settings.panda_url:
        return 0
    taken = 0
    with send or httpx.Client(timeout=PATIENCE, trust_env=False) as client:
        rows = unnotified_tasks(engine).head(AT_ONCE)
        for kind, source, task, end, asked_at in zip(
            *(rows[name] for name in ("kind", "source", "task", "median", "asked_at")), strict=True
        ):
            body = {
                NAMED[kind]: task,
                "ttcPredicted": end.isoformat(),
                "ttcPredictionDate": asked_at.isoformat(),
            }
            key = (
                f"{task}@{asked_at.isoformat()}"
                if kind == "task"
                else f"{kind}:{task}@{asked_at.isoformat()}"
            )
            try:
                client.post(
                    settings.panda_url, json=body, headers={"Idempotency-Key": key}
                ).raise_for_status()
            except httpx.HTTPError as error:
                log.warning(
                    "%s did not take the end of %s (%s); it is sent again",
                    settings.panda_url,
                    key,
                    type(error).__name__,
                )
                break
            with engine.begin() as connection:
                mark_notified(connection, (kind, source, task), asked_at, now)
            taken += 1
    return taken
