"""The live predictor on SQLite and PostgreSQL: an outcome counts once in each of two."""

from functools import partial
from typing import Any, ClassVar

import numpy as np
import pandas as pd
import pytest
from prometheus_client import REGISTRY
from sqlalchemy import event

from jobs.schema import OUTCOMES, conform
from jobs.store import add_jobs, open_store
from models.engine.forecaster import Forecaster
from models.histories.features import encode
from services.http.errors import HTTPError
from services.live.active_model import ActiveModel
from services.live.live_predictor import LivePredictor
from tests.services.conftest import Start


@pytest.fixture
def start(start: Start, store_url: str) -> Start:
    """All live states on one store: SQLite's and PostgreSQL's."""
    return partial(start, store_url)


def ingest(live: LivePredictor, jobs: pd.DataFrame) -> None:
    """What another process does to the store."""
    engine = open_store(live.settings.store_url)
    with engine.begin() as connection:
        add_jobs(connection, jobs)
    engine.dispose()


def outcomes(live: LivePredictor, jobs: pd.DataFrame) -> Any:
    """How many outcomes the live history has of each key of each job, long after all of them."""
    forecaster = live.state.active.forecaster
    contexts = encode(
        jobs.assign(submitted_at=pd.Timestamp("2100-01-01", tz="UTC")), forecaster.levels
    )
    return forecaster.mixtures["walltime"].ended_counts(contexts)


def learned(live: LivePredictor) -> list[Any]:
    """All that a live state learned beside the histories."""
    forecaster = live.state.active.forecaster
    calibration = forecaster.predictors["walltime"].calibration
    return [calibration.upto, calibration.below, *forecaster.mixtures["walltime"].learned()]


def test_two_predictors_on_one_store_follow_each_other(start: Start, jobs: pd.DataFrame) -> None:
    one, other = start(), start()
    one.report(jobs.iloc[:100])
    other.report(jobs.iloc[100:200])
    one.report(jobs.iloc[200:300])
    ingest(one, jobs.iloc[300:])
    assert (one.state.revision, other.state.revision) == (3, 2)
    for live in (one, other):
        live.state.catch_up()
        assert live.state.revision == 4
        assert live.state.history == {"jobs": 400, "newest_ended_at": jobs["ended_at"].max()}
    expected = outcomes(start(), jobs)
    assert expected.max() > 100
    np.testing.assert_array_equal(outcomes(one, jobs), expected)
    np.testing.assert_array_equal(outcomes(other, jobs), expected)


def test_late_repeated_and_shuffled_outcomes_leave_the_histories_as_if_in_order(
    start: Start, jobs: pd.DataFrame
) -> None:
    """Half the answers move by less than a tenth, nine of ten by less than a third."""
    in_order, as_they_came = start(), start()
    shuffled = jobs.sample(frac=1, random_state=5)
    for place in range(0, 400, 50):
        as_they_came.report(shuffled.iloc[place : place + 50])
        as_they_came.report(
            shuffled.iloc[max(place - 75, 0) : place]
        )  # again, some of it days later
    in_order.state.rebuild(ActiveModel(Forecaster(in_order.state.active.forecaster.model_set)))
    assert (
        in_order.state.history
        == as_they_came.state.history
        == {"jobs": 400, "newest_ended_at": jobs["ended_at"].max()}
    )
    np.testing.assert_array_equal(outcomes(as_they_came, jobs), outcomes(in_order, jobs))
    asked = jobs.drop(
        columns=list(OUTCOMES)
    )  # each by what had ended at its own submission, whenever that was told
    ones, others = (
        live.state.active.forecaster.predict(asked) for live in (in_order, as_they_came)
    )
    np.testing.assert_array_equal(ones["cold_start"], others["cold_start"])
    for name in ("walltime_median", "walltime_high"):
        apart = np.maximum(others[name] / ones[name], ones[name] / others[name]) - 1
        assert np.quantile(apart, 0.5) < 0.1
        assert np.quantile(apart, 0.9) < 1 / 3
        assert apart.max() < 1


def test_what_was_reported_here_is_learned_once(start: Start, jobs: pd.DataFrame) -> None:
    live, late = start(), jobs.tail(100)
    unlearned = [np.copy(values) for values in learned(live)]
    live.report(late)
    before = [np.copy(values) for values in learned(live)]
    assert not np.array_equal(before[0], unlearned[0])
    live.state.catch_up()
    live.report(late)
    live.state.active.learn(pd.concat([late, late]))
    for after, was in zip(learned(live), before, strict=True):
        np.testing.assert_array_equal(after, was)
    assert live.state.history["jobs"] == 100


def test_what_was_reported_here_is_not_read_again_and_what_came_between_is(
    start: Start, jobs: pd.DataFrame
) -> None:
    live, reads = start(), list[str]()

    def note(*execution: Any) -> None:
        statement = str(execution[2])
        if "requested_walltime" in statement:
            reads.append(statement)

    for first in (0, 50, 100):
        live.report(jobs.iloc[first : first + 50])
    event.listen(live.engine, "before_cursor_execute", note)
    live.state.catch_up()
    assert not reads
    assert live.state.history["jobs"] == 150
    ingest(live, jobs.iloc[150:200])
    live.report(jobs.iloc[200:250])
    reads.clear()
    live.state.catch_up()
    assert len(reads) == 1
    assert live.state.history["jobs"] == 250
    assert live.state.revision == 5
    np.testing.assert_array_equal(outcomes(live, jobs), outcomes(start(), jobs))


def test_what_catching_up_learned_before_its_report_was_told_counts_once(
    start: Start, jobs: pd.DataFrame
) -> None:
    live = start()
    with live.engine.begin() as connection:
        added = add_jobs(connection, jobs.iloc[:100])
    live.state.catch_up()
    live.state.learn(added)
    live.state.catch_up()
    assert live.state.history["jobs"] == 100
    np.testing.assert_array_equal(outcomes(live, jobs), outcomes(start(), jobs))


def test_an_outcome_reported_while_a_model_is_taught_the_store_counts_once(
    start: Start, jobs: pd.DataFrame
) -> None:
    live = start()

    class Slow(ActiveModel):
        """Reports come while it learns: one before, one after the store was read."""

        def learn(self, ended: pd.DataFrame, rows: int = 200) -> None:
            if live.state._missed is not None:
                live.report(jobs.iloc[100:200])
            super().learn(ended, rows)

    live.report(jobs.iloc[:100])
    live.state.rebuild(Slow(Forecaster(live.state.active.forecaster.model_set)))
    live.state.catch_up()
    assert live.state.history["jobs"] == 200
    np.testing.assert_array_equal(outcomes(live, jobs), outcomes(start(), jobs))


def test_a_thread_learns_what_others_store(start: Start, jobs: pd.DataFrame) -> None:
    live = start()
    (catch_up,) = (thread for thread in live.threads if thread.name == "catch-up")
    ingest(live, jobs.iloc[:50])
    catch_up.run_step()
    assert live.state.history["jobs"] == 50
    assert live.troubles == {}


def test_a_corrected_outcome_is_learned_when_the_history_is_next_built(
    start: Start, jobs: pd.DataFrame
) -> None:
    """The later end of a run wins in the store at once; a live history keeps the first until then."""
    one, other = start(), start()
    first = {
        "job_id": "1",
        "source": "test",
        "user": "newcomer",
        "submitted_at": "2026-02-01 08:00",
        "started_at": "2026-02-01 09:00",
    }
    used = {"walltime": 60.0, "peak_memory": 1e9}
    late, early = (
        conform(pd.DataFrame([first | used | {"ended_at": f"2026-02-01 {hour}:00"}]))
        for hour in (12, 10)
    )
    times = ["2026-02-01 11:00", "2026-02-01 13:00"]
    asked = conform(
        pd.DataFrame(
            {"job_id": ["a", "b"], "source": "test", "user": "newcomer", "submitted_at": times}
        )
    )

    def nothing_known(live: LivePredictor) -> list[bool]:
        return live.state.active.forecaster.predict(asked)["cold_start"].tolist()

    one.report(early)
    other.state.catch_up()
    assert one.report(late) == {"added": 0, "updated": 1, "unchanged": 0}
    for live in (one, other):
        live.state.catch_up()
        assert nothing_known(live) == [False, False]
        assert live.state.history["jobs"] == 1
    third = start()
    assert nothing_known(third) == [True, False]
    np.testing.assert_array_equal(outcomes(one, asked), outcomes(third, asked))


def test_catching_up_that_fails_half_way_is_done_again(
    start: Start, jobs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start()
    ingest(live, jobs.iloc[:100])
    ingest(live, jobs.iloc[100:300])
    learn = live.state.active.forecaster.learn
    calls: list[int] = []

    def out_of_memory(ended: pd.DataFrame) -> None:
        calls.append(len(ended))
        if len(calls) == 2:
            raise MemoryError
        learn(ended)

    with monkeypatch.context() as patch:
        patch.setattr(live.state.active.forecaster, "learn", out_of_memory)
        with pytest.raises(MemoryError):
            live.state.catch_up()
    assert live.state.revision == 0 and live.state.history["jobs"] == 0
    live.report(jobs.iloc[300:])
    live.state.catch_up()
    assert live.state.revision == 3 and live.state.history["jobs"] == 400
    np.testing.assert_array_equal(outcomes(live, jobs), outcomes(start(), jobs))


def test_an_outcome_that_cannot_be_learned_is_left_out_and_the_others_are_learned(
    start: Start, jobs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    live, poison = start(), jobs["job_id"].iloc[17]
    learn = live.state.active.forecaster.learn

    def refuse(ended: pd.DataFrame) -> None:
        if (ended["job_id"] == poison).any():
            raise ValueError("a value that nobody foresaw")
        learn(ended)

    ingest(live, jobs.iloc[:50])
    monkeypatch.setattr(live.state.active.forecaster, "learn", refuse)
    live.state.catch_up()
    assert live.state.revision == 1
    others = jobs.drop(index=jobs.index[50:]).drop(index=jobs.index[17])
    assert outcomes(live, others).max() == outcomes(start(), jobs.iloc[:50]).max() - 1


@pytest.mark.parametrize("store_url", ["postgresql"], indirect=True)
def test_outcomes_are_refused_with_503_while_postgres_is_read_only(
    start: Start, jobs: pd.DataFrame, postgres: Any
) -> None:
    live = start()
    name = live.engine.url.database
    postgres.psql(f"ALTER DATABASE {name} SET default_transaction_read_only = on;")
    live.engine.dispose()
    with pytest.raises(HTTPError) as refused:
        live.report(jobs.iloc[:10])
    assert (refused.value.status, refused.value.retry_after) == (503, 5)
    assert "store" in live.describe()["troubles"] and live.describe()["state"] == "degraded"
    postgres.psql(f"ALTER DATABASE {name} SET default_transaction_read_only = off;")
    live.engine.dispose()
    assert live.report(jobs.iloc[:10])["added"] == 10
    assert live.describe()["state"] == "serving"


@pytest.mark.parametrize("store_url", ["sqlite"], indirect=True)
def test_a_failing_background_thread_is_seen_in_the_model_and_in_the_metrics(
    start: Start, jobs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start()
    (catch_up,) = (thread for thread in live.threads if thread.name == "catch-up")

    def failing() -> float:
        labels = {"thread": "catch-up"}
        return float(REGISTRY.get_sample_value("gridcast_background_failing", labels) or 0)

    def failures() -> float:
        labels = {"thread": "catch-up"}
        return float(REGISTRY.get_sample_value("gridcast_background_failures_total", labels) or 0)

    before = failures()
    with monkeypatch.context() as patch:
        patch.setattr(live.state, "catch_up", lambda: 1 / 0)
        pauses = [catch_up.run_step() for _ in range(3)]
    assert pauses == [1.0, 2.0, 4.0]
    told = live.describe()
    assert told["state"] == "degraded"
    assert "catch-up fails since" in told["troubles"]["background"]
    assert told["threads"]["catch-up"]["failures"] == 3
    assert (failing(), failures() - before) == (1.0, 3.0)
    ingest(live, jobs.iloc[:10])
    catch_up.run_step()
    assert live.describe()["state"] == "serving" and failing() == 0.0
    assert live.state.history["jobs"] == 10


class Noting(ActiveModel):
    """A model that notes what the predictor says that it waits for, at each slice."""

    notes: ClassVar[list[str]] = []
    state: ClassVar[Any] = None

    def learn(self, ended: pd.DataFrame, rows: int = 200) -> None:
        Noting.notes.append(Noting.state.waits_for)
        super().learn(ended, rows)


def test_a_predictor_says_what_it_waits_for(
    start: Start, jobs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    live = start()
    live.report(jobs)
    state = LivePredictor(live.settings, live.metrics).state
    with pytest.raises(HTTPError, match="is starting: it asks the registry for the champion"):
        _ = state.active
    monkeypatch.setattr("services.live.predictor_state.SLICE_ROWS", 150)
    monkeypatch.setattr(Noting, "notes", [])
    monkeypatch.setattr(Noting, "state", state)
    state.rebuild(Noting(Forecaster(None)))
    assert Noting.notes == [f"it has learned {n} of 400 stored outcomes" for n in (0, 150, 300)]
    assert state.waits_for == "it predicts for the first time, which compiles"
    assert state.history["jobs"] == 400
