"""Queries to databases of other systems, through the SQLAlchemy driver that their URL names."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from sqlalchemy import create_engine, exc, make_url, text

from jobs.store.database import StoreAddressError, StoreError


def query_external(
    url: str, statement: str, parameters: Mapping[str, Any]
) -> Iterator[dict[str, Any]]:
    """Run a query and yield its rows, one at a time, as dictionaries by column name.

    Args:
        url: SQLAlchemy URL of the database.
        statement: the query.
        parameters: its named parameters.

    Raises:
        StoreError: if the database cannot be read; the message holds no password.
    """
    try:
        address = make_url(url)
        engine = create_engine(address, hide_parameters=True)
    except (exc.ArgumentError, ValueError, ImportError) as error:
        # The URL is not shown: a password may be anywhere in it.
        raise StoreAddressError(
            f"the database's URL cannot be used: {type(error).__name__}; "
            "write driver://user:password@host/name"
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
        message = str(getattr(error, "orig", None) or error).strip() or type(error).__name__
        raise StoreError(
            f"{displayed_url(url)} cannot be read: {message.splitlines()[0]}"
        ) from error
    finally:
        engine.dispose()


def displayed_url(url: str) -> str:
    """A database's URL without its password.

    >>> displayed_url("postgresql://panda:secret@db/panda")
    'postgresql://panda:***@db/panda'
    """
    try:
        return make_url(url).render_as_string(hide_password=True)
    except (exc.ArgumentError, ValueError):
        return "a database"
