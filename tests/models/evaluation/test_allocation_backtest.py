import doctest

import numpy as np
import pandas as pd
import pytest

import models.evaluation.allocation_backtest
from jobs.ingest import read_log
from jobs.labels import write_labels
from models.engine.training import TrainingError
from models.evaluation.allocation_backtest import (
    POLICIES,
    _memory_bounds,
    _predicted_ladders,
    evaluate_allocation,
    score,
)
from models.evaluation.query_time import at_query_time

GIB, HOUR = 2.0**30, 3600.0


def test_the_examples_hold():
    assert doctest.testmod(models.evaluation.allocation_backtest).attempted > 0
    assert doctest.testmod(models.evaluation.allocation_backtest).failed == 0


def test_waste_is_what_is_left_over_and_all_that_a_failed_attempt_held():
    ladder = (
        np.array([[4.0, np.nan, 4.0, 6.0], [4.0, 5.0, 6.0, 7.0], [9.0, np.nan, np.nan, np.nan]])
        * GIB
    )
    peaks, hours, ceiling = (
        np.array([3.0, 5.5, 10.0]) * GIB,
        np.array([2.0, 1.0, 0.5]) * HOUR,
        np.array([16.0, 16.0, 9.0]) * GIB,
    )
    waste, failures = score(ladder, peaks, hours, ceiling)
    # Enough at once; 4 and 5 lost, then 6; 9 lost, and the ceiling proved to be none: 18.
    assert waste.tolist() == [2.0, 9.5, 4.5 + 4.0]
    assert failures.tolist() == [0, 2, 1]


def test_every_policy_is_judged_on_the_same_jobs_and_who_repeats_himself_wastes_little(habits):
    jobs = habits(rows=500).assign(requested_memory=8 * GIB)
    jobs["peak_memory"] = GIB * (1 + jobs["user"].str[1:].astype(float)) / 4
    rows = evaluate_allocation(jobs)
    assert [row["policy"] for row in rows] == list(POLICIES)
    assert len({row["jobs"] for row in rows}) == 1
    waste = {row["policy"]: row["waste_gbh"] for row in rows}
    assert waste["gridcast"] < waste["request"] / 5  # each user's jobs use the same each time


def test_the_machine_is_known_by_what_had_been_asked_for_or_had_ended(habits):
    jobs = habits(rows=300).assign(peak_memory=GIB)
    half = jobs["submitted_at"].iloc[150]
    later = jobs.assign(peak_memory=jobs["peak_memory"].where(jobs["ended_at"] <= half, 100 * GIB))
    before = (jobs["submitted_at"] <= half).to_numpy()
    now, then = (_memory_bounds(each, each["peak_memory"].to_numpy()) for each in (later, jobs))
    for known, as_it_was in zip(now, then, strict=True):
        assert (known[before] == as_it_was[before]).all()
    assert (now[1][~before] > then[1][~before]).any()


def test_numbers_among_the_labels_save_waste_and_later_outcomes_change_nothing(habits):
    jobs = habits(rows=260).assign(user="one", program="same", requested_memory=np.nan)
    reads = np.random.default_rng(5).uniform(1, 64, len(jobs))
    jobs["peak_memory"] = reads * GIB
    labelled = jobs.assign(labels=write_labels(pd.DataFrame({"reads": reads}))[0].to_numpy())
    with_labels, without = (
        next(
            row["waste_gbh"]
            for row in evaluate_allocation(each, 0.6)
            if row["policy"] == "gridcast"
        )
        for each in (labelled, jobs)
    )
    assert with_labels < 0.6 * without
    half = labelled["submitted_at"].iloc[200]
    later = labelled.assign(
        peak_memory=labelled["peak_memory"].where(labelled["ended_at"] <= half, 900 * GIB)
    )
    counted = np.arange(160, 201)
    now, then = (
        _predicted_ladders(
            each, counted, _memory_bounds(each, each["peak_memory"].to_numpy()), 1.0, None
        )[0]
        for each in (labelled, later)
    )
    assert np.array_equal(now, then, equal_nan=True)


def test_a_failure_may_end_before_the_whole_run_time():
    ladder, hour = np.array([[2.0, 8.0]]) * GIB, np.array([HOUR])
    peak, ceiling = np.array([4.0]) * GIB, np.array([np.inf])
    # 2 GiB are reached after half an hour, and lost; of the 8 then 4 stay unused.
    assert score(ladder, peak, hour, ceiling, gradual=True)[0].tolist() == [5.0]
    assert score(ladder, peak, hour, ceiling)[0].tolist() == [6.0]


def test_a_log_without_memory_cannot_be_judged(habits):
    with pytest.raises(TrainingError, match="nothing to evaluate"):
        evaluate_allocation(habits(rows=50))


def test_on_real_workflows_it_wastes_less_than_any_rule_at_submission_and_at_the_start(traces):
    jobs, _ = read_log(traces / "nextflow-chipseq.csv.gz")
    waste = {row["policy"]: row["waste_gbh"] for row in evaluate_allocation(jobs)}
    assert waste["gridcast"] == min(waste.values())
    at_start = {
        row["policy"]: row["waste_gbh"]
        for row in evaluate_allocation(at_query_time(jobs, at="start"))
    }
    assert at_start["gridcast"] == min(at_start.values())
