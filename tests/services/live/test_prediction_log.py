"""The prediction log waits for a read-only store and sets aside rows that none takes."""

from collections import Counter
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from jobs.store import open_store, read_predictions
from models.engine.predictions import Predictions
from services.live.idle import IdleDetector
from services.live.prediction_log import LoggedAnswer, PredictionLog
from services.live.shadow import Shadow


def answer(*job_ids: str) -> LoggedAnswer:
    """An answer about these jobs, of one unique context."""
    names = ("walltime", "walltime_median", "walltime_low", "walltime_high")
    numbers = {name: np.array([60.0]) for name in names}
    context = np.zeros(len(job_ids), dtype=np.int64)
    cluster = np.array(["global"], dtype=object)
    predictions = Predictions(numbers, cluster, np.array([False]), context, "gridcast-1")
    jobs = pa.table({"source": ["test"] * len(job_ids), "job_id": list(job_ids)})
    return LoggedAnswer(jobs, predictions, datetime.now(UTC), 1)


def log_of(url: str) -> tuple[PredictionLog, Counter[str], Any]:
    """A log that is written step by step, what it counts, and its store."""
    engine, counts = open_store(url), Counter[str]()
    idle = IdleDetector()
    idle.end()
    return (
        PredictionLog(lambda: engine, lambda name, n: counts.update({name: n}), idle),
        counts,
        engine,
    )


def read_only(postgres: Any, engine: Any, state: str) -> None:
    """Make a database read-only for every connection, as a failover does, or writable again."""
    name = engine.url.database
    postgres.psql(f"ALTER DATABASE {name} SET default_transaction_read_only = {state};")
    engine.dispose()


def test_a_read_only_postgres_is_waited_for(postgres: Any, postgres_url: str) -> None:
    log, counts, engine = log_of(postgres_url)
    read_only(postgres, engine, "on")
    log.add(answer("1", "2"))
    assert log.thread.run_step() > 0 and log.thread.run_step() > 0
    assert log.waiting == 2 and not counts
    assert "read-only" in log.thread.status.trouble
    read_only(postgres, engine, "off")
    assert log.thread.run_step() == 0.0
    assert log.waiting == 0 and counts == {"recorded": 2}
    assert log.thread.status.trouble == ""
    assert read_predictions(engine)["job_id"].tolist() == ["1", "2"]
    engine.dispose()


def test_a_row_that_no_store_takes_is_set_aside_with_its_reason_and_holds_up_nothing(
    postgres_url: str,
) -> None:
    log, counts, engine = log_of(postgres_url)
    log.add(answer("1", "a\0b", "3"))
    log.add(answer("4"))
    for _ in range(4):
        log.thread.run_step()
    assert log.waiting == 0
    assert counts == {"recorded": 3, "set_aside": 1}
    assert log.set_aside == 1 and "job a\0b of test" in log.last_reason and "NUL" in log.last_reason
    assert sorted(read_predictions(engine)["job_id"]) == ["1", "3", "4"]
    engine.dispose()


def test_an_answer_that_cannot_be_written_now_does_not_hold_up_the_next(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    log, counts, engine = log_of(sqlite_url)
    stuck = answer("1")
    log.add(stuck)
    log.add(answer("2"))
    write = log._write

    def away(each: LoggedAnswer) -> int:
        if each is stuck:
            raise OSError("the store is away for this one only")
        return write(each)

    monkeypatch.setattr(log, "_write", away)
    log.thread.run_step()
    log.thread.run_step()
    assert log.waiting == 1 and counts == {"recorded": 1}
    assert read_predictions(engine)["job_id"].tolist() == ["2"]
    engine.dispose()


def test_a_challenger_that_could_not_be_loaded_is_tried_again(
    sqlite_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    from models.engine.forecaster import Forecaster
    from models.releases.versions import Version
    from services.live import shadow as module
    from services.live.active_model import ActiveModel

    engine, tries = open_store(sqlite_url), list[str]()
    version = Version("gridcast", 2, "run", "", (), datetime.now(UTC), "", {})

    def load(wanted: Version) -> ActiveModel:
        tries.append(wanted.label)
        if len(tries) == 1:
            raise OSError("the disk failed once")
        return ActiveModel(Forecaster(None), wanted.label)

    shadow = Shadow(load, lambda: engine, lambda _: None, lambda *_: None, IdleDetector())
    shadow.follow(version)
    assert shadow.thread.run_step() > 0
    assert "the disk failed once" in shadow.thread.status.trouble
    assert shadow.step() > 0, "not at once"
    monkeypatch.setattr(module.time, "monotonic", lambda: shadow._retry_at + 1)
    assert shadow.step() == 0.0
    assert len(tries) == 2 and shadow.challenger is not None
    engine.dispose()
