"""What the outcomes of a canary's answers say about it."""

import numpy as np
import pandas as pd
import pytest

from monitoring.canary import SMALL_SOURCES, Judgement, judge

START = pd.Timestamp("2026-01-01", tz="UTC")


def answers(
    jobs: int, factor: float, seed: int = 0, ended: int | None = None, **columns: object
) -> pd.DataFrame:
    """Pairs of predictions, the canary's errors ``factor`` times the champion's."""
    draw = np.random.default_rng(seed)
    actual = draw.lognormal(8, 1, jobs)
    error, other = (draw.normal(0, 1000, jobs) for _ in range(2))
    asked_at = START + pd.to_timedelta(np.arange(jobs), unit="min")
    frame = pd.DataFrame(
        {
            "source": "a",
            "target": "walltime",
            "asked_at": asked_at,
            "ended_at": asked_at + pd.to_timedelta(actual, unit="s"),
            "point": actual + factor * error,
            "champion_point": actual + 0.3 * other + error,
            "actual": actual,
            **columns,
        }
    )
    open_jobs = frame.index[ended:] if ended is not None else []
    frame.loc[open_jobs, "actual"] = np.nan
    frame.loc[open_jobs, "ended_at"] = pd.NaT
    return frame


@pytest.mark.parametrize(
    ("jobs", "factor", "verdict", "judged"),
    [
        (49, 10, "wait", 0),
        (50, 10, "withdraw", 50),
        (150, 0.5, "wait", 100),
        (399, 0.5, "promote", 200),
        (399, 1.05, "wait", 200),
        (900, 3, "withdraw", 800),
    ],
)
def test_looks_are_taken_as_the_outcomes_double(
    jobs: int, factor: float, verdict: str, judged: int
) -> None:
    judgement = judge(answers(jobs, factor), "walltime", "gridcast-1")
    assert (judgement.verdict, judgement.judged) == (verdict, judged)


def test_an_equal_version_is_seldom_withdrawn_however_often_it_is_looked_at() -> None:
    withdrawn = sum(
        any(
            judge(answers(800, 1.044, seed, ended), "walltime", "x").verdict == "withdraw"
            for ended in (50, 100, 200, 400, 800)
        )
        for seed in range(20)
    )
    assert withdrawn <= 5


def test_it_waits_for_long_jobs_until_nine_of_ten_have_ended() -> None:
    good = answers(1000, 0.5)
    assert judge(good, "walltime", "x").verdict == "promote"
    # Every third job is long and still runs.
    still_open = good.index % 3 == 0
    good.loc[still_open, ["actual"]] = np.nan
    good.loc[still_open, "ended_at"] = pd.NaT
    assert judge(good, "walltime", "x").verdict == "wait"
    # Among the earliest 300 all have ended: these are judged.
    good.loc[:299] = answers(1000, 0.5).loc[:299]
    judgement = judge(good, "walltime", "x")
    assert (judgement.verdict, judgement.judged) == ("promote", 200)


def test_a_worse_source_or_target_withdraws_it_and_a_source_of_few_jobs_does_not() -> None:
    good, bad = answers(400, 0.5), answers(400, 10, 1)
    small = bad.head(30).assign(source="b")
    assert judge(pd.concat([good, small]), "walltime", "x").verdict != "withdraw"
    large = answers(400, 1.5, 1, source="b")
    judgement = judge(pd.concat([answers(400, 0.1), large]), "walltime", "x")
    assert judgement.verdict == "withdraw" and "worse on b" in judgement.sentence
    assert SMALL_SOURCES not in judgement.sentence
    memory = bad.assign(target="peak_memory")
    judgement = judge(pd.concat([good, memory]), "walltime", "x")
    assert judgement.verdict == "withdraw" and "of peak_memory" in judgement.sentence


def test_without_answers_it_waits() -> None:
    judgement = judge(answers(0, 1), "walltime", "x")
    assert isinstance(judgement, Judgement) and judgement.verdict == "wait"
