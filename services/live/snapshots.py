"""The history on disk: a restart goes on from it, and learns only what the store learned since.

The store is the only truth. A file is ignored where it is torn, or of another model, another
version of Gridcast or another store, and where its history was built from the whole store more
than MAX_AGE ago, so that corrections of old records are learned. One that ended the process that
read it is set aside by the next process.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pandas as pd
from filelock import FileLock, Timeout

from infra.errors import GridcastError
from infra.mapped_arrays import StoredArray, map_arrays, write_arrays, write_description
from jobs.store import dropped_at, first_ended_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.forecaster import Forecaster

log = logging.getLogger("bentoml.gridcast")

PERIOD = 3600.0
"""Seconds between two files: what ended in them is learned again after a restart."""
RETRY_SECONDS = 300.0
"""Seconds after a file that could not be written."""
MAX_AGE = timedelta(days=7)
NAME = "history.arrays"
REFUSED = "history.refused"
"""The name of a file that was set aside."""


@dataclass(frozen=True)
class HistoryPosition:
    """How far a history reaches: all outcomes up to ``revision`` of the store and those of ``own``.

    ``built_at`` is when it was built from the whole store.
    """

    revision: int = 0
    own: frozenset[int] = frozenset()
    jobs: int = 0
    newest_ended_at: datetime | None = None
    built_at: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def newest_revision(self) -> int:
        """The newest revision in it."""
        return max((self.revision, *self.own))


class Snapshots:
    """The history file of one data folder."""

    def __init__(self, folder: Path) -> None:
        self._file, self._mark = folder / NAME, folder / "history.trial"
        self._draft = folder / "history.new"
        self._writing = FileLock(folder / "history.lock", mode=0o600, blocking=False)
        self._saved: HistoryPosition | None = None
        self._saved_at = self._tried_at = -inf

    def is_due(self, position: HistoryPosition) -> bool:
        """Whether a history that reaches so far should be saved now."""
        return (
            position.newest_revision > 0
            and position != self._saved
            and time.monotonic() > max(self._saved_at + PERIOD, self._tried_at + RETRY_SECONDS)
        )

    def save(
        self,
        about: dict[str, Any] | None,
        parts: Iterable[Mapping[str, StoredArray]],
        position: HistoryPosition,
        store: Callable[[], Engine],
    ) -> None:
        """Write the history; where the disk refuses it, say so in the log and try again later.

        Args:
            about: Whose history it is (``models.engine.snapshot``), None for nothing.
            parts: The arrays of each target.
            position: How far it reaches, or further: what is learned again changes nothing.
            store: Gives the store, whose first outcome of that revision identifies it.
        """
        self._tried_at = time.monotonic()
        if about is not None:
            try:
                self._write(about, parts, position, store)
            except Timeout:  # another process writes one
                return
            except OSError as error:
                log.warning("the history cannot be kept on disk; trying again later: %s", error)
                return
        self._saved, self._saved_at, self._tried_at = position, time.monotonic(), -inf

    def _write(
        self,
        about: dict[str, Any],
        parts: Iterable[Mapping[str, StoredArray]],
        position: HistoryPosition,
        store: Callable[[], Engine],
    ) -> None:
        first = first_ended_of(store(), position.newest_revision)
        newest = position.newest_ended_at
        point = {
            "revision": position.revision,
            "own": sorted(position.own),
            "jobs": position.jobs,
            "newest_ended_at": newest.isoformat() if newest else None,
            "built": position.built_at.isoformat(),
            "mark": list(first) if first else None,
        }
        with self._writing, ExitStack() as at_error:
            at_error.callback(self._draft.unlink, missing_ok=True)
            self._draft.touch(mode=0o600)
            with self._draft.open("wb") as out:
                entries = [entry for arrays in parts for entry in write_arrays(out, arrays)]
                write_description(out, entries, {"learned": about, "point": point})
                out.flush()
                os.fsync(out.fileno())
            self._draft.replace(self._file)
            at_error.pop_all()
        with suppress(OSError):
            self._file.with_suffix(".npz").unlink(missing_ok=True)  # of versions up to 0.2

    @contextmanager
    def trial(self) -> Iterator[None]:
        """The first use of the file in a process, after which it is trusted.

        Its arrays are indices of compiled code, which a wrong one may crash: only then the mark of
        the trial stays, and the next process sets the file aside.
        """
        with suppress(OSError):
            if self._mark.exists():
                self._file.replace(self._file.with_name(REFUSED))
                log.error("the history on disk ended the process that read it: it is set aside")
            elif self._file.exists():
                self._mark.touch()
        try:
            yield
        finally:
            with suppress(OSError):
                self._mark.unlink(missing_ok=True)

    def restore(self, forecaster: Forecaster, engine: Engine) -> HistoryPosition | None:
        """Put the file's history into ``forecaster``, which is new; None if it does not fit.

        Raises StoreError when the store cannot say whether the file is of its history.
        """
        from models.engine.snapshot import restore_snapshot

        try:
            about, arrays = map_arrays(self._file)
            summary = about["point"]
            newest = summary["newest_ended_at"]
            position = HistoryPosition(
                int(summary["revision"]),
                frozenset(summary["own"]),
                int(summary["jobs"]),
                pd.Timestamp(newest) if newest else None,
                datetime.fromisoformat(summary["built"]),
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError) as error:
            log.warning("the history on disk cannot be read, the store is read instead: %s", error)
            return None
        first = first_ended_of(engine, position.newest_revision)
        dropped = dropped_at(engine)
        is_outdated = datetime.now(UTC) > position.built_at + MAX_AGE or (
            dropped is not None and dropped >= position.built_at
        )
        if first is None or list(first) != summary["mark"] or is_outdated:
            return None
        try:
            restore_snapshot(forecaster, about["learned"], arrays)
        except GridcastError as error:
            log.info("the history is learned from the store: %s", error)
            return None
        self._saved, self._saved_at = position, time.monotonic()
        return position
