"""Hosts that are slow now, for the page, the metrics and the doctor, and alerts about them."""

from __future__ import annotations

from dataclasses import asdict
from datetime import timedelta
from typing import TYPE_CHECKING, Any

import pandas as pd

from infra.settings import Settings
from models.ranking.slow_hosts import slow_host_sentence, slow_hosts
from monitoring.alerts import active_alerts, notify

if TYPE_CHECKING:
    from sqlalchemy import Engine

RECENT = timedelta(days=7)
"""Jobs that ended before are not compared: hosts change."""
MAX_JOBS = 100_000
ALERT_PREFIX = "host "
MAX_ALERTS = 20
"""New alerts in one update; the next updates send the others."""


def slow_host_rows(jobs: pd.DataFrame, now: pd.Timestamp) -> list[dict[str, Any]]:
    """The slow hosts as of a time, the slowest first.

    Args:
        jobs: Jobs without later starts and outcomes.
        now: The present.

    Returns:
        Rows with ``site``, ``host``, ``factor``, ``since`` (s since 1970), ``resource``, ``jobs``
        and ``text``, a sentence.
    """
    recent = jobs[jobs["ended_at"] > now - RECENT]
    latest = recent.sort_values("ended_at", kind="stable").tail(MAX_JOBS)
    return [asdict(host) | {"text": slow_host_sentence(host)} for host in slow_hosts(latest)]


def alert_about(
    engine: Engine, settings: Settings, rows: list[dict[str, Any]], now: pd.Timestamp
) -> None:
    """Alert about hosts that have become slow, and those that are slow no more.

    Args:
        engine: The store.
        settings: The addresses.
        rows: The slow hosts (``slow_host_rows``).
        now: The present.
    """
    sentences = {
        f"{ALERT_PREFIX}{row['host'][:100]} of {row['site'][:100]}": row["text"] for row in rows
    }
    active = active_alerts(engine, settings, (now - 4 * RECENT).to_pydatetime())
    over = {key for key in active if key.startswith(ALERT_PREFIX)} - sentences.keys()
    new = [key for key in sentences if not active.get(key)][:MAX_ALERTS]
    conditions = dict.fromkeys(sorted(over), "") | {key: sentences[key] for key in new}
    notify(engine, settings, conditions, now.to_pydatetime())
