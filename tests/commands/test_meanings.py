"""The sentences under the tables follow from their rows."""

import doctest
from typing import Any

import pytest

from commands import meanings

OURS = {
    "predictor": "gridcast",
    "mae": 91.0,
    "mae_ratio_low": 0.85,
    "mae_ratio_high": 0.98,
    "coverage_90": 0.894,
}
BEST = {"predictor": "median-10", "mae": 100.0, "coverage_90": None}
IDEAL = {"predictor": "oracle", "mae": 1.0, "coverage_90": None}


def test_a_backtest_says_how_much_better_than_the_best_rule_and_how_often_ranges_held() -> None:
    assert meanings.of_evaluation([IDEAL, OURS, BEST], "oracle") == (
        "Gridcast's mean error is 9 % less than that of the best other rule, median-10 "
        "(95 % interval -15% to -2%); its 90 % ranges held 89 % of the outcomes."
    )


def test_a_difference_that_may_be_chance_is_called_so() -> None:
    worse = OURS | {"mae": 112.0, "mae_ratio_low": 0.9, "mae_ratio_high": 1.3}
    sentence = meanings.of_evaluation([worse, BEST])
    assert "12 % more than" in sentence and "which may be chance" in sentence


def test_a_backtest_without_gridcast_names_the_best() -> None:
    assert meanings.of_evaluation([BEST]) == "The least mean error is that of median-10."


def test_a_replay_names_the_best_combination_and_its_price() -> None:
    first: dict[str, Any] = {
        "policy": "easy",
        "predictor": "request",
        "mean_bounded_slowdown": 90.0,
        "max_wait": 73 * 3600.0,
        "ratio": 1.0,
    }
    best = first | {
        "policy": "gridcast",
        "mean_bounded_slowdown": 36.0,
        "ratio": 0.4,
        "ratio_low": 0.3,
        "ratio_high": 0.5,
        "verdict": "better",
        "max_wait": 111 * 3600.0,
    }
    sentence = meanings.of_replay([first, best])
    assert "60 % less by gridcast" in sentence
    assert "4.62 d instead of 3.04 d" in sentence
    assert meanings.of_replay([first]).startswith("No combination")


@pytest.mark.parametrize(
    ("states", "sentence"),
    [
        (["down", "none"], "Nothing runs: gridcast up starts it."),
        (["up", "down"], "part 1 does not answer."),
        (["down", "failing", "up"], "part 0, part 1 do not answer."),
        (["starting", "starting", "up"], "part 0, part 1 are still starting."),
        (["starting", "none"], "part 0 is still starting."),
        (["up", "up"], "Everything answers."),
    ],
)
def test_the_status_says_what_does_not_answer(states: list[str], sentence: str) -> None:
    rows = [{"part": f"part {i}", "state": state} for i, state in enumerate(states)]
    assert meanings.of_status(rows) == sentence


def test_jobs_without_an_end_are_called_what_they_are() -> None:
    rows = [{"source": "a", "jobs": 9, "ended": 0}]
    assert meanings.of_stored(rows).startswith("None of the 9 jobs of 1 source has ended")


def test_training_names_the_best_rule_of_each_target() -> None:
    rows = [
        {"target": "walltime", "predictor": name, "mae": error, "coverage_90": covered}
        for name, error, covered in (
            ("candidate", 80.0, 0.9),
            ("champion", 70.0, 0.9),
            ("request", 160.0, None),
        )
    ]
    assert meanings.of_training(rows) == (
        "walltime: its mean error is 50 % less than that of request, the best simple rule; its "
        "90 % ranges held 90 %."
    )


@pytest.mark.parametrize(
    ("seconds", "text"), [(0.5, "0.5 s"), (119, "119 s"), (150, "2.5 min"), (5400, "1.5 h")]
)
def test_durations_have_a_unit_of_their_size(seconds: float, text: str) -> None:
    assert meanings.duration(seconds) == text


def test_the_examples_hold() -> None:
    result = doctest.testmod(meanings)
    assert result.attempted > 3 and not result.failed


def test_the_demo_says_what_it_showed() -> None:
    rows = [
        {"what": "error of Gridcast", "value": 91.0},
        {"what": "error of the median of the last 10", "value": 100.0},
        {"what": "decay", "value": "found"},
    ]
    assert meanings.of_demo(rows) == (
        "On jobs later than its training, Gridcast's mean error is 9 % less than that of the "
        "median of the last 10. Since then jobs behave otherwise, which decay and drift show."
    )


def test_one_is_not_told_as_several() -> None:
    ingested = [{"read": 1, "added": 1, "updated": 0, "rejected": 0}]
    assert meanings.of_ingest(ingested) == "Of 1 record 1 is new or changed, none was rejected."
    assert meanings.of_copies([{"rows": 1}]) == "1 row in all."
    assert meanings.of_groups("site", [60, 3], 50) == (
        "By site: 1 group of 60 jobs is evaluated; 1 of fewer than 50 jobs (3 in all) is not."
    )
    stored = [{"jobs": 1, "ended": 1}]
    assert meanings.of_stored(stored).startswith("1 job of 1 source; 100 % have ended")


def test_the_jobs_of_a_version_are_counted_as_its_tags_give_them() -> None:
    rows = [{"version": "gridcast-1", "state": "champion", "jobs": "131628"}]
    assert meanings.of_versions(rows) == (
        "gridcast-1 serves, trained on 131,628 jobs; 0 other versions."
    )
