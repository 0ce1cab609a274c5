"""Names with terminal escapes are shown escaped, by every command that shows names."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

EVIL = "ev\x1b[2Jil\x9b31m\u202e"
CSV = """job_id,source,user,submitted_at,started_at,ended_at,status,walltime
1,{evil},{evil},2026-01-01T00:00:00Z,2026-01-01T01:00:00Z,2026-01-01T02:00:00Z,completed,3600
{evil},{evil},{evil},2026-01-01T00:00:00Z,soon,never,completed,-5
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("terminal")
    (folder / f"{EVIL}.csv").write_text(CSV.format(evil=EVIL))
    return folder


@pytest.mark.parametrize(
    "words",
    [
        ("ingest", f"{EVIL}.csv"),
        ("ingest", f"no {EVIL}"),
        ("jobs",),
        ("rejects",),
        ("drop-source", f"x{EVIL}"),
        ("advise", EVIL),
        ("export", "--source", f"x{EVIL}"),
    ],
    ids=lambda words: words[0],
)
def test_names_are_shown_without_their_control_characters(
    words: tuple[str, ...], home: Path
) -> None:
    command = [sys.executable, "-m", "gridcast", *words]
    root = str(Path(__file__).parents[2])
    environment = {**os.environ, "GRIDCAST_HOME": str(home / "data"), "PYTHONPATH": root}
    run = subprocess.run(command, cwd=home, env=environment, capture_output=True, check=False)
    printed = (run.stdout + run.stderr).decode()
    assert printed
    assert not set("\x1b\x9b\u202e") & set(printed), ascii(printed)
    assert "Traceback" not in printed
