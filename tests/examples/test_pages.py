"""The tutorials and how-to pages are typed as they stand, and show the output that they promise.

Each ``console`` block is executed, page by page, in a folder without data: lines that begin with ``$``
are commands (a trailing backslash continues one, ``> `` lines are the rest of a here-document),
the others are lines of the output, in which ``…`` stands for any text and digits are not compared,
since they vary with the machine. Blocks of other languages, such as ``shell-session`` for what needs
a batch system, are not. Pages that start all servers are typed by ``just pages`` alone: they take
minutes, and the tests of README type the same commands.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PAGES = sorted([*ROOT.glob("docs/tutorials/*.md"), *ROOT.glob("docs/how-to/*.md")])
BLOCK = re.compile(r"^( *)```console\n(.*?)^ *```", re.DOTALL | re.MULTILINE)
PORTS = {"PREDICTOR": 3000, "MLFLOW": 5000, "PREFECT": 4200, "DASHBOARD": 3100}
"""The default ports, which the pages name."""
STARTS_SERVERS = re.compile(r"^ *\$ gridcast up", re.MULTILINE)
ALL_PAGES = "GRIDCAST_TEST_ALL_PAGES"
"""Set, pages that start all servers are typed too."""


def steps(text: str) -> list[tuple[str, list[str]]]:
    """The commands of a page's console blocks, each with the lines of output shown under it."""
    commands: list[tuple[str, list[str]]] = []
    for indent, block in BLOCK.findall(text):
        for line in block.splitlines():
            line = line.removeprefix(indent)
            if line.startswith("$ "):
                commands.append((line[2:], []))
            elif line.startswith("> ") or line == ">" or commands[-1][0].endswith("\\"):
                command, shown = commands.pop()
                commands.append((f"{command}\n{re.sub('^> ?', '', line)}", shown))
            elif plain(line):
                commands[-1][1].append(line)
    return commands


def plain(line: str) -> str:
    """A line without the borders of tables, numbers as #, words separated by one blank."""
    line = re.sub("[━─═┃│╇╪┏┓┗┛┡┩└┘┳┴┬╭╮╰╯├┤┼]", " ", line)
    return " ".join(re.sub(r"[-−+]?\d[\d.,:]*", "#", line).split())


def shows(output: str, line: str) -> bool:
    """Whether a line of the output reads as ``line``, whose ``…`` stands for any text."""
    pattern = ".*".join(re.escape(part.strip()) for part in plain(line).split("…"))
    return any(re.fullmatch(pattern, plain(real)) for real in output.splitlines())


def test_a_block_is_read_as_commands_and_output() -> None:
    text = (
        "```console\n$ a \\\n  -b\none … two\n$ cat <<EOF\n> x\n>\n> EOF\n```\n```sh\n$ no\n```\n"
    )
    assert steps(text) == [("a \\\n  -b", ["one … two"]), ("cat <<EOF\nx\n\nEOF", [])]
    assert shows("┃ one 3 │ two ┃", "one … two")
    assert not shows("one two three", "one … two")


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if steps(page.read_text(encoding="utf-8"))],
    ids=lambda page: f"{page.parent.name}-{page.stem}",
)
def test_what_a_page_types_works_and_shows_what_it_says(page: Path, tmp_path: Path) -> None:
    if STARTS_SERVERS.search(page.read_text(encoding="utf-8")) and not os.environ.get(ALL_PAGES):
        pytest.skip(f"it starts all servers: `just pages` ({ALL_PAGES}=1) types it")
    ports = {name: free_port() for name in PORTS}
    environment = {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("GRIDCAST_", "MLFLOW_", "PREFECT_", "BENTOML_"))
    }
    environment |= {f"GRIDCAST_{name}_PORT": str(port) for name, port in ports.items()}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    for folder in ("adapters", "examples", "infra", "jobs", "services"):  # of the reader's clone
        (tmp_path / folder).symlink_to(ROOT / folder)

    def run(command: str) -> subprocess.CompletedProcess[str]:
        output = tmp_path.with_suffix(".out")  # what stays in the background may keep it open
        with output.open("w") as lines:
            ended = subprocess.run(
                ["/bin/bash", "-c", command],
                cwd=tmp_path,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=lines,
                stderr=lines,
                timeout=600,
                check=False,
            )
        return subprocess.CompletedProcess(command, ended.returncode, output.read_text())

    def with_ports(text: str) -> str:
        for name, default in PORTS.items():
            text = text.replace(f"127.0.0.1:{default}", f"127.0.0.1:{ports[name]}")
        return text

    try:
        for command, lines in steps(page.read_text(encoding="utf-8")):
            done = run(with_ports(command))
            assert done.returncode == 0, f"{command}\n{done.stdout}"
            for line in lines:
                assert shows(done.stdout, with_ports(line)), f"{command}\n{line}\n{done.stdout}"
    finally:
        if (tmp_path / "gridcast-data" / "run").exists():
            run("gridcast down")
