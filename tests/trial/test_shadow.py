"""A live trial: jobs are predicted before their end, and the page is written on a new day."""

import os
from datetime import UTC, datetime, timedelta
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gridcast
from infra.errors import InputError
from infra.settings import Settings
from jobs.schema import OUTCOMES
from jobs.store import open_store, read_jobs, read_predictions
from jobs.workload import generate
from trial.shadow import ShadowTrial, current, live_rows, parse_length, start, step


def write(jobs: pd.DataFrame, file: Path, at: datetime) -> None:
    jobs.to_parquet(file)
    os.utime(file, (at.timestamp(), at.timestamp()))


@pytest.mark.parametrize("text", ["7", "d", "7w", "-1d", "0h", "nand", ""])
def test_a_length_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="--shadow takes a length such as 7d"):
        parse_length(text)


def test_shadow_needs_a_batch_system() -> None:
    result = CliRunner().invoke(gridcast.app, ["trial", "--shadow", "7d"])
    assert isinstance(result.exception, InputError)
    assert "say which by --collect" in str(result.exception)


def test_a_folder_of_accounting_must_be_named(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="needs the accounting folder: say it by --where"):
        start(Settings(home=tmp_path), "pbs", "", timedelta(days=7), tmp_path / "page.html")


def test_a_trial_that_began_is_read_again(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert current(settings) is None
    began = start(settings, "pbs", "/var/spool", timedelta(days=7), tmp_path / "page.html", 0.02)
    assert current(settings) == began
    assert not began.is_over(datetime.now(UTC) + timedelta(days=6))
    assert began.is_over(datetime.now(UTC) + timedelta(days=8))


def test_jobs_are_predicted_before_their_end_and_judged_after_it(tmp_path: Path) -> None:
    settings, page = Settings(home=tmp_path / "home"), tmp_path / "page.html"
    folder = tmp_path / "accounting"
    folder.mkdir()
    jobs = generate(280, days=20, seed=3).jobs.assign(peak_memory=np.nan)
    now = jobs["submitted_at"].iloc[-20].to_pydatetime()
    seen = jobs[jobs["submitted_at"] <= now]
    has_ended = (seen["ended_at"] <= now).to_numpy()
    before = seen.copy()
    before.loc[~has_ended, list(OUTCOMES)] = None
    before.loc[~has_ended, "status"] = "running"
    write(before, folder / "first.parquet", now - timedelta(minutes=5))
    begin = now - timedelta(days=3)
    end = now + timedelta(days=30)
    trial = ShadowTrial("folder", str(folder), begin.isoformat(), end.isoformat(), str(page))

    first = step(settings, trial, now)
    running = before[~has_ended & (before["submitted_at"] >= begin).to_numpy()]
    assert len(running) > 0
    assert first["predicted"] == len(running)
    assert first["page"] == str(page)
    assert "before the jobs had ended" in page.read_text(encoding="utf-8")
    engine = open_store(settings.store_url)
    logged = read_predictions(engine)
    assert logged["shadow"].all()
    assert set(logged["job_id"]) == set(running["job_id"])

    later = now + timedelta(hours=2)
    trial = current(settings)
    assert trial is not None
    again = step(settings, trial, later)
    assert (again["predicted"], again["page"]) == (0, None)  # nothing new, and the same day

    tomorrow = now + timedelta(days=1)
    write(seen, folder / "second.parquet", tomorrow - timedelta(minutes=5))
    trial = current(settings)
    assert trial is not None
    last = step(settings, trial, tomorrow)
    assert last["page"] == str(page)
    assert len(read_jobs(engine, ended=False)) == 0
    walltime = live_rows(engine, trial)[0]
    assert walltime["predicted"] == walltime["ended"] == len(running)
    assert 0 <= walltime["coverage_90"] <= 1
    engine.dispose()
