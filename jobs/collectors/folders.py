"""Collectors of folders: PBS's accounting, which grows while it is read, and any dumps."""

from __future__ import annotations

import shutil
from datetime import timedelta
from pathlib import Path

from jobs.collectors.contract import Collector, Fetched, Window, changed_files
from jobs.readers.lines import GZIP_MAGIC

SETTLED = timedelta(seconds=60)
"""A dump that changed later than this before the window's end may still be in writing."""


def fetch_pbs(window: Window) -> Fetched:
    """Copy the accounting files (one a day) of the folder ``where`` written to in the window.

    Each is copied up to its last whole line. Raises NoSystemError where there is no such folder.
    """
    return Fetched(
        tuple(
            _whole_lines(path, window.folder / path.name)
            for path in changed_files(window.where, window.since)
        )
    )


def _whole_lines(path: Path, copy: Path) -> Path:
    """Copy a file and cut the line that is still being written; a packed file is whole."""
    shutil.copyfile(path, copy)
    with copy.open("rb+") as file:
        if file.read(len(GZIP_MAGIC)) == GZIP_MAGIC:
            return copy
        size = file.seek(0, 2)
        # A record is one line, of at most some kilobytes.
        start = max(0, size - 2**20)
        file.seek(start)
        end = file.read().rfind(b"\n")
        if end >= 0:
            file.truncate(start + end + 1)
    return copy


def fetch_folder(window: Window) -> Fetched:
    """The files of the folder ``where`` that came or changed in the window and are not in writing.

    Raises NoSystemError where there is no such folder.
    """
    return Fetched(tuple(changed_files(window.where, window.since, window.until - SETTLED)))


PBS = Collector("pbs", fetch_pbs, "pbs", overlap=timedelta(hours=1), needs="the accounting folder")
FOLDER = Collector("folder", fetch_folder, None, overlap=timedelta(hours=1), needs="a folder")
"""The collectors to put in the list."""
