"""What commands say where something is missing, and where they write files."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

import gridcast
from commands.inputs import page_path
from commands.running import DEMO
from commands.watching import rows_of_all
from infra.errors import InputError
from infra.process_records import write_record
from infra.settings import prepare_environment
from infra.supervision import record_path
from jobs.store import add_jobs, open_store
from jobs.workload import generate
from jobs.writers import write_jobs
from models.engine.training import train
from models.releases import registry
from models.releases.candidate import MAX_REGRESSION, is_promotable, why_not_promotable
from models.releases.comparison import Difference
from models.releases.versions import Evidence
from monitoring.advising import advise


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRIDCAST_HOME", str(tmp_path / "home"))
    prepare_environment.cache_clear()
    yield tmp_path / "home"
    monkeypatch.undo()
    prepare_environment.cache_clear()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gridcast.app, list(arguments))


def test_ingest_says_of_which_source_no_job_has_an_end(home: Path, tmp_path: Path) -> None:
    (tmp_path / "waiting.csv").write_text(
        "job_id,submitted_at,user\n1,2026-03-01,a\n2,2026-03-01,a\n"
    )
    write_jobs(generate(20, 1, 3).jobs, tmp_path / "ended.csv")
    result = run("ingest", str(tmp_path / "waiting.csv"), str(tmp_path / "ended.csv"))
    assert result.exit_code == 0
    said = [line for line in result.stderr.splitlines() if "has an end" in line]
    assert len(said) == 1
    assert said[0].startswith("none of the 2 jobs of waiting has an end: a model learns from")
    again = run("ingest", str(tmp_path / "waiting.csv"))
    assert "has an end" not in again.stderr, "nothing is new"


@pytest.mark.parametrize("suffix", [".csv", ".parquet", ".jsonl"])
def test_predictions_are_written_to_a_file_of_its_ending(
    home: Path, tmp_path: Path, suffix: str
) -> None:
    jobs = generate(60, 2, 3).jobs
    with open_store(prepare_environment().store_url).begin() as connection:
        add_jobs(connection, jobs)
    write_jobs(jobs, tmp_path / "log.csv")
    file = tmp_path / f"out{suffix}"
    result = run("predict", str(tmp_path / "log.csv"), "-o", str(file))
    assert result.exit_code == 0, result.exception
    assert f"60 predictions written to {file}" in result.stderr
    assert "no version is champion yet" in result.stderr
    read = {"c": pd.read_csv, "p": pd.read_parquet, "j": lambda f: pd.read_json(f, lines=True)}
    table = read[suffix[1]](file)
    assert len(table) == 60 and {"job_id", "walltime", "walltime_high"} <= {*table}
    assert sorted(table["job_id"].astype(int)) == list(range(1, 61))


def test_predictions_are_not_made_for_a_file_of_no_known_ending(home: Path, tmp_path: Path) -> None:
    result = run("predict", str(tmp_path / "log.csv"), "-o", "out.txt")
    assert isinstance(result.exception, InputError)
    assert "out.txt must end in one of .csv" in str(result.exception)


def test_the_newest_jobs_of_a_source_are_listed(home: Path) -> None:
    jobs = generate(50, 2, 3).jobs
    with open_store(prepare_environment().store_url).begin() as connection:
        add_jobs(connection, jobs)
        add_jobs(connection, jobs.assign(source="other", submitted_at=jobs["submitted_at"]))
    result = run("jobs", "--list", "--limit", "3", "--source", "other")
    newest = jobs.sort_values("submitted_at")["job_id"].tail(3)
    listed = [line.split()[0] for line in result.stdout.splitlines() if line[:1].isdigit()]
    assert sorted(listed) == sorted(newest)
    missing = run("jobs", "--list", "--source", "nobody")
    assert "no source called nobody is stored" in str(missing.exception)


def test_advice_about_a_name_of_long_ago_says_how_far_back_to_look(home: Path) -> None:
    engine = open_store(prepare_environment().store_url)
    with engine.begin() as connection:
        add_jobs(connection, generate(50, 2, 3).jobs)
    now = datetime(2026, 3, 1, tzinfo=UTC)
    with pytest.raises(InputError, match=r"was submitted on 2025-01-0\d, .*--days 4\d\d advises"):
        advise(engine, lambda jobs: jobs, "alice", now - timedelta(days=28), now)
    with pytest.raises(InputError, match="called nobody has ended"):
        advise(engine, lambda jobs: jobs, "nobody", now - timedelta(days=28), now)


def test_a_version_that_is_not_promoted_is_told_the_rule() -> None:
    unproven = Difference(-0.01, -0.12, 0.13)
    assert not is_promotable(unproven)
    assert why_not_promotable(unproven) == (
        "The improvement is not proven: the 95 % interval of the error's change, -12.0 % to "
        "+13.0 %, must end at +2 % or below."
    )
    assert why_not_promotable(Difference(0.01, -0.02, 0.03)) == "Only a lower error is promoted."
    better = Difference(-0.05, -0.09, MAX_REGRESSION)
    assert is_promotable(better) and why_not_promotable(better) == ""


def test_promoting_a_refused_version_says_why_it_was_refused(home: Path, tmp_path: Path) -> None:
    train(generate(1500, 10, 3).jobs).save(tmp_path / "set")
    first, second = (registry.publish(tmp_path / "set", Evidence(card="# A set")) for _ in "12")
    registry.mark_refused(second, why="Its error is 3 % higher.")
    assert "refused" not in run("promote", str(first.version)).stderr
    result = run("promote", str(second.version))
    assert result.exit_code == 0
    assert "gridcast-2 had been refused: Its error is 3 % higher.\n" in result.stderr
    champion = registry.champion()
    assert champion and champion.version == second.version


def test_up_of_a_demo_that_was_never_made_says_how_to_make_it(home: Path) -> None:
    assert "gridcast demo makes it" in str(run("up", "--demo").exception)
    assert "give one of them" in str(run("up", "--demo", "--site").exception)


def test_a_demo_that_is_up_is_not_emptied(home: Path) -> None:
    import os

    run("up", "--demo")
    settings = prepare_environment()
    assert settings.home == home.absolute() / DEMO
    (settings.home / "kept").write_text("")
    write_record(record_path(settings, "up"), {"pid": os.getpid(), "parts": []})
    os.environ["GRIDCAST_HOME"] = str(home)
    prepare_environment.cache_clear()
    result = run("demo")
    assert "gridcast down --demo" in str(result.exception)
    assert (home / DEMO / "kept").exists()


SACCT = "JobID|State|Submit|Start|End|Elapsed|User\n"


def test_pending_job_arrays_left_out_of_a_prediction_are_counted(
    home: Path, tmp_path: Path
) -> None:
    log = tmp_path / "waiting.txt"
    array = "50890_[1-10%2]|PENDING|2026-03-01T10:00:00|Unknown|Unknown|00:00:00|ann\n"
    log.write_text(f"{SACCT}{array}{array.replace('50890_[1-10%2]', '50891')}")
    result = run("predict", str(log))
    assert result.exit_code == 0, result.stderr
    said = " ".join(result.stderr.split())
    assert "of waiting.txt 1 × array tasks not started yet, printed as one row, skipped" in said
    assert "the owner of 1 had no ended job" in " ".join(result.stdout.split())
    log.write_text(SACCT + array)
    result = run("predict", str(log))
    assert result.exit_code != 0
    assert "that could be read: 1 × array tasks not started yet" in str(result.exception)


def test_a_sacct_file_without_the_name_of_its_cluster_is_noted(home: Path, tmp_path: Path) -> None:
    log = tmp_path / "accounting.txt"
    times = "2026-03-01T10:00:00|2026-03-01T10:01:00|2026-03-01T10:02:00|00:01:00"
    log.write_text(f"{SACCT}1|COMPLETED|{times}|ann\n")
    note = "the source of jobs of accounting.txt is slurm"
    assert note in run("ingest", str(log)).stderr
    assert note not in run("ingest", str(log), "--source", "testbed").stderr
    log.write_text(f"{SACCT.strip()}|Cluster\n2|COMPLETED|{times}|ann|testbed\n")
    assert note not in run("ingest", str(log)).stderr


def test_a_file_that_cannot_be_read_has_no_sentence_on_its_records(
    home: Path, tmp_path: Path
) -> None:
    result = run("ingest", str(tmp_path / "absent.csv"))
    assert result.exit_code == InputError.exit_code
    assert "new or changed" not in result.stdout and "absent.csv" in result.stderr


def test_file_names_of_pages_have_no_blanks(home: Path) -> None:
    page = page_path(None, "evaluation-walltime-the store/a: b")
    assert page == home / "reports" / "evaluation-walltime-the-store-a-b.html"


def test_the_number_of_drift_is_named_and_left_out_where_nothing_was_compared() -> None:
    rows = [
        {"kind": "accuracy", "name": "walltime mae", "segment": "all", "value": 3.0},
        {"kind": "drift", "name": "verdict", "segment": "all", "value": 0.0},
        {"kind": "drift", "name": "walltime", "segment": "long", "value": 0.2},
    ]
    names = [row["name"] for row in rows_of_all(rows, "none")]
    assert names == ["columns that drifted", "walltime mae"]
    assert [row["name"] for row in rows_of_all(rows, "unknown")] == ["walltime mae"]
