"""Collector of PanDA: its tables of ended jobs, by a query of its database or from dumps."""

from __future__ import annotations

import json
from datetime import timedelta

from jobs.collectors.contract import Collector, Fetched, NoSystemError, Window
from jobs.collectors.folders import fetch_folder
from jobs.store.external import displayed_url, query_external

TABLE = "jobsarchived4"
"""The table to which jobs go when they end; days later they go to jobsarchived."""
SECONDS = "%Y-%m-%dT%H:%M:%S"
STATEMENT = (
    "SELECT * FROM {table} WHERE modificationtime >= :since AND modificationtime < :until"
    " ORDER BY modificationtime"
)


def fetch(window: Window) -> Fetched:
    """Fetch the jobs whose records changed in the window.

    ``where`` is a database's URL, with ``#schema.table`` for another table, or a folder. PanDA's
    times are UTC without a zone. Raises StoreError where the database cannot be read,
    NoSystemError where there is no such folder.
    """
    if "://" not in window.where:
        return fetch_folder(window)
    url, _, table = window.where.partition("#")
    moments = {
        name: moment.replace(tzinfo=None)
        for name, moment in (("since", window.since), ("until", window.until))
    }
    path = (
        window.folder
        / f"{table or TABLE} {window.since:{SECONDS}} to {window.until:{SECONDS}}.json"
    )
    rows = 0
    with path.open("w", encoding="utf-8") as file:
        for row in query_external(url, STATEMENT.format(table=_name(table or TABLE)), moments):
            file.write(json.dumps(row, default=str) + "\n")
            rows += 1
    return Fetched((path,) if rows else ())


def _name(table: str) -> str:
    """A table's name that is safe in a query."""
    if not all(map(str.isidentifier, table.split("."))):
        raise NoSystemError(
            f"{table} is no name of a table: write it as schema.table after the URL's #"
        )
    return table


NEEDS = "a database's URL or a folder"
PANDA = Collector(
    "panda",
    fetch,
    "panda",
    overlap=timedelta(hours=1),
    step=timedelta(days=1),
    needs=NEEDS,
    display=displayed_url,
)
"""The collector to put in the list."""
