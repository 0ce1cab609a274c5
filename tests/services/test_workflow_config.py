"""Requests of workflows: names of logs never become code, and no rung is above the request."""

from __future__ import annotations

import re
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
import yaml
from hypothesis import example, given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from jobs.schema import conform, derive_fields
from jobs.store import add_jobs
from models.engine.forecaster import Forecaster
from services.local_table import TableError, WrittenTable, replace_files
from services.request_policy import MIB, RequestPolicy
from services.workflow_config import (
    PROCESS,
    RULE,
    ProcessRequests,
    highest_requests,
    nextflow,
    plan_processes,
    snakemake,
    why_nothing,
    write_workflow_config,
)
from tests.services.test_local_table import NOW, Asked

ACT = RequestPolicy("act", programs=("*",), least_memory=16 * MIB, least_walltime=60)
GIB = 1 << 30


def row(name: str | None, level: str = "any", **changes: Any) -> dict[str, Any]:
    """A row of ``predict_recent`` whose jobs need 500 MB, sometimes 900, and requested 4 GiB."""
    numbers = {
        "peak_memory_allocation": 5e8,
        "peak_memory_allocation_2": 9e8,
        "walltime_kill_limit": 1400.0,
        "cold_start": False,
    }
    names = (name,) if level == "any" else ("ann", name)
    jobs = {"jobs": 40, "longest": 900.0}
    requests = {"requested_memory": 4.0 * GIB, "requested_walltime": 7200.0}
    return {"level": level, "names": names, "answer": numbers, **jobs, **requests, **changes}


def plan(
    rows: list[dict[str, Any]], policy: RequestPolicy, user: str | None = None
) -> list[ProcessRequests]:
    """Plan rows whose processes never requested more."""
    names = ("requested_memory", "requested_walltime")
    highest = {one["names"]: (one[names[0]], one[names[1]]) for one in rows}
    return plan_processes(rows, highest, policy, user)


def written(file: Path = Path("/x/gridcast.config"), version: str = "gridcast/7") -> WrittenTable:
    return WrittenTable(file, datetime(2026, 3, 20, tzinfo=UTC), version, 1, 40)


def test_a_process_gets_each_rung_by_its_attempt_and_at_last_its_request() -> None:
    texts = nextflow(plan([row("align"), row("NF:WF:INDEX")], ACT), 0, written())
    requests = texts[Path("/x/gridcast.config.requests")]
    assert "withName: '(.*:)?align' {" in requests and "withName: 'NF:WF:INDEX' {" in requests
    for line in (
        "memory = { [477.MB, 859.MB, 4096.MB][Math.min(task.attempt, 3) - 1] }",
        "time = { [30.m, 120.m][Math.min(task.attempt, 2) - 1] }",
        "maxRetries = 2",
        "ext.gridcast = 'requests memory 477, 859, 4096 MiB, time 30, 120 min after 40 jobs'",
    ):
        assert requests.count(f"        {line}\n") == 2
    rules = yaml.safe_load(next(iter(snakemake(plan([row("align")], ACT), 0, written()).values())))
    assert rules["retries"] == 2
    resources = rules["set-resources"]["align"]
    for now, attempts in ((0.0, [501, 901, 4096, 4096]), (2e9, [4096] * 4)):
        code = resources["mem_mb"].replace("__import__('time').time()", str(now))
        assert [eval(code, {"attempt": attempt}) for attempt in (1, 2, 3, 4)] == attempts
    assert (
        eval(resources["runtime"].replace("__import__('time').time()", "0"), {"attempt": 1}) == 30
    )


@pytest.mark.parametrize(
    ("policy", "changes"),
    [
        (RequestPolicy(), {}),
        (RequestPolicy("act", programs=("other",)), {}),
        (RequestPolicy("suggest", programs=("*",)), {}),
        (RequestPolicy("observe", programs=("*",)), {}),
        (ACT, {"jobs": 4}),
        (ACT, {"answer": row("align")["answer"] | {"cold_start": True}}),
        (ACT, {"requested_memory": None, "requested_walltime": None}),
        (ACT, {"requested_memory": 5e8, "requested_walltime": 1500.0}),
    ],
)
def test_where_the_site_or_the_prediction_says_no_nothing_is_requested(
    policy: RequestPolicy, changes: dict[str, Any]
) -> None:
    processes = plan([row("align", **changes)], policy)
    (text,) = snakemake(processes, 0, written()).values()
    assert yaml.safe_load(text) == {}
    assert "withName" not in "".join(nextflow(processes, 0, written()).values())
    would = policy.mode in ("observe", "suggest")
    assert ("would request memory 477, 859, 4096 MiB" in text) is would


def test_a_users_own_jobs_are_preferred_where_there_are_some() -> None:
    rows = [row("align"), row("align", "program", jobs=7), row("index")]
    reasons = [process.plan.reason for process in plan(rows, ACT, "ann")]
    assert reasons[0].endswith("after 7 jobs") and reasons[1].endswith("after 40 jobs")
    assert "after 40 jobs" in plan(rows, ACT)[0].plan.reason


def test_more_than_was_requested_is_written_only_where_the_site_says_so() -> None:
    small = row("align", requested_memory=6e8)
    above = RequestPolicy("act", programs=("*",), least_walltime=60, above_request=True)
    assert plan([small], ACT)[0].plan.memory == (477 * MIB, 6e8)
    assert plan([small], above)[0].plan.memory[-1] == 859 * MIB
    (text,) = snakemake(plan([small], ACT), 0, written()).values()
    assert "[501, 572][" in text  # 6e8 bytes are 572 MiB
    (text,) = snakemake(plan([small], above), 0, written()).values()
    assert "[501, 901][" in text


NASTY = [
    "'",
    '"',
    "$",
    "${",
    "\\",
    "\n",
    "\r",
    "\u2028",
    "{",
    "}",
    "*/",
    "//",
    "#",
    ":",
    "=",
    "x",
    "`",
]
NAMES = st.one_of(
    st.text(max_size=20),
    st.lists(st.sampled_from([*NASTY, "align", "a:b"]), max_size=8).map("".join),
    st.from_regex(PROCESS, fullmatch=True),
    st.from_regex(RULE, fullmatch=True),
)
NAME = r"[A-Za-z_][A-Za-z0-9_]*(?::[A-Za-z_][A-Za-z0-9_]*)*"
REASON = r"[A-Za-z0-9 ,]+"
LINES = {
    "nextflow": rf"""//\ gridcast\ table\ --for\ nextflow:\ \d+\ names,\ by\ [\w./?-]*,\ [\dT:+-]+
        |//\ \d+\ names\ left\ out:\ they\ cannot\ be\ names\ of\ a\ process\ or\ rule
        |//\ Nothing\ after\ [\dT:+-]+,\ or\ where\ GRIDCAST_OFF\ is\ set\.
        |includeConfig\ System\.currentTimeMillis\(\)\ <\ \d+L\ &&\ !System\.getenv\('GRIDCAST_OFF'\)\ \?\ '/x/gridcast\.config\.requests'\ :\ '/dev/null'
        |process\ \{{|\}}|\ {{4}}\}}
        |\ {{4}}withName:\ '(\(\.\*:\)\?)?{NAME}'\ \{{
        |\ {{8}}(memory|time)\ =\ \{{\ \[\d+\.(MB|m)(,\ \d+\.(MB|m))*\]\[Math\.min\(task\.attempt,\ \d+\)\ -\ 1\]\ \}}
        |\ {{8}}errorStrategy\ =\ \{{\ task\.exitStatus\ in\ \[[\d,\ ]+\]\ \?\ 'retry'\ :\ 'finish'\ \}}
        |\ {{8}}maxRetries\ =\ \d+
        |\ {{8}}ext\.gridcast\ =\ '{REASON}'""",
    "snakemake": rf"""\#\ gridcast\ table\ --for\ snakemake:\ \d+\ names,\ by\ [\w./?-]*,\ [\dT:+-]+
        |\#\ \d+\ names\ left\ out:\ they\ cannot\ be\ names\ of\ a\ process\ or\ rule
        |\#\ {NAME}:\ {REASON}
        |retries:\ \d+|set-resources:|\{{\}}
        |\ \ "{NAME}":
        |\ {{4}}(mem_mb|runtime):\ "\[[\d,\ ]+\]\[min\(attempt,\ \d+\)\ -\ 1\]\ if\ __import__\('time'\)\.time\(\)\ <\ \d+\ and\ not\ __import__\('os'\)\.environ\.get\('GRIDCAST_OFF'\)\ else\ \d+"
        |\ {{4}}gridcast:\ "'{REASON}'" """,
}


@pytest.mark.parametrize("system", ["nextflow", "snakemake"])
@settings(max_examples=60, deadline=None)
@given(names=st.lists(NAMES, max_size=5), version=st.text(max_size=12))
@example(
    names=["a' {\n evil() }\n withName: 'b", 'r":\n  evil: "x', "true", "align"], version="\n*/x"
)
def test_names_and_versions_of_logs_never_become_code(
    system: str, names: list[str], version: str
) -> None:
    """Every line of the files has a form that has no place for anything else."""
    form = {"nextflow": PROCESS, "snakemake": RULE}[system]
    processes = plan([row(name) for name in names if name], ACT)
    named = [process for process in processes if form.fullmatch(process.name)]
    render = nextflow if system == "nextflow" else snakemake
    texts = render(named, len(processes) - len(named), written(version=version))
    line_form = re.compile(LINES[system], re.VERBOSE | re.ASCII)
    for text in texts.values():
        assert text.endswith("\n")
        assert [line for line in text[:-1].split("\n") if not line_form.fullmatch(line)] == []
        assert text.isprintable() or set(text) - {"\n"} == set(filter(str.isprintable, text))
    if system == "snakemake":
        rules = yaml.safe_load(text).get("set-resources", {})
        assert set(rules) == {process.name for process in named}


def test_the_recent_processes_of_the_store_are_written_and_names_that_cannot_be_are_counted(
    sqlite_store: Any, tmp_path: Path
) -> None:
    rows = [
        {
            "job_id": f"{name}{number}",
            "source": "nextflow",
            "program": name,
            "site": "nextflow",
            "requested_memory": 8.0 * GIB,
            "requested_walltime": 4 * 3600.0,
            "requested_cores": 1.0,
            "walltime": 600.0 + number % 5,
            "peak_memory": 7e8 + 1e6 * number,
            "submitted_at": pd.Timestamp(NOW) - pd.Timedelta(hours=41 - number),
            "status": "completed",
        }
        for name in ("align", "NF:WF:INDEX", "evil' {\nx")
        for number in range(40)
    ]
    frame = conform(pd.DataFrame(rows))
    frame = derive_fields(frame.assign(started_at=frame["submitted_at"]))
    with sqlite_store.begin() as connection:
        add_jobs(connection, frame)
    forecaster = Forecaster(targets=("walltime", "peak_memory"))
    forecaster.learn(frame)
    predictor: Any = Asked(forecaster)
    file = tmp_path / "profile" / "config.yaml"
    done = write_workflow_config(sqlite_store, predictor, file, "snakemake", policy=ACT, now=NOW)
    assert not done.note
    assert done.rows == 1 and "# 2 names left out" in file.read_text()
    resources = yaml.safe_load(file.read_text())["set-resources"]["align"]
    rungs = [int(number) for number in re.findall(r"\d+", resources["mem_mb"].partition("]")[0])]
    assert 739 <= rungs[0] < 2000 and rungs[-1] == 8192 and rungs == sorted(rungs)
    later = NOW + timedelta(minutes=1)
    write_workflow_config(
        sqlite_store, predictor, tmp_path / "gridcast.config", "nextflow", policy=ACT, now=later
    )
    requests = (tmp_path / "gridcast.config.requests").read_text()
    assert "withName: 'NF:WF:INDEX'" in requests and "evil" not in requests
    assert re.search(r"memory = \{ \[\d{3,4}\.MB, .*8192\.MB\]", requests)

    # Later all recent jobs requested a rung of Gridcast's; the last rung remains the workflow's.
    act_on = frame.assign(
        job_id="later" + frame["job_id"], requested_memory=1.0 * GIB, requested_walltime=1800.0
    )
    for name in ("submitted_at", "started_at", "ended_at"):
        act_on[name] += pd.Timedelta(days=30)
    with sqlite_store.begin() as connection:
        add_jobs(connection, act_on)
    write_workflow_config(
        sqlite_store, predictor, file, "snakemake", policy=ACT, now=NOW + timedelta(days=30)
    )
    resources = yaml.safe_load(file.read_text())["set-resources"]["align"]
    assert resources["mem_mb"].endswith("else 8192") and resources["runtime"].endswith("else 240")


def test_the_highest_requests_are_of_all_stored_jobs_of_a_source(sqlite_store: Any) -> None:
    rows = [
        ("1", "ann", "align", None, 2.0, 60.0, "a", 400),
        ("2", "ann", None, "align", 9.0, None, "a", 900),
        ("3", "bob", "align", "x", 5.0, 90.0, "a", 1),
        ("4", None, "index", None, None, None, "a", 1),
        ("5", "ann", "align", None, 99.0, 999.0, "b", 1),
    ]
    names = ("job_id", "user", "program", "job_name", "requested_memory", "requested_walltime")
    jobs = pd.DataFrame(rows, columns=[*names, "source", "days"])
    jobs["submitted_at"] = pd.Timestamp(NOW) - pd.to_timedelta(jobs.pop("days"), "D")
    with sqlite_store.begin() as connection:
        add_jobs(connection, conform(jobs))
    assert highest_requests(sqlite_store, "a") == {
        ("align",): (9.0, 90.0),
        ("index",): (None, None),
        ("ann", "align"): (9.0, 60.0),
        ("bob", "align"): (5.0, 90.0),
    }


@pytest.mark.parametrize(
    ("changes", "user", "why"),
    [
        ({}, None, ""),
        ({"mode": "off"}, None, "GRIDCAST_REQUEST_MODE is off"),
        (
            {"programs": ("algin", "zzz")},
            None,
            "algin: no such process in the last 14 days (near: align); "
            "zzz: no such process in the last 14 days",
        ),
        (
            {"users": ("ann",)},
            None,
            "GRIDCAST_REQUEST_USERS is set: name one of these users by --user",
        ),
        ({"users": ("ann",)}, "ann", ""),
        ({"users": ("ann",)}, "bob", "GRIDCAST_REQUEST_USERS is set: name one of these users by"),
        ({"queues": ("short",)}, None, "GRIDCAST_REQUEST_QUEUES is set, and processes have no"),
        ({"mode": "observe"}, None, "2 processes unchanged: the mode is observe; 1 process unch"),
        ({"least_jobs": 99}, None, "3 processes unchanged: 40 such jobs, 99 needed"),
        ({"programs": ("index",)}, None, "1 process unchanged: it requests nothing"),
    ],
)
def test_a_file_that_requests_nothing_says_why(
    changes: dict[str, Any], user: str | None, why: str
) -> None:
    bare = {"requested_memory": None, "requested_walltime": None}
    rows = [row("align"), row("sort"), row("index", **bare)]
    policy = replace(ACT, **changes)
    names = [one["names"][0] for one in rows]
    note = why_nothing(plan(rows, policy, user), names, policy, user, 14)
    assert note.startswith(f"nothing is requested: {why}") if why else not note


def test_a_process_with_its_workflow_comes_after_the_bare_name() -> None:
    texts = nextflow(plan([row("A:align"), row("align")], ACT), 0, written())
    requests = texts[Path("/x/gridcast.config.requests")]
    assert 0 < requests.index("'(.*:)?align'") < requests.index("'A:align'")


def test_reasons_speak_of_users_only_where_there_are_some() -> None:
    new = row("align", answer=row("align")["answer"] | {"cold_start": True})
    for user in (None, "ann"):
        assert plan([new], ACT, user)[0].plan.reason == "requests unchanged: no history"
    own = row("align", "program", answer=new["answer"])
    assert plan([row("align"), own], ACT, "ann")[0].plan.reason == "requests unchanged: new user"


@pytest.mark.parametrize("system", ["nextflow", "snakemake"])
def test_a_users_own_file_is_not_replaced(system: str, tmp_path: Path) -> None:
    file = tmp_path / "profile" / "config.yaml"
    render = nextflow if system == "nextflow" else snakemake
    texts = render(plan([row("align")], ACT), 0, written(file))
    for path in texts:
        replace_files(texts)
        replace_files(texts)
        assert path.read_text() == texts[path]
        path.write_text("executor: slurm\njobs: 100\n")
        with pytest.raises(InputError, match=f"{path} was not written by this command") as refused:
            replace_files({file: texts[file] + "x"} | texts)
        assert refused.value.exit_code == 2
        assert path.read_text() == "executor: slurm\njobs: 100\n"
        assert not any(other.read_text().endswith("x") for other in texts if other != path)
        path.write_text("")


def test_a_table_replaces_no_other_file(tmp_path: Path) -> None:
    file = tmp_path / "table.tsv"
    replace_files({file: "gridcast-table 2\t1\n"})
    file.write_text("gridcast-table 1\told")
    replace_files({file: "gridcast-table 2\t1\n"})
    file.write_text("name\tgridcast-table 2\n")
    with pytest.raises(InputError, match="so it is not replaced"):
        replace_files({file: "gridcast-table 2\t1\n"})
    with pytest.raises(TableError, match="cannot be replaced: Is a directory"):
        replace_files({tmp_path: "gridcast-table 2\t1\n"})
