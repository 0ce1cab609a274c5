"""Decay detection: losses, when they are scored, alarms, and what an alarm triggers."""

import numpy as np
import pytest

from monitoring.decay.detection import (
    PERIOD,
    Alarm,
    ScoredPredictions,
    alarms,
    label_delay,
    losses,
    training_trigger,
)

DAY = 86_400_000_000


def judged(excess: np.ndarray, per_look: int = 10, cluster: str = "group a") -> ScoredPredictions:
    count = len(excess)
    at = np.arange(count) // per_look * PERIOD
    return ScoredPredictions(
        at, excess, np.zeros(count), np.arange(count), np.full(count, cluster, dtype=object)
    )


def noise(count: int, seed: int = 0) -> np.ndarray:
    return np.clip(np.random.default_rng(seed).normal(-0.05, 0.15, count), -1, 1)


def test_four_predictions_by_hand() -> None:
    # Right; half; outlived by an hour that is a tenth of the scale; not begun yet.
    point, actual = np.array([100.0, 100.0, 3600.0, 5.0]), np.array([100.0, 200.0, np.nan, np.nan])
    ran = np.array([np.nan, np.nan, 7200.0, np.nan])
    assert losses(point, actual, ran, 36_000.0) == pytest.approx(
        [0, (0.5 + 100 / 36_000) / 2, (0.5 + 0.1) / 2, np.nan], nan_ok=True
    )


def test_a_job_that_runs_within_its_prediction_lost_nothing_yet() -> None:
    assert losses(np.array([3600.0]), np.array([np.nan]), np.array([60.0]), 3600.0).tolist() == [
        0.0
    ]


def test_a_prediction_is_judged_when_most_earlier_jobs_had_ended_and_within_three_days() -> None:
    at = np.zeros(100, dtype=np.int64)
    assert label_delay(at, np.arange(1, 101) * 60_000_000) == pytest.approx(95.05 * 60_000_000)
    assert label_delay(at, np.full(100, 30 * DAY)) == 3 * DAY


def test_what_does_not_change_raises_no_alarm_and_what_rises_does() -> None:
    assert alarms(judged(noise(4000))) == []
    found = alarms(judged(np.concatenate([noise(2000), noise(2000, 1) + 0.2])))
    assert found[0].kind == "rose"
    assert 200 < found[0].at / PERIOD < 230
    assert {alarm.kind for alarm in found} == {"rose", "worse"}


def test_what_becomes_better_is_no_decay() -> None:
    assert alarms(judged(np.concatenate([noise(2000), noise(2000, 1) - 0.3]))) == []


def test_what_was_never_as_good_as_the_baseline_is_worse_from_the_beginning() -> None:
    [found] = alarms(judged(noise(1000) + 0.2))
    assert (found.kind, found.segment, found.until) == ("worse", "all", None)


def test_one_cluster_is_seen_among_many() -> None:
    excess = noise(6000)
    struck = np.arange(6000) % 10 == 0
    excess[struck & (np.arange(6000) > 3000)] += 0.4
    cluster = np.where(struck, "group b", "group a").astype(object)
    at = np.arange(6000) // 10 * PERIOD
    found = alarms(
        ScoredPredictions(at, np.clip(excess, -1, 1), np.zeros(6000), np.arange(6000), cluster),
        ("group a", "group b"),
    )
    assert "group b" in {alarm.segment for alarm in found}
    assert "group a" not in {alarm.segment for alarm in found}


def test_the_past_of_the_alarms_does_not_change_with_what_comes() -> None:
    whole = judged(np.concatenate([noise(2000), noise(2000, 1) + 0.2]))
    first = [alarm.at for alarm in alarms(whole) if alarm.at <= 260 * PERIOD]
    assert first == [
        alarm.at for alarm in alarms(whole.take(np.arange(2600))) if alarm.at <= 260 * PERIOD
    ]
    assert first


def test_a_thousand_alike_are_one_observation() -> None:
    burst = ScoredPredictions(
        np.zeros(1000, np.int64),
        np.full(1000, 0.9),
        np.ones(1000),
        np.zeros(1000, np.int64),
        np.full(1000, "group a", dtype=object),
    )
    assert alarms(burst) == []


def test_a_rise_demands_training_once_and_being_worse_only_with_many_new_jobs() -> None:
    rose, worse = Alarm(10, "rose", "all", -0.1, 0.1), Alarm(10, "worse", "all", 0.0, 0.1)
    assert training_trigger([rose], now=20, trained=0, new=1, ended=1000, cooldown=5) is rose
    assert (
        training_trigger([rose], now=20, trained=15, new=1, ended=1000, cooldown=5) is None
    )  # it was answered
    assert training_trigger([rose], now=20, trained=0, new=1, ended=1000, cooldown=30) is None
    assert training_trigger([worse], now=20, trained=0, new=499, ended=1000, cooldown=5) is None
    assert training_trigger([worse], now=20, trained=0, new=500, ended=1000, cooldown=5) is worse
    assert (
        training_trigger(
            [Alarm(10, "worse", "all", 0.0, 0.1, until=15)],
            now=20,
            trained=0,
            new=500,
            ended=1000,
            cooldown=5,
        )
        is None
    )
