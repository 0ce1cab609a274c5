"""What shards exchange adds up to what one predictor learns, each outcome once."""

from __future__ import annotations

import io
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from typing import Any
from unittest.mock import patch

import numpy as np
import pandas as pd
import pytest
from sqlalchemy import Engine, select

from infra.shards import Shard
from jobs.store.tables import shard_publications
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.engine.shared_learning import (
    Publication,
    PublicationError,
    count_outcomes,
    pack,
    unpack,
)
from models.engine.snapshot import describe_snapshot, restore_snapshot, snapshot_target
from models.histories.familiarity import SEEN, UNREPORTED
from models.histories.weights import LEARNED_FACTS, CoarseRows
from services.live.active_model import ActiveModel
from services.live.shard_exchange import ShardExchange

COUNT = 3
ABOUT = {"model": "a model", "shard": "1/3"}


@pytest.fixture(scope="module")
def later(model_set: ModelSet, grid_jobs: pd.DataFrame) -> list[pd.DataFrame]:
    """Jobs that ended after the training, in four parts, of two sources."""
    until = pd.Timestamp(model_set.card.window.until_us, unit="us", tz="UTC")
    jobs = grid_jobs[grid_jobs["ended_at"] > until].sort_values("ended_at")
    jobs = jobs.assign(source=np.where(np.arange(len(jobs)) % 7 > 0, jobs["source"], "another"))
    return [jobs.iloc[start::4] for start in range(4)]


def shards_of(model_set: ModelSet) -> list[Forecaster]:
    return [Forecaster(model_set, shard=Shard(number + 1, COUNT)) for number in range(COUNT)]


def publications(shards: Sequence[Forecaster]) -> Mapping[int, Publication]:
    for shard in shards:
        shard.sums.add({})
    return {
        number: unpack(pack(shard.sums.learned, ABOUT), ABOUT, shard.sums.learned)
        for number, shard in enumerate(shards, 1)
    }


def exchange(shards: Sequence[Forecaster]) -> None:
    published = publications(shards)
    for shard in shards:
        shard.sums.add(published)


def weight_of_outcomes(forecaster: Forecaster) -> dict[str, Any]:
    """Sums that do not depend on the order of outcomes."""
    sums = {}
    for name, predictor in forecaster.predictors.items():
        tables, calibration = predictor.mixture.state.tables, predictor.calibration
        order = np.argsort(calibration.sources)
        shares, _ = CoarseRows(predictor.mixture.shape).read(tables)
        sums[name] = (
            shares.sum(axis=1)[0],
            *tables.facts[[1, 4]],
            calibration.sources[order].tolist(),
            # A restart does not remember how many outcomes new owners had.
            calibration.upto.sum(axis=2)[order][:, [SEEN, UNREPORTED]],
            calibration.below.sum(axis=2)[order][:, [SEEN, UNREPORTED]],
        )
    return sums


def assert_equal(first: dict[str, Any], second: dict[str, Any], rel: float = 1e-4) -> None:
    for name, sums in first.items():
        for one, another in zip(sums, second[name], strict=True):
            np.testing.assert_allclose(one, another, rtol=rel)


def test_each_outcome_counts_once_in_every_shard_whatever_was_missed_or_repeated(
    model_set: ModelSet, later: list[pd.DataFrame]
) -> None:
    one, shards = Forecaster(model_set), shards_of(model_set)
    for number, jobs in enumerate(later):
        for forecaster in (one, *shards):
            forecaster.learn(jobs)
        if number == 1:
            published = publications(shards)
            shards[0].sums.add(published)
            shards[1].sums.add({3: published[3]})  # the first was late
        if number == 2:
            shards[2].sums.add(published)
    errors = [weight_of_outcomes(forecaster)["walltime"][1] for forecaster in (one, *shards)]
    assert max(errors[1:]) < errors[0]
    exchange(shards)
    for _ in range(2):
        for shard in shards:
            assert_equal(weight_of_outcomes(shard), weight_of_outcomes(one))
        exchange(shards)

    # The sums themselves are those of one predictor but for the order of the outcomes.
    learned = one.mixtures["walltime"].state.tables
    for shard in shards:
        tables = shard.mixtures["walltime"].state.tables
        np.testing.assert_allclose(
            tables.facts[:LEARNED_FACTS], learned.facts[:LEARNED_FACTS], rtol=0.05
        )
        np.testing.assert_allclose(tables.squares, learned.squares, rtol=0.05)


def test_what_shards_learned_is_nearly_what_one_predictor_learned(
    model_set: ModelSet, later: list[pd.DataFrame]
) -> None:
    one, shards, alone = Forecaster(model_set), shards_of(model_set), shards_of(model_set)
    for jobs in later:
        for forecaster in (one, *shards, *alone):
            forecaster.learn(jobs)
        exchange(shards)
    for shard, lone in zip(shards, alone, strict=True):
        for target in one.names:
            truth, near, far = (arrays_of(forecaster, target) for forecaster in (one, shard, lone))
            for kind, values in truth.items():
                distance, without = (
                    np.abs(values - learned[kind]).sum() for learned in (near, far)
                )
                assert distance < 0.4 * without, kind


def arrays_of(forecaster: Forecaster, target: str) -> dict[str, Any]:
    predictor = forecaster.predictors[target]
    tables, calibration = predictor.mixture.state.tables, predictor.calibration
    shares, _ = CoarseRows(predictor.mixture.shape).read(tables)
    return {
        "weights": shares,
        "errors": tables.facts[:2],
        "slopes": tables.slopes,
        "squares": tables.squares,
        "calibration": calibration.upto[:1],
    }


def test_a_shard_that_starts_again_goes_on_from_its_snapshot_or_from_nothing(
    model_set: ModelSet, later: list[pd.DataFrame]
) -> None:
    shards = shards_of(model_set)
    for shard in shards:
        shard.learn(later[0])
    exchange(shards)
    for shard in shards:
        shard.learn(later[1])
    about = describe_snapshot(shards[0])
    arrays = {}
    for name in shards[0].names:
        for key, stored in snapshot_target(shards[0], name).items():
            arrays[key] = np.zeros((stored.rows, *stored.used.shape[1:]), stored.used.dtype)
            arrays[key][: len(stored.used)] = stored.used
    for shard in shards:
        shard.learn(later[2])
    exchange(shards)
    published = publications(shards)

    again, anew = (Forecaster(model_set, shard=Shard(1, COUNT)) for _ in range(2))
    assert about is not None
    restore_snapshot(again, about, arrays)
    again.learn(later[1])  # some is learned again
    again.learn(later[2])
    for jobs in later[:3]:
        anew.learn(jobs)
    one = Forecaster(model_set)
    for jobs in later[:3]:
        one.learn(jobs)
    for forecaster in (again, anew):
        forecaster.sums.add(published)
        assert_equal(weight_of_outcomes(forecaster), weight_of_outcomes(one))
        # What it publishes adds nothing to what the others have.
        assert count_outcomes(forecaster.sums.learned) == count_outcomes(shards[0].sums.learned)
        shards[1].sums.add({1: forecaster.sums.learned})
        assert_equal(weight_of_outcomes(shards[1]), weight_of_outcomes(one))


def test_where_the_store_has_dropped_jobs_others_forget_nothing(
    model_set: ModelSet, later: list[pd.DataFrame]
) -> None:
    shards = shards_of(model_set)
    for shard in shards:
        shard.learn(later[0])
        shard.learn(later[1])
    exchange(shards)
    published, before = publications(shards), weight_of_outcomes(shards[1])
    again = Forecaster(model_set, shard=Shard(1, COUNT))
    again.learn(later[1])
    again.sums.add(published)
    assert count_outcomes(again.sums.learned) == count_outcomes(shards[0].sums.learned)
    shards[1].sums.add({1: again.sums.learned})
    for after, earlier in zip(
        weight_of_outcomes(shards[1])["walltime"], before["walltime"], strict=True
    ):
        assert np.all(np.isfinite(np.asarray(after, float)))
        assert np.all(np.asarray(after, float) <= np.asarray(earlier, float) * 1.001)


@pytest.mark.parametrize("how", ["cut", "changed", "model", "size", "nan", "text"])
def test_a_publication_that_is_damaged_or_of_another_model_is_refused(
    model_set: ModelSet, later: list[pd.DataFrame], how: str
) -> None:
    shard = Forecaster(model_set, shard=Shard(1, COUNT))
    shard.learn(later[0])
    shard.sums.add({})
    learned, about = shard.sums.learned, dict(ABOUT)
    published = {target: dict(kinds) for target, kinds in learned.items()}
    sums = published["walltime"]["gate"]
    if how == "size":
        published["walltime"]["gate"] = sums._replace(values=sums.values[..., 1:])
    elif how == "nan":
        published["walltime"]["gate"] = sums._replace(values=sums.values * np.nan)
    elif how == "model":
        about["model"] = "another"
    body = pack(published, about)
    if how == "cut":
        body = body[: len(body) // 2]
    elif how == "changed":
        middle = len(body) // 2
        body = body[:middle] + bytes([body[middle] ^ 255]) + body[middle + 1 :]
    elif how == "text":
        out = io.BytesIO()
        np.save(out, np.array(["no archive"]))
        body = out.getvalue()
    with pytest.raises(PublicationError, match=r"^it"):
        unpack(body, ABOUT, learned)


def test_one_predictor_exchanges_nothing(model_set: ModelSet) -> None:
    forecaster = Forecaster(model_set)
    assert not forecaster.sums.ready
    assert not forecaster.sums.learned


def test_shards_exchange_through_the_store_and_a_damaged_row_is_named_and_replaced(
    model_set: ModelSet,
    later: list[pd.DataFrame],
    sqlite_store: Engine,
    caplog: pytest.LogCaptureFixture,
) -> None:
    one, shards = Forecaster(model_set), shards_of(model_set)
    exchanges = [exchange_of(shard, sqlite_store) for shard in shards]
    for jobs in later[:2]:
        one.learn(jobs)
        for shard, exchanged in zip(shards, exchanges, strict=True):
            shard.learn(jobs)
            exchanged.run()
    for exchanged in exchanges:
        exchanged.run()
    for shard in shards:
        assert_equal(weight_of_outcomes(shard), weight_of_outcomes(one))

    # Killed after its row was stored, or before: a new process of the shard reads it again.
    shards[0].learn(later[2])
    killed = patch("services.live.shard_exchange.publish", side_effect=KeyboardInterrupt)
    with killed, pytest.raises(KeyboardInterrupt):
        exchanges[0].run()
    shards[0] = Forecaster(model_set, shard=Shard(1, COUNT))
    one.learn(later[2])
    for jobs in later[:3]:
        for shard in shards:
            shard.learn(jobs)
    exchanges[0] = exchange_of(shards[0], sqlite_store)
    for exchanged in (*exchanges, *exchanges):
        exchanged.run()
    for shard in shards:
        assert_equal(weight_of_outcomes(shard), weight_of_outcomes(one))

    assert not caplog.records
    with sqlite_store.begin() as connection:
        row = shard_publications.update().where(shard_publications.c.shard == 1)
        connection.execute(row.values(body=b"damaged", outcomes=10**9))
    for exchanged in (*exchanges[::-1], *exchanges):
        exchanged.run()
    assert "what shard 1/3 learned is not used: it cannot be read" in caplog.text
    assert len(caplog.records) == COUNT
    with sqlite_store.connect() as connection:
        bodies = connection.execute(select(shard_publications.c.body)).scalars().all()
    assert b"damaged" not in bodies
    for shard in shards:
        assert_equal(weight_of_outcomes(shard), weight_of_outcomes(one))


def exchange_of(forecaster: Forecaster, store: Engine) -> ShardExchange:
    active = ActiveModel(forecaster, "gridcast 1", 1, "a run")
    return ShardExchange(active, lambda: store, nullcontext())
