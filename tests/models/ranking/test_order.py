"""Ranking: A takes 5 to 7 minutes, B takes 3 to 9; the policy says which to pick."""

from __future__ import annotations

import numpy as np
import pytest

from models.quantities.stochastic import constant, interval
from models.ranking.order import RankingError, Rule, rank

A_AND_B = interval(np.array([5.0, 2.9]), np.array([7.0, 8.9]))
ONE_JOB = np.zeros(2, np.int64)


@pytest.mark.parametrize(
    ("rule", "best"),
    [
        (Rule(), "B"),
        (Rule("conservative", tuning=1.0), "A"),
        (Rule("quantile", level=0.9), "A"),
        (Rule("first"), "B"),
    ],
)
def test_the_policy_says_which_of_two_to_pick(rule: Rule, best: str) -> None:
    ranked = rank({"run": A_AND_B}, ONE_JOB, rule)
    assert "AB"[int(np.argmin(ranked["rank"]))] == best


def test_the_parts_add_up_and_an_overlap_counts_the_later_only() -> None:
    parts = {
        name: constant(np.array([value]))
        for name, value in (("wait", 10.0), ("transfer_in", 30.0), ("run", 100.0))
    }
    alone = np.zeros(1, np.int64)
    assert rank(parts, alone, Rule())["total_mean"].tolist() == [140.0]
    ranked = rank(parts, alone, Rule(overlap=True), np.array([130.0]))
    assert ranked["total_mean"].tolist() == [130.0]
    assert ranked["in_time"].tolist() == [1.0]
    assert ranked["first"].tolist() == [1.0]


def test_a_wrong_policy_and_no_candidates_are_one_sentence() -> None:
    with pytest.raises(RankingError, match="there is no policy 'fastest'"):
        Rule("fastest")
    with pytest.raises(RankingError, match="there is no candidate to rank"):
        rank({}, np.empty(0, np.int64), Rule())
