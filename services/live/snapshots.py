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
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

import pandas as pd
from filelock import FileLock, Timeout

from infra.errors import GridcastError
from infra.mapped_arrays import map_arrays, write_arrays, write_description
from jobs.store import dropped_at, first_ended_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.forecaster import Forecaster
    from models.engine.snapshot import Learned

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


@dataclass(frozen=True)
class Draft:
    """A file that is not complete: its arrays are written, its description is not."""

    out: BinaryIO
    entries: list[dict[str, Any]]
    about: dict[str, Any]
    position: HistoryPosition


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

    def write(self, learned: Learned | None, position: HistoryPosition) -> Draft | None:
        """Write a history under a temporary name, None for nothing; ``publish`` completes it.

        Nothing may be learned meanwhile: the arrays are not copied, which would take as much memory
        again. Where the disk refuses it, this says so in the log, and it is tried again later.
        """
        self._tried_at = time.monotonic()
        if learned is None:
            self._saved, self._saved_at, self._tried_at = position, time.monotonic(), -inf
            return None
        with suppress(Timeout), self._discarding_at_error():
            self._writing.acquire()  # not while another process writes one
            with ExitStack() as at_error:
                out = at_error.enter_context(self._draft.open("wb"))
                entries = write_arrays(out, learned.arrays)
                at_error.pop_all()
            return Draft(out, entries, learned.about, position)
        return None

    def publish(self, draft: Draft, store: Callable[[], Engine]) -> None:
        """Complete a file and let it take the place of the one before.

        Args:
            draft: As from ``write``.
            store: Gives the store, whose first outcome of that revision identifies it.
        """
        position = draft.position
        with self._discarding_at_error(), draft.out:
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
            about = {"learned": draft.about, "point": point}
            write_description(draft.out, draft.entries, about)
            draft.out.flush()
            os.fsync(draft.out.fileno())
            self._draft.replace(self._file)
            self._writing.release()
            with suppress(OSError):
                self._file.with_suffix(".npz").unlink(missing_ok=True)  # of versions up to 0.2
            self._saved, self._saved_at, self._tried_at = position, time.monotonic(), -inf

    @contextmanager
    def _discarding_at_error(self) -> Iterator[None]:
        """Remove the draft at an error; one of the disk is only logged."""
        try:
            yield
        except Timeout:
            raise
        except BaseException as error:
            with suppress(OSError):
                self._draft.unlink()
            self._writing.release()
            if not isinstance(error, OSError):
                raise
            log.warning("the history cannot be kept on disk; trying again later: %s", error)

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
