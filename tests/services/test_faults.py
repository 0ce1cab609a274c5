"""Faults beside a predictor that goes on: a database cut off, a locked store, a collector."""

import shutil
import socket
import sqlite3
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pandas as pd
import psutil
import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest

from infra.settings import Settings
from jobs.store import StoreError, add_jobs, open_store, read_jobs
from models.engine.model_set import ModelSet
from services.http.errors import HTTPError
from tests.services.conftest import Predictor, Start, publish, running, stored, wait_for

Rows = list[dict[str, Any]]


class Relay:
    """A relay to a server's local socket that can be cut: connections break, new ones are closed.

    While it does not ``flow``, data is withheld and connections stay open.
    """

    def __init__(self, to: str) -> None:
        self._to = to
        self._open: list[socket.socket] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = int(self._listener.getsockname()[1])
        self.connected = True
        self.flow = threading.Event()
        self.flow.set()
        threading.Thread(target=self._run, daemon=True).start()

    def _run(self) -> None:
        with suppress(OSError):
            while True:
                caller, _ = self._listener.accept()
                if not self.connected:
                    caller.close()
                    continue
                server = socket.socket(socket.AF_UNIX)
                server.connect(self._to)
                self._open += [caller, server]
                for source, target in ((caller, server), (server, caller)):
                    threading.Thread(
                        target=self._pass_on, args=(source, target), daemon=True
                    ).start()

    def _pass_on(self, source: socket.socket, target: socket.socket) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                self.flow.wait()
                target.sendall(data)
        for end in (source, target):
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def cut(self) -> None:
        self.connected = False
        for end in self._open:
            with suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        self.cut()
        for end in (self._listener, *self._open):
            end.close()


class Collector(ThreadingHTTPServer):
    """An OpenTelemetry collector: takes spans by OTLP over HTTP."""

    def __init__(self) -> None:
        self.spans: list[Any] = []
        super().__init__(("127.0.0.1", 0), _Receive)
        threading.Thread(target=self.serve_forever, daemon=True).start()


class _Receive(BaseHTTPRequestHandler):
    server: Collector

    def do_POST(self) -> None:
        sent = ExportTraceServiceRequest.FromString(
            self.rfile.read(int(self.headers["Content-Length"]))
        )
        if self.path == "/v1/traces":
            self.server.spans += [
                span
                for resource in sent.resource_spans
                for scope in resource.scope_spans
                for span in scope.spans
            ]
        self.send_response(200)
        self.end_headers()

    def log_message(self, format: str, *args: Any) -> None:
        pass


@dataclass(frozen=True)
class FaultySite:
    """A predictor whose store is a PostgreSQL behind a relay, and whose spans go to a collector."""

    predictor: Predictor
    relay: Relay
    collector: Collector
    store: str


@pytest.fixture(scope="module")
def site(
    tmp_path_factory: pytest.TempPathFactory,
    postgres: Any,
    grid_jobs: pd.DataFrame,
    model_set: ModelSet,
) -> Iterator[FaultySite]:
    postgres.psql("CREATE DATABASE faults;")
    url = str(postgres.get_uri(database="faults"))
    relay, collector = (
        Relay(f"{parse_qs(urlsplit(url).query)['host'][0]}/.s.PGSQL.5432"),
        Collector(),
    )
    through = f"postgresql://postgres@127.0.0.1:{relay.port}/faults"
    home = tmp_path_factory.mktemp("faults")
    engine = open_store(Settings(home=home, database_url=url).store_url)
    with engine.begin() as connection:
        add_jobs(connection, grid_jobs.head(1200))
    engine.dispose()
    publish(model_set, home)
    endpoint = f"http://127.0.0.1:{collector.server_port}"
    with running(
        home, GRIDCAST_DATABASE_URL=through, OTEL_EXPORTER_OTLP_ENDPOINT=endpoint
    ) as predictor:
        yield FaultySite(predictor, relay, collector, url)
    relay.close()
    collector.shutdown()
    collector.server_close()


def model(predictor: Predictor) -> dict[str, Any]:
    answer: dict[str, Any] = predictor.http.get("/model").json()
    return answer


def test_while_the_database_is_away_predictions_go_on_and_outcomes_are_refused_until_it_is_back(
    site: FaultySite, waiting: Rows, finished: Rows
) -> None:
    predictor, jobs = site.predictor, finished[:50]
    assert model(predictor)["history"]["jobs"] == 1200
    before = predictor.http.post("/predict", json={"jobs": waiting[:100]}).json()["rows"]
    site.relay.cut()
    for _ in range(3):
        refused = predictor.http.post("/outcomes", json={"jobs": jobs})
        assert (refused.status_code, int(refused.headers["Retry-After"]) > 0) == (503, True)
        assert "send them again" in refused.json()["error"]
        assert (
            predictor.http.post("/predict", json={"jobs": waiting[:100]}).json()["rows"] == before
        )
    assert model(predictor)["state"] == "degraded"
    assert 'gridcast_outcomes_total{result="refused"} 150.0' in predictor.http.get("/metrics").text
    assert predictor.http.get("/readyz").status_code == 200

    site.relay.connected = True
    answer = wait_for(
        lambda: _taken(predictor, jobs), "the store to take outcomes again", predictor
    )
    assert (answer["added"], answer["unchanged"]) == (50, 0)  # nothing of the refused ones was kept
    wait_for(lambda: model(predictor)["state"] == "serving", "all to be well again", predictor)
    engine = open_store(site.store)
    assert set(read_jobs(engine)["job_id"]) >= {job["job_id"] for job in jobs}
    engine.dispose()
    # The answers given meanwhile waited to be recorded, and were.
    wait_for(
        lambda: (
            "gridcast_prediction_log_waiting_answers 0.0" in predictor.http.get("/metrics").text
        ),
        "the log",
        predictor,
    )
    assert 'result="dropped"' not in predictor.http.get("/metrics").text


def test_a_database_that_never_answers_keeps_no_prediction_waiting_and_a_report_for_so_long_only(
    site: FaultySite, waiting: Rows, finished: Rows
) -> None:
    predictor, jobs = site.predictor, finished[50:60]
    before = predictor.http.post("/predict", json={"jobs": waiting[:100]}).json()["rows"]
    site.relay.flow.clear()
    with ThreadPoolExecutor(1) as callers:
        report = callers.submit(predictor.http.post, "/outcomes", json={"jobs": jobs}, timeout=60)
        assert (
            predictor.http.post("/predict", json={"jobs": waiting[:100]}).json()["rows"] == before
        )
        assert not report.done()
        refused = report.result()
    assert (refused.status_code, refused.headers["Retry-After"]) == (503, "5")
    assert (
        refused.json()["error"]
        == "the store is busy; nothing was promised, so send the same outcomes again"
    )
    site.relay.flow.set()
    wait_for(lambda: _taken(predictor, jobs), "the store to take outcomes again", predictor)
    engine = open_store(site.store)
    assert set(read_jobs(engine)["job_id"]) >= {job["job_id"] for job in jobs}
    engine.dispose()


def _taken(predictor: Predictor, jobs: Rows) -> dict[str, Any] | None:
    response = predictor.http.post("/outcomes", json={"jobs": jobs})
    return response.json() if response.status_code == 200 else None


def test_a_request_is_a_span_within_its_callers_with_its_steps_and_nothing_of_what_was_asked(
    site: FaultySite, waiting: Rows
) -> None:
    trace, span = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
    named = {"traceparent": f"00-{trace}-{span}-01", "X-Request-ID": "traced-1"}
    jobs = [waiting[0] | {"user": "zaphod-the-secret"}, waiting[1]]
    assert (
        site.predictor.http.post("/predict", json={"jobs": jobs}, headers=named).status_code == 200
    )
    refused = site.predictor.http.post(
        "/predict",
        json={"jobs": [jobs[0] | {"site": "heart-of-gold", "events": -1}]},
        headers=named,
    )
    assert refused.status_code == 422

    def received() -> list[Any] | None:
        ours = [span for span in site.collector.spans if span.trace_id.hex() == trace]
        return ours if sum(span.name == "POST /predict" for span in ours) == 2 else None

    spans = wait_for(received, "the spans", site.predictor)
    answered, turned_away = sorted(
        (span for span in spans if span.name == "POST /predict"),
        key=lambda span: span.start_time_unix_nano,
    )
    assert answered.parent_span_id.hex() == turned_away.parent_span_id.hex() == span
    attributes = {
        item.key: item.value.string_value or item.value.int_value for item in answered.attributes
    }
    assert attributes["http.response.status_code"] == 200
    assert (
        attributes["gridcast.jobs"],
        attributes["gridcast.door"],
        attributes["gridcast.request_id"],
    ) == (
        2,
        "json",
        "traced-1",
    )
    steps = [span for span in spans if span.parent_span_id == answered.span_id]
    assert sorted(span.name for span in steps) == ["predict", "read", "write"]
    assert all(
        answered.start_time_unix_nano <= span.start_time_unix_nano <= span.end_time_unix_nano
        for span in steps
    )
    for secret in ("zaphod", "heart-of-gold", waiting[1]["user"]):
        assert f'"{secret}' not in str(site.collector.spans)


def test_the_age_of_model_and_history_is_told_and_an_old_model_is_called_stale(
    site: FaultySite, grid_jobs: pd.DataFrame
) -> None:
    answer = model(site.predictor)
    until = pd.Timestamp(answer["trained_until"])
    assert (
        until <= pd.Timestamp(answer["history"]["newest_ended_at"]) <= grid_jobs["ended_at"].max()
    )
    assert answer["stale"] == (pd.Timestamp.now("UTC") - until > pd.Timedelta("30d"))
    metrics = dict(
        line.rsplit(" ", 1)
        for line in site.predictor.http.get("/metrics").text.splitlines()
        if line[0] != "#"
    )
    assert float(metrics["gridcast_model_trained_timestamp_seconds"]) == pytest.approx(
        until.timestamp(), abs=1
    )


def test_a_writer_that_holds_the_store_is_waited_for(predictor: Predictor, finished: Rows) -> None:
    jobs = [job | {"job_id": f"held-{index}"} for index, job in enumerate(finished[:20])]
    writer = sqlite3.connect(predictor.settings.folder("store") / "jobs.db", isolation_level=None)
    writer.execute("BEGIN IMMEDIATE")
    answers: list[Any] = []
    report = threading.Thread(
        target=lambda: answers.append(predictor.http.post("/outcomes", json={"jobs": jobs}))
    )
    report.start()
    time.sleep(1)
    assert not answers
    writer.execute("COMMIT")
    writer.close()
    report.join()
    assert (answers[0].status_code, answers[0].json()["added"]) == (200, 20)
    assert set(stored(predictor)["job_id"]) >= {job["job_id"] for job in jobs}


def test_an_address_in_a_field_is_a_name_and_nobody_is_called(
    predictor: Predictor, waiting: Rows, finished: Rows
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        listener.settimeout(0.5)
        address = f"http://127.0.0.1:{listener.getsockname()[1]}/called"
        fields = dict.fromkeys(
            ("user", "group", "project", "program", "queue", "site", "job_name", "task_id"), address
        )
        assert (
            predictor.http.post("/predict", json={"jobs": [waiting[0] | fields]}).status_code == 200
        )
        ended = finished[0] | fields | {"job_id": address, "host": address}
        assert predictor.http.post("/outcomes", json={"jobs": [ended]}).json()["added"] == 1
        assert (
            predictor.http.post("/predict", json={"jobs": [waiting[0] | fields]}).status_code == 200
        )
        with pytest.raises(TimeoutError):
            listener.accept()


def test_no_process_of_the_predictor_listens_but_on_its_own_port(predictor: Predictor) -> None:
    """Circus's control port would let any local account run programs as the service's user."""
    starter = psutil.Process(predictor.process.pid)
    family = [starter, *starter.children(recursive=True)]
    assert predictor.worker() in family
    listening = {
        tuple(connection.laddr)
        for process in family
        for connection in process.net_connections("inet")
        if connection.status == psutil.CONN_LISTEN
    }
    assert listening == {("127.0.0.1", predictor.port)}


def test_a_registry_that_never_answers_keeps_no_caller_waiting(
    home: Path, predictor: Predictor, waiting: Rows
) -> None:
    expected = predictor.http.post("/predict", json={"jobs": waiting[:20]}).json()["rows"]
    silent = socket.create_server(("127.0.0.1", 0))
    with (
        silent,
        running(home, GRIDCAST_MLFLOW_URL=f"http://127.0.0.1:{silent.getsockname()[1]}") as second,
    ):
        # Nobody waits for what the registry may say: the last champion of this data folder answers.
        answers = [second.http.post("/predict", json={"jobs": waiting[:20]}) for _ in range(20)]
        assert {answer.status_code for answer in answers} == {200}
        assert [row["model_version"] for row in answers[0].json()["rows"]] == [
            row["model_version"] for row in expected
        ]
        assert "registry" in model(second)["troubles"]


@pytest.mark.parametrize("fault", ["removed", "replaced"])
def test_a_store_file_that_is_gone_takes_no_outcomes(
    fault: str, start: Start, jobs: pd.DataFrame, tmp_path: Path
) -> None:
    """SQLite goes on with the old file: what it acknowledges would be lost with it."""
    live = start()
    assert live.report(jobs.iloc[:100])["added"] == 100
    file = tmp_path / "jobs.db"
    copy = shutil.copyfile(file, tmp_path / "copy.db")
    file.unlink() if fault == "removed" else copy.replace(file)
    for _ in range(3):
        with pytest.raises(HTTPError) as refused:
            live.report(jobs.iloc[100:200])
        assert refused.value.status == 503
    assert "replaced or removed while it was in use" in live.describe()["troubles"]["store"]
    with pytest.raises(StoreError, match="replaced or removed"):
        live.catch_up()
    assert file.exists() == (fault == "replaced"), "no empty file takes its place"
    # A new process takes outcomes again.
    again = start(home="second")
    assert again.report(jobs.iloc[100:200])["added"] == 100
