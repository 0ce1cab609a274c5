"""Unique contexts: equal jobs are predicted once, and as each would be alone."""

from collections.abc import Callable

import numpy as np
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from jobs.schema import OUTCOMES
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.engine.training import train
from models.histories import unique_contexts
from models.histories.hash_table import mix
from models.histories.unique_contexts import group_rows

Jobs = Callable[..., pd.DataFrame]


@settings(max_examples=50, deadline=None)
@given(
    arrays(np.uint64, st.tuples(st.integers(0, 60), st.integers(1, 3)), elements=st.integers(0, 3))
)
def test_rows_are_of_one_kind_if_they_hold_the_same(table: np.ndarray) -> None:
    found = group_rows(list(table.T), len(table))
    same = (table[:, None, :] == table[None, :, :]).all(axis=2)
    np.testing.assert_array_equal(
        found.context_of_row[:, None] == found.context_of_row[None, :], same
    )
    np.testing.assert_array_equal(table[found.first_rows][found.context_of_row], table)
    assert (np.diff(found.first_rows) > 0).all()


def test_rows_whose_keys_collide_are_told_apart(monkeypatch: pytest.MonkeyPatch) -> None:
    secret = np.uint64(7)
    first, second = np.array([[1, 5], [2, 0]], np.uint64)
    # The key of two values is mix(mix(secret ^ a) ^ b).
    second[1] = first[1] ^ np.uint64(mix(secret ^ first[0])) ^ np.uint64(mix(secret ^ second[0]))
    monkeypatch.setattr(unique_contexts, "_SECRET", secret)
    unique = unique_contexts.group_rows([*np.array([first, second, first]).T], 3)
    assert unique.context_of_row.tolist() == [0, 1, 0]


@pytest.fixture(scope="module")
def jobs(habits: Jobs) -> pd.DataFrame:
    return habits(rows=2500, seed=5)


@pytest.fixture(scope="module")
def model_set(jobs: pd.DataFrame) -> ModelSet:
    return train(jobs.head(1800), cluster_by="group")


@pytest.mark.parametrize("asked", ["at submission", "long after", "now"])
def test_each_job_is_answered_as_it_would_be_alone(
    jobs: pd.DataFrame, model_set: ModelSet, asked: str
) -> None:
    forecaster = Forecaster(model_set)
    moment = jobs["submitted_at"].iloc[2000]
    history = jobs.head(2000)
    ended = history["ended_at"] <= moment
    forecaster.learn(history[ended])
    waiting = jobs.iloc[1900:2300].drop(columns=list(OUTCOMES)).reset_index(drop=True)
    waiting = pd.concat(
        [waiting, waiting.head(100).assign(job_id=[f"again {place}" for place in range(100)])],
        ignore_index=True,
    )
    at = {"at submission": None, "long after": moment + pd.Timedelta(days=400), "now": moment}[
        asked
    ]
    together = forecaster.predict(waiting, (0.25, 0.99), at)
    alone = [
        forecaster.predict(waiting.iloc[row : row + 1], (0.25, 0.99), at)
        for row in range(0, len(waiting), 7)
    ]
    pd.testing.assert_frame_equal(
        together.iloc[::7].reset_index(drop=True), pd.concat(alone, ignore_index=True), rtol=1e-6
    )
