"""The prediction log: every answer is stored, to be joined with the outcome; no caller waits.

Answers wait in memory, bounded in jobs; what does not fit is dropped and counted. They are
written between requests. While the store is away they wait; a row that the store can never take
is set aside with its reason, so that it does not hold up the others.
"""

from __future__ import annotations

import logging
import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from itertools import compress
from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd
import pyarrow as pa

from infra.background import FOREVER, BackgroundThread, is_data_error
from jobs.owners import Owners
from jobs.store import add_predictions, read_owners
from services.live.idle import IdleDetector

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine

    from models.engine.predictions import Predictions

log = logging.getLogger("bentoml.gridcast")

MAX_WAITING_JOBS = 200_000
"""Jobs whose answers may wait: about 100 MB."""
BATCH_ROWS = 100
"""Jobs written at a time: some milliseconds, which a simultaneous request may feel."""
FIRST_PAUSE, LONGEST_PAUSE = 2.0, 15.0
"""Seconds between attempts while the store cannot be written."""


@dataclass(frozen=True)
class LoggedAnswer:
    """The answer to one request.

    ``jobs`` has source and job_id, ``known_revision`` is the newest revision of the store that
    the predictions may know. No caller sees ``shadow`` answers: a challenger's, or the champion's
    about jobs that the canary answered. Of a caller who is bound to ``owners``, predictions of
    stored jobs of others are not recorded.
    """

    jobs: pa.Table
    predictions: Predictions
    asked_at: datetime
    known_revision: int
    shadow: bool = False
    owners: Owners | None = None

    def __len__(self) -> int:
        return len(self.predictions)


class PredictionLog:
    """A bounded queue of answers and the thread that writes them.

    Args:
        store: Gives the engine of the store; raises StoreError.
        count: Called with a result (recorded, dropped, set_aside) and a number of jobs.
        idle: Tells when no request is being answered.
        on_failure: Called with the thread's name after a failed attempt.
    """

    def __init__(
        self,
        store: Callable[[], Engine],
        count: Callable[[str, int], None],
        idle: IdleDetector,
        on_failure: Callable[[str], None] = lambda name: None,
    ) -> None:
        self.thread = BackgroundThread(
            "prediction log", self._write_next, on_failure, FIRST_PAUSE, LONGEST_PAUSE
        )
        self.waiting = self.set_aside = 0
        self.last_reason = ""
        self._store, self._count, self._idle = store, count, idle
        self._answers: deque[LoggedAnswer] = deque()
        self._changed = threading.Condition()

    def stop(self, patience: float = 5.0) -> None:
        """Write what waits, for ``patience`` s at most, then end; drop and count the rest."""
        with self._changed:
            self._changed.wait_for(lambda: not self._answers, patience)
        self.thread.stop(patience)
        if self.waiting:
            self._count("dropped", self.waiting)

    def add(self, answer: LoggedAnswer) -> None:
        """Take an answer to record; returns at once, whatever the store does."""
        jobs = len(answer)
        with self._changed:
            if self.waiting + jobs > MAX_WAITING_JOBS:
                self._count("dropped", jobs)
                return
            self.waiting += jobs
            self._answers.append(answer)
        self.thread.wake()

    def _write_next(self) -> float:
        with self._changed:
            if not self._answers:
                return FOREVER
            answer = self._answers[0]
        try:
            recorded = self._write(answer)
        except Exception:
            with self._changed:
                self._answers.rotate(-1)  # none holds up the others
            raise
        with self._changed:
            self._answers.popleft()
            self.waiting -= len(answer)
            self._changed.notify_all()
        self._count("recorded", recorded)
        return 0.0

    def _write(self, answer: LoggedAnswer) -> int:
        """Write an answer and return how many of its jobs were taken."""
        recorded = 0
        for start in range(0, len(answer), BATCH_ROWS):
            self._idle.wait()
            stop = min(start + BATCH_ROWS, len(answer))
            try:
                self._write_rows(answer, slice(start, stop))
                recorded += stop - start
            except Exception as error:
                if not is_data_error(error):
                    raise
                recorded += sum(self._write_row(answer, row) for row in range(start, stop))
        return recorded

    def _write_row(self, answer: LoggedAnswer, row: int) -> bool:
        try:
            self._write_rows(answer, slice(row, row + 1))
        except Exception as error:
            if not is_data_error(error):
                raise
            self.set_aside += 1
            names = answer.jobs.slice(row, 1).to_pylist()[0]
            source, job_id = (str(names[name])[:100] for name in ("source", "job_id"))
            self.last_reason = f"job {job_id} of {source}: {str(error)[:300]}"
            self._count("set_aside", 1)
            log.warning("a prediction cannot be recorded and is set aside: %s", self.last_reason)
            return False
        return True

    def _write_rows(self, answer: LoggedAnswer, rows: slice) -> None:
        columns = as_columns(answer, rows)
        with self._store().begin() as connection:
            if answer.owners is not None:
                columns = _without_others(connection, columns, answer.owners)
            add_predictions(connection, columns)


def _without_others(
    connection: Connection, columns: dict[str, list[Any]], owners: Owners
) -> dict[str, list[Any]]:
    """The rows of columns that are not of stored jobs of others."""
    identities = pd.DataFrame({name: columns[name] for name in ("source", "job_id")})
    stored = read_owners(connection, identities.drop_duplicates())
    foreign = stored[~owners.own(stored)]
    hidden = pd.MultiIndex.from_frame(identities).isin(
        pd.MultiIndex.from_frame(foreign[["source", "job_id"]])
    )
    return {name: list(compress(values, ~hidden)) for name, values in columns.items()}


def as_columns(answer: LoggedAnswer, rows: slice) -> dict[str, list[Any]]:
    """Give the log's columns of some jobs of an answer, a row a job and target, as plain values."""
    predictions = answer.predictions
    contexts = predictions.context_of_row[rows].tolist()
    jobs = answer.jobs.slice(rows.start, len(contexts))
    numbers = predictions.numbers
    targets = [name.removesuffix("_median") for name in numbers if name.endswith("_median")]
    shared = {
        "source": jobs.column("source").to_pylist(),
        "job_id": jobs.column("job_id").to_pylist(),
        "asked_at": [round(answer.asked_at.timestamp() * 1e6)] * len(contexts),
        "model_version": [predictions.model_version] * len(contexts),
        "cluster": _per_job(predictions.cluster, contexts),
        "cold_start": _per_job(predictions.cold_start, contexts),
        "known_revision": [answer.known_revision] * len(contexts),
        "shadow": [answer.shadow] * len(contexts),
    }
    columns = {name: values * len(targets) for name, values in shared.items()}
    columns["target"] = [target for target in targets for _ in contexts]
    for name, suffix in {"point": "", "median": "_median", "low": "_low", "high": "_high"}.items():
        columns[name] = [
            value for target in targets for value in _per_job(numbers[target + suffix], contexts)
        ]
    return columns


def _per_job(values: np.ndarray[Any, Any], contexts: list[int]) -> list[Any]:
    """The value of each job's unique context, None for NaN."""
    plain = [None if value != value else value for value in values.tolist()]
    return [plain[context] for context in contexts]
