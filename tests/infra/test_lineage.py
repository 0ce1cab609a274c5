"""OpenLineage events reach a file and a server, and one that fails stops nothing."""

import logging
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import SecretStr

from infra.lineage import Dataset, lineage, log_file, model_version
from infra.settings import Settings
from tests.monitoring.test_alerts import Hook, Receiver
from tests.ports import free_port


class Guarded(Hook):
    """A server of lineage, which notes where events are sent and by which key."""

    def do_POST(self) -> None:
        """Take an event."""
        noted = self.path, self.headers["Authorization"]
        super().do_POST()
        self.server.receiver.got[-1] |= {"noted": noted}  # type: ignore[attr-defined]


@pytest.fixture
def server() -> Iterator[Receiver]:
    receiver = Receiver(Guarded)
    yield receiver
    receiver.stop()


def run_job(address: str) -> None:
    settings = Settings(lineage=SecretStr(address), mlflow_url="http://mlflow:5000")
    with lineage(settings, "train") as run:
        run.inputs.append(log_file("/home/ada/day.csv"))
        run.outputs.append(model_version(settings, 7))


def test_a_server_gets_the_beginning_and_the_end_of_a_run(server: Receiver) -> None:
    run_job(f"http://gridcast:a-key@127.0.0.1:{server.port}")
    start, end = server.got
    assert [event["eventType"] for event in server.got] == ["START", "COMPLETE"]
    assert start["run"]["runId"] == end["run"]["runId"]
    assert end["noted"] == ("/api/v1/lineage", "Bearer a-key")
    [read], [written] = end["inputs"], end["outputs"]
    assert (read["namespace"], read["name"]) == ("file", "day.csv")
    assert (written["namespace"], written["name"]) == ("mlflow://mlflow:5000", "gridcast")
    assert written["facets"]["version"]["datasetVersion"] == "7"
    assert "ada" not in str(server.got)


def test_a_failed_run_says_so_and_not_why(server: Receiver) -> None:
    settings = Settings(lineage=SecretStr(f"http://127.0.0.1:{server.port}"))
    with pytest.raises(ValueError, match="job 1 of ada"), lineage(settings, "ingest"):
        raise ValueError("job 1 of ada")
    assert [event["eventType"] for event in server.got] == ["START", "FAIL"]
    assert "ada" not in str(server.got)


@pytest.mark.parametrize("address", ["http://me:a-key@127.0.0.1:{port}", "{folder}"])
def test_what_does_not_take_events_costs_one_line(
    address: str, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.WARNING, "infra.lineage"):
        run_job(address.format(port=free_port(), folder=tmp_path))
    [line] = [record.getMessage() for record in caplog.records if record.name == "infra.lineage"]
    assert line.startswith("no lineage of this train: ") and "a-key" not in line


def test_without_an_address_nothing_is_sent() -> None:
    with lineage(Settings(lineage=SecretStr("")), "ingest") as run:
        assert not run.is_sent
    assert Dataset("file", "a") == log_file("b/a")
