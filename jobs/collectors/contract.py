"""What a collector takes and gives: a window in, files of raw accounting out."""

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
"""Seconds for a system's own program to tell a window."""


class CollectError(GridcastError):
    """A system that is there did not tell what was asked: the same window is asked for again next time."""


class NoSystemError(InputError):
    """The system asked for is not there, or cannot be found as it was said."""


@dataclass(frozen=True)
class Window:
    """What is asked for: what changed from ``since`` to before ``until``, of ``where`` (the system's own word for which one).

    ``newest`` is what the last window said of itself, empty in the first; ``folder`` takes what must be written.
    """

    since: datetime
    until: datetime
    where: str
    folder: Path
    newest: str = ""


@dataclass(frozen=True)
class Fetched:
    """Files of raw accounting, what is to be known of them, and the ``newest`` to ask after next time."""

    files: tuple[Path, ...]
    newest: str = ""
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Collector:
    """One system: how its windows are fetched, in which ``format`` (None: seen from each file), ``step`` long at most.

    ``overlap`` is how far each window reaches back behind the last: for what the system itself learns late. ``read_predictions`` finds the
    predictions that an adapter wrote on jobs, for the prediction log, with the name given to the source if there is one.
    """

    name: str
    fetch: Callable[[Window], Fetched]
    format: str | None
    overlap: timedelta
    step: timedelta | None = None
    needs: str = ""
    shown: Callable[[str], str] = field(default=str)
    read_predictions: Callable[[Window, str | None], pd.DataFrame] | None = None


def program(name: str, package: str) -> str:
    """The path of a system's own program; raises NoSystemError where it is not on this machine."""
    found = shutil.which(name)
    if not found:
        raise NoSystemError(
            f"{name} is not on this machine's PATH: run the collector where {package}'s own commands work"
        )
    return found


def run(command: list[str], output: Path, environment: Mapping[str, str]) -> None:
    """Let a system's own program write into ``output``; raises CollectError with the first that it complains of."""
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
                f"{Path(command[0]).name} said nothing for {PATIENCE:.0f} s: the window is asked for again"
            ) from None
    if done.returncode:
        said = done.stderr.decode("utf-8", "replace").strip().splitlines()
        raise CollectError(
            f"{Path(command[0]).name} failed: {said[0][:300] if said else f'exit code {done.returncode}'}"
        )


def changed_files(
    where: str, since: datetime, settled_until: datetime | None = None
) -> Iterator[Path]:
    """The files of a folder, by name, that came or were written to since a moment and not after ``settled_until``; no hidden ones.

    A file that was moved here keeps the time of its writing; that of its inode tells when it came.
    Raises NoSystemError where there is no such folder.
    """
    folder = Path(where)
    if not where or not folder.is_dir():
        raise NoSystemError(
            f"there is no folder {where}"
            if where
            else "say which folder: its path stands after the system's name"
        )
    for path in sorted(folder.iterdir()):
        if path.is_file() and not path.name.startswith("."):
            found = path.stat()
            came = max(found.st_mtime, found.st_ctime)
            if came >= since.timestamp() and (
                settled_until is None or found.st_mtime <= settled_until.timestamp()
            ):
                yield path
