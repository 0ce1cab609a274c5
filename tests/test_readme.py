"""README's commands do what README shows: each is run, and its output compared.

Digits are not compared, since they vary with the machine, nor lines that README leaves out (``…``).
``just pages`` takes the whole public log; otherwise its first jobs, a smaller demo and smaller models of
CatBoost are enough, of which the order of predictors by error and the sentence about the best are not compared. Without the log a generated one
stands in for it, of which only the form is compared.
"""

import gzip
import itertools
import json
import os
import re
import shlex
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port
from tests.trees import WITH_FEW_TREES

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")
LOG = "KTH-SP2-1996.swf.gz"
WHOLE_LOG = "GRIDCAST_TEST_ALL_PAGES" in os.environ
LINES = None if WHOLE_LOG else 4000
"""Of the log, its header included."""
SMALL_DEMO = f"""
import flows.demo
flows.demo.CALLS, flows.demo.WATCHED_HOURS = 3, (18, 6, 0)
{WITH_FEW_TREES}
"""
"""The demo with fewer calls and looks at the tasks; with fewer jobs its decay is not found."""
OMITTED = "…"
READY_WITHIN = 400
"""Seconds for all servers to start on a busy machine."""


def shown_commands() -> list[tuple[str, list[str]]]:
    """Each command of README's blocks, with the lines that README shows below it."""
    shown: list[tuple[str, list[str]]] = []
    for block in re.findall(r"^```console\n(.*?)^```", README, re.DOTALL | re.MULTILINE):
        for line in block.replace("\\\n", " ").splitlines():
            if line.startswith("$ "):
                shown.append((line.removeprefix("$ "), []))
            else:
                shown[-1][1].append(line)
    return shown


COMMANDS = {
    re.sub(r".*(gridcast|curl) (-s|--?\w[\w-]*|\w[\w-]*).*", r"\1 \2", command): (command, lines)
    for command, lines in shown_commands()
}


def masked(text: str) -> str:
    """``text`` with each number as #, single spaces and no rules of tables."""
    numbers = re.sub(r"[-−+]?\d[\d.,:]*", "#", text.replace("–", "#"))
    return " ".join(numbers.replace("─", "").split())


def missing_lines(shown: list[str], output: str) -> list[str]:
    """The lines of ``shown`` that ``output`` does not have in this order."""
    rest = iter([masked(line) for line in output.splitlines()])
    wanted = [line for line in map(masked, shown) if line and line != OMITTED]
    return [line for line in wanted if line not in rest]


def words_of(name: str) -> list[str]:
    """The words of a ``gridcast`` command of README, run by this Python."""
    words = shlex.split(COMMANDS[name][0])
    quick = {"gridcast demo": SMALL_DEMO, "gridcast evaluate": WITH_FEW_TREES}
    start = ["-c", quick[name]] if name in quick and not WHOLE_LOG else ["-m", "gridcast"]
    return [sys.executable, *start, *words[words.index("gridcast") + 1 :]]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A working folder with the log, real where it is at hand."""
    folder = tmp_path_factory.mktemp("readme")
    real = Path(os.environ.get("GRIDCAST_TRACES", ROOT.parent / "shared/data")) / LOG
    if real.is_file():
        with gzip.open(real, "rb") as whole, gzip.open(folder / LOG, "wb") as beginning:
            beginning.writelines(itertools.islice(whole, LINES))
    else:
        (folder / "generated").touch()
        words = ["gridcast", "generate", str(folder / LOG), "--jobs", "3000"]
        subprocess.run([sys.executable, "-m", *words], check=True, capture_output=True)
    return folder


@pytest.fixture(scope="module")
def environment(folder: Path) -> dict[str, str]:
    """A data folder and free ports for all commands."""
    ports = ("PREDICTOR", "MLFLOW", "PREFECT", "DASHBOARD")
    return {
        **{key: value for key, value in os.environ.items() if not key.startswith("GRIDCAST_")},
        **{f"GRIDCAST_{name}_PORT": str(free_port()) for name in ports},
        "GRIDCAST_HOME": str(folder / "gridcast-data"),
        "PYTHONPATH": str(ROOT),
        "COLUMNS": "80",
    }


def run(name: str, folder: Path, environment: dict[str, str]) -> str:
    """Run a command of README; returns what it writes."""
    done = subprocess.run(
        words_of(name), cwd=folder, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    return done.stdout + done.stderr


def test_the_demo_shows_what_readme_shows(folder: Path, environment: dict[str, str]) -> None:
    output = run("gridcast demo", folder, environment)
    assert missing_lines(COMMANDS["gridcast demo"][1], output) == []


@pytest.mark.parametrize("name", ["gridcast ingest", "gridcast evaluate", "gridcast train"])
def test_a_log_of_ones_own_gives_what_readme_shows(
    name: str, folder: Path, environment: dict[str, str]
) -> None:
    output, shown = run(name, folder, environment), COMMANDS[name][1]
    if (folder / "generated").exists():
        shown = shown[:1]
    elif name == "gridcast evaluate" and not WHOLE_LOG:
        rows = [line for line in shown if re.match(r"[a-z]+ .*\d", line)]
        assert len(rows) >= 4
        assert all(missing_lines([row], output) == [] for row in rows)
        shown = [line for line in shown[:3] if line not in rows]
    assert missing_lines(shown, output) == []


@pytest.fixture(scope="module")
def up(folder: Path, environment: dict[str, str]) -> Iterator[str]:
    """What ``gridcast up`` has written when the last server of README's output is ready."""
    shown = COMMANDS["gridcast up"][1]
    log = folder / "up.log"
    with log.open("w") as out:
        started = subprocess.Popen(
            words_of("gridcast up"),
            cwd=folder,
            env=environment,
            stdout=out,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        deadline = time.monotonic() + READY_WITHIN
        while missing_lines(shown, log.read_text()) and time.monotonic() < deadline:
            assert started.poll() is None, log.read_text()
            time.sleep(1)
        yield log.read_text()
        down = [sys.executable, "-m", "gridcast", "down"]
        subprocess.run(down, env=environment, cwd=folder, check=False, capture_output=True)
        started.wait(240)


def test_up_starts_the_servers_that_readme_shows(up: str) -> None:
    assert missing_lines(COMMANDS["gridcast up"][1], up) == []


def test_the_predictor_answers_as_readme_shows(
    up: str, folder: Path, environment: dict[str, str]
) -> None:
    assert up
    command, lines = COMMANDS["curl -s"]
    typed = command.replace(":3000", f":{environment['GRIDCAST_PREDICTOR_PORT']}")
    words = ["/bin/bash", "-c", typed]  # the token is read by a command of its own
    answer = subprocess.run(words, cwd=folder, capture_output=True, text=True, check=True).stdout
    answered, shown = json.loads(answer), json.loads("".join(lines))
    assert [list(row) for row in answered["rows"]] == [list(row) for row in shown["rows"]]
    if not (folder / "generated").exists():
        assert form(answered) == form(shown)


def form(value: Any) -> Any:
    """A JSON value without its numbers: keys, texts, and lists of the same."""
    if isinstance(value, dict):
        return {key: form(item) for key, item in value.items()}
    if isinstance(value, list):
        return [form(item) for item in value]
    return "a number" if isinstance(value, float | int) and not isinstance(value, bool) else value
