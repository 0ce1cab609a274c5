"""Each example runs for real: the broker against a predictor with tokens, the notebook on a log."""

import json
from pathlib import Path

import pandas as pd
import pytest

from gridcast import Forecaster
from infra.settings import use_home
from jobs.schema import OUTCOMES
from tests.examples.conftest import ROOT, run
from tests.ports import free_port
from tests.services.conftest import running

EXAMPLES = ROOT / "examples"
TOKEN = "a-broker's-token-of-32-characters"


def test_the_broker_lists_the_shortest_jobs(log: Path, trained_home: Path) -> None:
    with running(trained_home, GRIDCAST_TOKENS=f"{TOKEN}:predict") as predictor:
        predictor.http.headers["Authorization"] = f"Bearer {TOKEN}"
        predictor.wait_until_ready()
        command = (str(EXAMPLES / "broker.py"), str(log), predictor.url)
        token_file = trained_home / "broker-token"
        token_file.write_text(f"{TOKEN}\n")
        lines = run(*command, folder=log.parent, GRIDCAST_TOKEN_FILE=str(token_file)).splitlines()
        started = {
            name: _started_by(name, log.parent, predictor.url, token_file)
            for name in ("jalien_match.py", "dirac_match.py")
        }
    assert started["jalien_match.py"] == ["17: start 8"]
    assert started["dirac_match.py"] == ["task queue 3: take 8"]
    assert lines[0] == "1,000 jobs predicted"
    assert all(line.endswith("(gridcast-1)") for line in lines[1:])
    minutes = [float(line.split()[2]) for line in lines[1:]]
    assert len(minutes) == 10
    assert minutes == sorted(minutes)


WAITING = {
    "jalien_match.py": (
        {"Site": "CERN", "TTL": 86_000, "CPUCores": 8, "Memory": 16_000},
        [
            {"entryId": number, "user": "ann", "counter": 40, "priority": 1, "userload": load}
            | {"JDL": {"TTL": request, "CPUCores": 1, "Packages": "VO_ALICE@sim"}}
            for number, load, request in (("16", 0.9, 3600), ("17", 0.1, 3600), ("18", 0, 90_000))
        ],
    ),
    "dirac_match.py": (
        {"Site": "LCG.CERN.ch", "CPUTime": 200_000, "CPUNormalizationFactor": 10}
        | {"NumberOfProcessors": 8, "MaxRAM": 16_000},
        [
            {"TQId": number, "Owner": "ann", "OwnerGroup": "lhcb", "CPUTime": cpu, "Jobs": 40}
            | {"Priority": priority}
            for number, priority, cpu in ((3, 5, 40_000), (4, 1, 40_000), (5, 9, 900_000))
        ],
    ),
}
"""A slot and a queue: the jobs that start have the highest priority of those that surely end."""


def _started_by(example: str, folder: Path, url: str, token_file: Path) -> list[str]:
    """The lines that an example prints of WAITING."""
    files = []
    for name, content in zip(("slot.json", "queue.json"), WAITING[example], strict=True):
        files.append(str(folder / name))
        (folder / name).write_text(json.dumps(content))
    command = (str(EXAMPLES / example), *files, url)
    return run(*command, folder=folder, GRIDCAST_TOKEN_FILE=str(token_file)).splitlines()


def test_the_broker_goes_on_by_requests_without_a_predictor(log: Path) -> None:
    command = (str(EXAMPLES / "broker.py"), str(log), f"http://127.0.0.1:{free_port()}")
    (log.parent / "token").write_text(TOKEN)
    lines = run(*command, folder=log.parent, GRIDCAST_TOKEN_FILE="token").splitlines()
    assert lines[0].startswith("1,000 of 1,000 jobs without a prediction: the predictor cannot")
    requests = pd.read_csv(log, nrows=1000)["requested_walltime"].nsmallest(10) / 60
    assert [float(line.split()[2]) for line in lines[1:]] == pytest.approx(
        requests.round().tolist()
    )


def test_the_notebook_plots_calibration_and_predicts(log: Path, tmp_path: Path) -> None:
    output = run(str(EXAMPLES / "notebook.py"), str(log), folder=tmp_path, MPLBACKEND="Agg")
    assert "grid.csv: 3,000 jobs, 3,000 ended" in output
    assert output.count("kill limit") == 3
    assert (tmp_path / "calibration.png").read_bytes().startswith(b"\x89PNG")


def test_the_champion_in_python_is_the_one_of_the_command(
    log: Path, trained_home: Path, data_folder: Path
) -> None:
    later = pd.read_csv(log, dtype={"job_id": str}).tail(50).drop(columns=list(OUTCOMES))
    later["submitted_at"] = "2026-01-01T00:00:00Z"
    waiting = log.parent / "waiting.csv"
    later.to_csv(waiting, index=False)
    output = run(
        "-m", "gridcast", "predict", str(waiting), "--json",
        folder=log.parent, GRIDCAST_HOME=str(trained_home),
    )  # fmt: skip
    expected = pd.DataFrame(json.loads(output)["rows"]).set_index("job_id")
    try:
        forecaster = Forecaster.champion(trained_home)
        predictions = forecaster.predict(later).set_index("job_id")
    finally:
        use_home(data_folder)
    assert set(expected["model_version"]) == {forecaster.version} == {"gridcast-1"}
    numbers = [name for name in predictions if name.startswith("walltime")]
    for name in numbers:
        assert predictions[name].tolist() == pytest.approx(expected[name].tolist(), rel=0.02), name
