"""The broker's client: the predictor's answer in time, or the user's request, said to be so."""

import ast
import socket
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

import services.client
from services.client import Gridcast, RefusedError, UnavailableError
from tests.ports import free_port
from tests.services.conftest import Predictor

JOB = {"job_id": "1", "source": "grid", "requested_walltime": 3600.0, "requested_memory": 2e9}
FELL_BACK = {
    "walltime": 3600.0,
    "walltime_high": 3600.0,
    "walltime_kill_limit": 3600.0,
    "peak_memory_allocation": 2e9,
}
FELL_BACK |= {"peak_memory": 2e9, "model_version": "request", "cold_start": True}


OTHER_ANSWERS = {
    "page": b"<html>Please log in</html>",
    "nothing": b"",
    "half": b'{"rows": [{"walltime": 1',
    "list": b"[1, 2]",
    "other": b'{"status": "ok"}',
    "bytes": b"\xff\xfe",
}
"""Answers of status 200 that are none of a predictor's, by the path that gives them."""


class Fake(BaseHTTPRequestHandler):
    """A server that is slow, dripping or refusing, by the first segment of the path."""

    hits = 0
    released = threading.Event()

    def do_POST(self) -> None:
        Fake.hits += 1
        self.rfile.read(int(self.headers["Content-Length"]))
        way = self.path.split("/")[1]
        if way == "slow":
            Fake.released.wait()
        if way == "drip":
            self.send_response(200)
            self.end_headers()
            while not Fake.released.wait(0.1):
                self.wfile.write(b" ")
                self.wfile.flush()
            return
        if way in ("reset", "gateway") and Fake.hits < 4:
            if way == "gateway":
                self.send_response(502)
                self.send_header("Content-Length", "0")
                self.end_headers()
            self.close_connection = True
            return
        if way in OTHER_ANSWERS:
            self.send_response(200)
            self.send_header("Content-Length", str(len(OTHER_ANSWERS[way])))
            self.end_headers()
            self.wfile.write(OTHER_ANSWERS[way])
            return
        busy = way in ("busy", "never") or (way == "soon" and Fake.hits < 3)
        body = b'{"error": "not now"}' if busy else b'{"added": 1}'
        self.send_response(503 if busy else 200)
        self.send_header("Retry-After", "nan" if way == "never" else "0.1")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: Any) -> None:
        pass


class QuietServer(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_: Any) -> None:
        """The client hangs up on purpose."""


@pytest.fixture
def fake() -> Iterator[str]:
    """Address of a server that misbehaves."""
    Fake.hits = 0
    Fake.released.clear()
    server = QuietServer(("127.0.0.1", 0), Fake)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{server.server_port}"
    Fake.released.set()
    server.shutdown()
    server.server_close()


@pytest.fixture
def silent() -> Iterator[str]:
    """Address of a port that listens and accepts nobody."""
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        yield f"http://127.0.0.1:{listening.getsockname()[1]}"


@pytest.fixture
def nowhere() -> str:
    """An address where nobody listens."""
    return f"http://127.0.0.1:{free_port()}"


@pytest.mark.parametrize("way", ["slow", "drip", "busy"])
def test_a_predictor_that_is_slow_or_busy_is_answered_for_by_the_request(
    fake: str, way: str
) -> None:
    with Gridcast(f"{fake}/{way}", timeout=0.4) as client:
        (row,) = client.predict([JOB])
    assert not Fake.released.is_set()  # the server is still at it
    assert FELL_BACK.items() <= row.items()
    assert "the predictor" in row["fallback"]


@pytest.mark.parametrize("address", ["nowhere", "silent"])
def test_a_predictor_that_is_down_or_never_accepts_is_answered_for_in_every_form(
    address: str, request: pytest.FixtureRequest
) -> None:
    with Gridcast(request.getfixturevalue(address), timeout=0.3) as client:
        (row,) = client.predict([JOB])
        assert client.predict({name: [value] for name, value in JOB.items()}) == {
            name: [value] for name, value in row.items()
        }
        assert client.predict_arrow(pa.Table.from_pylist([JOB])).to_pylist() == [row]
    assert FELL_BACK.items() <= row.items()


def test_a_job_without_a_request_falls_back_on_nothing(nowhere: str) -> None:
    with Gridcast(nowhere, timeout=0.3) as client:
        (row,) = client.predict([{"job_id": "1"}])
    assert row["walltime"] is None


def test_a_report_is_sent_again_until_it_is_taken(fake: str) -> None:
    with Gridcast(f"{fake}/soon", timeout=60) as client:
        assert client.report([JOB]) == {"added": 1}
    assert Fake.hits == 3


@pytest.mark.parametrize("way", ["reset", "gateway"])
def test_a_call_that_a_killed_predictor_had_is_made_again_within_its_time(
    fake: str, way: str
) -> None:
    with Gridcast(f"{fake}/{way}", timeout=60) as client:
        assert client.task(JOB, 3) == {"added": 1}
        assert Fake.hits == 4
        Fake.hits = 0
        assert client.report([JOB], patience=0.0) == {"added": 1}
    assert Fake.hits == 4


@pytest.mark.parametrize("way", list(OTHER_ANSWERS))
def test_an_answer_of_200_that_is_none_of_a_predictors_counts_as_no_answer(
    fake: str, way: str
) -> None:
    with Gridcast(f"{fake}/{way}", timeout=60) as client:
        (row,) = client.predict([JOB])
        assert FELL_BACK.items() <= row.items()
        assert "none of a predictor's" in row["fallback"]
        assert client.predict_arrow(pa.Table.from_pylist([JOB])).to_pylist()[0]["fallback"]
        for call in (client.rank, client.explain, client.rank_arrow):
            jobs = pa.Table.from_pylist([JOB]) if call == client.rank_arrow else [JOB]
            with pytest.raises(UnavailableError, match="none of a predictor's"):
                call(jobs)
        if way != "other":  # an object is as good as any other to these
            with pytest.raises(UnavailableError, match="none of a predictor's"):
                client.task(JOB, 3)
            with pytest.raises(UnavailableError, match="none of a predictor's"):
                client.report([JOB], patience=0.0)


def test_a_time_to_wait_that_is_no_number_is_a_second(fake: str) -> None:
    with Gridcast(f"{fake}/never", timeout=60) as client, pytest.raises(UnavailableError) as caught:
        client.report([JOB], patience=0.5)
    assert caught.value.retry_after == 1.0


def test_a_report_that_is_never_taken_is_still_the_callers(nowhere: str) -> None:
    with Gridcast(nowhere) as client, pytest.raises(UnavailableError):
        client.report([JOB], patience=0.5)


def test_it_gives_the_predictors_own_answer_in_every_form(
    predictor: Predictor, waiting: list[dict[str, Any]]
) -> None:
    ask = [{**job, "requested_memory": float("nan")} for job in waiting[:20]]
    names = sorted({name for job in ask for name in job})
    table = pa.table(
        {
            name: [None if job.get(name) != job.get(name) else job.get(name) for job in ask]
            for name in names
        }
    )
    with Gridcast(predictor.url, timeout=120) as client:
        how = {"quantiles": [0.99], "coverage": 0.8, "classes": True}
        rows = client.predict(ask, **how)
        columns = client.predict({name: [job.get(name) for job in ask] for name in names}, **how)
        by_arrow = client.predict_arrow(table, **how).to_pylist()
        assert client.model()["model_version"] == "gridcast-1"
    assert [row["job_id"] for row in rows] == [job["job_id"] for job in ask]
    assert columns == {name: [row[name] for row in rows] for name in rows[0]}
    assert by_arrow == rows
    assert all(row["walltime_class"] >= 1 for row in rows)


def test_a_task_is_told_what_it_needs_before_any_of_its_jobs_has_run(
    predictor: Predictor, waiting: list[dict[str, Any]]
) -> None:
    job = {name: value for name, value in waiting[0].items() if name != "job_id"}
    with Gridcast(predictor.url, timeout=120) as client:
        limited, unlimited = client.task(job, 100, at_once=10), client.task(job, 100)
        row = client.predict([waiting[0]], classes=True)[0]
        with pytest.raises(RefusedError, match="jobs must be a whole number"):
            client.task(job, 0)
        with pytest.raises(RefusedError, match="walltime is known only of a job that ran"):
            client.task({**job, "walltime": 60}, 5)
        with pytest.raises(RefusedError, match="job 0: requested_cores"):
            client.task({**job, "requested_cores": -1}, 5)
    assert (
        limited["per_job"].items()
        >= {
            name: row[name]
            for name in ("walltime", "walltime_high", "walltime_class", "peak_memory")
        }.items()
    )
    assert limited["scout_prediction"]["msg_type"] == "scout_prediction"
    assert limited["scout_prediction"]["walltime"] >= row["walltime_allocation"]
    assert (
        unlimited["task"]["span"] <= unlimited["task"]["span_late"] < limited["task"]["span_late"]
    )
    assert limited["task"]["span"] > 9 * row["walltime_low"]


def test_it_is_told_why_on_request(
    predictor: Predictor, waiting: list[dict[str, Any]], grid_jobs: pd.DataFrame
) -> None:
    with Gridcast(predictor.url, timeout=60) as client:
        explanations = client.explain(waiting[:3])
        answered = client.predict(waiting[:3])
        with pytest.raises(RefusedError, match="at most 100 jobs are explained"):
            client.explain(waiting[:101])
    by_id = grid_jobs.set_index("job_id")
    for job, row, why in zip(waiting, answered, explanations, strict=False):
        assert set(why) == {"walltime", "peak_memory"}
        assert why["peak_memory"]["allocation"]["value"] == row["peak_memory_allocation"]
        assert 0 < sum(history["weight"] for history in why["walltime"]["histories"]) <= 1.001
        for past in why["walltime"]["similar"]:
            was = by_id.loc[past["job_id"]]
            assert was["walltime"] == past["value"] and was["ended_at"] <= pd.Timestamp(
                job["submitted_at"]
            )
            assert all(
                was[name] == job[name]
                for name in past["alike"]
                if name != "input_bytes" and name in job
            )


def test_a_refused_request_is_the_callers_to_mend(predictor: Predictor) -> None:
    with (
        Gridcast(predictor.url, timeout=120) as client,
        pytest.raises(RefusedError, match="422: job 0: requested_cores is -1"),
    ):
        client.predict([{**JOB, "requested_cores": -1}])


@pytest.fixture
def headers_of_calls() -> Iterator[tuple[str, list[tuple[str, str | None]]]]:
    """A server that refuses a call with the header of a user once (421), and what it was sent."""
    calls: list[tuple[str, str | None]] = []

    class Shard(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            user = self.headers[services.client.USER_HEADER]
            calls.append((self.path.partition("?")[0], user))
            self.send_response(421 if user == "moved" else 200)
            self.end_headers()
            self.wfile.write(b'{"rows": [], "columns": {}, "added": 0}')

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Shard) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_port}", calls
        finally:
            server.shutdown()
            thread.join()


def test_a_call_of_one_user_says_so_in_a_header_for_the_proxy(
    headers_of_calls: tuple[str, list[tuple[str, str | None]]],
) -> None:
    address, calls = headers_of_calls
    ann, bob, nobody = JOB | {"user": "Ann Ü/1"}, JOB | {"user": "bob"}, JOB
    encoded = "Ann%20%C3%9C%2F1"
    with Gridcast(address, timeout=60) as grid:
        for jobs in ([ann, ann], [ann, bob], [nobody, JOB | {"user": None}], [nobody, ann], []):
            grid.predict(jobs)
        grid.predict({"job_id": ["1", "2"], "user": ["Ann Ü/1"] * 2})
        grid.predict({"job_id": ["1", "2"], "user": ["bob", None]})
        grid.predict({"job_id": ["1"]})
        grid.predict([JOB | {"user": "\ud800"}, JOB | {"user": 7}])
        grid.match([ann], 8, 3600.0)
        grid.rank([ann | {"candidates": []}])
        grid.report([ann])
        expected = [encoded, None, "", None, None, encoded, None, "", None, encoded, encoded, None]
        assert [user for _, user in calls] == expected
        calls.clear()
        codes = pa.chunked_array([pa.array(["bob"]).dictionary_encode()] * 2)
        tables = [{"user": codes}, {"user": ["bob", None]}, {"user": ["a", "b"]}, {"source": ["x"]}]
        for table in tables:
            with pytest.raises(UnavailableError, match="the answer is none of a predictor's"):
                grid.match_arrow(pa.table(table), 8, 3600.0)
        assert [user for _, user in calls] == ["bob", None, None, ""]
        # Its user has another shard by now: the router answers.
        calls.clear()
        assert grid.predict([JOB | {"user": "moved"}]) == []
        assert calls == [("/predict", "moved"), ("/predict", None)]


def test_it_is_one_file_that_stands_alone() -> None:
    tree = ast.parse(Path(services.client.__file__).read_text())
    imported = {
        alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.Import)
        for alias in node.names
    }
    imported |= {str(node.module) for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)}
    ours = {"infra", "jobs", "models", "monitoring", "scheduling", "trial", "services", "flows"}
    assert not {name.partition(".")[0] for name in imported} & ours
    top = {alias.name for node in tree.body if isinstance(node, ast.Import) for alias in node.names}
    assert "pyarrow" not in top
