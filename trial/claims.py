"""Claims: figures measured on the first 70 % of a log, and what the last 30 % made of them.

A figure is a ratio of two sums over jobs, so that it is a share or a rate and does not depend on
how many jobs there are. Settings are chosen on the choice window, figures are claimed from the
claim window, and the check window, later than both, says what became of them. The first two count
only jobs whose outcome was available at their end.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Flags, Floats, Integers
from models.quantities.metrics import Interval, compare_errors, equal_blocks, time_blocks

CHOICE, CLAIM, CHECK = "choice", "claim", "check"
SHARES = {CHOICE: (0.2, 0.45), CLAIM: (0.45, 0.7), CHECK: (0.7, 1.0)}
"""The windows, as shares of the jobs in order of submission; before them is the warm-up."""
TOLERANCE = 0.1
"""A claim holds where it is at most this share of the realised figure away from it."""
REHEARSALS = (
    ((0.2, 0.325), (0.325, 0.45)),
    ((0.2, 0.45), (0.45, 0.7)),
    ((0.45, 0.575), (0.575, 0.7)),
)
"""Pairs of windows: a claim from the first of each, and the jobs after it that check it."""
MIN_JOBS = 100
"""A claim needs so many jobs in the windows for choice and claim."""

MIN_BLOCKS, EQUAL_BLOCKS = 5, 20
"""Of fewer weeks, or half days, the bootstrap takes so many runs of jobs of equal number."""
FAILURES = 2.0
"""A claimed share of successes is wrong where failures are more than so many times the claimed."""
LEAST_FAILURES = 0.01
"""A smaller share of failures does not make a claim wrong."""


@dataclass(frozen=True)
class Windows:
    """Which jobs of a log, in order of submission, are in each window.

    ``submitted_at`` are their submissions; ``ends`` are when the windows end.
    """

    submitted_at: pd.Series[Any]
    ends: dict[str, pd.Timestamp]

    @staticmethod
    def of(jobs: pd.DataFrame) -> Windows:
        """The windows of jobs in order of submission."""
        submitted = jobs["submitted_at"].reset_index(drop=True)
        last = len(submitted) - 1
        ends = {
            name: submitted.iloc[min(int(len(submitted) * stop), last)]
            for name, (_, stop) in SHARES.items()
        }
        return Windows(submitted, ends)

    def contains(
        self, name: str, rows: Integers, available_at: pd.Series[Any] | None = None
    ) -> Flags:
        """Which of the jobs at positions ``rows`` are in a window (bool[rows]).

        Args:
            name: The window.
            rows: Positions.
            available_at: When each job's outcome was available; later than the window's end
                leaves the job out. None: all count, as in the check window.
        """
        inside = self.between(SHARES[name], rows)
        if available_at is None or name == CHECK:
            return inside
        return inside & (available_at <= self.ends[name]).to_numpy()

    def between(self, shares: tuple[float, float], rows: Integers) -> Flags:
        """Which jobs at positions ``rows`` lie between two shares of all jobs (bool[rows])."""
        first, stop = (int(len(self.submitted_at) * share) for share in shares)
        return (rows >= first) & (rows < stop)


@dataclass(frozen=True)
class Figure:
    """A ratio of two sums over jobs.

    Attributes:
        name: What it is.
        unit: Its unit.
        how: How it was come by, in a sentence.
        rows: Positions of the n jobs.
        available_at: When the outcome of each was available.
        numerator: float64[n].
        denominator: float64[n].
        of_successes: Whether the rest of the share are failures, which are compared too.
    """

    name: str
    unit: str
    how: str
    rows: Integers
    available_at: pd.Series[Any]
    numerator: Floats
    denominator: Floats
    of_successes: bool = False

    def value(self, inside: Flags) -> float:
        """The ratio over some of the jobs; NaN where the denominator is 0."""
        total = float(self.denominator[inside].sum())
        return float(self.numerator[inside].sum()) / total if total > 0 else float("nan")


@dataclass(frozen=True)
class Claim:
    """A figure claimed from the first 70 % and realised by the last 30 %.

    Attributes:
        name: What it is.
        unit: Its unit.
        how: How it was come by.
        claimed: The claim, None where none is made.
        realised: What the check window made of it, None where it has no such job.
        low: Lower end of the 95 % interval: of the claim, else of what was realised.
        high: Its upper end.
        reason: Why none is made, or by how much it missed.
        jobs: Jobs of the check window.
        too_many_failures: Whether far more jobs failed than the claim says.
    """

    name: str
    unit: str
    how: str
    claimed: float | None
    realised: float | None
    low: float | None
    high: float | None
    reason: str = ""
    jobs: int = 0
    too_many_failures: bool = False

    @property
    def within_tolerance(self) -> bool | None:
        """Whether the realised figure is within the tolerance; None without a claim."""
        if self.claimed is None or self.realised is None:
            return None
        return difference(self.claimed, self.realised) <= TOLERANCE

    @property
    def is_wrong(self) -> bool:
        """Whether the claim is shown in red."""
        return self.within_tolerance is False or self.too_many_failures

    @property
    def came_true(self) -> bool | None:
        """Whether the claim held; None without one."""
        return None if self.within_tolerance is None else not self.is_wrong

    @property
    def interval_of(self) -> str | None:
        """What ``low`` and ``high`` are of: ``claimed`` or ``realised``; None without them."""
        if self.low is None:
            return None
        return "realised" if self.claimed is None else "claimed"

    def row(self, window: str) -> dict[str, Any]:
        """The row of ``--json``; ``window`` says which jobs made the realised figure."""
        names = (
            *("claimed", "realised", "unit", "low", "high", "interval_of"),
            *("within_tolerance", "came_true", "jobs", "reason", "how"),
        )
        values = {name: getattr(self, name) for name in names}
        return {"what": self.name, **values, "window": window}


def difference(value: float, reference: float) -> float:
    """How far a value is from a reference, as a share of the reference.

    >>> round(difference(0.9, 1.0), 3)
    0.1
    """
    return abs(value - reference) / max(abs(reference), 1e-9)


def make_claim(figure: Figure, windows: Windows) -> Claim:
    """Claim a figure and check it.

    No claim is made where the same claim, made three times earlier in the first 70 %, would have
    missed once by more than the tolerance: what did not repeat then need not repeat now.
    """
    choice, claim, check = (
        windows.contains(name, figure.rows, figure.available_at) for name in SHARES
    )
    realised = _or_none(figure.value(check))
    now, reason = figure.value(claim), ""
    if min(choice.sum(), claim.sum()) < MIN_JOBS or not np.isfinite(now):
        reason = f"fewer than {MIN_JOBS} such jobs had ended in each half of the first 70 %"
        now = float("nan")
    elif missed := _missed_rehearsal(figure, windows):
        reason = f"it changes too much on this log: {missed}"
        now = float("nan")
    claimed = _or_none(now)
    too_many = False
    span = interval(figure, windows, check if claimed is None else claim)
    if claimed is not None and realised is not None:
        miss = difference(claimed, realised)
        reason = f"missed by {100 * miss:.0f} %" if miss > TOLERANCE else ""
        allowed = max(FAILURES * (1 - claimed), LEAST_FAILURES)
        too_many = figure.of_successes and 1 - realised > allowed
        if too_many:
            failed, expected = 100 * (1 - realised), 100 * (1 - claimed)
            reason = f"{failed:.1f} % of the jobs failed, {expected:.1f} % were claimed to"
    return Claim(
        figure.name,
        figure.unit,
        figure.how,
        claimed,
        realised,
        span.low if span else None,
        span.high if span else None,
        reason,
        int(check.sum()),
        too_many,
    )


def _missed_rehearsal(figure: Figure, windows: Windows) -> str:
    """The worst of the claims that the first 70 % would have missed, in words; empty of none."""
    available = (figure.available_at <= windows.ends[CLAIM]).to_numpy()
    worst = (TOLERANCE, "")
    for before, after in REHEARSALS:
        claimed, realised = (
            figure.value(available & windows.between(shares, figure.rows))
            for shares in (before, after)
        )
        if not np.isfinite([claimed, realised]).all():
            continue
        if (miss := difference(claimed, realised)) > worst[0]:
            off = f"{100 * miss:.0f} %" if miss < 10 else "more than tenfold"
            at = f"{100 * before[1]:.3g} %"
            worst = (miss, f"the same claim made at {at} of the log would have missed by {off}")
    return worst[1]


def interval(figure: Figure, windows: Windows, inside: Flags) -> Interval | None:
    """The figure over some jobs with its 95 % interval by a bootstrap of weeks; None of none.

    Args:
        figure: The figure.
        windows: Of the log.
        inside: Which of the figure's jobs, bool[n].
    """
    if not inside.any() or not figure.denominator[inside].sum() > 0:
        return None
    blocks = time_blocks(windows.submitted_at.iloc[figure.rows[inside]])
    if len(np.unique(blocks)) < MIN_BLOCKS:
        blocks = equal_blocks(len(blocks), EQUAL_BLOCKS)
    return compare_errors(figure.numerator[inside], figure.denominator[inside], blocks)[1]


def make_claims(figures: Sequence[Figure], windows: Windows) -> list[Claim]:
    """Claim and check each figure."""
    return [make_claim(figure, windows) for figure in figures]


def _or_none(value: float) -> float | None:
    return value if np.isfinite(value) else None
