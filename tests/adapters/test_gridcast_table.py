"""The local table's adapter, copied elsewhere and run by Python without Gridcast."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pytest

import adapters
from adapters import gridcast_table
from adapters.gridcast_table import key, look_up, megabytes, minutes, translate, write_map
from services import local_table

AD = 'ClusterId = 7\nProcId = 0\nOwner = "ann"\nCmd = "/usr/bin/sim"\nArgs = "a \\"b\\""\n'
COLUMNS = (
    "key",
    "jobs",
    "new",
    "longest",
    "walltime",
    "walltime_low",
    "walltime_high",
    "walltime_kill_limit",
    "peak_memory_allocation",
)


def write(path: Path, age: float = 0) -> Path:
    rows = {
        key("all"): "9 1 7 5 1 9 12 -",
        key("any", "sim"): "9 0 601 600 300 900 1200 2000000000",
        key("program", "ann", "re co"): "9 0 51 50 30 80 100 -",
        key("program", "ann", "sim"): "9 0 501 500 300 800 1000 1000000000",
        key("user", "ann"): "9 0 401 400 200 700 900 -",
    }
    head = f"gridcast-table 2\t{time.time() - age:.0f}\tthen\tgridcast/7\t{len(rows)}"
    lines = ["\t".join((one, *numbers.split())) for one, numbers in sorted(rows.items())]
    path.write_text("\n".join((head, "\t".join(COLUMNS), *lines)) + "\n")
    return path


def test_keys_are_those_that_the_table_is_written_with() -> None:
    for values in (("ann", "re co|1\t"), ("zoë",), (), ("", "x")):
        assert key("any", *values) == local_table.key("any", *values)


def test_condors_hook_answers_the_job_with_what_is_foreseen(tmp_path: Path) -> None:
    hook = tmp_path / "gridcast_hook"
    source = (Path(adapters.__path__[0]) / "gridcast_table.py").read_text()
    hook.write_text(source.replace(gridcast_table.TABLE, str(write(tmp_path / "table.tsv"))))
    given = f'[ Name = "route"; ]\n------\n{AD}'

    def run(text: str) -> str:
        # -I: nothing but the standard library is in reach.
        return subprocess.run(
            [sys.executable, "-I", "-S", str(hook)],
            input=text,
            capture_output=True,
            text=True,
            check=True,
        ).stdout

    told = run(given)
    assert told.startswith(AD)
    assert re.findall(r"^Gridcast(\w+) = (.*)$", told, re.MULTILINE) == [
        ("Walltime", "500"),
        ("WalltimeLow", "300"),
        ("WalltimeHigh", "800"),
        ("Model", '"gridcast/7"'),
        ("Of", '"program"'),
    ]
    assert run("------\n" + AD + "GridcastOff = true\n") == AD + "GridcastOff = true\n"
    for broken in ("", "no ad at all", "------\n" + AD.replace('"ann"', "undefined")):
        run(broken)  # exit code 0: the job is not refused


def test_a_table_that_is_not_there_or_old_is_a_reason_beside_the_job(tmp_path: Path) -> None:
    assert 'GridcastReason = "no table"' in translate(AD, tmp_path / "gone")
    (tmp_path / "garbage").write_bytes(b"\x00\x01")
    assert 'GridcastReason = "unreadable table"' in translate(AD, tmp_path / "garbage")
    stale = translate(AD, write(tmp_path / "stale", age=2000))
    assert (
        re.search(r'GridcastReason = "stale: the table is 200\d s old"', stale)
        and "GridcastWalltime = 500" in stale
    )
    assert "GridcastWalltime" not in translate(AD, write(tmp_path / "old", age=1e6))


def test_a_duration_is_set_only_where_the_site_wants_it_and_the_job_has_none(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "table.tsv")
    assert "AllowedExecuteDuration" not in translate(AD, table)
    monkeypatch.setattr(gridcast_table, "SET_DURATION", True)
    assert "AllowedExecuteDuration = 1250" in translate(AD, table)
    assert (
        translate(AD + "AllowedExecuteDuration = 60\n", table).count("AllowedExecuteDuration") == 1
    )
    assert "AllowedExecuteDuration" not in translate(AD, write(tmp_path / "stale", age=2000))
    assert "AllowedExecuteDuration" not in translate(AD.replace("/sim", "/other"), table)


def test_a_user_map_has_users_and_their_programs(tmp_path: Path) -> None:
    assert write_map(write(tmp_path / "table.tsv"), tmp_path / "map") == 3
    assert (
        tmp_path / "map"
    ).read_text() == '* "ann|re co" 50,30,80\n* "ann|sim" 500,300,800\n* "ann" 400,200,700\n'
    assert write_map(write(tmp_path / "stale", age=2000), tmp_path / "map") == 0


def test_a_user_map_leaves_out_who_opted_out_and_names_that_would_be_lines_of_their_own(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = write(tmp_path / "table.tsv")
    odd = [
        key("program", "eve", 'x"\n* bob 9999,1,9999'),
        key("user", "u\u2028v"),
        key("user", "torn"),
    ]
    with table.open("a") as out:
        out.writelines(f"{one}\t9\t0\t1\t2\t3\t4\t5\t-\n" for one in odd[:2])
        out.write(odd[2] + "\t9\n")
    assert write_map(table, tmp_path / "map") == 3
    assert "bob" not in (tmp_path / "map").read_text()
    monkeypatch.setattr(gridcast_table, "OPT_OUT_PROGRAMS", frozenset({"sim"}))
    assert write_map(table, tmp_path / "map") == 2
    monkeypatch.setattr(gridcast_table, "OPT_OUT_USERS", frozenset({"ann"}))
    assert write_map(table, tmp_path / "map") == 0


def test_snakemakes_resources_are_what_is_foreseen_more_after_each_failure_and_the_rules_own_otherwise(
    tmp_path: Path,
) -> None:
    table = write(tmp_path / "table.tsv")
    assert [minutes("sim", 60, table=table)({}, attempt) for attempt in (1, 2)] == [25, 50]
    assert minutes("sim", 60, user="ann", table=table)({}, 1) == 21
    assert megabytes("sim", 1000, table=table)({}, 1) == 2500
    assert megabytes("unheard", 1000, table=table)({}, 2) == 2000
    assert minutes("sim", 60, table=write(tmp_path / "stale", age=2000))({}, 1) == 60


@pytest.mark.skipif(not shutil.which("snakemake"), reason="Snakemake is not installed here")
def test_snakemake_itself_takes_the_resources(tmp_path: Path) -> None:
    shutil.copy(Path(adapters.__path__[0]) / "gridcast_table.py", tmp_path)
    write(tmp_path / "table.tsv")
    resource = 'runtime=minutes("sim", otherwise=60, table="table.tsv")'
    rule = f'rule sim:\n    output: "a"\n    resources: {resource}\n    shell: "echo {{resources.runtime}} > a"\n'
    (tmp_path / "Snakefile").write_text(
        f"import sys\nsys.path.insert(0, workflow.basedir)\nfrom gridcast_table import minutes\n{rule}"
    )
    subprocess.run(["snakemake", "-c1", "-q"], cwd=tmp_path, check=True, capture_output=True)
    assert (tmp_path / "a").read_text() == "25\n"


def test_the_row_of_the_first_key_is_found(tmp_path: Path) -> None:
    table = write(tmp_path / "table.tsv")
    assert look_up(table, ["any|none", "any|sim", "all"])["walltime"] == 600
    assert look_up(table, ["all"])["level"] == "all"
