"""Groups of few jobs are counted, not evaluated; the table of pilots is explained."""

import pytest
from typer.testing import CliRunner

import gridcast
from commands.meanings import of_pilots


def test_a_log_whose_groups_are_all_small_says_so(
    tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path_factory.mktemp("groups")
    monkeypatch.setenv("GRIDCAST_HOME", str(folder))
    log = str(folder / "small.csv")
    runner = CliRunner()
    assert runner.invoke(gridcast.app, ["generate", log, "--jobs", "40"]).exit_code == 0
    result = runner.invoke(gridcast.app, ["evaluate", log, "--by", "site"])
    assert result.exit_code != 0
    assert "of fewer than 50 jobs (40 in all)" in str(result.exception) + result.output


def test_the_columns_of_pilots_are_explained() -> None:
    row = {"slot_hours": 24.0, "rule": "static", "core_hours": 10.0, "killed_share": 0.1}
    assert "mean wait: from submission" in of_pilots([row])
