"""Reading somebody else's database: a query by SQLAlchemy over whatever DB-API driver its URL names, a row at a time."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import create_engine, exc, make_url, text

from jobs.store.database import StoreAddressError, StoreError


def query_external(
    url: str, statement: str, parameters: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """The rows of a query by column name; nothing is written there. Raises StoreError in one sentence without a password."""
    try:
        address = make_url(url)
        engine = create_engine(address, hide_parameters=True)
    except (exc.ArgumentError, ValueError, ImportError) as error:
        # The URL is not displayed_url: a password may be anywhere in it.
        raise StoreAddressError(
            f"the database's URL cannot be used: {type(error).__name__}; write driver://user:password@host/name"
        ) from None
    try:
        with engine.connect() as connection:
            for row in (
                connection.execution_options(stream_results=True)
                .execute(text(statement), dict(parameters))
                .mappings()
            ):
                yield dict(row)
    except exc.SQLAlchemyError as error:
        said = (
            str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        ).splitlines()[0]
        raise StoreError(f"{displayed_url(url)} cannot be read: {said}") from error
    finally:
        engine.dispose()


def displayed_url(url: str) -> str:
    """A database's URL as it may be displayed_url.

    >>> displayed_url("postgresql://panda:secret@db/panda")
    'postgresql://panda:***@db/panda'
    """
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (exc.ArgumentError, ValueError):
        return "a database"
