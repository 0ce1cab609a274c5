"""What shards publish: one row a shard and model, replaced only by who has read it."""

from sqlalchemy import Engine, select

from jobs.store import StoredPublication, publish, read_publications
from jobs.store.tables import shard_publications


def test_a_shard_publishes_in_place_of_what_it_published(store: Engine) -> None:
    first, second = StoredPublication(10, b"\x00first"), StoredPublication(25, b"second\xff")
    assert publish(store, (1, 2), "model", first, -1)
    assert publish(store, (2, 2), "model", second, -1)
    assert read_publications(store, 2, "model", {}) == {1: first, 2: second}
    assert read_publications(store, 2, "model", {1: 10, 2: 24}) == {2: second}
    assert not publish(store, (1, 2), "model", StoredPublication(12, b"blind"), -1)
    assert publish(store, (1, 2), "model", StoredPublication(12, b"later"), 10)
    assert not publish(store, (1, 2), "model", StoredPublication(13, b"late"), 10)
    assert read_publications(store, 2, "model", {2: 25}) == {1: StoredPublication(12, b"later")}


def test_publications_of_other_models_and_numbers_of_shards_are_not_read_and_dropped_in_time(
    store: Engine,
) -> None:
    body = StoredPublication(1, b"")
    for shards, model in ((2, "old"), (3, "old"), (4, "old")):
        publish(store, (1, shards), model, body, -1)
    assert read_publications(store, 2, "new", {}) == {}
    with store.begin() as connection:
        connection.execute(
            shard_publications.update()
            .where(shard_publications.c.shards == 3)
            .values(published_at=0)
        )
    publish(store, (1, 2), "new", body, -1)
    key = select(shard_publications.c.shards, shard_publications.c.model)
    with store.connect() as connection:
        rows = {tuple(row) for row in connection.execute(key)}
    assert rows == {(2, "new"), (4, "old")}
