"""Commands about what is stored: an export is what was stored, and a source can be dropped."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import pandas as pd
import pytest
from click.testing import Result
from typer.testing import CliRunner

import gridcast
from infra.errors import InputError
from infra.settings import prepare_environment
from jobs.ingest import ingest_files, read_arguments
from jobs.store import add_jobs, count_jobs, open_store, read_jobs
from jobs.workload import generate


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setenv("GRIDCAST_HOME", str(tmp_path / "home"))
    prepare_environment.cache_clear()
    yield tmp_path
    monkeypatch.undo()
    prepare_environment.cache_clear()


def run(*arguments: str) -> Result:
    return CliRunner().invoke(gridcast.app, list(arguments))


@pytest.fixture
def jobs(home: Path) -> pd.DataFrame:
    generated = generate(400, 4, 5).jobs
    generated.loc[0, "program"] = 'a, "quoted" [/program]'
    with open_store(prepare_environment().store_url).begin() as connection:
        add_jobs(connection, generated)
        add_jobs(connection, generated.head(50).assign(source="other"))
    return generated


@pytest.mark.parametrize("suffix", [".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz"])
def test_what_is_exported_is_what_is_stored(jobs: pd.DataFrame, home: Path, suffix: str) -> None:
    file = home / f"out{suffix}"
    result = run("export", "--source", "generated", "-o", str(file))
    assert result.exit_code == 0, result.output
    read = {"c": pd.read_csv, "p": pd.read_parquet, "j": lambda f: pd.read_json(f, lines=True)}
    table = read[suffix[1]](file)
    assert len(table) == 400 and set(table["source"]) == {"generated"}
    table = table.assign(job_id=table["job_id"].astype(str)).set_index("job_id")
    expected = jobs.set_index("job_id").loc[table.index]
    pd.testing.assert_series_equal(
        table["walltime"].astype(float), expected["walltime"], check_names=False
    )
    assert table["program"].tolist() == expected["program"].tolist()
    assert pd.to_datetime(table["ended_at"], utc=True, format="ISO8601").tolist() == (
        expected["ended_at"].tolist()
    )


def test_an_exported_csv_can_be_ingested_again_and_is_the_same_jobs(
    jobs: pd.DataFrame, home: Path
) -> None:
    file = home / "out.csv"
    assert run("export", "-o", str(file)).exit_code == 0
    engine = open_store(f"sqlite:///{home / 'again.db'}")
    [result] = ingest_files(engine, [file], **read_arguments())
    assert (result.added, result.rejected) == (450, 0)
    columns = ["source", "job_id", "user", "program", "walltime", "peak_memory", "ended_at"]
    tables = [
        read_jobs(engine_of)[columns].sort_values(["source", "job_id"], ignore_index=True)
        for engine_of in (open_store(prepare_environment().store_url), engine)
    ]
    pd.testing.assert_frame_equal(*tables)


def test_export_without_a_file_is_csv_and_a_period_is_half_open(jobs: pd.DataFrame) -> None:
    days = jobs["submitted_at"].dt.floor("D")
    day = days.iloc[200]
    until = day + pd.Timedelta(days=1)
    result = run(
        "export", "--source", "generated", "--since", f"{day:%Y-%m-%d}", "--until",
        f"{until:%Y-%m-%d}",
    )  # fmt: skip
    assert result.stdout.count("\n") == 1 + int((days == day).sum())
    assert result.stdout.startswith("job_id,")


def test_an_unknown_suffix_or_source_is_one_sentence(jobs: pd.DataFrame, home: Path) -> None:
    for arguments in (["-o", str(home / "x.xlsx")], ["--source", "nobody"]):
        result = run("export", *arguments)
        assert isinstance(result.exception, InputError)
    assert not (home / "x.xlsx").exists()


def test_a_source_goes_when_that_is_confirmed_and_others_stay(jobs: pd.DataFrame) -> None:
    refused = run("drop-source", "generated")
    assert isinstance(refused.exception, InputError) and "--yes" in str(refused.exception)
    unknown = run("drop-source", "nobody", "--yes")
    assert "there are: generated, other" in str(unknown.exception)
    assert count_jobs(open_store(prepare_environment().store_url))["jobs"].sum() == 450
    done = run("drop-source", "generated", "--yes", "--json")
    rows = {row["table"]: row["rows"] for row in json.loads(done.stdout)["rows"]}
    assert rows["jobs"] == 400
    counts = count_jobs(open_store(prepare_environment().store_url))
    assert counts[["source", "jobs"]].values.tolist() == [["other", 50]]


def test_a_file_of_which_nothing_is_stored_is_exit_code_1_and_says_why(home: Path) -> None:
    bad = home / "bad.csv"
    bad.write_text("job_id,submitted_at\n1,yesterday\n2,\n")
    result = run("ingest", str(bad))
    assert result.exit_code == 1
    assert "all 2 records were rejected" in result.stderr
    empty = home / "empty.csv"
    empty.write_text("job_id,submitted_at\n")
    result = run("ingest", str(empty))
    assert result.exit_code in (1, 2) and "empty.csv" in result.stderr
    good = home / "good.csv"
    good.write_text("job_id,submitted_at\n1,2026-03-01\n")
    assert run("ingest", str(good)).exit_code == 0
    assert run("ingest", str(good)).exit_code == 0, "unchanged is stored"


def test_one_job_is_shown_with_its_attempts(home: Path) -> None:
    log = home / "sacct.txt"
    log.write_text(
        "JobID|State|Submit|Start|End|ElapsedRaw|AllocCPUS|ReqMem|MaxRSS\n"
        "7|OUT_OF_MEMORY|2026-01-01T00:00:00|2026-01-01T01:00:00|2026-01-01T01:10:00|600|1|2G|\n"
        "7|REQUEUED|2026-01-01T01:10:00|2026-01-01T02:00:00|2026-01-01T02:20:00|1200|1|4G|\n"
        "7|COMPLETED|2026-01-01T02:20:00|2026-01-01T03:00:00|2026-01-01T04:00:00|3600|1|8G|\n"
        "8|PREEMPTED|2026-01-01T00:00:00|2026-01-01T01:00:00|2026-01-01T01:10:00|600|1|2G|\n"
        "8|PENDING|2026-01-01T01:10:00|Unknown|Unknown|0|0|2G|\n"
    )
    assert run("ingest", str(log)).exit_code == 0
    rows = json.loads(run("jobs", "7", "--json").stdout)["rows"]
    shown = [(row["run"], row["status"], row["walltime"], row["requested_memory"]) for row in rows]
    assert shown == [
        ("attempt 1", "out_of_memory", 600, 2 * 2**30),
        ("attempt 2", "preempted", 1200, 4 * 2**30),
        ("outcome", "completed", 3600, 8 * 2**30),
    ]
    assert "attempt 2" in run("jobs", "7").stdout
    rows = json.loads(run("jobs", "8", "--json").stdout)["rows"]
    assert [(row["run"], row["status"]) for row in rows] == [
        ("attempt 1", "preempted"),
        ("now", "waiting"),
    ]
    assert "no job called 9" in str(run("jobs", "9").exception)
    exported = run("export", "--kind", "attempts")
    assert exported.stdout.count("\n") == 4 and exported.stdout.startswith("job_id,source,")
    unknown = run("export", "--kind", "attempts", "--source", "nobody")
    assert isinstance(unknown.exception, InputError)
