"""PanDA over STOMP: a real ActiveMQ, and the predictor that tests of the service share."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from queue import Empty
from typing import Any

import pytest

from adapters import gridcast_panda_stomp
from adapters.gridcast_panda_stomp import StompSettings, TaskPredictions
from services.client import Gridcast
from tests.adapters.activemq import PASSWORD, USER, Broker, missing
from tests.ports import free_port
from tests.services.conftest import ROOT, Predictor, wait_for

QUEUES = ("tasks", "predictions", "unreadable")
TASK = {
    "msg_type": "task_status",
    "status": "defined",
    "userName": "ann",
    "vo": "atlas",
    "transPath": "http://x/Sim_tf.py",
    "processingType": "simul",
    "prodSourceLabel": "managed",
    "coreCount": 2,
}


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Broker]:
    if why := missing():
        pytest.skip(why)
    broker = Broker(tmp_path_factory.mktemp("activemq"))
    broker.configure()
    broker.start()
    yield broker
    broker.kill()


@pytest.fixture
def settings(broker: Broker, request: pytest.FixtureRequest) -> StompSettings:
    """Queues of this test's own."""
    queues = {name: f"/queue/{request.node.name}.{name}" for name in QUEUES}
    return StompSettings((("127.0.0.1", broker.port),), USER, PASSWORD, **queues)


@contextmanager
def answering(settings: StompSettings, url: str) -> Iterator[TaskPredictions]:
    """The adapter in a thread."""
    with Gridcast(url, timeout=60) as predictor:
        predictions = TaskPredictions(settings, predictor)
        thread = threading.Thread(target=predictions.run)
        thread.start()
        try:
            yield predictions
        finally:
            predictions.stop.set()
            thread.join(240)
            assert not thread.is_alive()


def send(broker: Broker, settings: StompSettings, *bodies: dict[str, Any] | bytes) -> None:
    texts = (
        body if isinstance(body, bytes) else json.dumps(TASK | body).encode() for body in bodies
    )
    broker.send(settings.tasks, *texts)


def read(broker: Broker, destination: str, count: int = 1) -> list[Any]:
    """The next frames of a queue, and no more than ``count``."""
    with broker.messages(destination) as frames:
        taken = [frames.get(timeout=240) for _ in range(count)]
        with pytest.raises(Empty):
            frames.get(timeout=0.3)
    return taken


def waiting(broker: Broker, destination: str) -> int:
    """How many messages a queue holds."""
    count = 0
    with broker.messages(destination) as frames, pytest.raises(Empty):
        while frames.get(timeout=1):
            count += 1
    return count


def test_a_definition_is_answered_in_the_form_of_the_brokerages_hook(
    broker: Broker, settings: StompSettings, predictor: Predictor
) -> None:
    with answering(settings, predictor.url):
        send(broker, settings, {"taskid": 33000009, "timestamp": time.time()})
        (frame,) = read(broker, settings.predictions)
    answer = json.loads(frame.body)
    assert (answer["taskid"], answer["status"], answer["PRODSOURCELABEL"]) == (
        33000009,
        "success",
        "managed",
    )
    assert {answer["RAMCOUNT"], answer["WALLTIME"]} <= {f"bin{number}" for number in range(1, 6)}
    assert "CPUTIME" not in answer  # the model does not predict it
    with Gridcast(predictor.url, timeout=60) as client:
        needs = client.task(
            {
                "source": "panda",
                "user": "ann",
                "group": "atlas",
                "program": "Sim_tf.py",
                "job_name": "simul",
                "requested_cores": 2,
            },
            1,
        )
    for name in ("ramCount", "ramUnit", "walltime", "walltimeUnit", "coreCount"):
        assert answer[name] == needs["scout_prediction"][name]
    assert answer["WALLTIME"] == f"bin{needs['per_job']['walltime_class']:.0f}"
    assert answer["model_version"] == needs["model_version"]


def test_what_cannot_be_read_goes_to_its_own_queue_with_the_reason_and_the_next_is_answered(
    broker: Broker, settings: StompSettings, predictor: Predictor
) -> None:
    bad = [
        b"\xff\xfe no json",
        b"[" * 100_000,
        b"[1]",
        b'{"userName": "ann"}',
        json.dumps(TASK | {"taskid": 1, "coreCount": "many"}).encode(),
        json.dumps(TASK | {"taskid": 2, "transPath": {"a": 1}}).encode(),
    ]
    with answering(settings, predictor.url):
        send(broker, settings, *bad, {"taskid": 8})
        dead = read(broker, settings.unreadable, len(bad))
        (frame,) = read(broker, settings.predictions)
    assert [one.body for one in dead] == bad
    reasons = [one.headers["gridcast-reason"] for one in dead]
    assert all(reasons) and reasons[2:4] == ["no JSON object", "no taskid"]
    assert dead[0].headers["original-destination"] == settings.tasks
    assert json.loads(frame.body)["taskid"] == 8


def test_a_broker_that_is_killed_and_starts_again_loses_no_definition(
    broker: Broker, settings: StompSettings, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gridcast_panda_stomp, "FIRST_PAUSE", 0.1)
    send(broker, settings, {"taskid": 1})
    broker.kill()
    with answering(settings, predictor.url) as predictions:
        broker.start()
        wait_for(lambda: predictions.sent == 1, "the definition from before")
        broker.kill()
        broker.start()
        send(broker, settings, {"taskid": 2})
        frames = read(broker, settings.predictions, 2)
    assert [json.loads(frame.body)["taskid"] for frame in frames] == [1, 2]


def test_a_definition_that_is_delivered_again_is_answered_once(
    broker: Broker, settings: StompSettings, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The connection is lost after the answer and before the acknowledgement."""
    monkeypatch.setattr(gridcast_panda_stomp, "FIRST_PAUSE", 0.1)
    acknowledge = gridcast_panda_stomp.stomp.Connection12.ack
    losses = []

    def lose_the_first(connection: Any, *arguments: Any) -> None:
        if not losses:
            losses.append(arguments)
            connection.transport.disconnect_socket()
        acknowledge(connection, *arguments)

    monkeypatch.setattr(gridcast_panda_stomp.stomp.Connection12, "ack", lose_the_first)
    with answering(settings, predictor.url) as predictions:
        send(broker, settings, {"taskid": 3})
        wait_for(lambda: predictions.duplicates == 1, "the same definition again")
        send(broker, settings, {"taskid": 3})  # PanDA sends it twice
        wait_for(lambda: predictions.duplicates == 2, "the second message")
        assert len(read(broker, settings.predictions)) == 1
    assert waiting(broker, settings.tasks) == 0


def test_nothing_is_acknowledged_before_it_was_answered(
    broker: Broker, settings: StompSettings, predictor: Predictor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(gridcast_panda_stomp, "FIRST_PAUSE", 0.1)
    attempts: list[int] = []
    task = Gridcast.task

    def count(client: Gridcast, *arguments: Any, **options: Any) -> Any:
        attempts.append(1)
        return task(client, *arguments, **options)

    monkeypatch.setattr(Gridcast, "task", count)
    send(broker, settings, {"taskid": 4})
    with answering(settings, f"http://127.0.0.1:{free_port()}") as away:
        wait_for(lambda: len(attempts) > 2, "attempts at a predictor that is away")
    assert (away.sent, away.unreadable) == (0, 0)
    with answering(settings, predictor.url):
        assert json.loads(read(broker, settings.predictions)[0].body)["taskid"] == 4


def test_other_states_of_tasks_are_acknowledged_without_an_answer(
    broker: Broker, settings: StompSettings, predictor: Predictor
) -> None:
    with answering(settings, predictor.url) as predictions:
        send(broker, settings, {"taskid": 9, "status": "done"}, {"taskid": 10})
        assert json.loads(read(broker, settings.predictions)[0].body)["taskid"] == 10
    assert (predictions.sent, predictions.unreadable) == (1, 0)
    assert waiting(broker, settings.tasks) == 0


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"timestamp": 1.0}, "s old"),
        (dict.fromkeys(("userName", "transPath", "processingType")), "neither userName"),
    ],
)
def test_a_definition_that_is_old_or_says_nothing_gets_an_answer_without_a_prediction(
    broker: Broker,
    settings: StompSettings,
    predictor: Predictor,
    changes: dict[str, Any],
    reason: str,
) -> None:
    with answering(settings, predictor.url):
        send(broker, settings, changes | {"taskid": 5})
        answer = json.loads(read(broker, settings.predictions)[0].body)
    assert answer["status"] == "failure" and reason in answer["ERROR"] and "RAMCOUNT" not in answer


def test_as_a_process_it_takes_its_login_and_token_from_the_environment_and_ends_when_told(
    broker: Broker, settings: StompSettings, predictor: Predictor, tmp_path: Path
) -> None:
    """By TLS, with a certificate that it verifies."""
    (tmp_path / "token").write_text("any\n")
    variables = os.environ | {
        "PYTHONPATH": str(ROOT),
        "GRIDCAST_STOMP_BROKERS": f"127.0.0.1:{broker.tls_port}",
        "GRIDCAST_STOMP_TLS": "yes",
        "GRIDCAST_STOMP_CA_FILE": str(broker.certificate),
        "GRIDCAST_STOMP_USER": USER,
        "GRIDCAST_STOMP_PASSWORD": PASSWORD,
        "GRIDCAST_PREDICTOR_URL": predictor.url,
        "GRIDCAST_TOKEN_FILE": str(tmp_path / "token"),
        **{f"GRIDCAST_STOMP_{name.upper()}": getattr(settings, name) for name in QUEUES},
    }
    program = [sys.executable, str(ROOT / "adapters" / "gridcast_panda_stomp.py")]
    process = subprocess.Popen(program, env=variables, stderr=subprocess.PIPE, text=True)
    try:
        send(broker, settings, {"taskid": 6})
        assert json.loads(read(broker, settings.predictions)[0].body)["taskid"] == 6
    finally:
        process.send_signal(signal.SIGTERM)
        _, log = process.communicate(timeout=240)
    assert process.returncode == 0 and PASSWORD not in log


@pytest.mark.parametrize("wrong", ["password", "certificate"])
def test_with_a_wrong_login_or_certificate_nothing_is_sent_and_it_tries_again(
    broker: Broker,
    settings: StompSettings,
    predictor: Predictor,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    wrong: str,
) -> None:
    monkeypatch.setattr(gridcast_panda_stomp, "FIRST_PAUSE", 0.1)
    changes: dict[str, Any] = (
        {"password": "wrong"}
        if wrong == "password"
        else {"brokers": (("127.0.0.1", broker.tls_port),), "is_encrypted": True}
    )
    send(broker, settings, {"taskid": 7})
    bad = StompSettings(**{**vars(settings), **changes})
    with answering(bad, predictor.url) as predictions:
        log: Callable[[], int] = lambda: caplog.text.count("no broker")  # noqa: E731
        wait_for(lambda: log() > 1, "a second attempt")
    assert predictions.sent == 0 and "wrong" not in caplog.text.replace("WRONG", "")


def test_off_this_machine_the_password_goes_by_tls_unless_the_site_says_no() -> None:
    far = {"GRIDCAST_STOMP_BROKERS": "mq1.example.org:61613, mq2.example.org:61613"}
    settings = StompSettings.of_environment(far)
    assert settings.is_encrypted and settings.brokers[1] == ("mq2.example.org", 61613)
    assert not StompSettings.of_environment(far | {"GRIDCAST_STOMP_TLS": "no"}).is_encrypted
    assert not StompSettings.of_environment({}).is_encrypted
    with pytest.raises(ValueError):
        StompSettings.of_environment({"GRIDCAST_STOMP_BROKERS": "mq1"})
