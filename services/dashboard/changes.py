"""The audit log as the page's API gives it, and the settings whose changes are recorded in it."""

from __future__ import annotations

import hashlib
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from infra.settings import Settings
from jobs.store import read_audit
from services.dashboard.values import Query, page_of, records
from services.http.callers import Token, settings_tokens
from services.http.errors import HTTPError

if TYPE_CHECKING:
    from sqlalchemy import Engine

RULES = (
    *("promotion", "canary", "retention_months", "left_alone"),
    *("request_mode", "request_users", "request_programs", "request_queues", "request_above"),
    *("host", "allowed_hosts", "tls_in_front", "open_on_loopback"),
    *("login_proxies", "login_user_header", "login_rights"),
)
"""Settings of rights and rules, none of which is a secret."""


def audit_page(engine: Engine, query: Query) -> dict[str, Any]:
    """Give a page of the audit log, the newest first.

    Args:
        engine: The store.
        query: The filters ``since`` (ISO 8601, UTC unless it says otherwise), ``action``,
            ``who`` and ``result``; ``page`` (from 0) and ``size``.

    Raises:
        HTTPError: A value of the query is not allowed (422).
    """
    rows = page_of(query)
    try:
        since = datetime.fromisoformat(query["since"]) if query.get("since") else None
        if since and not 1970 <= since.year < 9999:
            raise ValueError
    except ValueError:
        raise HTTPError(422, "since must be a time as 2026-11-30T12:00") from None
    size = rows.stop - rows.start
    frame = read_audit(
        engine,
        since=since,
        action=query.get("action") or None,
        actor=query.get("who") or None,
        result=query.get("result") or None,
        limit=size + 1,
        offset=rows.start,
    )
    listed = records(frame.head(size).drop(columns=["change", "number"]))
    return {"rows": listed, "more": len(frame) > size}


def rights_and_rules(settings: Settings) -> dict[str, str]:
    """The settings of rights and rules that are not the default, and the rights of each token.

    Of tokens and of the file of issuers there are the first digits of a digest, by which one that
    was replaced is seen.
    """
    values = {
        f"GRIDCAST_{name.upper()}": str(getattr(settings, name))
        for name in RULES
        if getattr(settings, name) != Settings.model_fields[name].default
    }
    if settings.issuers:
        values["GRIDCAST_ISSUERS"] = f"{settings.issuers}, SHA-256 {_digest(settings.issuers)}"
    for token in settings_tokens(settings):
        name = f"token {token.caller.name.removeprefix('token ')}"
        values[name] = "; ".join(filter(None, (values.get(name), _rights(token))))
    return values


def _rights(token: Token) -> str:
    owners = f" of {token.caller.owners}" if token.caller.owners else ""
    return f"{'+'.join(sorted(token.caller.scopes))}{owners}, SHA-256 {token.digest.hex()[:8]}"


def _digest(file: Path) -> str:
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()[:8]
    except OSError as error:
        return error.strerror or "unreadable"
