"""Model selection: a refiner answers as far as it was better on later jobs."""

import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from models.quantities.targets import TARGETS
from models.refiner.boosting import BOOSTING, CatBoostRefiner, fit_refiner
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import coarse_bins
from models.refiner.selection import (
    LOST,
    REACHES,
    SHARES,
    TREES,
    Selection,
    WindowScores,
    fit_here,
    select_refiners,
)
from models.refiner.training_rows import TrainingRows

GRID = TARGETS["walltime"].grid
COARSE = int(coarse_bins(GRID)[-1]) + 1
ROWS = 4000


def lessons(truth: np.ndarray, told: np.ndarray) -> TrainingRows:
    """A job a minute; three bins are equally likely, an input says which in three columns."""
    coarse = np.full((len(truth), COARSE), 0.04 / (COARSE - 3))
    coarse[:, [8, 11, 14]] = 0.32
    at = np.arange(len(truth), dtype=np.int64) * 60_000_000
    shown = np.repeat(told[:, None], 3, axis=1).astype(np.float32)
    return TrainingRows(shown, coarse, truth, 2.0 ** (truth * 0.75), at, at + 10_000_000)


@pytest.fixture(scope="module")
def told() -> np.ndarray:
    return np.random.default_rng(0).integers(0, 3, ROWS)


@pytest.fixture(scope="module")
def nobody() -> np.ndarray:
    return np.full(ROWS, GLOBAL, dtype=object)


@pytest.fixture(scope="module")
def lasting(told: np.ndarray, nobody: np.ndarray) -> Selection:
    """What the number tells holds for good."""
    return select_refiners(lessons(8 + 3 * told, told), nobody, GRID)


def test_a_refiner_that_is_better_later_answers_and_goes_most_of_the_way(
    lasting: Selection,
) -> None:
    assert lasting.refiners[GLOBAL].share == SHARES[-1]
    (verdict,) = lasting.report
    assert verdict["answers"] == GLOBAL
    assert verdict["crps"] < verdict["crps_mixture"] / 2
    assert verdict["windows"] == 3


def test_a_refiner_that_harms_later_does_not_answer(told: np.ndarray, nobody: np.ndarray) -> None:
    """The input's meaning turns about before the first window; most rows are of before."""
    meaning = np.where(np.arange(ROWS) < 0.4 * ROWS, told, 2 - told)
    found = select_refiners(lessons(8 + 3 * meaning, told), nobody, GRID)
    assert found.refiners == {}
    assert found.report[0]["answers"] == "mixture"
    assert found.fitted is not None


def test_a_standing_refiner_is_judged_on_what_it_has_not_seen(
    told: np.ndarray, nobody: np.ndarray, lasting: Selection
) -> None:
    """All new rows are turned about, which the earlier refiner did not know, but a new one does."""
    turned = lessons(8 + 3 * np.where(np.arange(ROWS) < ROWS // 2, told, 2 - told), told)
    found = select_refiners(turned, nobody, GRID, lasting, unseen=ROWS // 2)
    assert found.scores.windows == lasting.scores.windows + 1
    assert found.report[0]["crps"] > found.report[0]["crps_mixture"]
    assert found.scores.sums[-1] > lasting.scores.sums[-1]


def test_a_cluster_answers_for_itself_only_where_it_is_better_than_the_rest(
    told: np.ndarray,
) -> None:
    """Of two clusters one reads the input the other way round; the larger rules the global one."""
    other = np.random.default_rng(1).random(ROWS) < 0.35
    clusters = np.where(other, "group b", "group a").astype(object)
    found = select_refiners(lessons(8 + 3 * np.where(other, 2 - told, told), told), clusters, GRID)
    verdicts = {verdict["cluster"]: verdict for verdict in found.report}
    assert verdicts["group b"]["answers"] == "group b"
    assert verdicts["group b"]["gain"] > 0.2
    assert set(found.refiners) <= {GLOBAL, "group a", "group b"}
    same = select_refiners(lessons(8 + 3 * told, told), clusters, GRID)
    assert set(same.refiners) == {GLOBAL}
    assert all(verdict["answers"] == GLOBAL for verdict in same.report)


def test_a_cluster_that_lost_a_window_is_not_fitted_for_later_ones(told: np.ndarray) -> None:
    """Noise is all that tells the first cluster apart; the second reads the input otherwise."""
    other = np.random.default_rng(1).random(ROWS) < 0.35
    clusters = np.where(other, "group b", "group a").astype(object)
    rows = lessons(8 + 3 * np.where(other, 2 - told, told), told)
    # The first window's jobs of the second cluster read it as the first cluster's do.
    first_window = (np.arange(ROWS) >= 0.4 * ROWS) & (np.arange(ROWS) < 0.6 * ROWS)
    turned = replace(rows, truth=np.where(other & first_window, 8 + 3 * told, rows.truth))
    batches: list[int] = []

    def counted(batch: Sequence[TrainingRows]) -> list[CatBoostRefiner | None]:
        batches.append(len(batch))
        return fit_here(batch)

    verdicts = {
        verdict["cluster"]: verdict
        for verdict in select_refiners(turned, clusters, GRID, fits=counted).report
    }
    assert verdicts["group b"]["answers"] == GLOBAL
    assert verdicts["group b"]["windows"] == 1
    assert verdicts["group b"]["why"] == LOST
    assert verdicts["group a"]["windows"] == 3
    assert batches == [6, 1, 1, 1], "group a alone in later windows, and fitted to all its jobs"


def test_too_little_is_left_to_the_mixture(told: np.ndarray, nobody: np.ndarray) -> None:
    few = lessons(8 + 3 * told, told).take(np.arange(400))
    found = select_refiners(few, nobody[:400], GRID)
    assert found.refiners == {}
    assert found.report == [
        {"cluster": GLOBAL, "jobs": 400, "answers": "mixture", "why": "too few ended jobs"}
    ]


def test_a_window_counts_by_its_jobs_and_by_how_much_was_won() -> None:
    won, lost = (tuple(1 + sign * 0.2 * share for share, _ in REACHES) for sign in (-1, 1))
    assert WindowScores().share == 0.0
    assert WindowScores().add(won, 100).share == SHARES[-1]
    assert WindowScores().add(won, 100).add(lost, 1000).share == 0.0
    assert WindowScores().add(won, 1000).add(lost, 100).share == SHARES[-1]
    assert WindowScores().add((0.0,) * len(REACHES), 5).sums == WindowScores().sums


def test_the_fewest_trees_are_kept_that_hardly_lose() -> None:
    by_trees = dict(zip(TREES, (0.92, 0.9005, 0.9, 0.9002), strict=True))
    record = WindowScores().add(
        tuple(by_trees[trees] if share == SHARES[-1] else 1.0 for share, trees in REACHES), 100
    )
    assert (record.share, record.trees) == (SHARES[-1], TREES[1])


def test_a_refiner_is_cut_to_its_first_trees(told: np.ndarray, lasting: Selection) -> None:
    """As a shorter training would have made it."""
    told_of = lessons(8 + 3 * told, told)
    fitted = lasting.fitted
    assert fitted is not None
    short = fit_refiner(told_of, BOOSTING | {"iterations": TREES[0]})
    assert short is not None
    few = told_of.take(np.arange(300))
    np.testing.assert_allclose(
        fitted.first(TREES[0]).ratio(few.inputs, few.coarse),
        short.ratio(few.inputs, few.coarse),
        rtol=1e-9,
    )
    assert fitted.model.tree_count_ == TREES[-1]


def test_refiners_fitted_side_by_side_are_those_fitted_by_themselves(told: np.ndarray) -> None:
    """The longest is begun first; the result is in the order of the batches, None for too few."""
    rows = lessons(8 + 3 * told, told)
    batches = [rows.take(np.arange(count)) for count in (600, 100, 1200)]
    first, too_few, last = fit_here(batches)
    assert too_few is None
    for batch, refiner in ((batches[0], first), (batches[2], last)):
        alone = fit_refiner(batch, BOOSTING | {"leaf_estimation_backtracking": "AnyImprovement"})
        assert refiner is not None
        assert alone is not None
        np.testing.assert_array_equal(
            refiner.ratio(rows.inputs, rows.coarse), alone.ratio(rows.inputs, rows.coarse)
        )


def test_a_refiner_of_empty_trees_stays_as_it_is(told: np.ndarray) -> None:
    """CatBoost cannot shorten one that has fewer splits than trees."""
    told_of = lessons(8 + 3 * told, told)
    fitted = fit_refiner(replace(told_of, inputs=told_of.inputs[:, :1]))
    assert fitted is not None
    assert fitted.first(TREES[1]) is fitted
    assert fitted.first(1).model.tree_count_ == 1


def test_catboost_is_imported_after_its_allocator_was_told_to_keep_memory() -> None:
    code = (
        "import os, sys; import models.refiner.boosting; "
        "print(os.environ['MIMALLOC_PURGE_DELAY'], 'catboost' in sys.modules)"
    )
    environment = {name: text for name, text in os.environ.items() if "MIMALLOC" not in name}
    run = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True
    )
    assert run.stdout.split() == ["1000", "False"]
