"""What Dask's workers compute of logs that they read themselves is what one process computes."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from typer.testing import CliRunner

import gridcast
from infra.dask_workers import Workers
from infra.errors import InputError
from infra.settings import prepare_environment
from jobs.ingest import ingest_file, read_arguments
from jobs.partitions import Partition, logs_of, sizes_of
from jobs.store import open_store
from models.evaluation.partitions import EvaluationTask, evaluate_partition
from models.quantities.targets import TARGETS
from monitoring.rehearsal.rehearse import rehearse, rehearse_each
from scheduling.machine import processors
from scheduling.policies import PolicyError
from scheduling.studies.benefit import ReplayTask, combinations, replay_each, replay_side_by_side

COLUMNS = (
    "job_id", "user", "group", "submitted_at", "ended_at", "walltime", "requested_walltime",
    "cores",
)  # fmt: skip
START = pd.Timestamp("2026-01-01", tz="UTC")


@pytest.fixture(scope="module")
def logs(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Two logs of jobs of six users in two groups, and a third group of one job."""
    folder, files = tmp_path_factory.mktemp("logs"), []
    for seed in (1, 2):
        draw = np.random.default_rng(seed)
        user = draw.integers(0, 6, 600)
        group = np.where(np.arange(600) == 7, "tiny", np.where(user % 2, "odd", "even"))
        walltime = np.exp(draw.normal(4 + user / 3, 0.8)).round() + 1
        at = START + pd.to_timedelta(np.sort(draw.integers(0, 20 * 86400, 600)), unit="s")
        ended = at + pd.to_timedelta(walltime, unit="s")
        columns = (range(600), user, group, at, ended, walltime, walltime * 3, user + 1)
        files.append(folder / f"log-{seed}.csv")
        frame = pd.DataFrame(dict(zip(COLUMNS, columns, strict=True)))
        frame.to_csv(files[-1], index=False)
    return files


@pytest.fixture(scope="module")
def workers() -> Iterator[Workers]:
    with Workers("local:2") as started:
        yield started


def assert_same(left: Any, right: Any) -> None:
    """Compare all values within two results, to the last bit."""
    assert type(left) is type(right)
    if dataclasses.is_dataclass(left):
        for field in dataclasses.fields(left):
            assert_same(getattr(left, field.name), getattr(right, field.name))
    elif isinstance(left, pd.DataFrame):
        pd.testing.assert_frame_equal(left, right, check_exact=True)
    elif isinstance(left, np.ndarray) and left.dtype.names:
        assert_same(pd.DataFrame(left), pd.DataFrame(right))
    elif isinstance(left, np.ndarray):
        np.testing.assert_array_equal(left, right)
    elif isinstance(left, list | tuple):
        assert len(left) == len(right)
        for item, same in zip(left, right, strict=True):
            assert_same(item, same)
    elif isinstance(left, dict):
        assert_same(list(left.items()), list(right.items()))
    else:
        np.testing.assert_equal(left, right)


def test_evaluations_of_logs_clusters_and_stored_sources_are_those_of_one_process(
    workers: Workers, logs: list[Path]
) -> None:
    arguments = read_arguments()
    engine = open_store(prepare_environment().store_url)
    ingest_file(engine, logs[0], source="stored-log")
    stored = Partition("stored-log", arguments)
    files = logs_of([str(file) for file in logs], arguments)
    assert all(size > 0 for size in sizes_of(files)) and sizes_of([stored]) == [0]
    by_group, counts = stored.split("group")
    assert [(part.name, part.value) for part in by_group] == [
        (f"stored-log, group {name}", name) for name in ("even", "odd", "tiny")
    ]
    tasks = [
        EvaluationTask(partition, predictors=("gridcast", "last-two"))
        for partition in (files[1], *by_group[1:])
    ]
    side_by_side = workers.map(evaluate_partition, tasks, [600, *counts[1:]])
    in_process = [evaluate_partition(task) for task in tasks]
    assert_same(side_by_side, in_process)
    assert isinstance(in_process[-1], str) and "there is nothing to evaluate" in in_process[-1]


def test_replays_in_several_ways_are_those_of_one_process(
    workers: Workers, logs: list[Path]
) -> None:
    (log,) = logs_of([str(logs[0])], read_arguments())
    ways = combinations(["easy", "gridcast"], ["last-two"])
    machine = processors(8)
    tasks = [ReplayTask(log, machine, way) for way in ways]
    side_by_side = replay_side_by_side(log.read(), tasks, workers)
    in_process = replay_each(log.read(), machine, ways)
    assert len(in_process) == 2
    for replayed, same in zip(side_by_side, in_process, strict=True):
        assert_same(replayed.table, same.table)
        assert_same({**replayed.row(), "seconds": 0}, {**same.row(), "seconds": 0})
    with pytest.raises(PolicyError, match="not among the predictors"):
        replay_side_by_side(log.read(), [replace(task, version=1) for task in tasks], workers)


def test_rehearsals_of_each_model_are_those_of_one_process(
    workers: Workers, logs: list[Path]
) -> None:
    partitions = logs_of([str(logs[1])], read_arguments())
    (side_by_side,) = rehearse_each(partitions, "walltime", 0.4, None, workers)
    in_process = rehearse(partitions[0].read(), TARGETS["walltime"], warm_up=0.4)
    rows, same = (
        [{**row, "training_seconds": 0} for row in rehearsal.rows]
        for rehearsal in (side_by_side, in_process)
    )
    assert len(rows) == 6
    assert_same(rows, same)
    for run, other in zip(side_by_side.runs, in_process.runs, strict=True):
        assert_same((run.point, run.low, run.high), (other.point, other.low, other.high))


def test_a_log_that_a_worker_cannot_read_is_one_sentence(workers: Workers) -> None:
    missing = [Partition(name, read_arguments()) for name in ("nowhere.swf", "lost.swf")]
    with pytest.raises(InputError, match="no file and no stored source called"):
        workers.map(evaluate_partition, [EvaluationTask(partition) for partition in missing])


def test_logs_that_are_missing_or_called_alike_are_named_before_any_work(tmp_path: Path) -> None:
    for folder in ("a", "b"):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "x.csv").write_text("")
    alike = [str(tmp_path / folder / "x.csv") for folder in ("a", "b")]
    with pytest.raises(InputError, match=r"two logs are called x\.csv"):
        logs_of(alike, read_arguments())
    with pytest.raises(InputError, match=r"no stored source called nowhere\.swf"):
        logs_of([alike[0], "nowhere.swf"], read_arguments())


def rows_of(*arguments: str) -> list[dict[str, Any]]:
    run = CliRunner().invoke(gridcast.app, [*arguments, "--json"])
    assert run.exit_code == 0, run.output
    return list(json.loads(run.stdout)["rows"])


def test_evaluate_takes_several_logs(logs: list[Path]) -> None:
    names = [str(file) for file in logs]
    rows = rows_of("evaluate", *names, "--predictor", "last-two")
    assert [row["log"] for row in rows] == ["log-1.csv", "log-2.csv"]
    (second,) = logs_of(names[1:], read_arguments())
    alone = evaluate_partition(EvaluationTask(second, predictors=("last-two",)))
    assert not isinstance(alone, str)
    assert rows[1]["mae"] == alone.rows[0]["mae"]
    several = CliRunner().invoke(gridcast.app, ["evaluate", *names, "--html", "one.html"])
    assert isinstance(several.exception, InputError) and "--html" in str(several.exception)
