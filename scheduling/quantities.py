"""What may be asked of a prediction, and how a sample of walltimes answers."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from scheduling.policies import PolicyError

Point = Callable[[list[float]], float]


def warm_up(jobs: int) -> int:
    """How many of a log's first jobs a predictor may look at when it chooses its keys: the fields of a tenth, at least 1000."""
    return max(1000, jobs // 10)


def mean(values: list[float]) -> float:
    """Arithmetic mean."""
    return sum(values) / len(values)


def median(values: list[float]) -> float:
    """Median."""
    ordered, half = sorted(values), len(values) // 2
    return ordered[half] if len(values) % 2 else (ordered[half - 1] + ordered[half]) / 2


def quantile_95(values: list[float]) -> float:
    """95th percentile."""
    return float(np.quantile(values, 0.95))


def log_mean(values: list[float]) -> float:
    """Exponential of the mean logarithm."""
    return float(np.exp(np.mean(np.log(np.maximum(values, 1.0)))))


def moving_average(values: list[float]) -> float:
    """Exponentially weighted average of logarithms, the newest weighing .3, as a walltime."""
    logs = np.log(np.maximum(values, 1.0))
    average = logs[0]
    for log in logs[1:]:
        average += 0.3 * (log - average)
    return float(np.exp(average))


def sample_quantity(asked: str) -> Point:
    """The function that finds ``asked`` in a sample; raises PolicyError when there is no such quantity."""
    named: dict[str, Point] = {"median": median, "mean": mean, "log-mean": log_mean}
    if asked in named:
        return named[asked]
    share, deviations = parse_quantity(asked)
    if share is not None:
        return lambda values: float(np.quantile(values, share))
    return lambda values: float(np.mean(values) + deviations * np.std(values))


def parse_quantity(asked: str) -> tuple[float | None, float]:
    """The share of a quantile ("q0.9"), or the tuning factor of Schopf's rule ("mean+1.5sd"); raises PolicyError for neither."""
    try:
        if asked.startswith("q") and 0 < float(asked[1:]) < 1:
            return float(asked[1:]), 0.0
        if asked.startswith("mean+") and asked.endswith("sd"):
            return None, float(asked[5:-2])
    except ValueError:
        pass
    raise PolicyError(
        f"{asked!r} is nothing to ask of a prediction: point, median, mean, log-mean, request, q0.9 or mean+1sd"
    )
