"""The link that logs a browser in is printed on a terminal alone: others may read a log file."""

import os
import pty
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.requests import Request
from typer.testing import CliRunner

from gridcast import app
from infra.settings import use_home
from services.http.logins import Logins
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


def test_a_login_link_has_no_more_rights_than_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    use_home(tmp_path).make_token()
    monkeypatch.setenv("GRIDCAST_HOME", str(tmp_path))
    refused = CliRunner().invoke(app, ["login", "--scope", "predict"])
    assert "only admin tokens have the scope predict" in str(refused.exception)
    monkeypatch.setenv("GRIDCAST_TOKENS", "reader-0123456789:predict")
    settings = use_home(tmp_path)
    out = CliRunner().invoke(app, ["login", "--scope", "predict"]).stdout
    name, link = out.strip().split(": ")
    assert name == "page" and "reader" not in link
    logins = Logins(settings, settings.dashboard_port)
    path, query = "/", link.partition("?")[2].encode()
    head = {"headers": [(b"host", b"localhost")], "query_string": query}
    request = Request({"type": "http", "method": "GET", "path": path} | head)
    answer = logins.login(request)
    cookie = answer.headers["set-cookie"].partition(";")[0].partition("=")[2]
    caller = logins.caller({logins.cookie: cookie})
    assert caller is not None and caller.scopes == {"predict"}
    everything = CliRunner().invoke(app, ["login"]).stdout
    assert [line.partition(":")[0] for line in everything.splitlines()] == [
        "page",
        "MLflow",
        "Prefect",
    ]
