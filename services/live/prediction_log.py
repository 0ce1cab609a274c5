"""The prediction log: every answer goes into the store, for joining with what then happened; never on a caller's time.

Answers wait in memory, bounded in jobs; what does not fit is dropped and counted. They are written between requests, as far as
there is a between, and while the store is down they wait.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from jobs.store import StoreError, add_predictions
from services.live.idle import IdleDetector

if TYPE_CHECKING:
    from sqlalchemy import Engine

    from models.engine.predictions import Answers

MAX_WAITING_JOBS = 200_000
"""Jobs whose answers may wait: about 100 MB."""
AT_ONCE = 100
"""Jobs written at a time: some milliseconds, which a request that comes meanwhile may feel."""
PAUSE = 2.0
"""Seconds between attempts while the store cannot be written."""


@dataclass(frozen=True)
class Answer:
    """What one request was answered: the jobs by their source and job_id, what was foreseen for them, when, and knowing what.

    ``shadow`` answers were the challenger's, which no caller saw.
    """

    jobs: pa.Table
    foreseen: Answers
    asked_at: datetime
    known_revision: int
    shadow: bool = False

    def __len__(self) -> int:
        return len(self.foreseen)


class PredictionLog:
    """A bounded queue of answers and the thread that writes them."""

    def __init__(
        self, engine: Callable[[], Engine], count: Callable[[str, int], None], idle: IdleDetector
    ) -> None:
        self._engine = engine
        self._count = count
        self._idle = idle
        self._answers: deque[Answer] = deque()
        self._change = threading.Condition()
        self._stopping = False
        self.waiting = 0
        self._thread = threading.Thread(target=self._run, name="prediction-log", daemon=True)

    def start(self) -> None:
        """Begin to write."""
        self._thread.start()

    def stop(self, patience: float = 5.0) -> None:
        """Write what waits, for ``patience`` s at most, then end; what is left is dropped and counted."""
        with self._change:
            self._stopping = True
            self._change.notify()
        self._thread.join(patience)
        if self.waiting:
            self._count("dropped", self.waiting)

    def add(self, answer: Answer) -> None:
        """Take an answer to record; returns at once, whatever the store does."""
        jobs = len(answer)
        with self._change:
            if self.waiting + jobs > MAX_WAITING_JOBS:
                self._count("dropped", jobs)
                return
            self.waiting += jobs
            self._answers.append(answer)
            self._change.notify()

    def _run(self) -> None:
        while True:
            with self._change:
                self._change.wait_for(lambda: self._answers or self._stopping)
                if not self._answers:
                    return
                answer = self._answers[0]
            while not self._write(answer):
                with self._change:
                    if self._change.wait_for(lambda: self._stopping, PAUSE):
                        return
            with self._change:
                self._answers.popleft()
                self.waiting -= len(answer)
            self._count("recorded", len(answer))

    def _write(self, answer: Answer) -> bool:
        try:
            for start in range(0, len(answer), AT_ONCE):
                self._idle.wait()
                columns = as_columns(answer, slice(start, start + AT_ONCE))
                with self._engine().begin() as connection:
                    add_predictions(connection, columns)
        except StoreError:
            return False
        return True


def as_columns(answer: Answer, part: slice) -> dict[str, list[Any]]:
    """The log's columns of some of an answer's jobs: a row a job and target, with the 90 % range; plain values, quickly made."""
    foreseen = answer.foreseen
    which = foreseen.which[part].tolist()
    jobs = answer.jobs.slice(part.start, len(which))
    targets = [
        name.removesuffix("_median") for name in foreseen.numbers if name.endswith("_median")
    ]
    shared = {
        "source": jobs.column("source").to_pylist(),
        "job_id": jobs.column("job_id").to_pylist(),
        "asked_at": [round(answer.asked_at.timestamp() * 1e6)] * len(which),
        "model_version": [foreseen.model_version] * len(which),
        "cluster": _each(foreseen.cluster, which),
        "cold_start": _each(foreseen.cold_start, which),
        "known_revision": [answer.known_revision] * len(which),
        "shadow": [answer.shadow] * len(which),
    }
    columns = {name: values * len(targets) for name, values in shared.items()}
    columns["target"] = [target for target in targets for _ in which]
    for name, end in {"point": "", "median": "_median", "low": "_low", "high": "_high"}.items():
        columns[name] = [
            value for target in targets for value in _each(foreseen.numbers[target + end], which)
        ]
    return columns


def _each(values: np.ndarray[Any, Any], which: list[int]) -> list[Any]:
    """The value of each job's kind, None for NaN."""
    kinds = [None if value != value else value for value in values.tolist()]
    return [kinds[kind] for kind in which]
