"""The drift check from the store: windows, answers with their outcomes, stored metrics."""

from collections.abc import Callable, Iterator
from pathlib import Path

import pandas as pd
import pytest
from sqlalchemy import Engine

from infra.errors import GridcastError
from jobs.store import add_jobs, add_predictions, open_store, read_measurements
from models.engine.model_card import ModelCard, TrainingWindow
from monitoring.drift.check import answers, monitor, windows

Grid = Callable[..., pd.DataFrame]
TRAINED_UNTIL = pd.Timestamp("2026-01-04", tz="UTC")
CARD = ModelCard(
    "",
    60_000,
    TrainingWindow("2026-01-01T00:00:00+00:00", "", TRAINED_UNTIL.value // 1000),
    sources=("grid",),
)


@pytest.fixture
def engine(tmp_path: Path) -> Iterator[Engine]:
    engine = open_store(f"sqlite:///{tmp_path / 'jobs.db'}")
    yield engine
    engine.dispose()


def fill(engine: Engine, *frames: pd.DataFrame) -> None:
    with engine.begin() as connection:
        for frame in frames:
            add_jobs(connection, frame)


def test_a_window_is_cut_by_the_end_of_jobs_and_nothing_recent_is_in_the_reference(
    engine: Engine, grid: Grid
) -> None:
    fill(engine, grid(60_000, 1))
    reference, recent = windows(engine, CARD)
    assert len(reference) + len(recent) == 60_000
    assert reference["ended_at"].max() <= TRAINED_UNTIL < recent["ended_at"].min()


def test_the_recent_window_reaches_back_for_enough_jobs(engine: Engine, grid: Grid) -> None:
    fill(engine, grid(40_000, 1))
    _, recent = windows(engine, CARD, recent=pd.Timedelta(minutes=10))
    assert len(recent) == 1000


def test_monitoring_a_slower_grid_says_so_and_keeps_the_numbers(
    engine: Engine, grid: Grid, tmp_path: Path
) -> None:
    slower = grid(8000, 2, day=5)
    slower["walltime"] *= 4
    fill(engine, grid(30_000, 1), slower)
    found = monitor(
        engine,
        CARD,
        tmp_path / "reports",
        model="gridcast-1",
        measured_at=pd.Timestamp("2026-01-08", tz="UTC"),
    )
    assert found.verdict == "drift"
    assert "walltime" in found.drifted
    kept = read_measurements(engine, "verdict", kind="drift")
    assert kept["details"][0]["sentence"] == found.sentence
    assert kept["details"][0]["pages"] == [
        str(tmp_path / "reports" / "2026-01-08T000000Z-data.html")
    ]
    assert read_measurements(engine, "walltime", kind="drift", segment="all")["value"][0] > 0.3
    assert "gridcast-1 trained on grid." in found.pages[0].read_text()


def test_monitoring_twice_at_one_moment_keeps_each_number_once(
    engine: Engine, grid: Grid, tmp_path: Path
) -> None:
    fill(engine, grid(30_000, 1), grid(2000, 2, day=5))
    moment = pd.Timestamp("2026-01-08", tz="UTC")
    for _ in range(2):
        monitor(engine, CARD, tmp_path / "reports", measured_at=moment)
    measured = read_measurements(engine)
    assert not measured.duplicated(["kind", "name", "segment"]).any()
    assert len(list((tmp_path / "reports").iterdir())) == 1


def test_the_first_answer_about_a_job_meets_its_outcome(engine: Engine, grid: Grid) -> None:
    ended = grid(3, 1)
    fill(engine, ended)
    asked = pd.DataFrame(
        {"asked_at": pd.to_datetime(["2026-01-02", "2026-01-01", "2026-01-01"], utc=True)}
    )
    asked = asked.assign(
        source="grid",
        job_id=["1.0", "1.0", "unheard"],
        target="walltime",
        model_version="gridcast-1",
        cluster="global",
    )
    with engine.begin() as connection:
        add_predictions(
            connection,
            asked.assign(point=[7.0, 5.0, 9.0], median=1.0, low=1.0, high=99.0, cold_start=False),
        )
    joined = answers(engine, ended["ended_at"].min())
    assert joined[["job_id", "point", "actual"]].to_numpy().tolist() == [
        ["1.0", 5.0, ended["walltime"][0]]
    ]


def test_an_answer_given_when_the_end_was_known_is_no_prediction(
    engine: Engine, grid: Grid
) -> None:
    ended = grid(2, 1)
    fill(engine, ended.head(1), ended.tail(1))  # revisions 1 and 2
    asked = pd.DataFrame(
        {"job_id": ["1.0", "1.0", "1.1"], "known_revision": [0, 1, 2], "point": [5.0, 6.0, 7.0]}
    )
    asked["asked_at"] = pd.to_datetime(
        ["2027-01-01", "2026-01-01", "2026-01-01"], utc=True
    )  # whatever the clock said
    asked = asked.assign(
        source="grid",
        target="walltime",
        model_version="gridcast-1",
        cluster="global",
        median=1.0,
        low=1.0,
        high=9.0,
    )
    with engine.begin() as connection:
        add_predictions(connection, asked.assign(cold_start=False))
    assert answers(engine, ended["ended_at"].min())[["job_id", "point"]].to_numpy().tolist() == [
        ["1.0", 5.0]
    ]


def test_nothing_since_the_training_is_a_verdict_not_an_error(
    engine: Engine, grid: Grid, tmp_path: Path
) -> None:
    fill(engine, grid(500, 1))
    found = monitor(engine, CARD, tmp_path / "reports")
    assert (found.verdict, found.sentence) == (
        "unknown",
        "Too few jobs to tell: 0 have ended since, and 100 are needed.",
    )
    assert monitor(open_store("sqlite://"), CARD, tmp_path / "reports").verdict == "unknown"


def test_a_card_without_a_window_is_refused() -> None:
    with pytest.raises(GridcastError, match="names no training window"):
        ModelCard.from_json({"window": {}})
