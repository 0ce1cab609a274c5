"""Advise: a weekly report of the users with most unused requests, and what to request."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

from prefect import flow, get_run_logger, task
from prefect.artifacts import create_markdown_artifact
from prefect.states import Completed

from flows.retrying import TASK_OPTIONS
from infra.settings import Settings, prepare_environment
from jobs.readers.units import zone
from jobs.store import open_store
from monitoring import advising, alerts
from services.local_table import own_predictor, prediction_function

WEEK = timedelta(days=7)


@flow(
    name="advise",
    flow_run_name="advise",
    description="A weekly report to GRIDCAST_ALERTS: what jobs requested and what they used.",
)
def advise(most: int = 10, timezone: str = "UTC") -> Any:
    """Report the ``most`` wasteful users of the last week; sent once a week at most."""
    settings, now = prepare_environment(), datetime.now(UTC)
    zone(timezone)
    letter = write(settings, now, most, timezone)
    if not letter:
        return Completed(message="nobody left unused what they requested in the last week")
    create_markdown_artifact(
        "\n\n".join(letter),
        key="advise",
        description="Users with most unused requests.",
    )
    sent = post(settings, now, letter)
    get_run_logger().info(
        "%d users left requests unused; the report is %s",
        len(letter),
        "sent" if sent else "not sent: no address of GRIDCAST_ALERTS, or sent this week already",
    )
    return {"letter": letter, "sent": sent}


@task(task_run_name="look at the last week", **TASK_OPTIONS)
def write(settings: Settings, now: datetime, most: int, timezone: str) -> list[str]:
    """Return the report's paragraphs, one a user, the most wasteful first.

    Args:
        settings: The settings.
        now: The present.
        most: At most so many users.
        timezone: The time zone of the text.
    """
    engine = open_store(settings.store_url)
    with own_predictor(settings) as predictor:
        users = advising.most_wasteful_users(engine, now - WEEK, now, most)
        advised = [
            advising.advise(
                engine, prediction_function(predictor), user, now - WEEK, now, by="user"
            )
            for user in users
        ]
    return ["\n".join(advising.sentences(advice, timezone)) for advice in advised if advice.rows]


@task(task_run_name="send the report", **TASK_OPTIONS)
def post(settings: Settings, now: datetime, letter: list[str]) -> bool:
    """Send the report, if this week's was not sent.

    Args:
        settings: The settings.
        now: The present.
        letter: Its paragraphs.
    """
    year, week, _ = now.isocalendar()
    title = f"what jobs requested and what they used, week {week} of {year}"
    return alerts.send_once(
        open_store(settings.store_url),
        settings,
        f"advice {year}-{week:02d}",
        title,
        "\n\n".join(letter),
        now,
    )
