"""Predicted ends sent to the production system: an update a task, in PanDA's names, until taken.

The store is the list of what is still to be sent: a row that was accepted carries the time. A row
whose answer was lost is sent again with the same key, by which the receiver knows it.
"""

from __future__ import annotations

import logging
from datetime import datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import httpx
import pandas as pd

from infra.settings import Settings
from jobs.store import mark_notified, unnotified_tasks

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

ID_FIELDS = {"task": "taskID", "chain": "chainID", "request": "reqID"}
"""The name of the identity of each kind."""
MAX_UPDATES = 500
TIMEOUT = 5.0


def send_task_updates(
    engine: Engine, settings: Settings, now: datetime, client: httpx.Client | None = None
) -> int:
    """Send GRIDCAST_PANDA_URL the newest predictions that it has not accepted yet.

    One that it refuses as wrong holds up no other; any other failure ends the round. What was not
    accepted is sent again in the next round.

    Args:
        engine: The store.
        settings: The address; without one, nothing is sent.
        now: The time of the notification.
        client: Sends the requests; by default a new one.

    Returns:
        How many were accepted.
    """
    if not settings.panda_url:
        return 0
    accepted = 0
    with client or httpx.Client(timeout=TIMEOUT, trust_env=False) as http:
        rows: list[dict[str, Any]] = unnotified_tasks(engine).to_dict("records")  # type: ignore
        for row in rows:
            if accepted == MAX_UPDATES:
                break
            key = update_key(row)
            headers = {"Idempotency-Key": key}
            try:
                response = http.post(settings.panda_url, json=update_body(row), headers=headers)
                response.raise_for_status()
            except httpx.HTTPError as error:
                log.warning(
                    "%s did not accept the end of %s (%s); it is sent again",
                    settings.panda_url,
                    key,
                    type(error).__name__,
                )
                if isinstance(error, httpx.HTTPStatusError) and _is_refusal(error.response):
                    continue
                break
            with engine.begin() as connection:
                identity = (row["kind"], row["source"], row["task"])
                mark_notified(connection, identity, row["asked_at"], now)
            accepted += 1
    return accepted


def update_body(row: dict[str, Any]) -> dict[str, Any]:
    """The update of a task, chain or request; a stalled one has no end and says why."""
    end = row["median"]
    body: dict[str, Any] = {
        ID_FIELDS[row["kind"]]: row["task"],
        "ttcPredicted": None if pd.isna(end) else end.isoformat(),
        "ttcPredictionDate": row["asked_at"].isoformat(),
    }
    if pd.isna(end):
        body |= {"state": row["state"], "reasons": list(row["reasons"] or ())}
    return body


def update_key(row: dict[str, Any]) -> str:
    """What identifies an update: kind, source, task and time of the prediction."""
    kind = "" if row["kind"] == "task" else f"{row['kind']}:"
    source = f"{row['source']}/" if row["source"] else ""
    key = f"{kind}{source}{row['task']}@{row['asked_at'].isoformat()}"
    return quote(key, safe=" :@/+#,;=()[]|")  # a header takes no line feed and no letter but ASCII


def _is_refusal(response: httpx.Response) -> bool:
    """Whether sending the same again cannot help."""
    return response.status_code in (400, 404, 409, 410, 413, 422)
