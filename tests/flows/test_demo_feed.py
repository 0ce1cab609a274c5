"""The demo goes on while it is up: its jobs are submitted, run and end, and repeating changes nothing."""

from collections.abc import Iterator
from datetime import UTC
from pathlib import Path

import pandas as pd
import pytest

from flows.demo_feed import (
    STARTED,
    advance,
    demo_components,
    keep_jobs_to_come,
    read_jobs_to_come,
)
from infra.settings import Settings, prepare_environment, use_home
from jobs.store import add_jobs, open_store, read_jobs, read_predictions
from jobs.workload.demonstration import DemonstrationLog, demonstration_log
from services.client import Gridcast

LATER = pd.Timedelta(hours=3)


@pytest.fixture(scope="module")
def settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Settings]:
    before = prepare_environment().home
    yield use_home(tmp_path_factory.mktemp("demo"))
    use_home(before)


@pytest.fixture(scope="module")
def log(settings: Settings) -> DemonstrationLog:
    made = demonstration_log(pd.Timestamp.now(tz=UTC) - pd.Timedelta(days=1))
    recent = made.jobs["submitted_at"] > made.now - pd.Timedelta(days=2)
    log = DemonstrationLog(made.jobs[recent], made.trained_until, made.now)
    with open_store(settings.store_url).begin() as connection:
        add_jobs(connection, log.as_of(log.now))
    keep_jobs_to_come(settings, log)
    return log


def test_the_jobs_to_come_are_kept_as_they_are(settings: Settings, log: DemonstrationLog) -> None:
    jobs, until = read_jobs_to_come(settings)
    assert until == log.now
    pd.testing.assert_frame_equal(jobs, log.jobs.reset_index(drop=True), check_dtype=False)


def test_what_happens_is_stored_and_predicted_and_again_changes_nothing(
    settings: Settings, log: DemonstrationLog, tmp_path: Path
) -> None:
    from flows.demo import predictor  # it imports Prefect, which other workers do not need

    now = log.now + LATER
    expected = log.as_of(now).set_index("job_id").sort_index()
    came = expected[expected["submitted_at"] > log.now]
    ended = expected[expected["ended_at"] > log.now]
    assert len(came) > 10 and len(ended) > 10
    settings.make_token()
    token = settings.admin_token
    with predictor(settings) as address, Gridcast(address, token, timeout=120) as broker:
        advance(settings, broker, log, log.now, now)
        engine = open_store(settings.store_url)
        first = read_jobs(engine).set_index("job_id").sort_index()
        advance(settings, broker, log, log.now, now)
        again = read_jobs(engine).set_index("job_id").sort_index()
    assert first.index.equals(expected.index)
    for name in ("started_at", "ended_at", "walltime", "status"):
        assert (first[name].isna() == expected[name].isna()).all(), name
        known = expected[name].notna()
        assert (first[name][known] == expected[name][known]).all(), name
    pd.testing.assert_frame_equal(first, again)
    assert set(came.index) <= set(read_predictions(engine)["job_id"])


def test_up_runs_it_beside_the_usual_components(settings: Settings) -> None:
    feed = demo_components(settings)[-1]
    assert feed.name == "demo-jobs" and feed.after == ("predictor",)
    assert feed.ready_log_text == STARTED and feed.command[-1] == "flows.demo_feed"
