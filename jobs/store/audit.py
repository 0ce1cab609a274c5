"""The audit log in the store: who changed what, when and from where.

A change of the store and its row are one transaction: where the row cannot be written, nothing is
changed. A change elsewhere, as of the registry, has a row ``begun`` before it, without which it is
not begun, and a second row with its result. Changes that are repeated, as reports of outcomes, are
counted in a row an hour.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any
from uuid import uuid4

import pandas as pd
from sqlalchemy import Connection, Engine, and_, func, insert, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from infra.actor import current_actor
from jobs.store.database import StoreError, lock_writers, open_store, read_connection
from jobs.store.frames import Moment, as_microseconds, read_rows
from jobs.store.tables import audit as table

log = logging.getLogger(__name__)

BEGUN, DONE, FAILED, REFUSED = "begun", "done", "failed", "refused"
"""Results: ``begun`` alone is of a change that was interrupted, or whose end was not recorded."""
SETTING = "setting"
"""The action of settings that differ from those at the start before."""
MAX_TEXT = 500
"""Characters of each text."""
LEAST_MONTHS = 24
"""Full months, before this one, for which rows are kept at least."""


@dataclass
class Change:
    """The object of a change before and after it, set while it is made."""

    before: str | None = None
    after: str | None = None


def record(
    connection: Connection,
    action: str,
    name: str,
    *,
    before: object = None,
    after: object = None,
    why: str = "",
    by: str = "",
    records: int | None = None,
) -> None:
    """Record a change in the transaction that makes it.

    Args:
        connection: The transaction.
        action: What is done.
        name: The name of the changed object.
        before: The object before.
        after: The object after.
        why: The reason.
        by: Who does it, where no actor is set.
        records: How many jobs, or rows of a table, it concerns.
    """
    values = _values(action, name, before, after, why, by)
    _insert(connection, values | {"change": uuid4().hex, "result": DONE, "records": records})


def count(
    connection: Connection,
    action: str,
    name: str,
    *,
    records: int | None = None,
    calls: int = 1,
    why: str = "",
    result: str = DONE,
    by: str = "",
) -> None:
    """Count a change that is repeated, in this hour's row of its actor, action and object.

    Args:
        connection: The transaction that makes the change.
        action: What is done.
        name: The name of the changed object.
        records: How many jobs, or rows of a table, it concerns.
        calls: How often it was done.
        why: The reason of the first.
        result: ``done`` or ``refused``.
        by: Who does it, where no actor is set.
    """
    values = _values(action, name, None, None, why, by) | {"result": result}
    now = values["changed_at"]
    hour = now - now % 3_600_000_000
    identity = [hour, *(values[key] for key in ("who", "origin", "address", "action", "object"))]
    key = hashlib.sha256(repr([*identity, result]).encode()).hexdigest()[:32]
    is_postgresql = connection.dialect.name == "postgresql"
    insert_row = (postgresql if is_postgresql else sqlite).insert(table)
    later = func.greatest if is_postgresql else func.max
    connection.execute(
        insert_row.values(
            **values | {"change": key, "records": records, "calls": calls}
        ).on_conflict_do_update(
            index_elements=[table.c.change, table.c.number],
            set_={
                "calls": table.c.calls + calls,
                "records": func.coalesce(table.c.records + (records or 0), records),
                "last_at": later(table.c.last_at, now),
            },
        )
    )


@contextmanager
def recording(url: str, action: str, name: str, *, by: str = "", why: str = "") -> Iterator[Change]:
    """Record a change of something that is not in the store: before it, and its result.

    Args:
        url: The store's URL.
        action: What is done.
        name: The name of the changed object.
        by: Who does it, where no actor is set.
        why: The reason.

    Yields:
        The object before and after, to be set.

    Raises:
        StoreError: The row before it cannot be written: the change must not be made.
    """
    engine, key, change = open_store(url), uuid4().hex, Change()

    def write(number: int, result: str, reason: str) -> None:
        values = _values(action, name, change.before, change.after, reason, by)
        with engine.begin() as connection:
            _insert(connection, values | {"change": key, "number": number, "result": result})

    def end(result: str, reason: str) -> None:
        try:
            write(1, result, reason)
        except StoreError as error:
            log.warning("the end of %s %s is not in the audit log: %s", action, name, error)

    try:
        write(0, BEGUN, why)
        try:
            yield change
        except BaseException as error:
            end(FAILED, f"{why}: {error}" if why else str(error))
            raise
        end(DONE, why)
    finally:
        engine.dispose()


def record_refusal(url: str, action: str, name: str, why: str, by: str = "") -> None:
    """Count a change that is refused before it begins; where it cannot be, a warning is logged.

    Args:
        url: The store's URL.
        action: What is refused.
        name: The name of the object.
        why: The reason.
        by: Who wanted it, where no actor is set.
    """
    try:
        engine = open_store(url)
        try:
            with engine.begin() as connection:
                count(connection, action, name, by=by, why=why, result=REFUSED)
        finally:
            engine.dispose()
    except StoreError as unwritten:
        log.warning("a refused %s is not in the audit log: %s", action, unwritten)


def record_settings(engine: Engine, values: Mapping[str, str]) -> None:
    """Record the settings that differ from those recorded before.

    Args:
        engine: The store.
        values: Settings other than their defaults, by name, without secrets.
    """
    of_setting = table.c.action == SETTING
    newest = select(table.c.object, func.max(table.c.changed_at).label("newest"))
    newest_rows = newest.where(of_setting).group_by(table.c.object).subquery()
    same = and_(table.c.object == newest_rows.c.object, table.c.changed_at == newest_rows.c.newest)
    query = select(table.c.object, table.c.after).join(newest_rows, same).where(of_setting)
    with engine.begin() as connection:
        lock_writers(connection)
        before = {name: value for name, value in connection.execute(query).all() if value}
        for name in sorted({*before, *values}):
            after = _short(values.get(name))
            if before.get(name) != after:
                record(connection, SETTING, name, before=before.get(name), after=after)


def read_audit(
    engine: Engine,
    *,
    since: Moment | None = None,
    action: str | None = None,
    actor: str | None = None,
    result: str | None = None,
    limit: int = 100,
    offset: int = 0,
) -> pd.DataFrame:
    """Read the audit log, the newest first: a row a change, or an hour of repeated changes.

    Args:
        engine: The store.
        since: Only rows of this time or later.
        action: Only this action.
        actor: Only of this actor.
        result: Only of this result, as ``refused``.
        limit: At most so many.
        offset: How many of the newest to leave out.
    """
    later = table.alias()
    is_last = ~(
        select(later.c.change).where(later.c.change == table.c.change, later.c.number == 1).exists()
    )
    query = select(table).where(or_(table.c.number == 1, is_last))
    if since is not None:
        query = query.where(table.c.last_at >= as_microseconds(since))
    if action is not None:
        query = query.where(table.c.action == _short(action))
    if actor is not None:
        query = query.where(table.c.who == _short(actor))
    if result is not None:
        query = query.where(table.c.result == _short(result))
    order = (table.c.changed_at.desc(), table.c.change, table.c.number.desc())
    with read_connection(engine) as connection:
        return read_rows(connection, query.order_by(*order).limit(limit).offset(offset))


def _values(
    action: str, name: str, before: object, after: object, why: str, by: str
) -> dict[str, Any]:
    actor = current_actor(by)
    now = (datetime.now(UTC) - datetime(1970, 1, 1, tzinfo=UTC)) // timedelta(microseconds=1)
    texts = {
        **{"who": actor.name, "origin": actor.origin, "address": actor.address},
        **{"action": action, "object": name, "before": before, "after": after, "why": why or None},
    }
    short = {key: _short(text) for key, text in texts.items()}
    return {"number": 0, "changed_at": now, "last_at": now, "calls": 1, "records": None, **short}


def _short(text: object) -> str | None:
    """A text as it is stored: of MAX_TEXT characters, without NUL, which PostgreSQL refuses."""
    return None if text is None else str(text)[:MAX_TEXT].replace("\0", "\ufffd")


def _insert(connection: Connection, values: Mapping[str, Any]) -> None:
    connection.execute(insert(table).values(**values))
