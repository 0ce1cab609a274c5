"""A data folder as a user makes it: a generated log, ingested and trained by the commands."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.trees import WITH_FEW_TREES

ROOT = Path(__file__).parents[2]


def run(*command: str, folder: Path, **environment: str) -> str:
    """Run a Python command in ``folder``; returns its standard output, asserting that it ended well."""
    done = subprocess.run(
        [sys.executable, *command],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT), **environment},
        capture_output=True,
        text=True,
        timeout=600,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="session")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A log of 3,000 generated jobs."""
    folder = tmp_path_factory.mktemp("log")
    run("-m", "gridcast", "generate", "grid.csv", "--jobs=3000", "--days=8", folder=folder)
    return folder / "grid.csv"


@pytest.fixture(scope="session")
def trained_home(log: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A data folder whose store holds the log's jobs, with a champion trained on them."""
    home = tmp_path_factory.mktemp("trained-home")
    for command in (["-m", "gridcast", "ingest", str(log)], ["-c", WITH_FEW_TREES, "train"]):
        run(*command, folder=log.parent, GRIDCAST_HOME=str(home))
    return home
