"""The order of candidates by a policy, from the stochastic values of their parts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from infra.aliases import Array, Flags
from infra.errors import InputError
from models.quantities.stochastic import first, maximum, quantile, reached, total

POLICIES = ("mean", "conservative", "quantile", "first")
"""Least mean; least mean + tuning · standard deviation (Schopf); least quantile; largest chance of
being first."""
PARTS = ("wait", "transfer_in", "run", "transfer_out")


class RankingError(InputError):
    """Candidates cannot be ranked; the message is one sentence."""


@dataclass(frozen=True)
class Rule:
    """How candidates are ordered.

    Args:
        policy: One of POLICIES.
        tuning: The tuning factor of ``conservative``.
        level: The level of ``quantile``.
        overlap: The input is transferred while the job waits, so the later of both counts.
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
                "the quantile's level must lie between 0 and 1, "
                "and the tuning factor between 0 and 100"
            )


def rank(
    parts: Mapping[str, Array],
    groups: Array,
    rule: Rule,
    deadline: Array | None = None,
    behind: Flags | None = None,
    incomplete: Flags | None = None,
) -> dict[str, Array]:
    """Order the candidates of each job, rows of one job together.

    Args:
        parts: Stochastic values (float64[n, POINTS]) by name of PARTS, those not needed left out.
        groups: The job of each row, int64[n].
        rule: The policy and its settings.
        deadline: Seconds from now, float64[n], NaN for none.
        behind: Rows that are placed after all others of their job, bool[n].
        incomplete: Rows that lack a part, bool[n]; no candidate of their job has chances.

    Returns:
        Arrays of n by name: ``rank`` (1 is best), ``total`` with ``_mean``, ``_sd``, ``_low``,
        ``_median``, ``_high`` (90 %), the mean of each part, ``first`` (the chance of being first)
        and, with a deadline, ``in_time`` (the chance of meeting it).
    """
    if not parts or not len(groups):
        raise RankingError("there is no candidate to rank")
    done = _total(parts, rule.overlap)
    columns = {
        "total_mean": done.mean(axis=1),
        "total_sd": done.std(axis=1),
        "total_low": quantile(done, 0.05),
        "total_median": quantile(done, 0.5),
        "total_high": quantile(done, 0.95),
        **{name: parts[name].mean(axis=1) for name in PARTS if name in parts},
        "first": first(done, groups),
    }
    if deadline is not None:
        columns["in_time"] = np.where(
            np.isnan(deadline), np.nan, reached(done, np.nan_to_num(deadline, nan=np.inf))
        )
    score = {
        "mean": columns["total_mean"],
        "conservative": columns["total_mean"] + rule.tuning * columns["total_sd"],
        "quantile": quantile(done, rule.level),
        "first": -columns["first"],
    }[rule.policy]
    if incomplete is not None:
        lacks_part = np.zeros(int(groups.max()) + 1, bool)
        lacks_part[groups[incomplete]] = True
        for name in {"first", "in_time"} & columns.keys():
            columns[name] = np.where(lacks_part[groups], np.nan, columns[name])
    return {"rank": rank_in_groups(score, groups, behind), **columns}


def _total(parts: Mapping[str, Array], overlap: bool) -> Array:
    summands = dict(parts)
    if overlap and "wait" in summands and "transfer_in" in summands:
        summands["wait"] = maximum(summands["wait"], summands.pop("transfer_in"))
    return total(*(summands[name] for name in PARTS if name in summands))


def rank_in_groups(score: Array, groups: Array, behind: Flags | None = None) -> Array:
    """The rank of each row in its group by ``score``, least first, from 1 (int64[n]).

    Ties are ranked in row order. Rows ``behind`` (bool[n]) come after the others of their group.

    Args:
        score: The score of each row.
        groups: The group of each row.
        behind: Which rows come last in their group.

    >>> rank_in_groups(np.array([3.0, 1.0, 2.0, 5.0]), np.array([0, 0, 0, 1])).tolist()
    [3, 1, 2, 1]
    """
    order = np.lexsort((score, groups) if behind is None else (score, behind, groups))
    ordered = groups[order]
    begins = np.r_[True, ordered[1:] != ordered[:-1]]
    start = np.maximum.accumulate(np.where(begins, np.arange(len(order)), 0))
    ranks = np.empty(len(order), np.int64)
    ranks[order] = np.arange(len(order)) - start + 1
    return ranks
