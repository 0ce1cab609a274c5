from threading import Event

import numpy as np
import pandas as pd
import pytest

import models.engine.backtest as engine_backtest
import models.evaluation.backtest as evaluation_of
from models.baselines.catalogue import HEURISTICS
from models.engine.forecaster import Forecaster
from models.engine.training import TrainingError, train
from models.evaluation.backtest import OURS, PREDICTORS, evaluate, is_unseen
from models.evaluation.plots import plots
from models.quantities.targets import TARGETS

WALLTIME = TARGETS["walltime"]
KEYS = {
    "predictor",
    "mae",
    "median_ae",
    "rmse",
    "r2",
    "r2_log",
    "mape",
    "apa",
    "under",
    "coverage_90",
    "width_90",
    "pinball",
    "crps",
}


@pytest.fixture(scope="module")
def jobs(habits):
    return habits(rows=1500, days=100)


@pytest.fixture(scope="module")
def evaluation(jobs):
    return evaluate(jobs, WALLTIME, predictors=(OURS, *HEURISTICS))


def test_the_table_has_a_row_a_predictor_with_every_measure(evaluation):
    assert sorted(row["predictor"] for row in evaluation.rows) == sorted((OURS, *HEURISTICS))
    for row in evaluation.rows:
        assert row.keys() >= KEYS
        assert row["jobs"] == len(evaluation.jobs)
        assert (row["coverage_90"] is None) == (row["predictor"] not in (OURS, "median-10"))


def test_rows_agree_with_the_predictions_they_stand_for(evaluation):
    for row in evaluation.rows:
        error = (evaluation.jobs[row["predictor"]] - evaluation.jobs["actual"]).abs()
        assert row["mae"] == pytest.approx(error.mean())
        assert row["median_ae"] == pytest.approx(error.median())
    assert [row["mae"] for row in evaluation.rows] == sorted(row["mae"] for row in evaluation.rows)


def test_only_jobs_after_the_warm_up_with_a_known_outcome_count(jobs, evaluation):
    later = jobs.sort_values("submitted_at", kind="stable").iloc[150:]
    assert len(evaluation.jobs) == later["walltime"].notna().sum()
    assert evaluation.jobs["submitted_at"].min() >= later["submitted_at"].min()


def test_every_row_is_compared_with_the_best_baseline(evaluation):
    by_name = {row["predictor"]: row for row in evaluation.rows}
    best = by_name[evaluation.best_baseline]
    assert best["predictor"] != OURS
    assert best["mae"] == min(row["mae"] for name, row in by_name.items() if name != OURS)
    assert (best["mae_ratio"], best["mae_difference"]) == (1.0, 0.0)
    for row in evaluation.rows:
        assert row["mae_ratio"] == pytest.approx(row["mae"] / best["mae"])
        assert row["mae_difference"] == pytest.approx(row["mae"] - best["mae"])
        assert row["mae_ratio_low"] <= row["mae_ratio"] <= row["mae_ratio_high"]


def test_parts_add_up_to_the_whole(evaluation):
    ours = next(row for row in evaluation.rows if row["predictor"] == OURS)
    for parts in (evaluation.period_rows, evaluation.cluster_rows):
        mine = [row for row in parts if row["predictor"] == OURS]
        assert sum(row["jobs"] for row in mine) == ours["jobs"]
        assert sum(row["jobs"] * row["mae"] for row in mine) == pytest.approx(
            ours["jobs"] * ours["mae"]
        )
    assert {row["period"] for row in evaluation.period_rows} == {
        "2026-01",
        "2026-02",
        "2026-03",
        "2026-04",
    }
    assert {row["cluster"] for row in evaluation.cluster_rows} == {"g0", "g1", "g2", "g3"}
    assert all(
        row["jobs"] == (evaluation.jobs["actual"] > 60).sum() for row in evaluation.long_rows
    )


def test_short_logs_are_cut_into_three_days(habits):
    short = evaluate(habits(rows=400, days=8), WALLTIME, predictors=["median-10"])
    assert [row["period"] for row in short.period_rows] == [
        "2026-01-01",
        "2026-01-04",
        "2026-01-07",
    ]


def test_calibration_is_told_where_there_are_distributions(evaluation, habits):
    assert sum(evaluation.deciles) == pytest.approx(1)
    assert np.all(np.diff(evaluation.reliability) >= 0)
    assert evaluate(habits(rows=300), WALLTIME, predictors=["last"]).deciles == []


def test_the_order_of_rows_given_does_not_matter(habits):
    jobs = habits(rows=400)
    shuffled = jobs.sample(frac=1, random_state=1)
    names = ["last", "median-10", "ridge"]
    there, again = (evaluate(given, WALLTIME, predictors=names).rows for given in (jobs, shuffled))
    assert [row["mae"] for row in there] == pytest.approx([row["mae"] for row in again])


def test_an_evaluation_says_the_same_twice(habits):
    jobs = habits(rows=700)
    first = evaluate(jobs, WALLTIME, refit_every=0.5).rows
    assert first == evaluate(jobs, WALLTIME, refit_every=0.5).rows
    assert sorted(row["predictor"] for row in first) == sorted(set(PREDICTORS) - {"gridcast-ideal"})


@pytest.mark.parametrize(
    ("asked", "sentence"),
    [
        ({"predictors": ["oracle"]}, "no predictor oracle; there are gridcast, request"),
        ({"predictors": []}, "no predictor chosen"),
        ({"predictors": ["gridcast-ideal"]}, "gridcast-ideal needs the CPU times"),
        ({"warm_up": 1.0}, "shares between 0 and 1"),
        ({"refit_every": 0.0}, "shares between 0 and 1"),
    ],
)
def test_a_wrong_wish_is_refused_in_one_sentence(jobs, asked, sentence):
    with pytest.raises(TrainingError, match=sentence):
        evaluate(jobs, WALLTIME, **asked)


def test_the_ideal_knows_what_nobody_can_and_is_nobody_s_rival(habits):
    jobs = habits(rows=900)
    jobs = jobs.assign(cpu_time=jobs["walltime"] * 0.9)
    found = evaluate(
        jobs, WALLTIME, predictors=["last", "catboost", "gridcast-ideal"], refit_every=0.45
    )
    by_name = {row["predictor"]: row for row in found.rows}
    assert by_name["gridcast-ideal"]["mae"] < 0.8 * by_name["catboost"]["mae"]
    assert found.best_baseline in ("last", "catboost")


def test_a_log_without_outcomes_cannot_be_evaluated(jobs):
    with pytest.raises(TrainingError, match="nothing to evaluate"):
        evaluate(jobs.assign(walltime=np.nan), WALLTIME)


def test_progress_is_told_for_every_predictor(habits):
    told = []
    evaluate(
        habits(rows=300),
        WALLTIME,
        predictors=["last", OURS],
        progress=lambda what, share: told.append((what, share)),
    )
    assert told[0] == ("walltime: baseline last", 0.0)
    assert told[-1][1] == 1.0


def test_every_plot_is_drawn(evaluation, tmp_path):
    drawn = plots(evaluation)
    assert list(drawn) == [
        "error-over-time",
        "predicted-against-actual",
        "calibration",
        "coverage-over-time",
    ]
    for name, figure in drawn.items():
        figure.savefig(tmp_path / f"{name}.png")
        assert (tmp_path / f"{name}.png").stat().st_size > 5000


def test_plots_show_the_figures_of_the_table(evaluation):
    drawn = plots(evaluation)
    bars = [bar.get_height() for bar in drawn["calibration"].axes[0].patches[:10]]
    assert bars == evaluation.deciles
    labels = [line.get_label() for line in drawn["error-over-time"].axes[0].lines]
    assert labels == list(dict.fromkeys([OURS, evaluation.best_baseline, "template"]))


def test_without_gridcast_its_ranges_are_not_drawn(habits):
    assert list(plots(evaluate(habits(rows=300), WALLTIME, predictors=["last"]))) == [
        "error-over-time",
        "predicted-against-actual",
    ]


def test_the_names_of_predictors_are_those_of_the_interface():
    assert set(PREDICTORS) >= {
        "gridcast", "request", "last", "last-two", "template", "median-3", "median-10", "ewma", "ridge", "forest", "catboost"
    }  # fmt: skip


def test_a_user_is_unseen_until_one_of_its_jobs_has_ended():
    minutes = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(6), unit="min")
    jobs = pd.DataFrame(
        {
            "source": ["a", "a", "a", "b", "a", "a"],
            "user": ["ada", "ada", "ada", "ada", None, "bob"],
            "submitted_at": minutes,
            "ended_at": minutes + pd.to_timedelta([1.5, 10, 10, 10, 10, 0], unit="min"),
        }
    )
    # The first job of ada ends after her second was submitted; b's ada is another; bob's own job
    # of no length says nothing of itself.
    unseen = is_unseen(jobs, "user", WALLTIME.subject)
    assert unseen.tolist() == [True, True, False, True, False, True]


def test_jobs_of_unseen_users_and_programs_have_rows_of_their_own(habits):
    jobs = habits(rows=1500, days=100)
    jobs = jobs[jobs["walltime"].notna()].reset_index(drop=True)
    new = np.arange(1000, len(jobs), 5)
    jobs.loc[jobs.index[new], "user"] = [f"newcomer-{number}" for number in new]
    evaluation = evaluate(jobs, WALLTIME, predictors=[OURS, "last"])
    by_name = {row["predictor"]: row for row in evaluation.unseen_rows}
    row = by_name[f"{OURS}, user never seen"]
    assert row["jobs"] >= len(new)
    first_counted = len(jobs) - len(evaluation.jobs)
    unseen = is_unseen(jobs, "user", WALLTIME.subject)[first_counted:]
    rows = evaluation.jobs[unseen]
    assert row["jobs"] == unseen.sum()
    assert row["coverage_90"] == rows["actual"].between(rows["low"], rows["high"]).mean()
    assert row["mae"] == pytest.approx((rows[OURS] - rows["actual"]).abs().mean())
    assert all(row["predictor"] in (OURS, "last") for row in evaluation.rows)


def test_a_log_without_users_groups_and_programs_is_evaluated_and_trained(habits):
    names = ["user", "group", "project", "program", "queue", "site", "job_name", "task_id"]
    nameless = habits(rows=700, days=50).assign(**dict.fromkeys(names))
    rows = evaluate(nameless, WALLTIME, predictors=(OURS, "catboost", "template")).rows
    assert {row["predictor"] for row in rows} == {OURS, "catboost", "template"}
    assert all(np.isfinite(row["mae"]) for row in rows)
    forecaster = Forecaster(train(nameless))
    forecaster.learn(nameless)
    assert np.isfinite(forecaster.predict(nameless[-20:])["walltime"]).all()


def test_an_error_of_gridcast_ends_the_baselines_beside_it(habits, monkeypatch):
    """No further baseline is begun, so that an interrupt need not wait for all of them."""
    begun = []
    predict = evaluation_of.predict_baselines

    def noted(*arguments, progress, **options):
        def report(text, share):
            progress(text, share)
            begun.append(text)
            is_ended.wait(60)

        return predict(*arguments, progress=report, **options)

    def fail(*_arguments, **_options):
        raise ArithmeticError

    is_ended = Event()
    monkeypatch.setattr(evaluation_of, "THREADS", 2)
    monkeypatch.setattr(evaluation_of, "predict_baselines", noted)
    monkeypatch.setattr(engine_backtest, "backtest", fail)
    monkeypatch.setattr(evaluation_of, "Event", lambda: is_ended)
    with pytest.raises(ArithmeticError):
        evaluate(habits(rows=300), WALLTIME, predictors=["last", "last-two", "template", OURS])
    assert len(begun) < 2
