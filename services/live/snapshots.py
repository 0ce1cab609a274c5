"""The history on disk: a restart goes on from it, and learns only what the store learned since.

The store is the only truth. A file is ignored where it is torn, or of another model, another
version of Gridcast or another store, and where its history was built from the whole store more
than MAX_AGE ago, so that corrections of old records are learned. One that ended the process that
read it is set aside by the next process.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import inf
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.errors import GridcastError
from jobs.store import dropped_at, first_ended_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.forecaster import Forecaster

log = logging.getLogger("bentoml.gridcast")

PERIOD = 3600.0
"""Seconds between two files: what ended in them is learned again after a restart. A file holds a
kilobyte a job and target."""
RETRY_SECONDS = 300.0
"""Seconds after a file that could not be written."""
MAX_AGE = timedelta(days=7)
NAME = "history.npz"
REFUSED = "history.refused.npz"
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
        self._saved: HistoryPosition | None = None
        self._saved_at = self._tried_at = -inf
        self._lock = threading.Lock()

    def is_due(self, position: HistoryPosition) -> bool:
        """Whether a history that reaches so far should be saved now."""
        return (
            position.newest_revision > 0
            and position != self._saved
            and time.monotonic() > max(self._saved_at + PERIOD, self._tried_at + RETRY_SECONDS)
        )

    def save(
        self, arrays: dict[str, Any] | None, position: HistoryPosition, engine: Engine
    ) -> None:
        """Write the history; where the disk refuses it, say so in the log and try again later.

        Args:
            arrays: What the forecaster learned (``models.engine.snapshot``), None for nothing.
            position: How far it reaches.
            engine: The store, whose first outcome of that revision identifies it.
        """
        self._tried_at = time.monotonic()
        if arrays is not None:
            first = first_ended_of(engine, position.newest_revision)
            newest = position.newest_ended_at
            summary = {
                "revision": position.revision,
                "own": sorted(position.own),
                "jobs": position.jobs,
                "newest_ended_at": newest.isoformat() if newest else None,
                "built": position.built_at.isoformat(),
                "mark": list(first) if first else None,
            }
            try:
                self._write(arrays, summary)
            except OSError as error:
                log.warning("the history cannot be kept on disk; trying again later: %s", error)
                return
        self._saved, self._saved_at, self._tried_at = position, time.monotonic(), -inf

    def _write(self, arrays: dict[str, Any], summary: dict[str, Any]) -> None:
        draft = self._file.with_suffix(f".{os.getpid()}.new")
        text = np.frombuffer(json.dumps(summary).encode(), np.uint8)
        try:
            with self._lock, draft.open("wb") as out:
                np.savez(out, point=text, **arrays)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self._file)
        except OSError:
            with suppress(OSError):
                draft.unlink()
            raise

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
            with self._file.open("rb") as file, np.load(file, allow_pickle=False) as content:
                arrays = dict(content)
            summary = json.loads(arrays.pop("point").tobytes())
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
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
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
            restore_snapshot(forecaster, arrays)
        except GridcastError as error:
            log.info("the history is learned from the store: %s", error)
            return None
        self._saved, self._saved_at = position, time.monotonic()
        return position
