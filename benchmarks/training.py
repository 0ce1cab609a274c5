"""Training and evaluation, whole commands, beside those of an earlier commit.

    uv run python benchmarks/training.py [--against COMMIT] [--rounds 3] [--only train|evaluate]

``train``: ``gridcast train`` on a store with LCG-2005, its models of groups included; ``library``:
the training alone, without store, comparison and registry; ``evaluate``: ``gridcast evaluate`` of
KTH-SP2. Each is a process of its own on a copy of one data folder; codes are run in turn, after a
round that compiles and is not counted. CPU seconds are those of the process and its children, user
and system; on a machine with other work they and not wall times may be compared.
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

from logs import LOGS, TRACES, show

HERE = Path(__file__).parents[1]
LIBRARY = """
from pathlib import Path
from jobs.ingest import read_log
from models.engine.training import train
jobs, _ = read_log(Path({log!r}))
train(jobs, cluster_by="group")
"""


def main() -> None:
    """Measure, print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--against", metavar="COMMIT", help="measure this commit, too")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--only", choices=("train", "library", "evaluate"))
    options = parser.parse_args()
    run = [sys.executable, "-c", "import gridcast; gridcast.main()"]
    library = [sys.executable, "-c", LIBRARY.format(log=str(TRACES / LOGS["LCG"]))]
    commands = {
        "train": [*run, "train", "--cluster-by", "group"],
        "library": library,
        "evaluate": [*run, "evaluate", str(TRACES / LOGS["KTH"])],
    }
    if options.only:
        commands = {options.only: commands[options.only]}
    with tempfile.TemporaryDirectory(prefix="gridcast-training-") as folder:
        codes = {"now": HERE}
        if options.against:
            codes = {options.against: check_out(options.against, Path(folder)), **codes}
        store = Path(folder) / "store"
        call([*run, "ingest", str(TRACES / LOGS["LCG"])], HERE, store)
        seconds: dict[tuple[str, str], list[tuple[float, float]]] = defaultdict(list)
        for number in range(options.rounds + 1):
            for name, command in commands.items():
                for code, root in codes.items():
                    home = Path(folder) / "home"
                    shutil.copytree(store, home)
                    measured = call(command, root, home)
                    shutil.rmtree(home)
                    if number:
                        seconds[name, code].append(measured)
    show("Training and evaluation", [row(*key, values) for key, values in seconds.items()])


def check_out(commit: str, folder: Path) -> Path:
    """Unpack the files of a commit; returns where."""
    archive = subprocess.run(["git", "archive", commit], cwd=HERE, check=True, capture_output=True)
    root = folder / commit
    with tarfile.open(fileobj=io.BytesIO(archive.stdout)) as files:
        files.extractall(root, filter="data")
    return root


def call(command: list[str], root: Path, home: Path) -> tuple[float, float]:
    """Run a command by the code of ``root``; returns its wall and CPU seconds."""
    cache = home.parent / f"compiled-{root.name}"
    environment = os.environ | {
        "PYTHONPATH": str(root),
        "GRIDCAST_HOME": str(home),
        "NUMBA_CACHE_DIR": str(cache),
    }
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    subprocess.run(
        command, cwd=root, env=environment, check=True, stdout=subprocess.DEVNULL, stderr=sys.stderr
    )
    after, wall = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter() - began
    return wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def row(name: str, code: str, seconds: list[tuple[float, float]]) -> dict[str, Any]:
    """A row of the table: medians of the wall and CPU seconds of a command."""
    wall, cpu = (statistics.median(column) for column in zip(*seconds, strict=True))
    return {
        "work": name,
        "code": code,
        "wall, s": f"{wall:.1f}",
        "CPU, s": f"{cpu:.1f}",
        "load": f"{os.getloadavg()[0]:.0f}",
    }


if __name__ == "__main__":
    main()
