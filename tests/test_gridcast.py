"""The command line: what its commands have in common, and what a person who types is told."""

import inspect
import json
import re
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from rich.console import Console
from typer.testing import CliRunner

import gridcast
from commands import tables
from commands.tables import print_error, print_note, print_sentence, progress_bar, show_rows
from commands.versions import version_number
from infra.errors import InputError

COMMANDS = {
    command.callback.__name__: inspect.signature(command.callback, eval_str=True)
    for command in gridcast.app.registered_commands
}
READING = ("log_format", "mapping", "map_file", "timezone")


@pytest.mark.parametrize(
    "name",
    [name for name, signature in COMMANDS.items() if {*READING[:3]} & {*signature.parameters}],
)
def test_every_command_that_reads_a_log_reads_it_with_the_same_options(name: str) -> None:
    parameters = COMMANDS[name].parameters
    assert {*READING} <= {*parameters}
    for option in READING:
        assert parameters[option] == COMMANDS["ingest"].parameters[option]


def test_logs_are_read_by_ingest_evaluate_predict_and_replay() -> None:
    assert {
        name for name, signature in COMMANDS.items() if "log_format" in signature.parameters
    } >= {
        "ingest",
        "evaluate",
        "predict",
        "replay",
    }


def test_the_old_option_of_replay_names_the_command_that_took_its_place() -> None:
    result = CliRunner().invoke(gridcast.app, ["replay", "--grid"])
    assert isinstance(result.exception, InputError)
    assert "gridcast replay-grid" in str(result.exception)


def test_replay_without_a_log_says_what_is_missing() -> None:
    result = CliRunner().invoke(gridcast.app, ["replay"])
    assert isinstance(result.exception, InputError)
    assert "give a log" in str(result.exception)


@pytest.mark.parametrize("command", ["replay", "what-if"])
@pytest.mark.parametrize("options", [[], ["8"]])
def test_a_replay_of_jobs_that_have_not_ended_is_refused_in_one_sentence(
    command: str, options: list[str], tmp_path: Path
) -> None:
    log = tmp_path / "waiting.csv"
    log.write_text("job_id,submitted_at,user\n" + "".join(f"{i},2026-03-01,a\n" for i in range(9)))
    size = {"replay": "--machine", "what-if": "--cores"}[command]
    arguments = [command, str(log), *(word for value in options for word in (size, value))]
    result = CliRunner().invoke(gridcast.app, arguments)
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert str(result.exception).startswith("none of the 9 jobs of the log has ended")


def test_what_if_prints_a_row_for_each_group_and_scenario(tmp_path: Path) -> None:
    log = tmp_path / "ended.csv"
    rows = (
        f"{i},2026-03-01T00:00:0{i % 10},{600 + i},{'atlas' if i % 3 else 'lhcb'},1\n"
        for i in range(40)
    )
    log.write_text("job_id,submitted_at,walltime,group,cores\n" + "".join(rows), encoding="utf-8")
    result = CliRunner().invoke(gridcast.app, ["what-if", str(log), "--cores", "4", "--json"])
    assert result.exception is None
    result = json.loads(result.stdout)["rows"]
    assert {(row["group"], row["jobs"]) for row in result} == {("atlas", 26), ("lhcb", 14)}
    assert len({row["scenario"] for row in result}) == 8 and len(result) == 16
    assert all(row["mean_wait"] >= 0 and row["p95_wait"] >= 0 for row in result)


def test_balance_gives_the_idle_host_the_larger_part(tmp_path: Path) -> None:
    loads = tmp_path / "loads.csv"
    loads.write_text("busy,idle\n" + "50,0\n" * 20, encoding="utf-8")
    arguments = ["balance", str(loads), "--work", "300", "--json"]
    result = CliRunner().invoke(gridcast.app, arguments)
    result = json.loads(result.stdout)["rows"]
    assert [(row["host"], row["work_s"]) for row in result] == [
        ("idle", pytest.approx(200.0)),
        ("busy", pytest.approx(100.0)),
    ]
    result = CliRunner().invoke(gridcast.app, [*arguments, "--compare"])
    assert {row["policy"] for row in json.loads(result.stdout)["rows"]} >= {"conservative"}
    result = CliRunner().invoke(gridcast.app, ["balance", str(loads), "--host", "lost"])
    assert isinstance(result.exception, InputError)
    assert "has no host 'lost'" in str(result.exception)


MODES = {
    "--allocation": "evaluate-allocation",
    "--classes": "evaluate-classes",
    "--tasks": "evaluate-tasks",
    "--transfers=x.csv": "evaluate-transfers",
    "--waits": "evaluate-waits",
}


@pytest.mark.parametrize("option", MODES)
def test_an_option_that_became_a_command_is_answered_by_its_name(option: str) -> None:
    result = CliRunner().invoke(gridcast.app, ["evaluate", "x.swf", option])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert f"is now: gridcast {MODES[option]} " in str(result.exception)
    named = {command.name for command in gridcast.app.registered_commands}
    assert MODES[option] in named


@pytest.mark.parametrize(
    "command",
    ["evaluate", "evaluate-tasks", "evaluate-allocation", "evaluate-waits", "rehearse"],
)
def test_a_log_whose_jobs_have_not_ended_is_refused_in_one_sentence(
    command: str, tmp_path: Path
) -> None:
    log = tmp_path / "waiting.csv"
    log.write_text("job_id,submitted_at,user\n" + "".join(f"{i},2026-03-01,a\n" for i in range(9)))
    result = CliRunner().invoke(gridcast.app, [command, str(log)])
    assert isinstance(result.exception, InputError)
    assert result.exception.exit_code == 2
    assert re.match(
        r"none of the 9 jobs of waiting\.csv has (ended|started)", str(result.exception)
    )


def test_a_log_that_reports_no_run_times_is_refused_in_one_sentence(tmp_path: Path) -> None:
    log = tmp_path / "ends.csv"
    rows = (f"{i},2026-03-01,2026-03-02\n" for i in range(9))
    log.write_text("job_id,submitted_at,ended_at\n" + "".join(rows))
    result = CliRunner().invoke(gridcast.app, ["evaluate", str(log)])
    assert isinstance(result.exception, InputError)
    assert "none of the 9 jobs of ends.csv reports its walltime" in str(result.exception)


@pytest.mark.parametrize("text", ["3", "gridcast-3", " 3 "])
def test_a_version_is_named_by_its_number_or_its_label(text: str) -> None:
    assert version_number(text, "gridcast") == 3


@pytest.mark.parametrize("text", ["three", "other-3", "gridcast", "-1", ""])
def test_what_names_no_version_is_answered_by_an_example(text: str) -> None:
    with pytest.raises(InputError, match="give its number, such as 3 or gridcast-3"):
        version_number(text, "gridcast")


def test_json_has_null_for_every_kind_of_missing_value(capsys: pytest.CaptureFixture[str]) -> None:
    row = {
        "nat": pd.NaT,
        "nan": np.float64("nan"),
        "na": pd.NA,
        "infinite": float("inf"),
        "count": np.int64(3),
        "nested": {"times": [pd.NaT, 1.0]},
        "at": pd.Timestamp("2026-03-01", tz="UTC"),
    }
    show_rows([row], as_json=True)
    assert json.loads(capsys.readouterr().out) == {
        "rows": [
            {
                "nat": None,
                "nan": None,
                "na": None,
                "infinite": None,
                "count": 3,
                "nested": {"times": [None, 1.0]},
                "at": "2026-03-01 00:00:00+00:00",
            }
        ]
    }


def test_square_brackets_are_printed_as_they_are(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    text = "because [/] of [red]this[/blue]"
    monkeypatch.setattr(tables, "out", Console(width=200))
    monkeypatch.setattr(tables, "err", Console(width=200, stderr=True))
    show_rows([{"why [/]": text}], as_json=False, title=text)
    show_rows([], as_json=False, title=text)
    for write in (print_note, print_error, print_sentence):
        write(text)
    with progress_bar(text) as report:
        report(text, 0.5)
    printed = capsys.readouterr()
    assert printed.out.count(text) == 4
    assert printed.err.count(text) >= 2


def test_help_has_a_plain_line_for_every_command_in_groups_at_80_columns() -> None:
    result = CliRunner().invoke(gridcast.app, ["--help"], env={"COLUMNS": "80"})
    lines = result.stdout.splitlines()
    assert max(map(len, lines)) <= 80
    for group, commands in gridcast.GROUPS.items():
        assert any(line.startswith(f"╭─ {group} ─") for line in lines)
        for name in commands:
            own = [line for line in lines if line.startswith(f"│ {name} ")]
            assert len(own) == 1 and own[0].rstrip("│ ").endswith("."), name
    listed = [line for line in lines if re.match(r"│ [a-z]", line)]
    assert len(listed) == sum(map(len, gridcast.GROUPS.values()))


def test_the_version_is_that_of_the_installation() -> None:
    from importlib.metadata import version

    result = CliRunner().invoke(gridcast.app, ["--version"])
    assert result.exit_code == 0 and result.stdout == f"gridcast {version('gridcast')}\n"
