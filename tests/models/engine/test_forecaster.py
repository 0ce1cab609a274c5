"""What the live engine knows of each job is what training knew, row by row, in whatever order outcomes are told."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd
import pytest

from jobs.coded_jobs import encode_jobs
from jobs.workload import generate
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.engine.target_predictor import TargetPrediction, TargetPredictor
from models.engine.training import train
from models.histories.features import Contexts, encode
from models.histories.mixture import PrequentialReplay, outcome_order
from models.quantities.distribution import Distribution, join
from models.quantities.targets import TARGETS
from models.quantities.within import Bounds
from models.refiner.refinement import factors, refine
from models.refiner.training_rows import TrainingBuffer, TrainingRows, make_training_rows

WALLTIME = TARGETS["walltime"]
ROWS = 10_000


PARTS = np.array_split(np.arange(ROWS), 12)


@dataclass(frozen=True)
class Lived:
    """A log lived through in time, as training does it: what was foreseen at each submission, and what a refiner was shown."""

    contexts: Contexts
    lessons: TrainingRows
    masses: Distribution


def live_through(jobs: pd.DataFrame, model_set: ModelSet, learned: bool) -> Lived:
    """Replay all jobs; ``learned``: the set's weights are there from the first job on, and stay."""
    settings = model_set.targets["walltime"].settings
    mixture = TargetPredictor.create(WALLTIME, model_set.levels, settings).mixture
    if learned:
        mixture.restore(model_set.targets["walltime"].learned)
    contexts, values = encode(jobs, model_set.levels), WALLTIME.value(jobs)
    walk, notebook, masses = (
        PrequentialReplay(mixture, contexts, values, WALLTIME.limit(jobs)),
        TrainingBuffer(ROWS),
        [],
    )
    for rows in PARTS:
        masses.append(walk.advance(rows, weigh=not learned)[0])
        notebook.put(
            rows, make_training_rows(mixture, contexts.take(rows), masses[-1], values[rows])
        )
    return Lived(contexts, notebook.take(np.arange(ROWS)), join(masses))


@pytest.fixture(scope="module")
def jobs() -> pd.DataFrame:
    """By submission; some are still running."""
    made = generate(ROWS, days=15, seed=4).jobs.sort_values(
        "submitted_at", kind="stable", ignore_index=True
    )
    assert made["ended_at"].nunique() < made["ended_at"].notna().sum(), (
        "some should end at one instant"
    )
    return made


@pytest.fixture(scope="module")
def model_set(jobs: pd.DataFrame) -> ModelSet:
    """Trained on what had ended at half of the log, with a refiner that answers."""
    trained = train(jobs[jobs["ended_at"] <= jobs["submitted_at"].iloc[ROWS // 2]])
    assert trained.targets["walltime"].refiners
    return trained


def test_outcomes_told_late_twice_and_out_of_order_leave_the_inputs_of_every_job_as_training_saw_them(
    jobs: pd.DataFrame, model_set: ModelSet
) -> None:
    lived = live_through(jobs, model_set, learned=True)
    forecaster = Forecaster(model_set)
    forecaster._trained_until = np.iinfo(
        np.int64
    ).max  # weights stay, so that the order in which they would have learned does not matter
    mixture, contexts = forecaster.mixtures["walltime"], encode(jobs, forecaster.levels)
    np.testing.assert_array_equal(contexts.keys, lived.contexts.keys)
    limits, values, draw = WALLTIME.limit(jobs), WALLTIME.value(jobs), np.random.default_rng(0)
    told = 0
    for rows in PARTS:
        # All that ended until the last of these was submitted, in a muddle, then half of it again: most of it later than it was news.
        ended = np.flatnonzero(contexts.available_at <= contexts.at[rows[-1]])
        muddle = draw.permutation(np.setdiff1d(ended, ended[contexts.available_at[ended] <= told]))
        for part in np.array_split(np.concatenate([muddle, muddle[::2]]), 5):
            forecaster.learn(jobs.iloc[part])
        told = contexts.at[rows[-1]]
        few = contexts.take(rows)
        masses = mixture.distributions(few, limits[rows])
        np.testing.assert_array_equal(masses.mass, lived.masses.mass[rows])
        np.testing.assert_array_equal(
            make_training_rows(mixture, few, masses, values[rows]).inputs,
            lived.lessons.inputs[rows],
        )


def test_an_engine_told_as_jobs_end_answers_as_training_lived_through_them(
    jobs: pd.DataFrame, model_set: ModelSet
) -> None:
    """Weights and all: what ended by each question has been learned, nothing else."""
    lived = live_through(jobs, model_set, learned=False)
    bent = refine(
        lived.masses,
        factors(
            lived.lessons.inputs,
            lived.lessons.coarse,
            model_set.targets["walltime"].refiners,
            jobs.index,
        ),
    )
    forecaster = Forecaster(model_set)
    ended = jobs.iloc[outcome_order(lived.contexts)]
    known = lived.contexts.available_at[outcome_order(lived.contexts)]
    told = 0
    for row in range(ROWS // 2 + 1, ROWS, 25):
        news = int(np.searchsorted(known, lived.contexts.at[row], side="right"))
        forecaster.learn(ended.iloc[told:news])
        told = news
        query = jobs.iloc[[row]]
        answer = (
            forecaster.predictors["walltime"]
            .distribution(lived.contexts.take([row]), WALLTIME.limit(query), query.index)
            .mass[0]
        )
        np.testing.assert_allclose(answer, bent.mass[row], rtol=1e-4, atol=1e-7, err_msg=str(row))


def test_outcomes_learned_in_slices_of_one_call_count_as_those_of_several_calls(
    jobs: pd.DataFrame,
) -> None:
    at_once, in_turn = Forecaster(), Forecaster()
    at_once.learn(jobs, rows=170)
    for start in range(0, len(jobs), 170):
        in_turn.learn(jobs.iloc[start : start + 170])
    query = jobs.tail(50)
    pd.testing.assert_frame_equal(at_once.predict(query), in_turn.predict(query))


def test_an_answer_asked_at_a_past_time_looks_at_no_outcome_of_later(habits):
    jobs = habits(600)
    moment = jobs["submitted_at"].iloc[300]
    later = (jobs["ended_at"] > moment).to_numpy()
    jobs = jobs.assign(walltime=jobs["walltime"].where(~later, 50_000.0), requested_walltime=np.nan)
    asked = jobs.iloc[300:320].assign(submitted_at=moment)
    forecaster = Forecaster()
    forecaster.learn(jobs[jobs["ended_at"].notna()])
    then = forecaster.predict(asked, at=moment.to_pydatetime())["walltime_median"]
    now = forecaster.predict(asked, at=pd.Timestamp("2100-01-01", tz="UTC").to_pydatetime())[
        "walltime_median"
    ]
    assert now.min() > 40_000 > 30_000 > then.max()


def test_without_a_model_the_levels_follow_the_first_jobs_however_few_are_told_at_a_time(
    jobs: pd.DataFrame,
) -> None:
    ended = jobs[jobs["ended_at"].notna()].sort_values("ended_at", kind="stable").head(70)
    at_once, one_by_one = Forecaster(), Forecaster()
    at_once.learn(ended.head(64))
    for row in range(64):
        one_by_one.learn(ended.iloc[[row]])
    assert len(one_by_one.levels.levels) > 4
    assert one_by_one.levels == at_once.levels


def test_bounds_and_columns_of_some_targets_are_of_one_pass(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    jobs = generate(1500, days=10, seed=4).jobs
    forecaster = Forecaster(targets=("walltime", "peak_memory", "io"))
    forecaster.learn(jobs)
    waiting = jobs.tail(60)
    coded = encode_jobs(waiting, ("submitted_at", "source", "job_id", *forecaster.fields))
    draw = np.random.default_rng(2)
    seconds = waiting["walltime"].fillna(600.0).to_numpy() * draw.uniform(0.2, 3.0, 60)
    bounds = {
        "walltime": Bounds(seconds, seconds * draw.choice([0.0, 0.5], 60)),
        "peak_memory": Bounds(np.full(60, 2e9)),
    }
    predicted: list[str] = []
    predict = TargetPredictor.predict

    def counted(predictor: TargetPredictor, *arguments: Any) -> TargetPrediction:
        predicted.append(predictor.target.name)
        return predict(predictor, *arguments)

    monkeypatch.setattr(TargetPredictor, "predict", counted)
    answers = forecaster.predict_encoded(coded, (0.95,), bounds=bounds, targets=("peak_memory",))
    assert predicted == ["walltime", "peak_memory"]
    everything = forecaster.predict_encoded(coded, (0.95,))
    assert {name.partition("_q")[0] for name in answers.numbers if "_q" in name} == {"peak_memory"}
    for name in ("peak_memory", "peak_memory_low", "peak_memory_q0.95"):
        np.testing.assert_allclose(answers.numbers[name], everything.numbers[name], rtol=1e-6)
    for name, within in answers.within.items():
        single = [
            forecaster.predict_encoded(
                coded.take(np.array([row])),
                bounds={name: bounds[name].take(np.array([row]))},
                targets=(),
            ).within[name]
            for row in range(60)
        ]
        for values, one_by_one in (
            (within.probability, [answer.probability[0] for answer in single]),
            (within.mean, [answer.mean[0] for answer in single]),
        ):
            assert np.ptp(values) > 0
            np.testing.assert_allclose(values, one_by_one, atol=1e-6)
    part = answers.take(np.array([3, 7])).within["walltime"].probability
    assert np.array_equal(part, answers.within["walltime"].probability[[3, 7]])
