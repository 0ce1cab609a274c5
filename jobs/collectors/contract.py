"""Input and output of a collector: a window of time in, files of raw accounting out."""

from __future__ import annotations

import shutil
import subprocess
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING

from infra.errors import GridcastError, InputError

if TYPE_CHECKING:
    import pandas as pd

PATIENCE = 600.0
"""Seconds that a system's own program may take for a window."""


class CollectError(GridcastError):
    """A system that is there did not answer: the same window is fetched again next time."""


class NoSystemError(InputError):
    """The system is not there, or not where the command says."""


@dataclass(frozen=True)
class Window:
    """What to fetch: records that changed from ``since`` to before ``until``.

    ``where`` names one of several systems in the system's own words, ``newest`` is that of the last
    window (empty in the first), ``folder`` is for files.
    """

    since: datetime
    until: datetime
    where: str
    folder: Path
    newest: str = ""


@dataclass(frozen=True)
class Fetched:
    """Files of raw accounting, notes on them, and the ``newest`` record for the next window."""

    files: tuple[Path, ...]
    newest: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collector:
    """One system: how its windows, at most ``step`` long, are fetched, and in which ``format``.

    A ``format`` of None is found from each file. Each window reaches ``overlap`` into the last, for
    what the system itself learns late. ``read_predictions`` gives the predictions that an adapter
    wrote on jobs, for the prediction log; its arguments are the window and the source's name.
    """

    name: str
    fetch: Callable[[Window], Fetched]
    format: str | None
    overlap: timedelta
    step: timedelta | None = None
    needs: str = ""
    display: Callable[[str], str] = field(default=str)
    read_predictions: Callable[[Window, str | None], pd.DataFrame] | None = None


def program(name: str, package: str) -> str:
    """The path of a system's own program; raises NoSystemError where it is not on this machine."""
    path = shutil.which(name)
    if not path:
        raise NoSystemError(
            f"{name} is not on this machine's PATH:"
            f" run the collector where {package}'s own commands work"
        )
    return path


def run(command: list[str], output: Path, environment: Mapping[str, str]) -> None:
    """Run a system's own program into ``output``; raises CollectError with its first complaint.

    Args:
        command: The program and its arguments.
        output: The file of its output.
        environment: Its environment.
    """
    with output.open("wb") as file:
        try:
            done = subprocess.run(  # noqa: S603
                command,
                stdout=file,
                stderr=subprocess.PIPE,
                env=dict(environment),
                timeout=PATIENCE,
                check=False,
                stdin=subprocess.DEVNULL,
            )
        except subprocess.TimeoutExpired:
            raise CollectError(
                f"{Path(command[0]).name} gave no answer within {PATIENCE:.0f} s:"
                " the window is fetched again"
            ) from None
    if done.returncode:
        complaints = done.stderr.decode("utf-8", "replace").strip().splitlines()
        reason = complaints[0][:300] if complaints else f"exit code {done.returncode}"
        raise CollectError(f"{Path(command[0]).name} failed: {reason}")


def changed_files(
    where: str, since: datetime, settled_until: datetime | None = None
) -> Iterator[Path]:
    """The files of a folder, by name, that arrived or changed since a moment; no hidden ones.

    A file that was moved here keeps the time of its last change; the time of its inode says when it
    arrived. Raises NoSystemError where there is no such folder.

    Args:
        where: the folder.
        since: the moment.
        settled_until: files changed after this are left out.
    """
    folder = Path(where)
    if not where or not folder.is_dir():
        raise NoSystemError(
            f"there is no folder {where}" if where else "name the folder after the system's name"
        )
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            status = path.stat()
            arrived = max(status.st_mtime, status.st_ctime)
            if arrived >= since.timestamp() and (
                settled_until is None or status.st_mtime <= settled_until.timestamp()
            ):
                yield path
