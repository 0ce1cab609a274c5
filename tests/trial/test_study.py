"""A trial of a generated log: its figures, its page and what the command prints."""

import json
import re
from dataclasses import replace
from html import escape
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gridcast
from infra.errors import InputError
from jobs.workload import generate
from scheduling.machine import processors
from trial.advice import winners
from trial.page import actions, write_page
from trial.results import Trial, rows_of, savings
from trial.study import run_trial


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate(600, days=40, seed=1).jobs


@pytest.fixture(scope="module")
def trial(jobs: pd.DataFrame) -> Trial:
    steps = []
    done = run_trial(jobs, processors(500), "a log", progress=lambda _, share: steps.append(share))
    assert steps == sorted(steps)
    assert 0 <= steps[0] <= steps[-1] <= 1.0001
    return done


def test_costs_are_those_of_the_last_thirty_days(trial: Trial, jobs: pd.DataFrame) -> None:
    month = jobs[jobs["submitted_at"] > jobs["submitted_at"].max() - pd.Timedelta(days=30)]
    month = month[month["walltime"].notna() & month["requested_walltime"].notna()]
    hours = month["requested_walltime"] * month["requested_cores"] / 3600
    assert trial.cost[0]["requested"] == pytest.approx(hours.sum())
    assert trial.cost[0]["used"] < trial.cost[0]["requested"]


def test_every_row_has_what_claimed_realised_unit_and_interval(trial: Trial) -> None:
    rows = rows_of(trial)
    names = {"what", "claimed", "realised", "unit", "low", "high"}
    assert all(names <= row.keys() for row in rows)
    assert len({row["what"] for row in rows}) == len(rows)
    assert any("90 % range" in row["what"] for row in rows)
    json.dumps(list(rows))


def test_what_is_saved_is_what_is_requested_less_what_gridcast_requests(trial: Trial) -> None:
    by_resource = {row["resource"]: row for row in savings(trial)}
    assert {"core hours", "GiB·h"} == by_resource.keys()
    claims = {claim.name: claim for claim in trial.claims}
    row = by_resource["core hours"]
    realised = claims["requested core hours that Gridcast's time limits take away"].realised
    assert realised == pytest.approx(1 - row["with_gridcast"] / row["requested"])


def test_no_limit_is_above_the_request(trial: Trial) -> None:
    assert trial.limits is not None
    request = trial.jobs["requested_walltime"].to_numpy()[trial.limits.rows]
    assert (trial.limits.limits.limit <= request).all()


def test_the_page_is_one_file_that_loads_nothing(trial: Trial, tmp_path: Path) -> None:
    text = write_page(trial, tmp_path / "page.html").read_text(encoding="utf-8")
    assert not re.search(r'(src|href)="https?://', text)
    for heading in (
        "What to do on Monday",
        "What requests cost in the last 30 days of the log",
        "Claimed and realised",
        "What shorter requests would do to waits",
        "Coverage by month",
        "What could not be judged, and why",
    ):
        assert f"<h2>{heading}</h2>" in text
    assert text.count("<svg") >= 5
    assert "nan" not in re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL).split()


def test_a_claim_that_is_wrong_is_red(trial: Trial, tmp_path: Path) -> None:
    first = replace(trial.claims[0], claimed=0.9, realised=0.5, reason="missed by 80 %")
    changed = replace(trial, claims=[first, *trial.claims[1:]])
    text = write_page(changed, tmp_path / "page.html").read_text(encoding="utf-8")
    name = escape(first.name).replace(" %", "\u00a0%")
    assert f'<tr class="wrong"><td>{name}' in text
    assert "did not come true" in text


def test_jobs_without_requests_are_counted_and_explained(jobs: pd.DataFrame) -> None:
    without = jobs.tail(250).assign(requested_walltime=np.nan, peak_memory=np.nan)
    done = run_trial(without, None, "a log")
    reasons = {name: (count, why) for name, count, why in done.not_judged}
    assert reasons["time limits"] == (250, "these jobs state no requested walltime")
    assert reasons["peak memory"][0] == 250
    assert done.limits is None
    assert done.memory is None
    assert done.waits is None


def test_a_short_log_is_refused(jobs: pd.DataFrame) -> None:
    with pytest.raises(InputError, match="at least 200 jobs; this log has 50"):
        run_trial(jobs.head(50), None, "a log")


def test_advice_is_not_under_what_jobs_used(trial: Trial, jobs: pd.DataFrame) -> None:
    for table in trial.winners:
        for row in table.rows:
            if row["time_ask_for"]:
                assert row["time_used_95"] <= row["time_ask_for"] < row["time_requested"]
    assert len({table.field for table in trial.winners}) == len(trial.winners) <= 3


def test_no_advice_where_jobs_are_killed_at_their_limit() -> None:
    count = 20
    at = pd.Timestamp("2024-01-01", tz="UTC")
    log = pd.DataFrame(
        {
            "submitted_at": at,
            "user": ["ada", "bob"] * (count // 2),
            **dict.fromkeys(("program", "queue", "group", "project", "site")),
            "requested_walltime": 36000.0,
            "walltime": 600.0,
            "requested_memory": np.nan,
            "peak_memory": np.nan,
            "status": ["timeout", "completed"] * (count // 2),
        }
    )
    columns = dict.fromkeys(("unused_hours", "saved_hours", "waste_gibh", "saved_gibh"), 1.0)
    of_jobs = pd.DataFrame({"limit": 900.0, "rung": np.nan, **columns}, index=log.index)
    (table,) = winners(log, of_jobs, 0.01, at)
    assert {row["user"]: row["time_ask_for"] for row in table.rows} == {"ada": None, "bob": 900.0}


def test_the_command_takes_files_or_a_batch_system() -> None:
    for words in (["trial"], ["trial", "a.csv", "--collect", "slurm"]):
        result = CliRunner().invoke(gridcast.app, words)
        assert isinstance(result.exception, InputError)
        assert "accounting files, or --collect" in str(result.exception)


def test_the_command_writes_page_and_rows(jobs: pd.DataFrame, tmp_path: Path) -> None:
    log, page = tmp_path / "log.parquet", tmp_path / "page.html"
    jobs.head(220).assign(peak_memory=np.nan).to_parquet(log)
    result = CliRunner().invoke(gridcast.app, ["trial", str(log), "-o", str(page), "--json"])
    assert result.exception is None
    rows = json.loads(result.stdout)["rows"]
    assert {"claimed", "realised", "unit", "low", "high"} <= rows[0].keys()
    assert page.read_text(encoding="utf-8").startswith("<!doctype html>")


def test_memory_requests_are_only_observed_where_a_claim_about_them_did_not_come_true(
    trial: Trial,
) -> None:
    [claim, *_] = [claim for claim in trial.claims if claim.name.startswith("memory that")]
    wrong = replace(claim, claimed=0.5, realised=0.1)
    right = replace(claim, claimed=0.5, realised=0.5)
    steps = {
        name: " ".join(actions(replace(trial, claims=[claims])))
        for name, claims in (("wrong", wrong), ("right", right))
    }
    assert "Only observe Gridcast's memory requests" in steps["wrong"]
    assert "Let Gridcast write memory requests" in steps["right"]
