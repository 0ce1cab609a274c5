"""Tasks: what belongs together, what is known of it at an instant, and how its end is foreseen."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest

from jobs.workload import generate
from models.engine.training import TrainingError
from models.tasks.backtest import evaluate_tasks, queries_about, query_inputs
from models.tasks.ends import FEWEST_JOBS
from models.tasks.inputs import NAMES
from models.tasks.sets import group_tasks
from models.tasks.survival import Intervals, fit_curves


@pytest.fixture(scope="module")
def generated() -> pd.DataFrame:
    return generate(1500, days=6, seed=3).jobs


def test_a_burst_is_an_hour_of_one_user_and_group(habits: Callable[..., pd.DataFrame]) -> None:
    jobs = habits(600)
    tasks = group_tasks(jobs)
    last = np.maximum.reduceat(tasks.submitted, tasks.first[:-1])
    assert len(tasks.jobs) == len(jobs) and (last - tasks.defined < 3600).all()
    assert (tasks.jobs.groupby(tasks.task)["user"].nunique() == 1).all()
    again = pd.Series(tasks.defined).groupby(tasks.users).diff().dropna()
    assert (again >= 3600).all()


def test_a_tasks_progress_is_reached_when_that_share_of_its_jobs_has_ended(
    generated: pd.DataFrame,
) -> None:
    tasks = group_tasks(generated)
    for progress in (0.25, 0.5, 1.0):
        ended = np.add.reduceat(
            tasks.ended <= tasks.reached(progress)[tasks.task], tasks.first[:-1]
        )
        whole = np.isfinite(tasks.finished)
        assert (ended >= progress * tasks.sizes)[whole].all()
    assert (tasks.reached(1.0) == tasks.finished).all()


def test_nothing_of_the_future_is_in_what_is_known(generated: pd.DataFrame) -> None:
    """Whatever ends after an instant may end later by any time, or never: what is asked up to the instant stays as it was."""
    jobs = generated[generated["ended_at"].notna()].reset_index(drop=True)
    now = jobs["submitted_at"].quantile(0.6)
    later, draw = jobs.copy(), np.random.default_rng(5)
    after = later["ended_at"] > now
    more = pd.to_timedelta(draw.integers(1, 10**6, len(jobs)), unit="s")
    later["ended_at"] = later["ended_at"].where(~after, later["ended_at"] + more)
    later["walltime"] = later["walltime"].where(~after, later["walltime"] + more.total_seconds())
    answers = []
    for log in (jobs, later):
        tasks = group_tasks(log)
        questions = queries_about(tasks, np.flatnonzero(tasks.sizes >= FEWEST_JOBS))
        early = np.flatnonzero(questions.at <= now.timestamp())
        shown = query_inputs(tasks, questions.take(early))
        order = np.lexsort((questions.progress[early], questions.task[early]))
        answers.append(shown[order])
    assert len(answers[0]) > 50
    np.testing.assert_array_equal(answers[0], answers[1])


def test_what_goes_on_counts_as_having_lasted_so_long_at_least() -> None:
    begun, ended = np.zeros(4), np.array([100.0, 100.0, np.inf, np.inf])
    survival = Intervals.of(np.array(["a"] * 4, dtype=object), begun, ended).survivals(
        [["a"]], np.array([0]), np.array([1e6]), 100, 0.0
    )[0, :-2]
    assert survival[0] == 0.5 and survival[-2] == 0.5


def test_a_fitted_curve_gives_the_shares_that_it_was_taught() -> None:
    draw = np.random.default_rng(1)
    lasted = draw.exponential(1000.0, 4000)
    over = lasted < 1500
    answer = fit_curves(np.zeros((4000, 1), np.float32), np.minimum(lasted, 1500), over, _by_share)
    assert answer is not None
    curve = answer(np.zeros((1, 1), np.float32))
    assert curve.quantile(0.5)[0] == pytest.approx(1000 * np.log(2), rel=0.08)
    assert curve.share_by(np.array([1000.0]))[0] == pytest.approx(1 - np.exp(-1), abs=0.03)


def _by_share(rows: np.ndarray, labels: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    intervals = rows[:, -1].astype(int)
    share = np.bincount(intervals, labels) / np.bincount(intervals)
    return lambda asked: share[asked[:, -1].astype(int)]


def test_evaluation_has_a_row_a_predictor_and_progress(generated: pd.DataFrame) -> None:
    rows = pd.DataFrame(evaluate_tasks(generated, refit_every=0.5))
    assert set(zip(rows["predictor"], rows["progress"], strict=True)) == {
        (name, share)
        for name in ("group-p95", "forest", "rate", "gridcast")
        for share in (0, 0.25, 0.5, 0.75)
        if (name, share) != ("rate", 0)
    }
    ours = rows[rows["predictor"] == "gridcast"].set_index("progress")
    assert rows["tasks"].nunique() == 1 and ours["mae_hours"].notna().all()
    assert ours.loc[0.75, "mae_hours"] < ours.loc[0, "mae_hours"]
    assert ours.loc[0, "mae_hours"] < rows[rows["predictor"] == "group-p95"]["mae_hours"].iloc[0]


def test_a_log_without_tasks_is_refused_in_one_sentence(generated: pd.DataFrame) -> None:
    with pytest.raises(TrainingError, match="no task of at least"):
        evaluate_tasks(generated.iloc[:3])


def test_inputs_have_names() -> None:
    assert len(NAMES) == len(set(NAMES))
