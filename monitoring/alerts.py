"""Alerts: what is wrong is told once, and once more when it is over. The only importer of Apprise.

What is wrong has a key, such as ``decay``; its state is the newest measurement of kind alert and that name, 1 told, 0 over, so that
restarts neither repeat nor forget anything. What could not be delivered counts as not told, and is tried again at the next look.
"""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from typing import TYPE_CHECKING

import pandas as pd

from infra.settings import Settings, split_list
from jobs.store import add_measurements, read_measurements

if TYPE_CHECKING:
    from sqlalchemy import Engine


def notify(
    engine: Engine, settings: Settings, wrong: Mapping[str, str], now: datetime
) -> list[str]:
    """Tell GRIDCAST_ALERTS of each key of ``wrong`` that is new (its sentence), and that is over (an empty sentence).

    Keys that are not given are left as they stand. Returns the titles of what was told; nothing is told where no address is set.
    """
    addresses, told = split_list(settings.alerts.get_secret_value()), []
    for key, sentence in wrong.items() if addresses else ():
        known = read_measurements(engine, key, kind="alert", latest=1)
        told_before = bool(len(known)) and bool(known["value"].iloc[0])
        if bool(sentence) == told_before:
            continue
        since = (
            f" It began {known['measured_at'].iloc[0]:%Y-%m-%d %H:%M} UTC: {known['details'].iloc[0]}"
            if told_before
            else ""
        )
        title = f"Gridcast {settings.model_name}: {key}{'' if sentence else ' is over'}"
        if _send(addresses, title, sentence or f"{key} is over.{since}", bad=bool(sentence)):
            row = {
                "measured_at": pd.Timestamp(now),
                "kind": "alert",
                "name": key,
                "value": float(bool(sentence)),
                "details": sentence,
            }
            with engine.begin() as connection:
                add_measurements(connection, pd.DataFrame([row]))
            told.append(title)
    return told


def send_once(
    engine: Engine, settings: Settings, key: str, title: str, body: str, now: datetime
) -> bool:
    """Send a letter that is no alarm to GRIDCAST_ALERTS, once for its ``key``; whether it went out now."""
    addresses = split_list(settings.alerts.get_secret_value())
    if not addresses or len(read_measurements(engine, key, kind="letter", latest=1)):
        return False
    sent = _send(addresses, f"Gridcast {settings.model_name}: {title}", body, bad=None)
    if sent:
        row = {
            "measured_at": pd.Timestamp(now),
            "kind": "letter",
            "name": key,
            "value": 1.0,
            "details": title,
        }
        with engine.begin() as connection:
            add_measurements(connection, pd.DataFrame([row]))
    return sent


def active_alerts(engine: Engine, since: datetime) -> set[str]:
    """The keys that were told to be wrong since a moment and not to be over."""
    known = read_measurements(engine, kind="alert", since=since).drop_duplicates(
        "name", keep="last"
    )
    return set(known["name"][known["value"] > 0])


def _send(addresses: list[str], title: str, body: str, bad: bool | None) -> bool:
    """Whether every address took it; an address may hold a password, so that none is ever shown."""
    import logging

    from apprise import Apprise, NotifyType

    logging.getLogger("apprise").setLevel(logging.CRITICAL)  # its lines name addresses
    notifier = Apprise()
    added = [notifier.add(address) for address in addresses]
    kind = NotifyType.INFO if bad is None else NotifyType.WARNING if bad else NotifyType.SUCCESS
    sent = notifier.notify(body=body, title=title, notify_type=kind)
    if not all(added) or not sent:
        logging.getLogger(__name__).warning(
            "an alert could not be delivered to every address of GRIDCAST_ALERTS: %s", title
        )
    return bool(sent)
