"""The PanDA adapter: it maps a job as the reader does, and no failure of Gridcast reaches PanDA.

JEDI itself needs PanDA's database: a base class with the methods and attributes of its
TaskRefinerBase (panda-jedi 0.6.4) replaces it.
"""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import pandas as pd
import pytest

from adapters import gridcast_panda
from adapters.gridcast_panda_stomp import answer_of, read_definition
from jobs.ingest import read_log
from jobs.readers.panda_mapping import NAMES
from jobs.readers.rows import Row
from services.client import Gridcast
from services.http.bodies import read_json
from services.http.requests import read_outcomes
from services.request_policy import RequestPolicy
from tests.ports import free_port

GIB = 1 << 30
JOB: Row = {
    "PandaID": 7,
    "jediTaskID": 3,
    "prodUserName": "ann",
    "workingGroup": None,
    "VO": "atlas",
    "prodSourceLabel": "managed",
    "transformation": "http://pandaserver/trf/Sim_tf.py",
    "processingType": "simul",
    "computingSite": "CERN",
    "coreCount": 8,
    "maxWalltime": 86400,
    "minRamCount": 2000,
    "creationTime": "2026-03-01 10:00:00",
    "startTime": "2026-03-01 11:00:00",
    "endTime": "2026-03-01 13:00:00",
    "jobStatus": "finished",
    "cpuConsumptionTime": 50000,
    "maxPSS": 4_000_000,
}


@pytest.mark.parametrize(
    "changed",
    [
        {},
        {"workingGroup": "AP_Higgs", "coreCount": None, "minRamCount": None},
        {"jobStatus": "failed", "maxPSS": 0},
        {"minRamUnit": "MB"},
        {"minRamUnit": "MBPerCore", "actualCoreCount": 4},
        {"jobStatus": "failed", "pilotErrorCode": 1235, "maxPSS": None, "maxRSS": 5_000_000},
        {"jobStatus": "failed", "pilotErrorCode": 1213},
        {"jobStatus": "closed", "startTime": None, "endTime": "2026-03-01 10:30:00"},
        {"maxWalltime": 2**31 - 1, "minRamCount": 2**31 - 1},
        {
            "campaign": "mc23",
            "modificationHost": "slot1@node7",
            "hs06": 12.5,
            "nInputDataFiles": 4,
            "inputFileBytes": 10**9,
            "outputFileBytes": 10**8,
            "totRBYTES": 2 * 10**9,
            "totWBYTES": 3 * 10**8,
            "jobParameters": "--maxEvents=1000 --skipEvents=0",
            "reqID": 4242,
        },
    ],
)
def test_a_job_is_reported_as_the_reader_would_read_it(changed: Row, tmp_path: Path) -> None:
    told = JOB | changed
    (tmp_path / "jobs.json").write_text(json.dumps([told]))
    read, _ = read_log(tmp_path / "jobs.json", "panda")
    row = gridcast_panda.outcome(SimpleNamespace(**told))
    reported = read_outcomes(read_json(json.dumps({"jobs": [row]}).encode())).jobs
    pd.testing.assert_frame_equal(reported, read)


def test_every_field_that_the_reader_uses_reaches_the_report() -> None:
    values = dict.fromkeys(NAMES, 1) | {"creationTime": "a", "startTime": "b", "endTime": "c"}
    used: set[str] = set()

    class Job:
        def __getattr__(self, name: str) -> object:
            used.add(name)
            return values[name]

    row = gridcast_panda.outcome(Job())
    assert used == set(NAMES)
    assert set(row) >= {"host_power", "input_bytes", "input_files"}


class Refiner:
    """JEDI's TaskRefinerBase as far as the adapter sees it."""

    def __init__(self) -> None:
        self.taskSpec, self.tmpLog, self.said = SimpleNamespace(), self, list[str]()

    def info(self, sentence: str) -> None:
        self.said.append(sentence)

    def extractCommon(
        self, jediTaskID: int, taskParamMap: dict[str, Any], workQueueMapper: Any, splitRule: Any
    ) -> str:
        taskParamMap.setdefault("ramCount", 2000)
        self.taskSpec.ramCount = taskParamMap["ramCount"]
        return "refined"


class Predictor:
    """Answers as POST /task does."""

    asked: list[dict[str, Any]]

    def __init__(self, *_: Any, **__: Any) -> None:
        type(self).asked = []

    def __enter__(self) -> Predictor:
        return self

    def __exit__(self, *_: object) -> None: ...

    def task(self, fields: dict[str, Any], jobs: int) -> dict[str, Any]:
        self.asked.append(fields)
        message = {
            "msg_type": "scout_prediction",
            "ramCount": 1234,
            "ramUnit": "MBPerCore",
            "walltime": 7200,
            "walltimeUnit": "s",
        }
        return {
            "scout_prediction": message,
            "per_job": {"cold_start": False},
            "model_version": "gridcast/7",
        }


TASK = {
    "userName": "ann",
    "vo": "atlas",
    "transPath": "http://x/Sim_tf.py",
    "processingType": "simul",
    "coreCount": 8,
}


def test_a_refined_task_says_what_was_foreseen_and_keeps_what_its_user_asked_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gridcast_panda, "Gridcast", Predictor)
    refiner = gridcast_panda.with_prediction(Refiner)()
    assert refiner.extractCommon(1, dict(TASK), None, None) == "refined"
    assert refiner.said[0].startswith("gridcast: {") and refiner.taskSpec.ramCount == 2000
    assert Predictor.asked[0]["program"] == "Sim_tf.py"
    monkeypatch.setattr(gridcast_panda, "SET_WHAT_IS_MISSING", True)
    refiner.extractCommon(1, dict(TASK), None, None)
    assert (refiner.taskSpec.ramCount, refiner.taskSpec.walltime) == (1234, 7200)
    refiner.extractCommon(1, TASK | {"ramCount": 4000, "walltime": 60}, None, None)
    assert refiner.taskSpec.ramCount == 4000
    monkeypatch.setattr(gridcast_panda, "OPT_OUT_USERS", frozenset({"ann"}))
    refiner.said.clear()
    refiner.extractCommon(1, dict(TASK), None, None)
    assert refiner.said == []


def needs_of(**changes: Any) -> dict[str, Any]:
    """An answer of POST /task: jobs of 8 cores that need 8 GiB, sometimes 12, seldom 14."""
    numbers = {
        "cold_start": False,
        "peak_memory_allocation": 8.0 * GIB,
        "peak_memory_allocation_2": 12.0 * GIB,
        "peak_memory_allocation_3": 14.0 * GIB,
        "walltime_kill_limit": 6000.0,
    }
    return {
        "per_job": numbers | changes,
        "scout_prediction": {"coreCount": 8},
        "model_version": "gridcast-7",
    }


def test_a_tasks_memory_is_written_with_the_ladder_in_the_words_of_jedis_retries(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gridcast_panda, "Gridcast", Predictor)
    monkeypatch.setattr(Predictor, "task", lambda *_: needs_of())
    monkeypatch.setattr(gridcast_panda, "POLICY", RequestPolicy("act", programs=("Sim_tf.py",)))

    def refine(**changes: Any) -> Any:
        refiner = gridcast_panda.with_prediction(Refiner)()
        refiner.taskSpec.splitRuleToken = {"retryRamOffset": "RX", "retryRamStep": "RY"}
        refiner.rules = {}
        refiner.setSplitRule = lambda _, value, token: refiner.rules.update({token: value})
        refiner.extractCommon(1, TASK | {"ramCount": 2000} | changes, None, None)
        return refiner

    refiner = refine()
    assert (refiner.taskSpec.ramCount, refiner.taskSpec.ramUnit) == (1024, "MBPerCore")
    assert refiner.rules == {"RX": 1536, "RY": 256}
    assert not hasattr(refiner.taskSpec, "walltime")
    assert refiner.said[1] == (
        "gridcast: requests memory 8192, 12288, 14336, 16000 MiB by gridcast-7"
    )
    monkeypatch.setattr(gridcast_panda, "SET_WHAT_IS_MISSING", True)
    assert refine().taskSpec.ramCount == 1024
    for unchanged in ({"gridcast": "off"}, {"transPath": "x/Reco_tf.py"}, {"ramCount": 1000}):
        refiner = refine(**unchanged)
        assert refiner.taskSpec.ramCount == unchanged.get("ramCount", 2000) and not refiner.rules


@pytest.mark.parametrize(
    ("policy", "changes", "reason"),
    [
        (RequestPolicy(), {}, ""),
        (RequestPolicy("suggest", users=("ann",)), {}, "would request memory 8192, 12288, "),
        (
            RequestPolicy("act", users=("ann",)),
            {"cold_start": True},
            "requests unchanged: new user",
        ),
        (RequestPolicy("act", users=("ann",)), {}, "requests memory 8192, 12288, 14336, 16000 MiB"),
    ],
)
def test_a_message_over_stomp_says_what_the_policy_would_request(
    monkeypatch: pytest.MonkeyPatch, policy: RequestPolicy, changes: dict[str, Any], reason: str
) -> None:
    monkeypatch.setattr(gridcast_panda, "POLICY", policy)
    body = json.dumps(TASK | {"taskid": 7, "ramCount": 2000}).encode()
    answer = answer_of(read_definition(body), needs_of(**changes))
    request = answer.get("request", {})
    assert request.get("reason", "").startswith(reason) and bool(request) is bool(reason)
    assert ("ramCount" in request) is ("memory" in reason)
    if "memory" in reason:
        assert request["retryRamMax"] == 2000


def test_without_gridcast_a_task_is_refined_and_the_log_says_why_nothing_was_foreseen(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gridcast_panda, "URL", f"http://127.0.0.1:{free_port()}")
    refiner = gridcast_panda.with_prediction(Refiner)()
    assert refiner.extractCommon(1, dict(TASK), None, None) == "refined"
    assert refiner.said[0].startswith("gridcast: no prediction: the predictor cannot be reached")


def test_outcomes_that_nobody_takes_hold_nobody_up_and_are_counted(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(gridcast_panda, "URL", f"http://127.0.0.1:{free_port()}")
    monkeypatch.setattr(gridcast_panda, "WAITING", 10)
    monkeypatch.setattr(gridcast_panda, "PATIENCE", 0.0)
    outcomes = gridcast_panda.Outcomes()
    for number in range(1000):
        outcomes.add({"job_id": str(number)})
    assert outcomes.waiting.qsize() <= 10 and outcomes.dropped > 0
    until(lambda: outcomes.dropped == 1000)


class Answers(BaseHTTPRequestHandler):
    """Answers reports by the next of some statuses and bodies, then takes them all."""

    script: ClassVar[list[tuple[int, bytes]]] = []
    taken: ClassVar[list[str]] = []
    poison: ClassVar[str] = ""

    def do_POST(self) -> None:
        jobs = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["jobs"]
        names = [job["job_id"] for job in jobs]
        status, body = self.script.pop(0) if self.script else (200, b'{"added": 1}')
        if status == 200 and self.poison in names:
            status, body = 422, b'{"error": "no such job can be"}'
        elif status == 200 and body.startswith(b"{"):
            self.taken.extend(names)
        self.send_response(status)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Say nothing."""


@pytest.fixture
def predictor(monkeypatch: pytest.MonkeyPatch) -> Iterator[type[Answers]]:
    server = ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(gridcast_panda, "URL", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(gridcast_panda, "Gridcast", partial(Gridcast, timeout=60.0))
    monkeypatch.setattr(gridcast_panda, "PATIENCE", 0.0)
    monkeypatch.setattr(gridcast_panda, "LONGEST_PAUSE", 0.01)
    Answers.script, Answers.taken, Answers.poison = [], [], ""
    yield Answers
    server.shutdown()
    server.server_close()


def until(holds: Callable[[], bool]) -> None:
    """Wait until something holds."""
    deadline = time.monotonic() + 240
    while not holds():
        assert time.monotonic() < deadline
        time.sleep(0.01)


@pytest.mark.parametrize(
    "answer",
    [(200, b"<html>a proxy's page</html>"), (200, b"[]"), (401, b"{}"), (500, b"x"), (302, b"")],
)
def test_the_reporting_thread_survives_every_answer(
    predictor: type[Answers], answer: tuple[int, bytes]
) -> None:
    predictor.script = [answer]
    outcomes = gridcast_panda.Outcomes()
    outcomes.add({"job_id": "lost"})
    until(lambda: outcomes.dropped + outcomes.refused == 1)
    outcomes.add({"job_id": "next"})
    until(lambda: predictor.taken == ["next"])


def test_the_reporting_thread_survives_a_client_that_fails(
    predictor: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(gridcast_panda, "Gridcast", lambda *_: 1 / 0)
        outcomes = gridcast_panda.Outcomes()
        outcomes.add({"job_id": "lost"})
        until(lambda: outcomes.failures == 1 and outcomes.dropped == 1)
    outcomes.add({"job_id": "next"})
    until(lambda: predictor.taken == ["next"])


def test_a_refused_job_is_set_aside_and_its_neighbours_are_reported(
    predictor: type[Answers], monkeypatch: pytest.MonkeyPatch
) -> None:
    predictor.poison = "3"
    outcomes = gridcast_panda.Outcomes()
    with gridcast_panda.Gridcast(gridcast_panda.URL) as client:
        outcomes._send(client, [{"job_id": str(number)} for number in range(8)])
    assert sorted(predictor.taken) == ["0", "1", "2", "4", "5", "6", "7"]
    assert outcomes.refused == 1
