"""Windows of a key's past outcomes, by count or by time, and their statistics as predictors.

Mean, median and autoregression: the time-series predictors that Vazhkudai and Schopf (2003) tried
on logs of transfers, and Wolski (1998) before them on networks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from infra.aliases import Floats, Integers
from models.past.recent import (
    order_by_availability,
    recent,
    row_quantiles,
    running_quantiles,
)

HOUR = 3_600_000_000  # microseconds


@dataclass(frozen=True)
class Window:
    """The last ``count`` outcomes, or those of the last ``hours``, or all."""

    name: str
    count: int | None = None
    hours: float | None = None


WINDOWS = (
    Window("all"),
    *(Window(str(count), count=count) for count in (5, 15, 25)),
    *(Window(f"{hours}h", hours=hours) for hours in (5, 15, 25)),
    Window("10d", hours=240),
)
"""The windows of Vazhkudai and Schopf (2003)."""


@dataclass(frozen=True)
class Past:
    """The outcomes of each row's key by its submission.

    Rows are in order of ``at``; ``values`` became available at ``available_at`` (both in µs).
    """

    keys: npt.NDArray[Any]
    at: Integers
    available_at: Integers
    values: Floats

    @cached_property
    def _sorted(self) -> tuple[Integers, Integers, Integers]:
        """Rows with an outcome, by key and availability; where the key of each row begins and ends.

        The end is after the last outcome available at the row's submission.
        """
        codes = np.unique(self.keys, return_inverse=True)[1]
        by_availability = order_by_availability(self.available_at, self.values)
        order = by_availability[np.argsort(codes[by_availability], kind="stable")]
        first, end = np.zeros(len(codes), np.int64), np.zeros(len(codes), np.int64)
        starts = np.searchsorted(codes[order], np.arange(codes.max(initial=0) + 2))
        for code in range(len(starts) - 1):
            rows = np.flatnonzero(codes == code)
            first[rows] = starts[code]
            end[rows] = starts[code] + np.searchsorted(
                self.available_at[order[starts[code] : starts[code + 1]]],
                self.at[rows],
                side="right",
            )
        return order, first, end

    def _span(self, window: Window) -> tuple[Floats, Integers, Integers]:
        """All values by key and time, and the begin and end of each row's window among them."""
        order, first, end = self._sorted
        begin = first
        if window.count is not None:
            begin = np.maximum(first, end - window.count)
        elif window.hours is not None:
            begin = self._since(int(window.hours * HOUR))
        return self.values[order], np.minimum(begin, end), end

    def _since(self, span: int) -> Integers:
        order, first, end = self._sorted
        begin = end.copy()
        for start in np.unique(first):
            rows = np.flatnonzero(first == start)
            times = self.available_at[order[start : end[rows].max()]]
            begin[rows] = start + np.searchsorted(times, self.at[rows] - span, side="left")
        return begin

    def mean(self, window: Window) -> Floats:
        """The mean of the window's outcomes, NaN where it has none (float64[n])."""
        values, begin, end = self._span(window)
        return _over(_sums(values, begin, end), end - begin)

    def median(self, window: Window) -> Floats:
        """The median of the window's outcomes, NaN where it has none (float64[n])."""
        if window.count is not None:
            return row_quantiles(
                recent(self.keys, self.at, self.available_at, self.values, window.count).values,
                (0.5,),
            )[:, 0]
        span = None if window.hours is None else int(window.hours * HOUR)
        return running_quantiles(self.keys, self.at, self.available_at, self.values, (0.5,), span)[
            :, 0
        ]

    def autoregression(self, window: Window) -> Floats:
        """First-order autoregression fitted to the window, from its last outcome (float64[n]).

        The window's mean where it has fewer than two outcomes.
        """
        values, begin, end = self._span(window)
        before, after = values[:-1], values[1:]
        pairs, stop = np.maximum(end - begin - 1, 0), np.maximum(end - 1, 0)
        x, y, xx, xy = (
            _sums(terms, stop - pairs, stop) for terms in (before, after, before**2, before * after)
        )
        with np.errstate(divide="ignore", invalid="ignore"):
            slope = (pairs * xy - x * y) / (pairs * xx - x**2)
            # Beyond ±1 the series would diverge, which fits to few values often suggest.
            slope = np.clip(np.nan_to_num(slope, posinf=0.0, neginf=0.0), -1.0, 1.0)
            latest = values[np.maximum(end - 1, 0)] if len(values) else np.full(len(end), np.nan)
            fitted = (y - slope * x) / pairs + slope * latest
        return np.where(pairs >= 2, fitted, self.mean(window))


def _sums(values: Floats, begin: Integers, end: Integers) -> Floats:
    """Sums of ``values[begin:end]``, a row each."""
    upto = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray(upto[end] - upto[begin])


def _over(sums: Floats, counts: Integers) -> Floats:
    return np.where(counts > 0, sums / np.maximum(counts, 1), np.nan)


Statistic = Callable[[Past], Floats]


def statistics() -> dict[str, tuple[str, Statistic]]:
    """Every statistic of every window, as name: (meaning, function)."""
    by_name: dict[str, tuple[str, Statistic]] = {
        "last": ("the last", lambda past: past.mean(Window("last", count=1)))
    }
    for short, name, statistic in (
        ("mean", "mean", Past.mean),
        ("median", "median", Past.median),
        ("ar", "autoregression", Past.autoregression),
    ):
        for window in WINDOWS:
            of = "all" if window.name == "all" else f"the last {window.name}"
            by_name[f"{short}-{window.name}"] = (f"{name} of {of}", _over_window(statistic, window))
    return by_name


def _over_window(statistic: Callable[[Past, Window], Floats], window: Window) -> Statistic:
    return lambda past: statistic(past, window)
