"""Explanations: they speak of what answered, and of nothing that had not ended."""

import catboost
import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs
from jobs.schema import OUTCOMES
from jobs.workload import generate
from models.engine.explanation import AT_REQUEST, LADDER, QUANTILE, REQUEST_OF_NEW, allocation_rule
from models.engine.forecaster import Forecaster
from models.engine.training import train
from models.histories.features import identities


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    return generate(1500, days=10, seed=4, sites=3, users=8).jobs.sort_values(
        "submitted_at", kind="stable", ignore_index=True
    )


@pytest.fixture(scope="module")
def forecaster(jobs: pd.DataFrame) -> Forecaster:
    """Taught all jobs, the last of which are asked about as of their submission."""
    made = Forecaster(train(jobs.head(1200)))
    made.learn(jobs)
    return made


def test_similar_jobs_had_ended_share_what_is_said_and_tell_their_own_outcome(
    jobs: pd.DataFrame, forecaster: Forecaster
) -> None:
    asked = jobs.tail(40).drop(columns=list(OUTCOMES))
    by_hash = dict(
        zip(identities(encode_jobs(jobs, ("source", "job_id"))).tolist(), jobs.index, strict=True)
    )
    told = forecaster.explain(encode_jobs(asked, asked.columns))
    assert sum(len(why["walltime"]["similar"]) for why in told) > 40
    for (_, job), why in zip(asked.iterrows(), told, strict=True):
        for past in why["walltime"]["similar"]:
            was = jobs.loc[by_hash[past["ident"]]]
            assert was["ended_at"] <= job["submitted_at"] and was["walltime"] == past["value"]
            same = [name for name in past["alike"] if name not in ("input_bytes",)]
            assert all(
                was[name] == job[name] or (pd.isna(was[name]) and pd.isna(job[name]))
                for name in same
            )


def test_the_median_of_a_history_is_that_of_its_jobs_that_had_ended(
    jobs: pd.DataFrame, forecaster: Forecaster
) -> None:
    asked, checked = jobs.tail(40).drop(columns=list(OUTCOMES)), 0
    explained = forecaster.explain(encode_jobs(asked, asked.columns))
    for (_, job), why in zip(asked.iterrows(), explained, strict=True):
        over = jobs[(jobs["ended_at"] <= job["submitted_at"]) & jobs["walltime"].notna()]
        for history in why["walltime"]["histories"]:
            fields = history["history"].split("+")
            if history["jobs"] > 50 or not set(fields) <= {"source", "user", "program", "site"}:
                continue
            past = over[(over[fields] == job[fields]).all(axis=1)]
            assert len(past) == history["jobs"]
            assert history["median"] == pytest.approx(past["walltime"].median())
            checked += 1
    assert checked > 10


def test_contributions_are_those_of_the_refiner_that_answered(
    jobs: pd.DataFrame, forecaster: Forecaster
) -> None:
    assert forecaster.model_set is not None and forecaster.model_set.targets["walltime"].refiners
    told = forecaster.explain(
        encode_jobs(jobs.tail(20), [name for name in jobs if name not in OUTCOMES])
    )
    moved = [each for why in told for each in why["walltime"]["contributions"]]
    assert moved and all(each["contribution"] for each in moved)
    for why in told:
        sizes = [abs(each["contribution"]) for each in why["walltime"]["contributions"]]
        assert sizes == sorted(sizes, reverse=True)
    alone = Forecaster()
    alone.learn(jobs.head(300))
    why = alone.explain(encode_jobs(jobs.tail(1), [name for name in jobs if name not in OUTCOMES]))[
        0
    ]["walltime"]
    assert why["contributions"] == [] and why["histories"]


def test_contributions_add_up_to_what_the_trees_say(
    jobs: pd.DataFrame, forecaster: Forecaster
) -> None:
    """SHAP values and their base are the raw score of the class."""
    refiner = forecaster.model_set.targets["walltime"].refiners["global"]  # type: ignore[union-attr]
    shown = np.random.default_rng(0).random((1, len(refiner.model.feature_names_)), np.float32)  # type: ignore[attr-defined]
    moved = refiner.contributions(shown, int(refiner.classes[1])).sum()  # type: ignore[attr-defined]
    raw = refiner.model.predict(shown, prediction_type="RawFormulaVal")[0]  # type: ignore[attr-defined]
    base = refiner.model.get_feature_importance(catboost.Pool(shown), type="ShapValues")[0][:, -1]  # type: ignore[attr-defined]
    centred = (raw - raw.mean()) - (base - base.mean())
    assert moved == pytest.approx(refiner.share * centred[1], abs=1e-6)
    assert not refiner.contributions(shown, 10_000).any()  # type: ignore[attr-defined]


def test_the_rule_that_set_an_allocation_is_told() -> None:
    assert allocation_rule(True, True, 4e9, 4e9) == REQUEST_OF_NEW
    assert allocation_rule(False, True, 4e9, 4e9) == AT_REQUEST
    assert allocation_rule(False, True, 1e9, 4e9) == LADDER
    assert allocation_rule(False, False, 60.0, np.inf) == QUANTILE


def test_the_contexts_of_an_explanation_are_those_of_the_answer(
    jobs: pd.DataFrame, forecaster: Forecaster
) -> None:
    row = jobs.tail(1).drop(columns=list(OUTCOMES))
    allocation = forecaster.explain(encode_jobs(row, row.columns))[0]["walltime"]["allocation"][
        "value"
    ]
    assert allocation == forecaster.predict(row)["walltime_allocation"].iloc[0]
