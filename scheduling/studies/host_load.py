"""Forecasts of host load: the mixed tendency and the forecasts it is compared with.

Series are float64[steps, hosts], percentages or load averages alike. A forecast has the same shape:
row t is predicted from the rows before it, NaN where there is none. No forecast is below 0.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from infra.aliases import Floats

Forecast = Callable[[Floats], Floats]

ADAPTATION = 0.5
INCREMENT, DECREMENT = 0.1, 0.01
"""The first constant added while the load rises, and the first factor taken off while it falls."""


def mixed_tendency(series: Floats) -> Floats:
    """Add an adapted constant while the load rises, take off an adapted factor while it falls.

    Near a turning point (above the mean so far when rising, below it when falling) the step is
    limited by the share of past values beyond the present one (Yang, Foster, Schopf 2003).
    """
    steps, hosts = series.shape
    predicted = np.full((steps, hosts), np.nan)
    if steps > 1:
        predicted[1] = series[0]
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
        turning_up = np.minimum(np.abs(learned_up), np.abs(increment * (past > value).mean(axis=0)))
        turning_down = np.minimum(
            np.abs(learned_down), np.abs(decrement * (past < value).mean(axis=0))
        )
        # Adapt by the tendency that the last prediction used, then follow the present tendency.
        increment = np.where(rising, np.where(value < mean, learned_up, turning_up), increment)
        decrement = np.where(falling, np.where(value > mean, learned_down, turning_down), decrement)
        rising, falling = (
            (change > 0) | (rising & (change == 0)),
            (change < 0) | (falling & (change == 0)),
        )
        predicted[now + 1] = np.where(
            rising, value + increment, np.where(falling, value - value * decrement, value)
        )
    return np.maximum(predicted, 0.0)


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
    """An autoregression, fitted by Yule-Walker to all values before each step.

    ``order`` is that of the regression; until there are ``fewest`` values, the last value.
    """

    def forecast(series: Floats) -> Floats:
        predicted = _shifted(series)
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
            predicted[now] = mean + (weights * centred[::-1][:order].T).sum(axis=1)
        return np.maximum(predicted, 0.0)

    return forecast


BATTERY: tuple[Forecast, ...] = (
    last_value,
    running_mean,
    *(moving_average(window) for window in (3, 5, 10, 20, 30)),
    *(moving_median(window) for window in (3, 5, 11, 21, 31)),
    *(smoothing(gain) for gain in (0.05, 0.1, 0.2, 0.3, 0.5, 0.75, 0.9)),
)


def best_of(series: Floats, battery: tuple[Forecast, ...] = BATTERY) -> Floats:
    """At each step the forecast of the least error so far (Network Weather Service)."""
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


def relative_error(series: Floats, predicted: Floats) -> Floats:
    """Mean of |predicted − value| / value by host, where there is a forecast and a load above 0."""
    is_counted = np.isfinite(predicted) & (series > 0)
    errors = np.zeros_like(series)
    np.divide(np.abs(predicted - series), series, out=errors, where=is_counted)
    return errors.sum(axis=0) / np.maximum(is_counted.sum(axis=0), 1)


def absolute_error(series: Floats, predicted: Floats) -> Floats:
    """Mean of |predicted − value| by host, over steps with a forecast."""
    return np.nanmean(np.abs(predicted - series), axis=0)


def interval(
    series: Floats, length: int, forecast: Forecast = mixed_tendency
) -> tuple[Floats, Floats]:
    """Predict mean and standard deviation of the next steps, float64[hosts] each.

    The series is cut from its end into intervals of that length; their means and deviations are
    series themselves, whose next values are predicted.

    Args:
        series: The past, float64[steps, hosts].
        length: How many steps follow.
        forecast: Predicts the next mean and deviation.

    Raises:
        ValueError: The series is shorter than one interval.
    """
    intervals = len(series) // length
    if intervals < 1:
        raise ValueError(
            f"an interval of {length} steps is longer than the series of {len(series)}"
        )
    cut = series[len(series) - intervals * length :].reshape(intervals, length, series.shape[1])
    return _next(cut.mean(axis=1), forecast), _next(cut.std(axis=1), forecast)


def _next(series: Floats, forecast: Forecast) -> Floats:
    """The forecast of the row after the last (its value is not used, so the last is repeated)."""
    return forecast(np.concatenate([series, series[-1:]]))[-1]


def _shifted(series: Floats) -> Floats:
    return np.concatenate([np.full((1, series.shape[1]), np.nan), series[:-1]])


def _windowed(series: Floats, window: int, summary: Callable[..., Floats]) -> Floats:
    return np.array(
        [summary(series[max(0, end - window) : end], axis=0) for end in range(1, len(series) + 1)]
    )
