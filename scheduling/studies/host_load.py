"""PredictorKind a host's load: the mixed tendency and what it is measured against, on series of one value a step.

Series are float64[steps, hosts]; a forecast float64[steps, hosts] holds in row t what was foreseen of row t from the rows before
it, NaN where nothing was. Percentages or load averages alike; nothing below 0 is foreseen.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infra.aliases import Floats

Forecast = Callable[[Floats], Floats]

ADAPTATION = 0.5
INCREMENT, DECREMENT = 0.1, 0.01
"""Where the mixed tendency starts: a constant to add while the load rises, a factor to take off while it falls."""


def mixed_tendency(series: Floats) -> Floats:
    """Add an adapted constant while the load rises and take off an adapted factor while it falls (Yang, Foster, Schopf 2003).

    Near a turning point, above the mean so far when rising or below it when falling, the step is held back by the share of past
    values beyond the present one.
    """
    steps, hosts = series.shape
    foreseen = np.full((steps, hosts), np.nan)
    if steps > 1:
        foreseen[1] = series[0]
    increment, decrement = np.full(hosts, INCREMENT), np.full(hosts, DECREMENT)
    rising, falling = np.zeros(hosts, dtype=bool), np.zeros(hosts, dtype=bool)
    for now in range(1, steps - 1):
        value, before = series[now], series[now - 1]
        past = series[: now + 1]
        mean = past.mean(axis=0)
        change = value - before
        share = np.divide(-change, before, out=np.zeros(hosts), where=before > 0)
        learned_up = increment + (change - increment) * ADAPTATION
        learned_down = decrement + (share - decrement) * ADAPTATION
        held_up = np.minimum(np.abs(learned_up), np.abs(increment * (past > value).mean(axis=0)))
        held_down = np.minimum(
            np.abs(learned_down), np.abs(decrement * (past < value).mean(axis=0))
        )
        # Adapt by the tendency that was predicted with, then follow the tendency as it is now.
        increment = np.where(rising, np.where(value < mean, learned_up, held_up), increment)
        decrement = np.where(falling, np.where(value > mean, learned_down, held_down), decrement)
        rising, falling = (
            (change > 0) | (rising & (change == 0)),
            (change < 0) | (falling & (change == 0)),
        )
        foreseen[now + 1] = np.where(
            rising, value + increment, np.where(falling, value - value * decrement, value)
        )
    return np.maximum(foreseen, 0.0)


def last_value(series: Floats) -> Floats:
    """The value before."""
    return _shifted(series)


def running_mean(series: Floats) -> Floats:
    """The mean of all before."""
    return _shifted(np.cumsum(series, axis=0) / np.arange(1, len(series) + 1)[:, None])


def moving_average(window: int) -> Forecast:
    """The mean of the last ``window`` values, or of those there are."""
    return lambda series: _shifted(_windowed(series, window, np.mean))


def moving_median(window: int) -> Forecast:
    """The median of the last ``window`` values, or of those there are."""
    return lambda series: _shifted(_windowed(series, window, np.median))


def smoothing(gain: float) -> Forecast:
    """Exponential smoothing, the newest value weighing ``gain``."""

    def forecast(series: Floats) -> Floats:
        level = series[:1].copy()
        levels = [level[0]]
        for value in series[1:]:
            levels.append(levels[-1] + gain * (value - levels[-1]))
        return _shifted(np.array(levels))

    return forecast


def autoregression(order: int = 8, fewest: int = 32) -> Forecast:
    """An autoregression of ``order``, fitted anew by Yule-Walker to all values before each step; the last value until there are enough."""

    def forecast(series: Floats) -> Floats:
        foreseen = _shifted(series)
        for now in range(max(fewest, order + 2), len(series)):
            past = series[:now]
            mean = past.mean(axis=0)
            centred = past - mean
            covariance = (
                np.array(
                    [(centred[lag:] * centred[: now - lag]).sum(axis=0) for lag in range(order + 1)]
                )
                / now
            )
            lags = np.abs(np.subtract.outer(np.arange(order), np.arange(order)))
            matrix = (
                covariance[lags].transpose(2, 0, 1)
                + 1e-6 * np.eye(order) * (1.0 + covariance[0])[:, None, None]
            )
            weights = np.linalg.solve(matrix, covariance[1:].T[:, :, None])[:, :, 0]
            foreseen[now] = mean + (weights * centred[::-1][:order].T).sum(axis=1)
        return np.maximum(foreseen, 0.0)

    return forecast


BATTERY: tuple[Forecast, ...] = (
    last_value,
    running_mean,
    *(moving_average(window) for window in (3, 5, 10, 20, 30)),
    *(moving_median(window) for window in (3, 5, 11, 21, 31)),
    *(smoothing(gain) for gain in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9)),
)


def best_of(series: Floats, battery: tuple[Forecast, ...] = BATTERY) -> Floats:
    """At each step the forecast of whoever of ``battery`` had the least mean absolute error so far (as the Network Weather Service)."""
    answers = np.array([forecast(series) for forecast in battery])
    errors = np.nan_to_num(np.abs(answers - series))
    so_far = np.cumsum(errors, axis=1) - errors
    best = np.argmin(so_far, axis=0)
    return np.take_along_axis(answers, best[None], axis=0)[0]


FORECASTS: dict[str, Forecast] = {
    "mixed-tendency": mixed_tendency,
    "nws": best_of,
    "last": last_value,
    "mean": running_mean,
    "moving-average": moving_average(10),
    "median": moving_median(11),
    "autoregression": autoregression(),
}


def relative_error(series: Floats, foreseen: Floats) -> Floats:
    """Mean of |foreseen − value| / value over the steps with a forecast and a load above 0, a host (float64[hosts])."""
    known = np.isfinite(foreseen) & (series > 0)
    errors = np.divide(np.abs(foreseen - series), series, out=np.zeros_like(series), where=known)
    return errors.sum(axis=0) / np.maximum(known.sum(axis=0), 1)


def absolute_error(series: Floats, foreseen: Floats) -> Floats:
    """Mean of |foreseen − value| over the steps with a forecast, a host (float64[hosts])."""
    return np.nanmean(np.abs(foreseen - series), axis=0)


def interval(
    series: Floats, length: int, forecast: Forecast = mixed_tendency
) -> tuple[Floats, Floats]:
    """Mean and standard deviation foreseen for the ``length`` steps that follow ``series`` (float64[hosts] each).

    The series is cut from its end into stretches of that length; their means and their deviations are series themselves, and
    ``forecast`` foresees the next value of each. Raises ValueError when there is not one whole stretch.
    """
    stretches = len(series) // length
    if stretches < 1:
        raise ValueError(f"a stretch of {length} steps is longer than the series of {len(series)}")
    cut = series[len(series) - stretches * length :].reshape(stretches, length, series.shape[1])
    return _next(cut.mean(axis=1), forecast), _next(cut.std(axis=1), forecast)


def _next(series: Floats, forecast: Forecast) -> Floats:
    """What ``forecast`` foresees after the last row: the row that follows does not matter, so the last one stands in for it."""
    return forecast(np.concatenate([series, series[-1:]]))[-1]


def _shifted(series: Floats) -> Floats:
    return np.concatenate([np.full((1, series.shape[1]), np.nan), series[:-1]])


def _windowed(series: Floats, window: int, summary: Callable[..., Floats]) -> Floats:
    return np.array(
        [summary(series[max(0, end - window) : end], axis=0) for end in range(1, len(series) + 1)]
    )
