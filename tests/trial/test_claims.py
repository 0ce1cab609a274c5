"""Claims are made from the first 70 % of a log only, where they repeat, and checked on the rest."""

import numpy as np
import pandas as pd

from trial.claims import CHECK, CHOICE, CLAIM, Claim, Figure, Windows, make_claim

JOBS = 2000
HOUR = pd.Timedelta(hours=1)


def windows() -> Windows:
    times = pd.Timestamp("2024-01-01", tz="UTC") + HOUR * np.arange(JOBS)
    return Windows.of(pd.DataFrame({"submitted_at": times}))


def claim(numerator: np.ndarray, of_successes: bool = False) -> Claim:
    """The claim of a share whose numerator is given for each job; all end after an hour."""
    of_log = windows()
    rows = np.arange(JOBS)
    figure = Figure(
        *("what", "share of jobs", "how"),
        rows,
        of_log.submitted_at + HOUR,
        numerator,
        np.ones(JOBS),
        of_successes,
    )
    return make_claim(figure, of_log)


def test_the_windows_are_in_order_and_do_not_overlap() -> None:
    rows, of_log = np.arange(JOBS), windows()
    masks = [of_log.contains(name, rows) for name in (CHOICE, CLAIM, CHECK)]
    firsts_and_counts = [(int(mask.argmax()), int(mask.sum())) for mask in masks]
    assert firsts_and_counts == [(400, 500), (900, 500), (1400, 600)]


def test_a_job_that_had_not_ended_when_the_claim_was_made_does_not_count() -> None:
    rows, of_log = np.arange(JOBS), windows()
    ended = of_log.submitted_at + HOUR * 100
    assert of_log.contains(CLAIM, rows, ended).sum() == 401
    assert of_log.contains(CHECK, rows, ended).sum() == 600


def test_a_steady_share_is_claimed_and_holds() -> None:
    done = claim((np.arange(JOBS) % 10 < 8).astype(float))
    assert done.claimed is not None
    assert abs(done.claimed - 0.8) < 0.01
    assert done.realised == 0.8
    assert done.within_tolerance
    assert not done.is_wrong
    assert done.low is not None
    assert done.high is not None
    assert done.low <= done.claimed <= done.high


def test_a_share_that_falls_after_the_claim_is_wrong_and_says_by_how_much() -> None:
    values = (np.arange(JOBS) % 10 < 8).astype(float)
    values[1400:] = np.arange(600) % 10 < 4
    done = claim(values)
    assert done.realised == 0.4
    assert done.within_tolerance is False
    assert done.is_wrong
    assert "missed by" in done.reason


def test_what_did_not_repeat_in_the_first_part_is_not_claimed() -> None:
    values = (np.arange(JOBS) % 10 < 8).astype(float)
    values[1150:] = np.arange(JOBS - 1150) % 10 < 5
    done = claim(values)
    assert done.claimed is None
    assert done.realised == 0.5
    assert "57.5 %" in done.reason
    assert not done.is_wrong


def test_the_last_part_cannot_change_a_claim() -> None:
    values = (np.arange(JOBS) % 10 < 8).astype(float)
    before = claim(values)
    values[1400:] = 0.0
    after = claim(values)
    assert (before.claimed, before.low, before.high) == (after.claimed, after.low, after.high)


def test_far_more_failures_than_claimed_are_wrong_though_the_share_is_near() -> None:
    values = (np.arange(JOBS) % 100 > 0).astype(float)
    values[1400:] = np.arange(600) % 100 > 4
    done = claim(values, of_successes=True)
    assert done.within_tolerance
    assert done.is_wrong
    assert done.reason == "5.0 % of the jobs failed, 1.0 % were claimed to"


def test_few_jobs_make_no_claim() -> None:
    of_log = windows()
    rows = np.arange(0, JOBS, 10)
    available_at = of_log.submitted_at.iloc[rows]
    figure = Figure("what", "ratio", "how", rows, available_at, np.ones(200), np.ones(200))
    done = make_claim(figure, of_log)
    assert done.claimed is None
    assert "fewer than 100" in done.reason
