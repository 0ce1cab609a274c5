"""Targets a core and an event: what they are made from, and that limits are known at submission."""

import numpy as np
import pandas as pd
import pytest

from jobs.schema import FIELDS, OUTCOMES, conform
from jobs.transfers import TRANSFER
from models.quantities.targets import TARGETS, read_fields

JOBS = conform(
    pd.DataFrame(
        {
            "job_id": ["1", "2", "3"],
            "source": "made",
            "submitted_at": pd.Timestamp("2026-01-01", tz="UTC"),
            "requested_cores": [8.0, 4.0, None],
            "cores": [4.0, None, None],  # given, asked for, neither
            "requested_memory": [32e9, 8e9, None],
            "requested_walltime": [3600.0, 600.0, None],
            "walltime": [100.0, 100.0, 100.0],
            "peak_memory": [16e9, 4e9, 1e9],
            "cpu_time": [360.0, 400.0, 90.0],
            "read_bytes": [4e6, 4e6, 4e6],
            "events": [100.0, 0.0, 10.0],
            "host_power": [10.0, 10.0, None],
        }
    )
)
"""Four cores of eight asked for; four asked for and nobody said what was given; nothing said."""


@pytest.mark.parametrize(
    ("name", "values"),
    [
        ("memory_per_core", [4e9, 1e9, 1e9]),
        ("cpu_per_core", [90.0, 100.0, 90.0]),
        ("io_per_core", [1e4, 1e4, 4e4]),
        (
            "cpu_per_event",
            [36.0, np.nan, np.nan],
        ),  # unknown without events or without the host's power
    ],
)
def test_each_is_the_whole_over_its_cores_or_events(name: str, values: list[float]) -> None:
    np.testing.assert_allclose(TARGETS[name].value(JOBS), values)


@pytest.mark.parametrize("name", TARGETS)
def test_no_limit_is_made_from_an_outcome(name: str) -> None:
    np.testing.assert_array_equal(
        TARGETS[name].limit(JOBS), TARGETS[name].limit(JOBS.drop(columns=list(OUTCOMES)))
    )


@pytest.mark.parametrize(
    "name", [name for name, target in TARGETS.items() if target.subject.name == "job"]
)
def test_outcomes_and_limits_are_computed_from_the_fields_that_a_target_reads(name: str) -> None:
    fields, target = read_fields(TARGETS[name]), TARGETS[name]
    assert fields
    for values in (target.value, target.limit):
        np.testing.assert_array_equal(values(JOBS[list(fields)]), values(JOBS))


def test_a_request_for_the_whole_job_is_shared_by_the_cores_asked_for() -> None:
    assert TARGETS["memory_per_core"].limit(JOBS).tolist() == [4e9, 2e9, np.inf]
    assert TARGETS["cpu_per_core"].limit(JOBS).tolist() == [3600.0, 600.0, np.inf]


def test_a_wait_is_measured_against_the_time_in_which_the_queue_drains() -> None:
    around = pd.DataFrame(
        {
            "system_waiting_work": [7200.0, 0.0, 100.0, np.nan],
            "system_running_cores": [4.0, 4.0, 0.0, np.nan],
        }
    )
    assert TARGETS["wait"].limit(around).tolist() == [1800.0, np.inf, np.inf, np.inf]


@pytest.mark.parametrize("name", TARGETS)
def test_the_grid_reaches_what_the_schema_accepts(name: str) -> None:
    highest = {field.name: field.highest for field in (*FIELDS, *TRANSFER.fields)}
    cpu_time, memory = highest["cpu_time"], highest["peak_memory"]
    work, moved = cpu_time * highest["host_power"], highest["read_bytes"] * 2
    largest = {
        "walltime": highest["walltime"],
        "wait": highest["walltime"],
        "transfer_time": highest["duration"],
        "peak_memory": memory,
        "memory_per_core": memory,
        "cpu_time": cpu_time,
        "cpu_per_core": cpu_time,
        "cpu_per_event": work,
        "cpu_work": work,
        "io": moved,
        "io_per_core": moved,
    }.get(name) or highest[name]
    grid = TARGETS[name].grid
    assert grid.edges[-1] >= largest
    assert len(grid.edges) == grid.bins + 1
    assert (np.diff(grid.edges) > 0).all()
    inside = np.geomspace(grid.lowest, largest, 1000)
    bins = grid.bin(inside)
    assert ((grid.edges[bins] <= inside) & (inside < grid.edges[bins + 1])).all()
    assert (grid.bin(grid.centres) == np.arange(grid.bins)).all()


def test_targets_of_energy_and_gpus_take_0_as_unmeasured_where_it_can_be_nothing_else() -> None:
    jobs = conform(
        pd.DataFrame(
            {
                "job_id": ["1", "2", "3"],
                "source": "made",
                "submitted_at": pd.Timestamp("2026-01-01", tz="UTC"),
                "requested_walltime": [3600.0, 3600.0, None],
                "requested_gpus": [4.0, 0.0, 2.0],
                "energy": [5e5, 0.0, None],
                "gpu_time": [7200.0, 0.0, None],
                "peak_gpu_memory": [40e9, 0.0, None],
            }
        )
    )
    for name, values in {
        "energy": [5e5, np.nan, np.nan],
        "gpu_time": [7200.0, 0.0, np.nan],  # 0 is that of an idle GPU
        "peak_gpu_memory": [40e9, np.nan, np.nan],
    }.items():
        np.testing.assert_array_equal(TARGETS[name].value(jobs), values)
    assert TARGETS["gpu_time"].limit(jobs).tolist() == [4 * 3600.0, np.inf, np.inf]
    assert np.isinf(TARGETS["energy"].limit(jobs)).all()
