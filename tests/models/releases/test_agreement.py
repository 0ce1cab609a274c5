"""A training and an evaluation report the same of the same later jobs."""

import pandas as pd
import pytest

from jobs.workload import generate
from models.evaluation.backtest import evaluate
from models.quantities.targets import TARGETS
from models.releases.candidate import compare_candidate

WALLTIME = TARGETS["walltime"]


def agreeing_rows(jobs: pd.DataFrame, comparison: pd.DataFrame, since: pd.Timestamp) -> int:
    """Assert that both report the same of the jobs since ``since``; returns how many jobs."""
    first = int((jobs["submitted_at"] < since).sum())
    evaluation = evaluate(
        jobs,
        WALLTIME,
        warm_up=(first + 0.5) / len(jobs),
        refit_every=1.0,
        predictors=["gridcast", "request", "last-two", "median-10"],
    )
    evaluated = pd.DataFrame(evaluation.rows).set_index("predictor")
    trained = comparison.set_index("predictor").rename(index={"candidate": "gridcast"})
    for name in ("gridcast", "last-two", "median-10"):
        assert trained.loc[name, "mae"] == evaluated.loc[name, "mae"], name
        assert trained.loc[name, "median_ae"] == evaluated.loc[name, "median_ae"], name
        assert trained.loc[name, "apa"] == evaluated.loc[name, "apa"], name
    assert trained.loc["gridcast", "coverage_90"] == evaluated.loc["gridcast", "coverage_90"]
    assert trained.loc["gridcast", "jobs"] == evaluated.loc["gridcast", "jobs"]
    return int(trained.loc["gridcast", "jobs"])


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    generated = generate(6000, 20, 3).jobs
    generated = generated[generated["ended_at"].notna()]
    return generated.sort_values("submitted_at", kind="stable", ignore_index=True)


def test_the_judgement_of_a_candidate_and_the_evaluation_agree_to_the_digit(
    jobs: pd.DataFrame,
) -> None:
    comparison = compare_candidate(jobs, ("walltime",), None, None)
    since = comparison.later["submitted_at"].min()
    assert agreeing_rows(jobs, comparison.table, since) > 1000
    assert comparison.predictions["cluster"].eq("global").any()
