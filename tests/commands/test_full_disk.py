"""A disk that fills up during a command costs one sentence, and nothing that was there before."""

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.ports import free_port
from tests.trees import WITH_FEW_TREES

ROOT = Path(__file__).parents[2]
KIB = 1024


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A small disk of its own."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=80m", "tmpfs", str(folder)]
    try:
        subprocess.run(mount, check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        pytest.skip(f"no disk can be mounted here: {error}")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_full_disk_is_one_sentence_and_the_command_works_once_there_is_space(disk: Path) -> None:
    environment = {
        **os.environ,
        "GRIDCAST_HOME": str(disk / "home"),
        "GRIDCAST_DASK": "off",
        "GRIDCAST_PREDICTOR_PORT": str(free_port()),
        "PYTHONPATH": str(ROOT),
    }
    fill = disk / "fill"

    def run(*words: str) -> tuple[int, str]:
        command = [sys.executable, "-c", WITH_FEW_TREES, *words]
        ended = subprocess.run(
            command, cwd=disk, env=environment, capture_output=True, text=True, check=False
        )
        return ended.returncode, ended.stderr

    def leave(room: int) -> None:
        fill.unlink(missing_ok=True)
        space = os.statvfs(disk)
        fill.write_bytes(b" " * (space.f_bavail * space.f_frsize - room))

    assert run("generate", "log.csv", "--jobs", "1500", "--days", "10")[0] == 0
    assert run("ingest", "log.csv")[0] == 0
    for room, commands in {
        100 * KIB: ("train", "monitor", "backup copy.tar"),  # a server has room enough to start
        0: ("train", "monitor", "backup copy.tar", "serve"),
    }.items():
        for command in commands:
            leave(room)
            code, output = run(*command.split())
            assert code in (1, 2), (command, output)
            assert "Traceback" not in output, (command, output)
            sentences = [line for line in output.splitlines() if line.startswith("gridcast: ")]
            assert len(sentences) == 1, (command, output)
            reason = ("space", "No space left")
            assert any(words in sentences[0] for words in reason), (command, sentences)
    assert not list(disk.glob("copy.tar*"))
    fill.unlink()
    # MLflow would not go on with half of the tables of its database.
    assert run("history", "--json") == (0, "")
