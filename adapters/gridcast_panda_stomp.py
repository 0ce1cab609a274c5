"""PanDA over STOMP: definitions of new tasks in, predictions of their needs out.

A process of its own beside PanDA's message broker: ``python gridcast_panda_stomp.py``. It needs
stomp.py 9 or later, httpx, and gridcast_panda.py with the files that that one needs. Its settings
are the environment variables of ``StompSettings``.

A definition is a JSON object with ``taskid`` (or jediTaskID) and the task's parameters, by the
names of JEDI's task parameters or of the columns of JEDI_TASKS, in upper or lower case: userName,
workingGroup, vo, processingType, prodSourceLabel, transPath, coreCount, ramCount, walltime.

The answer has the classes RAMCOUNT, CPUTIME and WALLTIME (bin1 is the lowest) and IOINTENSITY (low
or high) as far as the model predicts them, and the numbers of ``scout_prediction``; ``request`` has
what gridcast_panda.POLICY would have the task request, where its mode is suggest or act.

A definition is acknowledged only after the broker has confirmed its answer. One that the broker
delivers again is acknowledged without a second answer; after a restart of this process in between
there may be one, with the same ``correlation-id``. What cannot be read goes to a queue of its own,
with the reason.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import queue
import signal
import threading
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from ipaddress import ip_address
from typing import Any

import stomp
from stomp.exception import StompException

try:
    from gridcast_client import Gridcast, RefusedError, UnavailableError
    from gridcast_panda import plan_task, task_fields, task_requests
except ImportError:  # in Gridcast's own checkout
    from adapters.gridcast_panda import plan_task, task_fields, task_requests
    from services.client import Gridcast, RefusedError, UnavailableError

STALE_AFTER = 600.0
"""Age (s) by its ``timestamp`` from which a definition gets no prediction: its scouts have run."""
FIRST_PAUSE, LONGEST_PAUSE = 0.5, 60.0
"""Seconds between attempts at the broker or the predictor; they double after each failure."""
CONFIRMATION = 30.0
"""The most seconds to wait for the broker to confirm a connection or an answer."""
LAST_WORDS = 5.0
"""The most seconds to wait for the broker's answer at the end of a connection."""
HEARTBEAT = 10_000
"""Milliseconds between signs of life of either side."""
REMEMBERED = 100_000
"""So many of the latest definitions are recognised when they come again."""
LONGEST_REASON = 500
CLASSES = {
    "RAMCOUNT": ("memory_per_core", "peak_memory"),
    "CPUTIME": ("cpu_per_event", "cpu_per_core", "cpu_time"),
    "IOINTENSITY": ("io_per_core", "io"),
    "WALLTIME": ("walltime",),
}
"""For each class of the message the targets that it is taken from, the first that is predicted."""
OF_ENVIRONMENT = ("user", "password", "ca_file", "vhost", "tasks", "predictions", "unreadable")
"""Attributes of ``StompSettings`` that are variables GRIDCAST_STOMP_… as they are."""
IO_CLASSES = {1: "low", 2: "high"}

log = logging.getLogger("gridcast")


@dataclass(frozen=True)
class StompSettings:
    """Where messages come from and go to.

    Attributes:
        brokers: GRIDCAST_STOMP_BROKERS, ``host:port`` with commas between them.
        user: GRIDCAST_STOMP_USER.
        password: GRIDCAST_STOMP_PASSWORD.
        ca_file: GRIDCAST_STOMP_CA_FILE: whose certificates are trusted; default the system's.
        is_encrypted: GRIDCAST_STOMP_TLS, yes or no; default yes for brokers off this machine.
        vhost: GRIDCAST_STOMP_VHOST.
        tasks: GRIDCAST_STOMP_TASKS, the queue of definitions.
        predictions: GRIDCAST_STOMP_PREDICTIONS, the queue of answers.
        unreadable: GRIDCAST_STOMP_UNREADABLE, the queue of what cannot be read.
        predictor: GRIDCAST_PREDICTOR_URL.
        token_file: GRIDCAST_TOKEN_FILE, a token with the scope predict.
    """

    brokers: tuple[tuple[str, int], ...] = (("127.0.0.1", 61613),)
    user: str | None = None
    password: str | None = None
    ca_file: str | None = None
    is_encrypted: bool = False
    vhost: str | None = None
    tasks: str = "/queue/gridcast.tasks"
    predictions: str = "/queue/gridcast.predictions"
    unreadable: str = "/queue/gridcast.unreadable"
    predictor: str = "http://127.0.0.1:3000"
    token_file: str | None = None

    @staticmethod
    def of_environment(variables: Mapping[str, str]) -> StompSettings:
        """Read the settings; raises ValueError for a broker that is not ``host:port``."""
        values: dict[str, Any] = {
            name: variables[f"GRIDCAST_STOMP_{name.upper()}"]
            for name in OF_ENVIRONMENT
            if f"GRIDCAST_STOMP_{name.upper()}" in variables
        }
        for name, variable in (
            ("predictor", "GRIDCAST_PREDICTOR_URL"),
            ("token_file", "GRIDCAST_TOKEN_FILE"),
        ):
            if variable in variables:
                values[name] = variables[variable]
        if "GRIDCAST_STOMP_BROKERS" in variables:
            texts = variables["GRIDCAST_STOMP_BROKERS"].split(",")
            addresses = [text.strip().rpartition(":") for text in texts]
            values["brokers"] = tuple((host, int(port)) for host, _, port in addresses)
        brokers = values.get("brokers", StompSettings.brokers)
        is_near = all(_is_loopback(host) for host, _ in brokers)
        tls = variables.get("GRIDCAST_STOMP_TLS", "no" if is_near else "yes")
        return StompSettings(is_encrypted=tls.lower() in ("yes", "true", "1"), **values)


def _is_loopback(host: str) -> bool:
    with suppress(ValueError):
        return ip_address(host).is_loopback
    return host == "localhost"


class UnreadableError(Exception):
    """A message that is no definition of a task; the text is the reason."""


@dataclass(frozen=True)
class Definition:
    """A task: its identifier, its parameters by lower-case name, and when it was sent (s)."""

    task: int
    parameters: dict[str, Any]
    sent_at: float | None

    @property
    def is_new(self) -> bool:
        """Whether the task is only defined: PanDA sends its other states by the same queue."""
        return self.parameters.get("status") in (None, "defined")


def read_definition(body: bytes) -> Definition:
    """Read a message; raises UnreadableError.

    >>> read_definition(b'{"taskid": 7, "userName": "ann"}').parameters["username"]
    'ann'
    """
    try:
        message = json.loads(body)
    except (ValueError, RecursionError) as error:
        raise UnreadableError(f"no JSON: {error}") from None
    if not isinstance(message, dict):
        raise UnreadableError("no JSON object")
    parameters = {name.lower(): value for name, value in message.items()}
    task = parameters.get("taskid", parameters.get("jeditaskid"))
    if isinstance(task, bool) or not isinstance(task, int):
        raise UnreadableError("no taskid")
    sent_at = parameters.get("timestamp")
    is_time = isinstance(sent_at, (int, float)) and not isinstance(sent_at, bool)
    return Definition(task, parameters, sent_at if is_time else None)


def answer_of(definition: Definition, needs: Mapping[str, Any]) -> dict[str, Any]:
    """Make the message of a prediction.

    Args:
        definition: The task.
        needs: The predictor's answer to ``POST /task``.
    """
    scout = {name: value for name, value in needs["scout_prediction"].items() if name != "classes"}
    numbers = needs["per_job"]
    message = _head(definition) | scout | {"msg_type": "task_prediction", "status": "success"}
    for name, targets in CLASSES.items():
        classes = [numbers.get(f"{target}_class") for target in targets]
        number = next((int(value) for value in classes if value is not None), None)
        if number is not None:
            is_io = name == "IOINTENSITY"
            message[name] = IO_CLASSES.get(number, number) if is_io else f"bin{number}"
    plan = plan_task(definition.parameters, needs)
    if plan.mode in ("suggest", "act"):
        requests = task_requests(plan, float(scout["coreCount"]))
        message["request"] = {"mode": plan.mode, "reason": plan.reason, **requests}
    return message | {
        "model_version": needs["model_version"],
        "cold_start": numbers["cold_start"],
    }


def _head(definition: Definition) -> dict[str, Any]:
    now = datetime.now(timezone.utc)  # noqa: UP017  for Python before 3.11
    return {
        "msg_type": "task_prediction",
        "taskid": definition.task,
        "PRODSOURCELABEL": definition.parameters.get("prodsourcelabel"),
        "submission_time": f"{now:%Y-%m-%d %H:%M:%S}",
    }


class Session(stomp.ConnectionListener):
    """What arrives by one connection; stomp.py's thread writes it, one other thread reads it."""

    def __init__(self) -> None:
        self.opened, self.lost = threading.Event(), threading.Event()
        self.frames: queue.Queue[Any] = queue.Queue()
        self.receipts: queue.Queue[str] = queue.Queue()

    def on_connected(self, frame: Any) -> None:
        """The broker took the login."""
        self.opened.set()

    def on_message(self, frame: Any) -> None:
        """A definition; its body is bytes."""
        self.frames.put(frame)

    def on_receipt(self, frame: Any) -> None:
        """The broker confirmed an answer."""
        self.receipts.put(frame.headers["receipt-id"])

    def on_error(self, frame: Any) -> None:
        """The broker refused something; it then ends the connection."""
        body = frame.body.decode("utf-8", "replace") if isinstance(frame.body, bytes) else ""
        log.warning("gridcast: the broker refused: %s", (frame.headers.get("message"), body[:200]))
        self._end()

    def on_disconnected(self) -> None:
        """The connection ended."""
        self._end()

    def on_heartbeat_timeout(self) -> None:
        """The broker gives no sign of life."""
        self._end()

    def _end(self) -> None:
        self.lost.set()
        self.opened.set()
        self.frames.put(None)
        self.receipts.put("")


class TaskPredictions:
    """Answers definitions with predictions, one after another, until ``stop`` is set.

    Attributes:
        answered: Digests of definitions that were answered, oldest first.
        sent: Answers sent.
        duplicates: Definitions that came again.
        unreadable: Messages that could not be read.
    """

    def __init__(self, settings: StompSettings, predictor: Gridcast) -> None:
        self.settings, self.predictor = settings, predictor
        self.stop = threading.Event()
        self.answered: OrderedDict[str, None] = OrderedDict()
        self.sent = self.duplicates = self.unreadable = 0

    def run(self) -> None:
        """Connect, again after each loss, and answer."""
        pause = FIRST_PAUSE
        while not self.stop.is_set():
            try:
                with self._connection() as (connection, session):
                    pause = FIRST_PAUSE
                    self._serve(connection, session)
            except (StompException, OSError) as error:
                log.warning("gridcast: no broker: %r; trying again in %g s", error, pause)
                self.stop.wait(pause)
                pause = min(2 * pause, LONGEST_PAUSE)

    @contextmanager
    def _connection(self) -> Iterator[tuple[Any, Session]]:
        settings, session = self.settings, Session()
        connection = stomp.Connection12(
            settings.brokers,
            vhost=settings.vhost,
            heartbeats=(HEARTBEAT, HEARTBEAT),
            reconnect_attempts_max=1,
            auto_decode=False,
            keepalive=True,
        )
        if settings.is_encrypted:
            connection.set_ssl(settings.brokers, ca_certs=settings.ca_file)
        connection.set_listener("gridcast", session)
        try:
            connection.connect(settings.user, settings.password)
            if not session.opened.wait(CONFIRMATION) or session.lost.is_set():
                raise ConnectionError("the broker does not take the login")
            yield connection, session
        finally:
            with suppress(StompException, OSError):
                connection.disconnect()
                if session.opened.is_set():
                    session.lost.wait(LAST_WORDS)
                connection.transport.disconnect_socket()

    def _serve(self, connection: Any, session: Session) -> None:
        # One definition at a time: the broker keeps the others, also for other consumers.
        one_at_a_time = {"activemq.prefetchSize": "1", "prefetch-count": "1"}
        connection.subscribe(
            self.settings.tasks, id="1", ack="client-individual", headers=one_at_a_time
        )
        while not self.stop.is_set():
            try:
                frame = session.frames.get(timeout=0.2)
            except queue.Empty:
                continue
            if frame is None or session.lost.is_set():
                raise ConnectionError("the connection was lost")
            self._answer(connection, session, frame)

    def _answer(self, connection: Any, session: Session, frame: Any) -> None:
        body = frame.body if isinstance(frame.body, bytes) else str(frame.body).encode()
        digest = hashlib.sha256(body).hexdigest()
        if digest in self.answered:
            self.duplicates += 1
        else:
            try:
                definition = read_definition(body)
                if definition.is_new:
                    message = json.dumps(self._prediction(definition, session)).encode()
                    self._send(connection, session, self.settings.predictions, message, digest)
                    self.sent += 1
            except UnreadableError as error:
                reason = str(error)[:LONGEST_REASON]
                log.warning("gridcast: a message was not understood: %s", reason)
                self._send(connection, session, self.settings.unreadable, body, digest, reason)
                self.unreadable += 1
            self.answered[digest] = None
            if len(self.answered) > REMEMBERED:
                self.answered.popitem(last=False)
        connection.ack(frame.headers["ack"])

    def _prediction(self, definition: Definition, session: Session) -> dict[str, Any]:
        """Predict; wait for a predictor that is away, for as long as the definition is recent."""
        pause = FIRST_PAUSE
        try:
            fields = task_fields(definition.parameters)
        except (AttributeError, TypeError) as error:
            raise UnreadableError(f"no definition of a task: {error}") from None
        while True:
            age = time.time() - (definition.sent_at or time.time())
            reason = f"the definition is {age:.0f} s old" if age > STALE_AFTER else ""
            if not fields.keys() & {"user", "program", "job_name"}:
                reason = "neither userName nor transPath nor processingType"
            if reason:
                return _head(definition) | {"status": "failure", "ERROR": reason}
            try:
                return answer_of(definition, self.predictor.task(fields, 1))
            except UnavailableError as error:
                reason = str(error)
            except RefusedError as error:
                if error.status not in (401, 403):
                    raise UnreadableError(str(error)) from None
                reason = str(error)  # the token is wrong, not the task
            except (TypeError, ValueError, KeyError) as error:
                raise UnreadableError(repr(error)) from None
            log.warning("gridcast: no prediction: %s; trying again in %g s", reason, pause)
            if self.stop.wait(pause) or session.lost.is_set():
                raise ConnectionError("ended while the predictor was away")
            pause = min(2 * pause, LONGEST_PAUSE)

    def _send(
        self,
        connection: Any,
        session: Session,
        destination: str,
        body: bytes,
        digest: str,
        reason: str = "",
    ) -> None:
        """Send a message and wait until the broker has confirmed it."""
        headers = {"persistent": "true", "correlation-id": digest, "receipt": digest}
        if reason:
            headers |= {"gridcast-reason": reason, "original-destination": self.settings.tasks}
        connection.send(destination, body, content_type="application/json", headers=headers)
        try:
            receipt = session.receipts.get(timeout=CONFIRMATION)
        except queue.Empty:
            receipt = ""
        if receipt != digest:
            raise ConnectionError("the broker did not confirm an answer")


def main() -> None:
    """Answer until SIGTERM or SIGINT."""
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)s %(message)s")
    settings = StompSettings.of_environment(os.environ)
    with Gridcast(settings.predictor, token_file=settings.token_file, timeout=10) as predictor:
        predictions = TaskPredictions(settings, predictor)
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, lambda *_: predictions.stop.set())
        predictions.run()


if __name__ == "__main__":
    main()
