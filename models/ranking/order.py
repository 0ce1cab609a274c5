"""Ranking: where a job would be done first, and from where its input comes soonest, by the policy that is asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from infra.aliases import Array
from infra.errors import InputError
from models.quantities.stochastic import first, maximum, quantile, reached, total

POLICIES = ("mean", "conservative", "quantile", "first")
"""The least mean; the least mean + tuning · standard deviation (Schopf); the least quantile; the largest chance of being first."""
PARTS = ("wait", "transfer_in", "run", "transfer_out")


class RankingError(InputError):
    """Candidates cannot be ranked; the message is one sentence."""


@dataclass(frozen=True)
class Rule:
    """How candidates are ordered: the policy, the tuning factor of ``conservative``, the level of ``quantile``.

    With ``overlap`` the input comes while the job waits, so that the later of both counts; else one after the other.
    """

    policy: str = "mean"
    tuning: float = 1.0
    level: float = 0.9
    overlap: bool = False

    def __post_init__(self) -> None:
        if self.policy not in POLICIES:
            raise RankingError(
                f"there is no policy {self.policy!r}; there are {', '.join(POLICIES)}"
            )
        if not 0 < self.level < 1 or not 0 <= self.tuning <= 100:
            raise RankingError(
                "the quantile's level must lie between 0 and 1, and the tuning factor between 0 and 100"
            )


def rank(
    parts: Mapping[str, Array],
    groups: Array,
    rule: Rule,
    deadline: Array | None = None,
    behind: Array | None = None,
) -> dict[str, Array]:
    """Order the candidates of each job: float64[n] by name, rows as given, those of one job together.

    ``parts`` are stochastic values (float64[n, POINTS]) by name of PARTS, what is not needed left out; ``groups`` int64[n] tells the jobs
    apart; ``deadline`` float64[n] is in seconds from now, NaN for none. Those ``behind`` (bool[n]) come after all others of their job,
    and none is told its chances where some are. Answers ``rank`` (1 is best), ``total`` with ``_mean``, ``_sd``,
    ``_low``, ``_median``, ``_high`` (90 %), the mean of each part, ``first`` and, where a deadline is given, ``in_time``.
    """
    if not parts or not len(groups):
        raise RankingError("there is no candidate to rank")
    done = _total(parts, rule.overlap)
    answer = {
        "total_mean": done.mean(axis=1),
        "total_sd": done.std(axis=1),
        "total_low": quantile(done, 0.05),
        "total_median": quantile(done, 0.5),
        "total_high": quantile(done, 0.95),
        **{name: parts[name].mean(axis=1) for name in PARTS if name in parts},
        "first": first(done, groups),
    }
    if deadline is not None:
        answer["in_time"] = np.where(
            np.isnan(deadline), np.nan, reached(done, np.nan_to_num(deadline, nan=np.inf))
        )
    score = {
        "mean": answer["total_mean"],
        "conservative": answer["total_mean"] + rule.tuning * answer["total_sd"],
        "quantile": quantile(done, rule.level),
        "first": -answer["first"],
    }[rule.policy]
    if behind is None:
        return {"rank": places(score, groups), **answer}
    for name in {"first", "in_time"} & answer.keys():
        some = np.zeros(int(groups.max()) + 1, bool)
        some[groups[behind]] = True
        answer[name] = np.where(some[groups], np.nan, answer[name])
    return {"rank": places(score, groups, behind), **answer}


def _total(parts: Mapping[str, Array], overlap: bool) -> Array:
    told = dict(parts)
    if overlap and "wait" in told and "transfer_in" in told:
        told["wait"] = maximum(told["wait"], told.pop("transfer_in"))
    return total(*(told[name] for name in PARTS if name in told))


def places(score: Array, groups: Array, behind: Array | None = None) -> Array:
    """The place of each row in its group by score, the least first, 1 the best; of equals the one given first (int64[n]).

    Those ``behind`` (bool[n]) come after the others.

    >>> places(np.array([3.0, 1.0, 2.0, 5.0]), np.array([0, 0, 0, 1])).tolist()
    [3, 1, 2, 1]
    """
    order = np.lexsort((score, groups) if behind is None else (score, behind, groups))
    ordered = groups[order]
    begins = np.r_[True, ordered[1:] != ordered[:-1]]
    start = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    found = np.empty(len(order), np.int64)
    found[order] = np.arange(len(order)) - start + 1
    return found
