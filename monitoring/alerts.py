"""Alerts: each address is notified once of a condition, and once when it is over.

The only importer of Apprise. A condition has a key, such as ``decay``. For each address its state
is the newest measurement of kind alert with that name and the address' digest as segment: 1 while
the address was notified, 0 when it is over. So restarts neither repeat nor forget anything, and an
address that cannot be reached is tried again without a repetition for the others.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import pandas as pd

from infra.settings import Settings, split_list
from jobs.store import add_measurements, read_measurements

if TYPE_CHECKING:
    from sqlalchemy import Engine

log = logging.getLogger(__name__)

EVERY_ADDRESS = "all"
"""The segment of rows that older versions wrote when every address had been notified."""
MAX_KEY_BYTES = 1_000


def alert_key(name: str, source: str) -> str:
    """A key for something of one source, short enough for the store to keep it as it is."""
    key = f"{name} of source {source}"
    data = key.encode("utf-8", "replace")
    if len(data) <= MAX_KEY_BYTES:
        return key
    return f"{data[:900].decode('utf-8', 'ignore')}#{hashlib.sha256(data).hexdigest()[:16]}"


def notify(
    engine: Engine,
    settings: Settings,
    conditions: Mapping[str, str],
    now: datetime,
    titles: Mapping[str, str] | None = None,
) -> list[str]:
    """Send each address of GRIDCAST_ALERTS the conditions that are new to it, or over.

    Args:
        engine: The store.
        settings: The addresses; without any, nothing is sent.
        conditions: A sentence by key, empty for what is over; other keys stay as they are.
        now: The time of the notification.
        titles: What a key is called, where that is not the key itself.

    Returns:
        The titles of what at least one address accepted.
    """
    addresses = split_list(settings.alerts.get_secret_value())
    sent = []
    for key, sentence in conditions.items() if addresses else ():
        stored = read_measurements(engine, key, kind="alert")
        states = address_states(stored)
        title = (titles or {}).get(key, key)
        heading = f"Gridcast {settings.model_name}: {title}{'' if sentence else ' is over'}"
        body = sentence or f"{title} is over.{_beginning(stored)}"
        accepted = [
            _digest(address)
            for address in addresses
            if _is_notified(states, address) != bool(sentence)
            and _send(address, heading, body, bad=bool(sentence))
        ]
        if accepted:
            _record(engine, "alert", key, accepted, float(bool(sentence)), sentence, now)
            sent.append(heading)
    return sent


def send_once(
    engine: Engine, settings: Settings, key: str, title: str, body: str, now: datetime
) -> bool:
    """Send a letter that is no alert, once to each address for its ``key``.

    Args:
        engine: The store.
        settings: The addresses.
        key: What identifies the letter.
        title: Its title.
        body: Its text.
        now: The time of sending.

    Returns:
        Whether any address accepted it now.
    """
    states = address_states(read_measurements(engine, key, kind="letter"))
    heading = f"Gridcast {settings.model_name}: {title}"
    accepted = [
        _digest(address)
        for address in split_list(settings.alerts.get_secret_value())
        if not _is_notified(states, address) and _send(address, heading, body, bad=None)
    ]
    if accepted:
        _record(engine, "letter", key, accepted, 1.0, title, now)
    return bool(accepted)


def active_alerts(engine: Engine, settings: Settings, since: datetime) -> dict[str, bool]:
    """The keys that an address was notified of since a time and that are not over.

    Args:
        engine: The store.
        settings: The settings.
        since: The earliest notification.

    Returns:
        By key, whether every address was notified.
    """
    addresses = split_list(settings.alerts.get_secret_value())
    stored = read_measurements(engine, kind="alert", since=since)
    active = {}
    for key, rows in stored.groupby("name", sort=False):
        states = address_states(rows)
        notified = [_is_notified(states, address) for address in addresses]
        if any(notified):
            active[str(key)] = all(notified)
    return active


def address_states(stored: pd.DataFrame) -> dict[str, bool]:
    """Whether each address' digest (or EVERY_ADDRESS) is notified, from rows in order of time."""
    states: dict[str, bool] = {}
    for segment, value in zip(stored["segment"], stored["value"], strict=True):
        if segment == EVERY_ADDRESS:
            states.clear()
        states[segment] = value > 0
    return states


def _is_notified(states: Mapping[str, bool], address: str) -> bool:
    return states.get(_digest(address), states.get(EVERY_ADDRESS, False))


def _digest(address: str) -> str:
    """What stands for an address, which may hold a password, in the store."""
    return hashlib.sha256(address.encode()).hexdigest()[:12]


def _beginning(stored: pd.DataFrame) -> str:
    began = stored[stored["value"] > 0].tail(1)
    if began.empty:
        return ""
    moment, sentence = began["measured_at"].iloc[0], began["details"].iloc[0]
    return f" It began {moment:%Y-%m-%d %H:%M} UTC: {sentence}"


def _record(
    engine: Engine,
    kind: str,
    key: str,
    segments: list[str],
    value: float,
    details: str,
    now: datetime,
) -> None:
    rows = pd.DataFrame({"segment": segments}).assign(
        measured_at=pd.Timestamp(now), kind=kind, name=key, value=value, details=details
    )
    with engine.begin() as connection:
        add_measurements(connection, rows)


def _send(address: str, title: str, body: str, bad: bool | None) -> bool:
    """Whether an address accepted a message; it may hold a password, so it is never shown."""
    from apprise import Apprise, NotifyType

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines name addresses
    notifier = Apprise()
    kind = NotifyType.INFO if bad is None else NotifyType.WARNING if bad else NotifyType.SUCCESS
    try:
        sent = notifier.add(address) and notifier.notify(body=body, title=title, notify_type=kind)
    except Exception as error:  # a plugin's fault is not the caller's
        sent = False
        log.debug("an alert plugin failed: %s", type(error).__name__)
    if not sent:
        log.warning("an alert could not be delivered to an address of GRIDCAST_ALERTS: %s", title)
    return bool(sent)
