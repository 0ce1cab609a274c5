"""What shards of the predictor publish for each other: a row a shard and model."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

from sqlalchemy import Engine, and_, delete, false, or_, select
from sqlalchemy.dialects import postgresql, sqlite

from jobs.store.database import read_connection
from jobs.store.frames import as_microseconds
from jobs.store.tables import shard_publications as table

MAX_AGE = timedelta(days=30)
"""Publications of other numbers of shards are dropped after this time."""


class StoredPublication(NamedTuple):
    """What a shard published, and how many outcomes it had learned then."""

    outcomes: int
    body: bytes


def read_publications(
    engine: Engine, shards: int, model: str, read: Mapping[int, int]
) -> dict[int, StoredPublication]:
    """Read what shards published that was not read before, by the number of the shard.

    Args:
        engine: the store.
        shards: the number of shards.
        model: the model that they answer with.
        read: the outcomes of each publication that was read before.
    """
    stored_rows = [
        and_(table.c.shard == shard, table.c.outcomes == outcomes)
        for shard, outcomes in read.items()
    ]
    query = select(table.c.shard, table.c.outcomes, table.c.body).where(
        table.c.shards == shards, table.c.model == model, ~or_(false(), *stored_rows)
    )
    with read_connection(engine) as connection:
        return {
            row.shard: StoredPublication(row.outcomes, bytes(row.body))
            for row in connection.execute(query)
        }


def publish(
    engine: Engine, shard: tuple[int, int], model: str, publication: StoredPublication, after: int
) -> bool:
    """Store what a shard publishes, in place of what it published before.

    Its publications of other models are dropped.

    Args:
        engine: the store.
        shard: its number, and that of all.
        model: the model that it answers with.
        publication: what it publishes.
        after: the outcomes of its publication that was read before, -1 for none.

    Returns:
        Whether it was stored: not where another process has published for this shard since then.
    """
    number, shards = shard
    now = datetime.now(UTC)
    values = {
        "outcomes": publication.outcomes,
        "published_at": as_microseconds(now),
        "body": publication.body,
    }
    insert = (postgresql if engine.dialect.name == "postgresql" else sqlite).insert(table)
    with engine.begin() as connection:
        stored = connection.execute(
            insert.values(shards=shards, shard=number, model=model, **values)
            .on_conflict_do_update(
                index_elements=[table.c.shards, table.c.shard, table.c.model],
                set_=values,
                where=table.c.outcomes == after,
            )
            .returning(table.c.shard)
        ).all()
        is_old = table.c.published_at < as_microseconds(now - MAX_AGE)
        is_own = and_(table.c.shards == shards, table.c.shard == number, table.c.model != model)
        connection.execute(delete(table).where(or_(is_own, and_(table.c.shards != shards, is_old))))
        return bool(stored)
