"""The workload generator: what it promises of its jobs, and that what is planted is there and nothing else moves."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from infra.errors import InputError
from jobs.labels import read_labels
from jobs.readers import ReadOptions, detect
from jobs.schema import COLUMNS, OUTCOMES, conform, derive_fields, split_valid
from jobs.workload import (
    START,
    Change,
    GeneratedLog,
    PlantedLabel,
    generate,
    read_change,
    read_planted_label,
)
from jobs.writers import write_jobs

SLOW = ("slow_program", "slow_site", "slow_group", "gradual_slow", "recurring_slow")
ANY_CHANGE = st.builds(
    Change,
    st.sampled_from([*SLOW, "new_site", "user_switch"]),
    st.floats(0, 20),
    factor=st.floats(1.1, 5),
)


@pytest.fixture(scope="module")
def plain() -> GeneratedLog:
    return generate(8_000, days=20, seed=4)


def submitted_day(jobs: pd.DataFrame) -> pd.Series:
    return (jobs["submitted_at"] - START) / pd.Timedelta(days=1)


@settings(max_examples=15, deadline=None)
@given(
    jobs=st.integers(1, 800),
    days=st.floats(0.1, 60),
    seed=st.integers(0, 2**32),
    sites=st.integers(1, 9),
    users=st.integers(1, 50),
    changes=st.lists(ANY_CHANGE, max_size=3),
)
def test_every_generated_job_can_be_true(
    jobs: int, days: float, seed: int, sites: int, users: int, changes: list[Change]
) -> None:
    generated = generate(jobs, days, seed, sites, users, changes)
    frame = generated.jobs
    assert tuple(frame.columns) == COLUMNS
    assert len(frame) == jobs
    accepted, refused = split_valid(frame)
    assert refused.empty
    pd.testing.assert_frame_equal(derive_fields(accepted), frame)  # times and walltime agree
    assert frame["job_id"].is_unique
    assert frame["submitted_at"].is_monotonic_increasing
    assert submitted_day(frame).between(0, days).all()
    assert frame["source"].eq("generated").all()
    assert (
        frame["walltime"].dropna() <= frame["requested_walltime"][frame["walltime"].notna()]
    ).all()
    late = frame["status"] == "timeout"
    assert (frame["walltime"] == frame["requested_walltime"])[late].all()
    assert not (frame["peak_memory"] > frame["requested_memory"]).any()
    assert not (frame["cpu_time"] > frame["walltime"] * frame["cores"]).any()
    json.dumps(generated.truth)


@pytest.mark.parametrize(
    ("jobs", "days", "seed", "users"), [(613, 0.1, 2852703425, 4), (441, 32.36, 1196005414, 10)]
)
def test_a_log_too_short_for_its_large_tasks_still_has_all_its_jobs(
    jobs: int, days: float, seed: int, users: int
) -> None:
    frame = generate(jobs, days, seed, users=users).jobs
    assert len(frame) == jobs
    assert submitted_day(frame).between(0, days, inclusive="left").all()


def test_the_same_seed_gives_the_same_jobs_and_another_gives_others(plain: GeneratedLog) -> None:
    again = generate(8_000, days=20, seed=4)
    pd.testing.assert_frame_equal(again.jobs, plain.jobs)
    assert again.truth == plain.truth
    assert not generate(8_000, days=20, seed=5).jobs["walltime"].equals(plain.jobs["walltime"])


@pytest.mark.parametrize("kind", [*SLOW, "new_site", "user_switch"])
def test_a_change_touches_only_what_it_names_and_only_from_its_day_on(
    plain: GeneratedLog, kind: str
) -> None:
    changed = generate(8_000, days=20, seed=4, changes=[Change(kind, 10.0)])  # type: ignore[arg-type]
    before = submitted_day(plain.jobs) < 10
    assert before.any()
    pd.testing.assert_frame_equal(
        changed.jobs[submitted_day(changed.jobs) < 10], plain.jobs[before]
    )
    moved = (changed.jobs["walltime"] != plain.jobs["walltime"]) & plain.jobs["walltime"].notna()
    assert moved.any()
    (planted,) = changed.truth["changes"]
    field = {
        "slow_site": "site",
        "new_site": "site",
        "slow_group": "group",
        "user_switch": "user",
    }.get(kind, "program")
    assert changed.jobs[field][moved].eq(planted["name"]).all()
    requested = [name for name in COLUMNS if name not in OUTCOMES]
    if kind in SLOW:  # nobody can know beforehand: what is asked for does not change
        pd.testing.assert_frame_equal(changed.jobs[requested], plain.jobs[requested])


@pytest.mark.parametrize(
    ("kind", "factor"), [("slow_program", 2.0), ("slow_site", 1.5), ("slow_group", 3.0)]
)
def test_a_planted_slow_down_is_in_the_data_by_its_factor(
    plain: GeneratedLog, kind: str, factor: float
) -> None:
    jobs = generate(8_000, days=20, seed=4, changes=[Change(kind, 10.0, factor=factor)]).jobs  # type: ignore[arg-type]
    # Long jobs, for the start-up does not slow down; completed in both worlds, for a killed job lasts its limit.
    unchanged = (
        (jobs["status"] == "completed")
        & (plain.jobs["status"] == "completed")
        & (plain.jobs["walltime"] > 3600)
    )
    ratio = (jobs["walltime"] / plain.jobs["walltime"])[
        unchanged & (jobs["walltime"] != plain.jobs["walltime"])
    ]
    assert len(ratio) > 50
    assert ratio.between(1 + (factor - 1) * 0.9, factor + 0.01).all()


def test_a_gradual_slow_down_grows_and_a_recurring_one_comes_and_goes(plain: GeneratedLog) -> None:
    def ratio_by_day(change: Change) -> pd.Series:
        jobs = generate(8_000, days=20, seed=4, changes=[change]).jobs
        ratio = jobs["walltime"] / plain.jobs["walltime"]
        struck = (jobs["status"] == "completed") & (plain.jobs["walltime"] > 3600) & (ratio != 1)
        return ratio[struck].groupby(submitted_day(jobs)[struck].astype(int)).median()

    gradual = ratio_by_day(Change("gradual_slow", 5.0, factor=3.0, until=15.0))
    assert gradual.index.min() >= 5
    assert gradual[gradual.index < 15].is_monotonic_increasing
    assert gradual[gradual.index >= 15].between(2.8, 3.01).all()
    recurring = ratio_by_day(Change("recurring_slow", 4.0, factor=2.0, period=3.0))
    assert set(recurring.index) <= {4, 5, 6, 10, 11, 12, 16, 17, 18}
    assert len(recurring) > 5


def test_a_new_site_takes_jobs_from_its_day_and_a_switching_user_runs_another_program(
    plain: GeneratedLog,
) -> None:
    opened = generate(8_000, days=20, seed=4, changes=[Change("new_site", 12.0)])
    name = opened.truth["changes"][0]["name"]
    there = opened.jobs["site"] == name
    assert name not in set(plain.jobs["site"])
    assert submitted_day(opened.jobs)[there].min() >= 12
    assert there.sum() > 100
    switched = generate(8_000, days=20, seed=4, changes=[Change("user_switch", 10.0)])
    theirs = switched.jobs[switched.jobs["user"] == switched.truth["changes"][0]["name"]]
    favourite = theirs[submitted_day(theirs) < 10]["program"].mode()[0]
    assert favourite not in set(theirs[submitted_day(theirs) > 11]["program"])


def test_run_times_follow_work_over_power_habits_and_chance() -> None:
    jobs = generate(30_000, seed=1).jobs
    ended = jobs[jobs["status"] == "completed"]
    share = jobs["status"].value_counts(normalize=True)
    assert share["completed"] > 0.8
    assert {"failed", "timeout", "out_of_memory", "cancelled"} <= set(share.index)
    # The same (user, program) on a stronger host is quicker, nearly in proportion.
    repeat = ended[ended["program"].str.endswith("calibration")]
    work = (repeat["walltime"] - 50) * repeat["host_power"]
    spread = work.groupby([repeat["user"], repeat["program"]]).agg(["std", "mean", "size"])
    spread = spread[(spread["size"] > 30) & (spread["mean"] > 3600 * 10)]
    assert len(spread) > 0
    assert (spread["std"] / spread["mean"]).median() < 0.02
    # CPU time of simulation follows its events: on one core, work an event hardly varies.
    simulation = ended[ended["events"].notna()]
    an_event = (
        simulation["cpu_time"]
        * simulation["host_power"]
        / simulation["cores"]
        / simulation["events"]
    )
    assert (
        an_event.groupby(simulation["program"])
        .agg(lambda values: values.std() / values.mean())
        .median()
        < 0.15
    )
    # Heavy tails, round requests that ask for too much, tasks, working hours.
    assert ended["walltime"].quantile(0.99) > 10 * ended["walltime"].median()
    assert jobs["requested_walltime"].nunique() < 12
    assert (jobs["requested_walltime"] > 3 * jobs["walltime"]).mean() > 0.4
    assert jobs.groupby("task_id").size().max() > 100
    people = jobs[jobs["user"].str.startswith("user")]
    assert people["submitted_at"].dt.hour.between(7, 19).mean() > 0.7
    assert (people["submitted_at"].dt.dayofweek >= 5).mean() < 0.25


@pytest.mark.parametrize(
    "text", ["", "slow_program", "slow_program@", "odd@3", "slow_program@-1", "slow_program@3x"]
)
def test_a_change_that_cannot_be_read_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="kind@day"):
        read_change(text)


def test_changes_are_read_as_they_are_written() -> None:
    assert read_change("new_site@3") == Change("new_site", 3.0)
    assert read_change("slow_program=cms-merge@12.5x1.5") == Change(
        "slow_program", 12.5, "cms-merge", 1.5
    )


@pytest.mark.parametrize(
    "wrong",
    [
        {"jobs": 0},
        {"days": 0},
        {"sites": 0},
        {"users": 0},
        {"changes": [Change("slow_site", 1, "nowhere")]},
    ],
)
def test_a_log_that_cannot_be_generated_is_refused(wrong: dict[str, object]) -> None:
    with pytest.raises(InputError):
        generate(**{"jobs": 10, **wrong})  # type: ignore[arg-type]


def read_back(path: Path) -> pd.DataFrame:
    batches = list(detect(path).read(path, ReadOptions(source="generated")))
    assert not any(batch.rejects for batch in batches)
    return derive_fields(conform(pd.concat([batch.jobs for batch in batches], ignore_index=True)))


@pytest.mark.parametrize("name", ["log.csv", "log.csv.gz", "log.parquet"])
def test_a_table_is_read_back_exactly(plain: GeneratedLog, tmp_path: Path, name: str) -> None:
    pd.testing.assert_frame_equal(read_back(write_jobs(plain.jobs, tmp_path / name)), plain.jobs)


@pytest.mark.parametrize("name", ["log.swf", "log.swf.gz"])
def test_swf_is_read_back_as_far_as_it_can_hold_the_jobs(
    plain: GeneratedLog, tmp_path: Path, name: str
) -> None:
    jobs, back = plain.jobs, read_back(write_jobs(plain.jobs, tmp_path / name))
    exact = [
        "job_id",
        "submitted_at",
        "started_at",
        "ended_at",
        "walltime",
        "requested_walltime",
        "requested_cores",
        "cores",
        "site",
        "queue",
    ]
    pd.testing.assert_frame_equal(back[exact], jobs[exact])
    for column in ("user", "group", "program"):
        pairs = pd.DataFrame({"number": back[column], "name": jobs[column]}).drop_duplicates()
        assert pairs["number"].is_unique
        assert pairs["name"].is_unique
    np.testing.assert_allclose(
        back["cpu_time"], jobs["cpu_time"], atol=4.01
    )  # whole seconds a core
    np.testing.assert_allclose(back["peak_memory"], jobs["peak_memory"], atol=4.01 * 1024)
    same = jobs["status"].where(jobs["status"] != "out_of_memory", "failed")
    assert (
        back["status"] == same
    ).mean() > 0.999  # SWF tells no failure at the very limit from a kill


def test_a_file_name_without_a_format_is_refused(plain: GeneratedLog, tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"\.swf"):
        write_jobs(plain.jobs, tmp_path / "log.txt")


def test_a_planted_label_multiplies_the_work_by_its_factor_and_a_useless_one_nothing(
    plain: GeneratedLog,
) -> None:
    labels = [PlantedLabel("release", 3, 2.0), PlantedLabel("reads", 0, 1.0)]
    labelled = generate(8_000, days=20, seed=4, labels=labels)
    columns = read_labels(labelled.jobs["labels"])
    assert set(columns["release"]) == {"v1", "v2", "v3"}
    assert labelled.truth["labels"][0] == {"name": "release", "values": 3, "factor": 2.0}
    both = (labelled.jobs["status"] == "completed") & (plain.jobs["status"] == "completed")
    ratio = (labelled.jobs["walltime"] / plain.jobs["walltime"])[
        both & (plain.jobs["walltime"] > 3600)
    ]
    medians = ratio.groupby(columns["release"]).median()
    np.testing.assert_allclose(medians, [0.5, 1.0, 2.0], rtol=0.05)
    useless = generate(8_000, days=20, seed=4, labels=labels[1:]).jobs
    pd.testing.assert_frame_equal(useless.drop(columns="labels"), plain.jobs.drop(columns="labels"))


def test_generated_gpus_have_the_stated_use_and_change_nothing_else(plain: GeneratedLog) -> None:
    jobs = generate(8_000, days=20, seed=4, gpus=True).jobs
    facts = ["requested_gpus", "gpu_type", "gpu_time", "peak_gpu_memory", "energy"]
    pd.testing.assert_frame_equal(jobs.drop(columns=facts), plain.jobs.drop(columns=facts))
    assert (jobs["gpu_time"].dropna() <= (jobs["walltime"] * jobs["requested_gpus"]).dropna()).all()
    uses = jobs["requested_gpus"] > 0
    assert uses.any()
    assert jobs["gpu_type"].notna().equals(uses)
    per_gpu = (jobs["peak_gpu_memory"] / jobs["requested_gpus"])[uses].groupby(jobs["program"])
    assert (per_gpu.std() / per_gpu.mean()).max() < 0.05
    accepted, refused = split_valid(jobs)
    assert refused.empty
    assert len(accepted) == len(jobs)


@pytest.mark.parametrize("text", ["release", "release=4", "release=0x2", "=3x2", "reads=numberx0"])
def test_a_label_that_cannot_be_planted_is_refused(text: str) -> None:
    with pytest.raises(InputError, match="is not NAME=VALUES"):
        read_planted_label(text)
