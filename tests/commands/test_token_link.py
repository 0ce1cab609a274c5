"""The link that logs a browser in is printed on a terminal alone: others may read a log file."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.ports import free_port

ROOT = Path(__file__).parents[2]
PAGE = "The page of tasks: "


def first_start(home: Path, stderr: int, read_line: Callable[[], str]) -> tuple[str, str]:
    """What the first start of the page says of its address, and the token that it made.

    Args:
        home: The data folder.
        stderr: Where the command writes.
        read_line: Returns the next line that it wrote; empty where it ended.
    """
    environment = {
        **{name: value for name, value in os.environ.items() if not name.startswith("GRIDCAST_")},
        "GRIDCAST_HOME": str(home),
        "GRIDCAST_DASHBOARD_PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
    }
    command = [sys.executable, "-m", "gridcast", "dashboard"]
    server = subprocess.Popen(command, cwd=home, env=environment, stderr=stderr)
    os.close(stderr)
    try:
        written = ""
        while PAGE not in written:
            line = read_line()
            assert line, f"it ended: {written}"
            written += line
        return written, (home / "token").read_text().strip()
    finally:
        server.terminate()
        server.wait()


@pytest.mark.parametrize("is_terminal", [False, True], ids=["log", "terminal"])
def test_the_first_start_prints_a_link_on_a_terminal_only(
    is_terminal: bool, tmp_path: Path
) -> None:
    reader, writer = pty.openpty() if is_terminal else os.pipe()
    with os.fdopen(reader, encoding="utf-8") as lines:
        written, token = first_start(tmp_path, writer, lines.readline)
    assert f"A new one is in {tmp_path / 'token'}" in written
    assert token not in written, "the link is good once, the token for ever"
    if is_terminal:
        assert re.search(r"/\?login=\d+\.[0-9a-f]{32}\.[0-9a-f]{64}\s", written), written
    else:
        assert f"(a token is asked for, that of {tmp_path / 'token'})" in written
