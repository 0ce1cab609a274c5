"""A restart goes on from the history on disk and predicts like a full rebuild."""

import mmap
import shutil
import subprocess
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from filelock import FileLock

from infra.mapped_arrays import StoredArray, map_arrays, write_arrays, write_description
from jobs.schema import OUTCOMES
from jobs.store import StoreError, add_jobs, drop_source, open_store
from models.engine import snapshot
from models.engine.model_set import ModelSet
from models.histories.outcome_index import CAPACITY
from services.live import snapshots
from services.live.live_predictor import LivePredictor
from services.live.snapshots import NAME, REFUSED
from tests.services.conftest import ROOT, Start


def answers(live: LivePredictor, jobs: pd.DataFrame) -> pd.DataFrame:
    asked = jobs.drop(columns=list(OUTCOMES))
    return live.state.active.forecaster.predict(
        asked, quantiles=(0.3,), at=pd.Timestamp("2100-01-01", tz="UTC")
    )


def built_at(live: LivePredictor) -> Any:
    return live.describe()["history"]["built_at"]


def test_a_restart_goes_on_from_the_file_and_learns_what_came_later(
    start: Start, jobs: pd.DataFrame
) -> None:
    one = start()
    one.report(jobs.iloc[:200])
    one.state.save_history()
    [file] = one.settings.home.rglob(NAME)
    assert file.stat().st_mode & 0o777 == 0o600
    one.report(jobs.iloc[200:300])
    ingested = open_store(one.settings.store_url)
    with ingested.begin() as connection:
        add_jobs(connection, jobs.iloc[300:])
    ingested.dispose()
    again, anew = start(), start(home="other")
    assert built_at(again) == built_at(one)
    assert built_at(anew) > built_at(one)
    assert (
        again.state.history
        == anew.state.history
        == {"jobs": 400, "newest_ended_at": jobs["ended_at"].max()}
    )
    assert again.state.revision == anew.state.revision == 3
    pd.testing.assert_frame_equal(answers(again, jobs), answers(anew, jobs))
    # It goes on learning, once each.
    again.state.catch_up()
    assert again.state.history["jobs"] == 400


def test_outcomes_that_others_stored_between_ones_own_are_not_missed(
    start: Start, jobs: pd.DataFrame
) -> None:
    one, other = start(), start(home="other")
    one.report(jobs.iloc[:100])
    other.report(jobs.iloc[100:200])
    one.report(
        jobs.iloc[200:300]
    )  # the file will hold the first and the third revision, not the second
    one.state.save_history()
    again = start()
    assert built_at(again) == built_at(one)
    assert again.state.history["jobs"] == 300
    one.state.catch_up()
    pd.testing.assert_frame_equal(answers(again, jobs), answers(one, jobs))


def test_an_outcome_whose_transaction_outlasts_a_restart_is_not_missed(
    start: Start, jobs: pd.DataFrame, postgres_url: str
) -> None:
    one, other = start(postgres_url), open_store(postgres_url)
    one.report(jobs.iloc[:100])
    with other.begin() as connection:
        slow = add_jobs(connection, jobs.iloc[100:200])
        one.report(jobs.iloc[200:300])  # of a later revision, which the file will hold
        one.state.catch_up()
        one.state.save_history()
        again = start(postgres_url)
        assert built_at(again) == built_at(one)
        assert (again.state.history["jobs"], again.state.revision) == (200, slow.revision + 1)
    other.dispose()
    for live in (one, again):
        live.state.catch_up()
        assert live.state.history["jobs"] == 300
    pd.testing.assert_frame_equal(answers(again, jobs), answers(one, jobs))


@pytest.mark.parametrize(
    "fault",
    [
        "torn",
        "gone",
        "another store",
        "another model",
        "another version",
        "no model",
        "old",
        "corrected",
        "a dropped source",
    ],
)
def test_a_file_that_does_not_fit_is_not_used(
    start: Start,
    jobs: pd.DataFrame,
    tmp_path: Path,
    model_set: ModelSet,
    fault: str,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    one = start()
    one.report(jobs.iloc[:200])
    one.state.save_history()
    file, how = tmp_path / "home" / "predictor" / NAME, dict[str, Any]()
    if fault == "torn":
        file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])
    elif fault == "gone":
        file.unlink()
    elif fault == "another store":
        how = {"url": f"sqlite:///{tmp_path / 'others.db'}"}
        start(home="third", **how).report(jobs.iloc[50:250])
    elif fault == "another model":
        card = replace(model_set.card, version="gridcast-99")
        how = {"model": ModelSet(card, model_set.levels, model_set.clusters, model_set.targets)}
    elif fault == "another version":
        monkeypatch.setattr("models.engine.snapshot.code_hash", lambda: "another")
    elif fault == "no model":
        how = {"model": None}
    elif fault == "old":
        monkeypatch.setattr(snapshots, "MAX_AGE", timedelta(0))
    elif fault == "corrected":  # the job by which the file knows its store
        later = jobs.iloc[:200].assign(
            ended_at=jobs["ended_at"] + pd.Timedelta(1, "s"), walltime=jobs["walltime"] + 1
        )
        one.report(later)
    elif fault == "a dropped source":
        monkeypatch.setattr(snapshots, "PERIOD", 0.0)
        one.report(jobs.iloc[200:250].assign(source="another"))
        one.report(jobs.iloc[250:260])
        one.state.save_history()
        assert drop_source(one.engine, "another")["jobs"] == 50
    again = start(**how)
    assert built_at(again) > built_at(one)
    expected = start(home="fresh", **how)
    np.testing.assert_array_equal(
        answers(again, jobs)["walltime_median"], answers(expected, jobs)["walltime_median"]
    )
    assert again.state.history == expected.state.history


def test_a_store_that_falters_while_a_predictor_starts_hides_nothing_for_good(
    start: Start, jobs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, other = start(), start(home="other")
    one.report(jobs.iloc[:100])
    other.report(jobs.iloc[100:200])
    one.report(jobs.iloc[200:300])
    one.state.save_history()

    def away(*_: object, **__: object) -> pd.DataFrame:
        raise StoreError("the store is away")

    with monkeypatch.context() as patch:
        patch.setattr("services.live.predictor_state.read_ended", away)
        again = start()
    assert again.state.history["jobs"] == 200
    again.state.catch_up()
    assert again.state.history["jobs"] == 300
    one.state.catch_up()
    pd.testing.assert_frame_equal(answers(again, jobs), answers(one, jobs))


def test_a_disk_that_cannot_be_written_costs_the_file_and_nothing_else(
    start: Start, jobs: pd.DataFrame, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    one = start()
    one.report(jobs.iloc[:200])
    (tmp_path / "home" / "predictor" / NAME).mkdir()  # a file cannot take its place
    one.state.save_history()
    assert "the history cannot be kept" in caplog.text
    assert not list((tmp_path / "home" / "predictor").glob("*.new"))
    assert start().state.history["jobs"] == 200


def test_what_a_killed_writer_left_is_overwritten_and_a_second_writer_waits(
    start: Start, jobs: pd.DataFrame, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    one, folder = start(), tmp_path / "home" / "predictor"
    monkeypatch.setattr(snapshots, "PERIOD", 0.0)
    monkeypatch.setattr(snapshots, "RETRY_SECONDS", 0.0)
    one.report(jobs.iloc[:100])
    one.state.save_history()
    before = (folder / NAME).read_bytes()
    one.report(jobs.iloc[100:200])
    with FileLock(folder / "history.lock"):
        one.state.save_history()
        assert (folder / NAME).read_bytes() == before
    draft = folder / "history.new"
    draft.write_bytes(before[: len(before) // 2])
    assert start().state.history["jobs"] == 200, "it continues from the file before"
    one.state.save_history()
    assert not draft.exists()
    assert map_arrays(folder / NAME)[0]["point"]["jobs"] == 200


def test_outcomes_that_arrive_while_the_file_is_written_count_once(
    start: Start, jobs: pd.DataFrame, monkeypatch: pytest.MonkeyPatch
) -> None:
    one = start()
    one.report(jobs.iloc[:200])
    batches = iter([jobs.iloc[200:250], jobs.iloc[:0]])

    def write_and_report(*args: Any) -> Any:
        """Another outcome is reported between the first target and the second."""
        entries = write_arrays(*args)
        one.report(next(batches))
        return entries

    monkeypatch.setattr(snapshots, "write_arrays", write_and_report)
    one.state.save_history()
    assert next(batches, None) is None, "there were two targets"
    again = start()
    assert built_at(again) == built_at(one)
    assert again.state.history["jobs"] == one.state.history["jobs"] == 250
    pd.testing.assert_frame_equal(answers(again, jobs), answers(one, jobs))


def test_a_restarted_history_shares_the_file_and_has_room_to_learn(
    start: Start, jobs: pd.DataFrame, tmp_path: Path
) -> None:
    one, file = start(), tmp_path / "home" / "predictor" / NAME
    one.report(jobs.iloc[:300])
    one.state.save_history()
    before = file.read_bytes()
    again, second = start(), start()
    assert built_at(again) == built_at(second) == built_at(one)
    for live in (again, second):
        (mixture, *_) = live.state.active.forecaster.mixtures.values()
        index = mixture.state.outcomes
        assert isinstance(index.value.base, mmap.mmap)
        for name, kind in CAPACITY.items():
            assert len(getattr(index, name)) >= index.used[kind] * 9 // 8
    expected = answers(second, jobs)
    again.report(jobs.iloc[300:])
    assert again.state.history["jobs"] == 400
    assert file.read_bytes() == before
    pd.testing.assert_frame_equal(answers(second, jobs), expected)


def test_it_is_written_when_it_is_due_and_not_otherwise(
    start: Start, jobs: pd.DataFrame, tmp_path: Path, monkeypatch: Any
) -> None:
    one, file = start(), tmp_path / "home" / "predictor" / NAME
    one.state.save_history()
    assert not file.exists(), "nothing is known yet"
    one.report(jobs.iloc[:100])
    one.state.save_history()
    first = file.stat().st_mtime_ns
    one.report(jobs.iloc[100:200])
    one.state.save_history()
    assert file.stat().st_mtime_ns == first, "too soon"
    monkeypatch.setattr(snapshots, "PERIOD", 0.0)
    one.state.save_history()
    second = file.stat().st_mtime_ns
    assert second > first
    one.state.save_history()
    assert file.stat().st_mtime_ns == second, "nothing is new"


def test_another_version_is_one_whose_code_of_what_is_learned_differs_by_a_byte(
    tmp_path: Path,
) -> None:
    root = Path(snapshot.__file__).parents[2]
    copies = [*(Path("models") / room for room in snapshot.ROOMS), Path("jobs")]
    for folder in copies:
        shutil.copytree(
            root / folder,
            tmp_path / folder,
            ignore=lambda _, names: [name for name in names if not name.endswith(".py")],
        )
    forms = [snapshot.code_hash(), snapshot.code_hash(tmp_path)]
    for folder in copies:
        file = (
            tmp_path / folder / "schema.py"
            if folder.name == "jobs"
            else sorted((tmp_path / folder).glob("*.py"))[-1]
        )
        file.write_bytes(file.read_bytes() + b"#")
        snapshot.code_hash.cache_clear()
        forms.append(snapshot.code_hash(tmp_path))
    assert forms[0] == forms[1] and len(set(forms)) == len(copies) + 1


RESTART = """
import sys
from pathlib import Path
from infra.settings import Settings
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.histories.outcome_index import CAPACITY
from services.http.metrics import make_metrics
from services.live.active_model import ActiveModel
from services.live.live_predictor import LivePredictor
home, url, model = sys.argv[1:]
live = LivePredictor(Settings(home=home, database_url=url), make_metrics())
live.state.rebuild(ActiveModel(Forecaster(ModelSet.load(Path(model)))))
print(live.describe()["history"]["jobs"])
"""


def test_a_file_that_ends_its_reader_is_set_aside_by_the_next_process(
    start: Start, jobs: pd.DataFrame, tmp_path: Path, model_set: ModelSet
) -> None:
    live = start()
    live.report(jobs.iloc[:200])
    live.state.save_history()
    model_set.save(tmp_path / "model")
    file = tmp_path / "home" / "predictor" / NAME
    about, arrays = map_arrays(file)
    for name, values in arrays.items():
        if name.endswith(".lists.slots"):
            values["start"] = 2**32 - 1  # where the outcomes of a key begin
    file.unlink()
    with file.open("wb") as out:
        stored = {name: StoredArray(values, len(values)) for name, values in arrays.items()}
        write_description(out, write_arrays(out, stored), about)
    command = [sys.executable, "-c", RESTART, str(tmp_path / "home"), str(live.engine.url)]

    def restart() -> subprocess.CompletedProcess[str]:
        words = [*command, str(tmp_path / "model")]
        return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)

    crashed = restart()
    assert crashed.returncode < 0, (crashed.returncode, crashed.stderr)
    again = restart()
    assert (again.returncode, again.stdout) == (0, "200\n"), again.stderr
    assert not file.exists() and file.with_name(REFUSED).exists()
    assert restart().stdout == "200\n"
