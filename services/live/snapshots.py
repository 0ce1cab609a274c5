"""The history kept on disk: a restart goes on from it, and learns only what the store learned since.

The store stays the only truth: a file that is torn, of another model, of another version of Gridcast or of another store is not used,
and neither is one whose history was built from the whole store more than OLDEST ago, so that corrections of old records are learned.
"""

from __future__ import annotations

import json
import logging
import os
import threading
import time
import zipfile
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from infra.errors import GridcastError
from jobs.store import first_ended_of

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.forecaster import Forecaster

log = logging.getLogger("bentoml.gridcast")

EVERY = 3600.0
"""Seconds between one file and the next: what ended in them is learned again after a restart. A file holds a kilobyte a job and target."""
OLDEST = timedelta(days=7)
NAME = "history.npz"


@dataclass(frozen=True)
class Point:
    """How far a history goes: all up to ``revision`` of the store and the later ones of ``own``; when it was built from the whole store."""

    revision: int = 0
    own: frozenset[int] = frozenset()
    jobs: int = 0
    newest_ended_at: datetime | None = None
    built: datetime = field(default_factory=lambda: datetime.now(UTC))

    @property
    def reached(self) -> int:
        """The newest revision in it."""
        return max((self.revision, *self.own))


class Snapshots:
    """The file of one data folder, written when it is due."""

    def __init__(self, folder: Path) -> None:
        self._file = folder / NAME
        self._kept: tuple[Point | None, float] = (None, 0.0)
        self._turn = threading.Lock()

    def due(self, point: Point) -> bool:
        """Whether a history that goes so far should be kept now."""
        before, when = self._kept
        return point.reached > 0 and (
            before is None or (before != point and time.monotonic() > when + EVERY)
        )

    def keep(self, arrays: dict[str, Any] | None, point: Point, engine: Engine) -> None:
        """Write what a forecaster learned (see models/engine/snapshot.py); where that fails it goes to the log and is tried again later."""
        self._kept = (point, time.monotonic())
        if arrays is None:
            return
        mark = first_ended_of(engine, point.reached)
        about = {
            "revision": point.revision,
            "own": sorted(point.own),
            "jobs": point.jobs,
            "newest_ended_at": point.newest_ended_at.isoformat() if point.newest_ended_at else None,
            "built": point.built.isoformat(),
            "mark": list(mark) if mark else None,
        }
        draft = self._file.with_suffix(f".{os.getpid()}.new")
        try:
            with self._turn, draft.open("wb") as out:
                np.savez(out, point=np.frombuffer(json.dumps(about).encode(), np.uint8), **arrays)
                out.flush()
                os.fsync(out.fileno())
            draft.replace(self._file)
        except OSError as error:
            log.warning(
                "the history cannot be kept, so a restart would learn it from the store: %s", error
            )
            with suppress(OSError):
                draft.unlink()

    def recall(self, forecaster: Forecaster, engine: Engine) -> Point | None:
        """Let ``forecaster``, new and of the model that answers, go on from the file; how far that goes, None where it is not to be used.

        Raises StoreError when the store cannot be asked whether the file is of its history.
        """
        from models.engine.snapshot import put_back

        try:
            with self._file.open("rb") as file, np.load(file, allow_pickle=False) as found:
                arrays = dict(found)
            about = json.loads(arrays.pop("point").tobytes())
            newest = about["newest_ended_at"]
            built = datetime.fromisoformat(about["built"])
            newest_ended_at = pd.Timestamp(newest) if newest else None
            point = Point(
                int(about["revision"]),
                frozenset(about["own"]),
                int(about["jobs"]),
                newest_ended_at,
                built,
            )
        except FileNotFoundError:
            return None
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            log.warning(
                "the kept history cannot be read, so it is learned from the store: %s", error
            )
            return None
        mark = first_ended_of(engine, point.reached)
        if mark is None or list(mark) != about["mark"] or datetime.now(UTC) > built + OLDEST:
            return None
        try:
            put_back(forecaster, arrays)
        except GridcastError as error:
            log.info("the history is learned from the store: %s", error)
            return None
        self._kept = (point, time.monotonic())
        return point
