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
from models.evaluation.backtest import OURS
from monitoring.advising import larger
from scheduling.machine import processors
from scheduling.outcome import Replay
from trial.advice import winners
from trial.limits import STEP
from trial.page import actions, verdict, write_page
from trial.results import MONTH, Trial, rows_of, savings
from trial.study import run_trial
from trial.wording import percent


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
    assert all(row.keys() == rows[0].keys() for row in rows)
    assert all(row["how"] and "submitted from 20" in row["window"] for row in rows)
    for row in rows:
        assert (row["came_true"] is None) == (row["claimed"] is None)
        of = None if row["low"] is None else "realised" if row["claimed"] is None else "claimed"
        assert row["interval_of"] == of
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
    of_jobs = pd.DataFrame({"walltime": 900.0, "peak_memory": np.nan, **columns}, index=log.index)
    (table,) = winners(log, of_jobs, 0.01, at)
    assert {row["user"]: row["time_ask_for"] for row in table.rows} == {"ada": None, "bob": 900.0}


def test_the_command_takes_files_or_a_batch_system() -> None:
    for words in (["trial"], ["trial", "a.csv", "--collect", "slurm"]):
        result = CliRunner().invoke(gridcast.app, words)
        assert isinstance(result.exception, InputError)
        assert "accounting files, or --collect" in str(result.exception)
        assert ("not both" in str(result.exception)) == (len(words) > 1)


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


def test_a_page_that_cannot_be_written_is_refused_before_the_log_is_read(tmp_path: Path) -> None:
    log = tmp_path / "log.csv"
    log.write_text("not a log", encoding="utf-8")
    for page, why in (
        (tmp_path, "is a folder: name a file in it"),
        (log / "page.html", "cannot be written"),
        (Path("/proc/none/page.html"), "cannot be written"),
    ):
        result = CliRunner().invoke(gridcast.app, ["trial", str(log), "-o", str(page)])
        assert isinstance(result.exception, InputError)
        assert why in str(result.exception)
        assert result.exception.exit_code == 2


def test_the_rows_are_printed_though_the_page_cannot_be_written(
    jobs: pd.DataFrame, trial: Trial, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, page = tmp_path / "log.parquet", tmp_path / "page.html"
    jobs.head(220).to_parquet(log)

    def block_page(*_: object) -> Trial:
        page.mkdir()  # while the log is judged
        return trial

    monkeypatch.setattr("trial.study.run_trial", block_page)
    result = CliRunner().invoke(gridcast.app, ["trial", str(log), "-o", str(page), "--json"])
    assert json.loads(result.stdout)["rows"] == json.loads(json.dumps(rows_of(trial)))
    assert isinstance(result.exception, InputError)
    assert "cannot be written: Is a directory" in str(result.exception)


def test_jobs_that_run_to_their_request_today_are_counted_beside_those_a_limit_kills(
    trial: Trial, tmp_path: Path
) -> None:
    """A job whose limit equals its request and that ran past it is not killed by Gridcast."""
    assert trial.limits is not None
    rows, changed = trial.limits.rows, trial.jobs.copy()
    checked = rows[trial.windows.contains("check", rows)]
    walltime = changed["walltime"].to_numpy(copy=True)
    walltime[checked] = 1.0
    walltime[checked[:7]] = changed["requested_walltime"].to_numpy()[checked[:7]]
    limit = trial.limits.limits.limit.copy()
    limit[np.isin(rows, checked)] = 600.0
    limit[np.isin(rows, checked[:5])] = changed["requested_walltime"].to_numpy()[checked[:5]]
    limits = replace(trial.limits, limits=replace(trial.limits.limits, limit=limit))
    done = replace(trial, jobs=changed.assign(walltime=walltime), limits=limits)
    row = savings(done)[0]
    assert row["at_request"] == 7
    shares = {row["what"]: row["realised"] for row in rows_of(done)}
    share = shares["jobs that ran to their requested walltime or past it, without Gridcast"]
    assert share == pytest.approx(7 / len(checked))
    equal = limit[np.isin(rows, checked)] >= trial.jobs["requested_walltime"].to_numpy()[checked]
    assert row["limit_is_request"] == equal.sum() >= 5
    assert not any("end within" in what or "outlive" in what for what in shares)
    assert any("does not kill earlier than their request" in what for what in shares)
    text = write_page(done, tmp_path / "page.html").read_text(encoding="utf-8")
    assert '<th scope="col">ran to their request or past it today</th>' in text
    today = percent(7 / len(checked)).replace(" %", "\u00a0%")
    assert f"Today {today} of the jobs ran to their requested walltime or past it" in text


def test_what_to_ask_for_is_the_median_predicted_run_time_or_what_jobs_used(
    jobs: pd.DataFrame, trial: Trial
) -> None:
    """The time limit, an upper quantile times a factor, is no prediction of the run time."""
    judged = trial.judged["walltime"]
    predicted = pd.Series(judged.evaluation.jobs[OURS].to_numpy(), trial.jobs.index[judged.rows])
    recent = trial.jobs["submitted_at"] >= trial.jobs["submitted_at"].max() - MONTH
    checked = 0
    for table in trial.winners:
        for row in table.rows:
            of_row = trial.jobs[recent & (trial.jobs[table.field] == row[table.field])]
            used = of_row["walltime"].dropna()
            value = larger(float(predicted.reindex(of_row.index).median()), used, trial.risk)
            step = STEP if value < 7200 else 3600.0
            value = float(np.ceil(value / step) * step)
            if value < row["time_requested"] and not (of_row["status"] == "timeout").any():
                assert row["time_ask_for"] == value
                checked += 1
    assert checked >= 3


def test_little_saved_is_said_of_time_limits(trial: Trial) -> None:
    assert trial.limits is not None
    limits = trial.limits.limits
    little = replace(
        limits, written=limits.requested * 0.98, killed=np.zeros(len(limits.limit), bool)
    )
    steps = actions(replace(trial, limits=replace(trial.limits, limits=little)))
    [step] = [step for step in steps if "time limits as they are" in step]
    assert step == (
        "Leave time limits as they are: 2 % of the requested core hours saved, 0 % of the jobs "
        "killed earlier than their request would; 1 % was accepted."
    )


def test_a_log_without_requests_says_first_which_column_to_add(
    jobs: pd.DataFrame, tmp_path: Path
) -> None:
    done = run_trial(
        jobs.tail(250).assign(requested_walltime=np.nan, peak_memory=np.nan), None, "a log"
    )
    for first in (verdict(done), actions(done)[0]):
        assert first.startswith(
            "Nothing about time limits could be judged: no job states a requested walltime. "
            "Add the column requested_walltime"
        )
    text = write_page(done, tmp_path / "page.html").read_text(encoding="utf-8")
    hours = done.cost[0]["used"]
    month = done.jobs[done.jobs["submitted_at"] > done.jobs["submitted_at"].max() - MONTH]
    assert hours == pytest.approx((month["walltime"] * month["requested_cores"]).sum() / 3600)
    assert f"<td>not stated</td><td>{hours:,.0f} core hours</td>" in text
    assert '<th scope="col">with Gridcast</th>' not in text
    used = {row["what"]: row["realised"] for row in rows_of(done)}
    assert used["core hours used by the jobs of the last 30 days"] == hours


def test_waits_about_the_same_and_a_poor_replay_are_called_so(trial: Trial) -> None:
    study = trial.waits
    assert study is not None

    def waiting(replayed: Replay, wait: float) -> Replay:
        table = replayed.table.copy()
        table["started"] = table["submitted"] + wait
        return replace(replayed, table=table)

    def step(recorded: float, before: float, after: float) -> str:
        waits = replace(
            study,
            recorded=np.full(9, recorded),
            before=waiting(study.before, before),
            after=waiting(study.after, after),
        )
        [sentence] = [text for text in actions(replace(trial, waits=waits)) if "Expect" in text]
        return sentence

    assert step(4000.0, 4000.0, 3900.0).startswith("Expect about the same waits")
    assert step(4000.0, 4000.0, 3000.0).startswith("Expect shorter waits")
    assert step(4000.0, 4000.0, 4900.0).startswith("Expect longer waits")
    assert "poor model" not in step(4000.0, 4000.0, 3000.0)
    assert step(40000.0, 4000.0, 3000.0).endswith(
        "But the replay is a poor model of this site: its median wait is 66.7 min, and 11.1 h was "
        "recorded."
    )
    assert "poor model" not in step(50.0, 5.0, 3.0)  # under a minute


def test_the_page_says_why_fewer_jobs_were_replayed(trial: Trial, tmp_path: Path) -> None:
    assert trial.waits is not None
    replayed = len(trial.waits.before.trace)
    waits = replace(trial.waits, sampled_of=replayed + 4)
    text = write_page(replace(trial, waits=waits), tmp_path / "page.html").read_text("utf-8")
    assert f"the {replayed + 4} jobs of the last 30\u00a0%, without 4 that never ran" in text
    assert "the latest" not in text


def test_values_with_little_of_the_waste_are_no_place_where_most_is_to_be_won() -> None:
    at = pd.Timestamp("2024-01-01", tz="UTC")
    users = ["ada"] * 20 + ["bob"] * 20
    log = pd.DataFrame({"submitted_at": at, "user": users, "status": "completed"}).assign(
        **dict.fromkeys(("program", "queue", "group", "project", "site")),
        **dict.fromkeys(("requested_memory", "peak_memory"), np.nan),
        **{"requested_walltime": 36000.0, "walltime": 600.0},
    )
    hours = np.where(log["user"] == "ada", 1000.0, 1.0)
    of_jobs = pd.DataFrame({"unused_hours": hours, "saved_hours": hours, "walltime": 600.0}).assign(
        waste_gibh=0.0, saved_gibh=0.0, peak_memory=np.nan
    )
    (table,) = winners(log, of_jobs, 0.01, at)
    assert [row["user"] for row in table.rows] == ["ada"]
