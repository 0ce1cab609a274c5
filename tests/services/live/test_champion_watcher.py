"""Faults around the predictor: broken champions, failing registry and store, kills."""

import resource
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest

from models.engine.model_set import ModelSet
from models.releases.registry import promote
from models.releases.versions import Version
from tests.services.conftest import (
    Predictor,
    as_rows,
    free_port,
    new_home,
    publish,
    running,
    stored,
    wait_for,
)

Rows = list[dict[str, Any]]
AT = {"at": "2100-01-01T00:00:00Z"}


@contextmanager
def hammering(predictor: Predictor, ask: Rows) -> Iterator[list[tuple[int, str]]]:
    """Ask again and again meanwhile; the status and the model version of every answer."""
    answers: list[tuple[int, str]] = []
    done = threading.Event()

    def ask_on() -> None:
        with httpx.Client(base_url=predictor.url, trust_env=False, timeout=60) as http:
            while not done.wait(0.05):  # the predictor, too, wants some of the machine
                response = http.post("/predict", json={"jobs": ask})
                versions = {row["model_version"] for row in response.json().get("rows", [])}
                answers.append((response.status_code, "+".join(sorted(versions))))

    thread = threading.Thread(target=ask_on)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


def model(predictor: Predictor) -> dict[str, Any]:
    answer: dict[str, Any] = predictor.http.get("/model").json()
    return answer


def metric(predictor: Predictor, name: str) -> float:
    lines = predictor.http.get("/metrics").text.splitlines()
    return sum(float(line.rpartition(" ")[2]) for line in lines if line.startswith(name))


def wait_for_version(predictor: Predictor, label: str) -> None:
    wait_for(lambda: model(predictor)["model_version"] == label, f"{label} to answer", predictor)


def files_of(version: Version) -> Path:
    return Path(version.source.removeprefix("file://"))


@pytest.fixture(scope="module")
def empty_home(tmp_path_factory: pytest.TempPathFactory, grid_jobs: pd.DataFrame) -> Path:
    """A data folder with 1,200 finished jobs and no champion."""
    return new_home(tmp_path_factory.mktemp("following"), grid_jobs.head(1200))


def test_champions_come_break_and_go_and_no_request_notices(
    empty_home: Path, grid_jobs: pd.DataFrame, model_set: ModelSet, waiting: Rows
) -> None:
    home = empty_home
    with running(home) as predictor, hammering(predictor, waiting[:20]) as answers:
        # Before the first champion the histories answer, and say so.
        assert model(predictor)["model_version"] == "none"
        wait_for(lambda: (200, "none") in answers, "an answer")
        # What another process stores is learned too.
        new_home(home, grid_jobs.tail(400))
        wait_for(
            lambda: model(predictor)["history"]["jobs"] == 1600,
            "what another process stored",
            predictor,
        )
        publish(model_set, home)
        wait_for_version(predictor, "gridcast-1")

        # A version whose files were altered is refused; the one before it goes on.
        tampered = publish(model_set, home, promote=False)
        card = files_of(tampered) / "card.json"
        card.write_text(card.read_text().replace("rows", "cows"))
        promote(tampered.version, by="test", why="test", settings=predictor.settings)
        wait_for(lambda: model(predictor)["state"] == "degraded", "the refusal")
        assert "gridcast-2 is refused" in model(predictor)["troubles"]["champion"]
        assert "SHA-256" in model(predictor)["troubles"]["champion"]
        assert metric(predictor, 'gridcast_model_swaps_total{result="refused"}') == 1
        assert model(predictor)["model_version"] == "gridcast-1"

        # So is one whose files are gone.
        gone = publish(model_set, home, promote=False)
        for file in files_of(gone).iterdir():
            file.unlink()
        promote(gone.version, by="test", why="test", settings=predictor.settings)
        wait_for(
            lambda: "gridcast-3 is refused" in model(predictor)["troubles"].get("champion", ""),
            "the second refusal",
        )

        # And one whose files cannot be read.
        unreadable = publish(model_set, home, promote=False)
        (files_of(unreadable) / "card.json").unlink()
        (files_of(unreadable) / "card.json").mkdir()
        promote(unreadable.version, by="test", why="test", settings=predictor.settings)
        wait_for(
            lambda: "gridcast-4 is refused" in model(predictor)["troubles"].get("champion", ""),
            "the third refusal",
        )
        assert metric(predictor, "gridcast_model_degraded") == 1

        publish(model_set, home)
        wait_for_version(predictor, "gridcast-5")
        assert model(predictor)["state"] == "serving"
        assert metric(predictor, "gridcast_model_degraded") == 0
        wait_for(lambda: (200, "gridcast-5") in answers, "an answer of the new model")
    assert {status for status, _ in answers} == {200}
    seen = list(dict.fromkeys(version for _, version in answers))
    assert seen == [
        "none",
        "gridcast-1",
        "gridcast-5",
    ]  # each answer by one model, and never back to an older one


def test_whatever_is_killed_the_same_state_comes_back(
    tmp_path: Path, grid_jobs: pd.DataFrame, model_set: ModelSet
) -> None:
    home = new_home(tmp_path / "killed", grid_jobs.head(1200))
    publish(model_set, home)
    outcomes = grid_jobs.tail(400).sort_values("ended_at")
    ask = {"jobs": as_rows(grid_jobs.tail(60).assign(job_id=[f"w{place}" for place in range(60)]))}

    def answers(predictor: Predictor) -> Rows:
        rows: Rows = predictor.http.post("/predict", json=ask).json()["rows"]
        return rows

    with running(home) as predictor:
        for start in range(0, 400, 100):
            response = predictor.http.post(
                "/outcomes", json={"jobs": as_rows(outcomes.iloc[start : start + 100])}
            )
            assert response.json()["added"] == 100
        before = answers(predictor)

        worker = predictor.worker().pid
        predictor.worker().kill()
        wait_for(lambda: _respawned(predictor, worker), "another worker", predictor)
        predictor.wait_until_ready()
        assert model(predictor)["history"]["jobs"] == 1600
        revived = answers(predictor)
        predictor.stop(signal.SIGKILL)

    # MLflow is down when it starts again: the last champion of this data folder answers.
    with running(home, GRIDCAST_MLFLOW_URL=f"http://127.0.0.1:{free_port()}") as predictor:
        state = model(predictor)
        assert (state["model_version"], state["state"], state["history"]["jobs"]) == (
            "gridcast-1",
            "degraded",
            1600,
        )
        assert "registry" in state["troubles"]
        assert answers(predictor) == revived
        assert len(stored(predictor)) == 1600

    # Learning in batches differs a little from learning at once: nine ranges of ten by less than
    # a tenth, none by more than a quarter.
    assert [row["cold_start"] for row in before] == [row["cold_start"] for row in revived]
    for name in ("walltime_median", "walltime_high"):
        apart = [
            abs(row[name] / other[name] - 1) for row, other in zip(before, revived, strict=True)
        ]
        assert sorted(apart)[int(0.9 * len(apart))] < 0.1
        assert max(apart) < 0.25


def _respawned(predictor: Predictor, killed: int) -> bool:
    try:
        return predictor.worker().pid != killed
    except (AssertionError, psutil.Error):  # none yet, or the dead one is not yet buried
        return False


def test_a_store_that_cannot_be_written_refuses_outcomes_and_nothing_else(
    predictor: Predictor, waiting: Rows, finished: Rows
) -> None:
    jobs = [job | {"job_id": f"full-{place}"} for place, job in enumerate(finished[:40])]
    worker = predictor.worker()
    unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
    worker.rlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))  # as if the disk were full
    try:
        refused = predictor.http.post("/outcomes", json={"jobs": jobs})
        assert refused.status_code == 503
        assert int(refused.headers["Retry-After"]) > 0
        assert "send them again" in refused.json()["error"]
        assert model(predictor)["state"] == "degraded"
        assert "store" in model(predictor)["troubles"]
        assert predictor.http.post("/predict", json={"jobs": waiting}).status_code == 200
    finally:
        worker.rlimit(resource.RLIMIT_FSIZE, unlimited)
    assert not set(stored(predictor)["job_id"]) & {job["job_id"] for job in jobs}
    assert predictor.http.post("/outcomes", json={"jobs": jobs}).json()["added"] == 40
    assert model(predictor)["state"] == "serving"
