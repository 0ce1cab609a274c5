"""Every command that prints a table fits 80 columns, cuts no name, and says what the table means.

A test of the list holds that a new command with a table is added to it.
"""

from __future__ import annotations

import inspect
import json
import re
from collections.abc import Iterator

import pytest
from click.testing import Result
from rich.cells import cell_len
from rich.console import Console
from typer.testing import CliRunner

import gridcast
from commands import tables
from infra.settings import prepare_environment, use_home
from jobs.workload import generate
from jobs.writers import write_jobs

COMMANDS = (
    "ingest {log}",
    "jobs",
    "jobs --list",
    "jobs 17",
    "rejects",
    "generate {folder}/generated.csv --jobs 20 --days 1",
    "train",
    "history",
    "status",
    "doctor",
    "predict {log}",
    "rank {rank}",
    "scouts",
    "promote 1",
    "pin 1",
    "monitor",
    "evaluate --predictor gridcast --predictor request --predictor median-10",
    "evaluate-waits --predictor gridcast --predictor last",
    "evaluate-tasks",
    "evaluate-allocation",
    "evaluate-classes",
    "rehearse {log} --warm-up 0.5",
    "replay {log} --machine 64 --policy easy --policy easy-sjbf --predictor last-two",
    "replay-grid --jobs 200",
    "replay-pilots {log} --slot-hours 48 --rule static --rule gridcast",
    "what-if {log} --cores 64",
    "balance {loads}",
    "balance {loads} --compare",
    "trial {log} -o {folder}/trial.html",
    "prune",
    "backup {folder}/backup.tar",
    "drop-source {source} --yes",
    "audit",
)
"""In the order in which they are run: what is trained is used afterwards."""
ELSEWHERE = {
    "demo": "takes minutes",
    "table": "needs a predictor",
    "collect": "needs a batch system",
    "evaluate-transfers": "needs transfers",
    "evaluate-stalls": "needs tasks of workflows",
    "challenge": "needs two versions",
    "rollback": "needs two champions",
    "withdraw": "needs a challenger",
    "restore": "needs an empty store",
    "advise": "prints sentences",
}
"""Commands with ``--json`` that are not run here, and why."""
WITHOUT_MEANING = ("rejects", "prune")
"""Their tables are empty here."""


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, str]]:
    """A data folder and its files: a log with long names, loads of hosts, jobs to rank."""
    folder = tmp_path_factory.mktemp("widths")
    before = prepare_environment().home
    use_home(folder / "home")
    jobs = generate(1100, 8, 3).jobs
    name = "a-production-system-with-a-long-name"
    jobs = jobs.assign(source=name, program="a-program-of-a-very-long-name-" + jobs["program"])
    write_jobs(jobs, folder / "log.csv")
    loads = "\n".join(f"{10 + i % 7},{50 + i % 11}" for i in range(60))
    (folder / "loads.csv").write_text(f"host-of-a-long-name.example.org,b\n{loads}\n")
    candidates = [{"site": f"site-0{number}"} for number in (1, 2)]
    job = {"job_id": "1", "source": name, "user": "a", "requested_walltime": 3600}
    rank = {"jobs": [job | {"candidates": candidates}]}
    (folder / "rank.json").write_text(json.dumps(rank))
    yield {
        "folder": str(folder),
        "log": str(folder / "log.csv"),
        "loads": str(folder / "loads.csv"),
        "rank": str(folder / "rank.json"),
        "source": name,
    }
    use_home(before)


def run(command: str, words: dict[str, str], *options: str) -> Result:
    arguments = [word.format(**words) for word in command.split()]
    return CliRunner().invoke(gridcast.app, [*arguments, *options])


@pytest.mark.usefixtures("few_trees")
@pytest.mark.parametrize("command", COMMANDS)
def test_a_table_fits_80_columns_cuts_no_name_and_says_what_it_means(
    command: str, words: dict[str, str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tables, "out", Console(width=80))
    result = run(command, words)
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    assert result.stdout.strip(), result.stderr
    assert [line for line in result.stdout.splitlines() if cell_len(line) > 80] == []
    assert "…" not in result.stdout
    if not command.startswith(WITHOUT_MEANING):
        after = result.stdout.rpartition("───\n")[2]
        text = " ".join(after.split())
        assert re.search(r"\w.*\.( \(--wide [^)]*\))?$", text), text


def test_every_command_with_json_is_in_the_list() -> None:
    commands = {command.partition(" ")[0] for command in COMMANDS} | ELSEWHERE.keys()
    assert commands == {
        command.name
        for command in gridcast.app.registered_commands
        if "as_json" in inspect.signature(command.callback).parameters  # type: ignore[arg-type]
    }


def test_wide_has_the_columns_of_json(words: dict[str, str]) -> None:
    assert run("ingest {log}", words).exception is None
    wide = run("jobs --list --limit 2 --wide", words).stdout
    rows = json.loads(run("jobs --list --limit 2 --json", words).stdout)["rows"]
    heading = " ".join(wide.splitlines()[1].split())
    assert all(name.replace("_", " ") in heading for name in rows[0])
    assert words["source"] in wide and "--wide" not in wide


def test_what_the_commands_changed_is_in_the_audit_log(words: dict[str, str]) -> None:
    assert run("ingest {log}", words).exception is None
    assert run("drop-source {source} --yes", words).exception is None
    for action, command in (("ingest", "ingest"), ("drop-source", "drop-source")):
        row = json.loads(run(f"audit --action {action} --json", words).stdout)["rows"][0]
        assert row["origin"] == f"gridcast {command}" and row["result"] == "done"
