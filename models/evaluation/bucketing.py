"""Greedy and exhaustive bucketing of memory (Phung et al., WORKS 2021).

Ended jobs, by their peak memory, are cut into buckets so that the expected waste is least. A job is
allocated the largest peak of a bucket, drawn by the buckets' weights; after a failure one of the
larger buckets is drawn. Later jobs weigh more: the weight of a job is its number in its template.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from infra.compiled import compiled

MAX_BUCKETS = 10
"""The most buckets that the exhaustive search tries, and that are kept of the greedy one."""
SAMPLED = 10
"""So many jobs of a template end before their buckets decide."""
RECOMPUTED = 10
"""Buckets are found again after so many more jobs, or a twentieth more."""
LATEST_BUCKETED = 500
"""Of longer histories the latest are cut into buckets."""


@compiled
def greedy_ends(values: Any, weights: Any) -> Any:
    """Cut where two buckets cost least, again and again while a cut costs less than none.

    Args:
        values: Peaks in ascending order, float64[n].
        weights: Of each, float64[n].

    Returns:
        The index of the last peak of each bucket, ascending.
    """
    count = len(values)
    weight_before, value_before = np.zeros(count + 1), np.zeros(count + 1)
    weight_before[1:] = np.cumsum(weights)
    value_before[1:] = np.cumsum(weights * values)
    is_end = np.zeros(count, np.bool_)
    is_end[count - 1] = True
    lows, highs = np.empty(2 * count, np.int64), np.empty(2 * count, np.int64)
    lows[0], highs[0], waiting = 0, count - 1, 1
    while waiting > 0:
        waiting -= 1
        low, high = lows[waiting], highs[waiting]
        least, cut, total = np.inf, high, weight_before[high + 1] - weight_before[low]
        for end in range(low, high + 1):
            below = weight_before[end + 1] - weight_before[low]
            above = weight_before[high + 1] - weight_before[end + 1]
            mean_below = (value_before[end + 1] - value_before[low]) / below
            mean_above = 0.0
            if above > 0:
                mean_above = (value_before[high + 1] - value_before[end + 1]) / above
            p, q = below / total, above / total
            cost = p * (p * (values[end] - mean_below) + q * (values[high] - mean_below))
            cost += q * p * (values[end] + values[high] - mean_above)
            cost += q * q * (values[high] - mean_above)
            if cost <= least:
                least, cut = cost, end
        if cut < high:
            is_end[cut] = True
            lows[waiting], highs[waiting] = low, cut
            lows[waiting + 1], highs[waiting + 1] = cut + 1, high
            waiting += 2
    return np.flatnonzero(is_end)


@compiled
def exhaustive_ends(values: Any, weights: Any) -> Any:
    """Cut evenly between 0 and the largest peak, in the number of buckets that costs least.

    Args:
        values: Peaks in ascending order, float64[n].
        weights: Of each, float64[n].

    Returns:
        The index of the last peak of each bucket, ascending.
    """
    count, least = len(values), np.inf
    best = np.array([count - 1])
    for buckets in range(1, MAX_BUCKETS + 1):
        is_end = np.zeros(count, np.bool_)
        is_end[count - 1] = True
        for number in range(1, buckets):
            end = np.searchsorted(values, values[count - 1] * number / buckets, side="right") - 1
            if end >= 0:
                is_end[end] = True
        ends = np.flatnonzero(is_end)
        cost = expected_waste(values, weights, ends)
        if cost < least:
            least, best = cost, ends
    return best


@compiled
def expected_waste(values: Any, weights: Any, ends: Any) -> float:
    """Compute the waste of a job and of its failures, drawn like the jobs in the buckets.

    Args:
        values: Peaks in ascending order, float64[n].
        weights: Of each, float64[n].
        ends: The index of the last peak of each bucket.
    """
    count = len(ends)
    share, mean = np.zeros(count), np.zeros(count)
    bucket = 0
    for row in range(len(values)):
        if row > ends[bucket]:
            bucket += 1
        share[bucket] += weights[row]
        mean[bucket] += weights[row] * values[row]
    mean /= share
    share /= share.sum()
    waste, total = np.zeros((count, count)), 0.0
    for used in range(count):
        for tried in range(count - 1, -1, -1):
            waste[used, tried] = values[ends[tried]]
            if tried >= used:
                waste[used, tried] -= mean[used]
            else:
                above = share[tried + 1 :]
                waste[used, tried] += (above * waste[used, tried + 1 :]).sum() / above.sum()
            total += share[used] * share[tried] * waste[used, tried]
    return total


@compiled
def replay_buckets(
    codes: Any,
    count: int,
    at: Any,
    available_at: Any,
    values: Any,
    order: Any,
    draws: Any,
    greedy: bool,
) -> Any:
    """Draw a ladder for each job from the buckets of its template at its submission.

    Args:
        codes: The template of each job, int64[n].
        count: The number of templates.
        at: The submissions, µs.
        available_at: When outcomes became available, µs.
        values: The peaks, float64[n].
        order: The rows with an outcome, in order of availability.
        draws: Uniform numbers, float64[n, rungs].
        greedy: Greedy bucketing, else exhaustive.

    Returns:
        float64[n, rungs], rising, NaN after the last rung, and for less than SAMPLED outcomes.
    """
    sizes = np.zeros(count + 1, np.int64)
    for row in order:
        sizes[codes[row] + 1] += 1
    start = np.cumsum(sizes)
    ended, computed = np.zeros(count, np.int64), np.zeros(count, np.int64)
    came, bucket_count = np.empty(len(order)), np.zeros(count, np.int64)
    largest, share = np.empty((count, MAX_BUCKETS)), np.empty((count, MAX_BUCKETS))
    ladders = np.full(draws.shape, np.nan)
    position = 0
    for row in range(len(codes)):
        while position < len(order) and available_at[order[position]] <= at[row]:
            outcome = order[position]
            came[start[codes[outcome]] + ended[codes[outcome]]] = values[outcome]
            ended[codes[outcome]] += 1
            position += 1
        key = codes[row]
        if ended[key] < SAMPLED:
            continue
        if ended[key] >= computed[key] + min(RECOMPUTED, 1 + computed[key] // 20):
            first = max(0, ended[key] - LATEST_BUCKETED)
            latest = came[start[key] + first : start[key] + ended[key]]
            by_size = np.argsort(latest, kind="mergesort")
            peaks, weights = latest[by_size], (by_size + first + 1).astype(np.float64)
            ends = greedy_ends(peaks, weights) if greedy else exhaustive_ends(peaks, weights)
            ends = ends[max(0, len(ends) - MAX_BUCKETS) :]
            bucket_count[key], computed[key], low = len(ends), ended[key], 0
            for bucket in range(len(ends)):
                largest[key, bucket] = peaks[ends[bucket]]
                share[key, bucket] = weights[low : ends[bucket] + 1].sum()
                low = ends[bucket] + 1
        bucket = -1
        for rung in range(draws.shape[1]):
            above = share[key, bucket + 1 : bucket_count[key]]
            if len(above) == 0:
                break
            target = draws[row, rung] * above.sum()
            drawn = np.searchsorted(np.cumsum(above), target, side="right")
            bucket += 1 + min(drawn, len(above) - 1)
            ladders[row, rung] = largest[key, bucket]
    return ladders
