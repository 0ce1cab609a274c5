import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as some

from models.past.recent import mean_of_two, median_of, recent, row_quantiles, running_quantiles

SHARES = (0.05, 0.5, 0.95)

histories = some.lists(
    some.tuples(
        some.integers(0, 3),  # key
        some.integers(0, 20),  # time since the submission before
        some.integers(1, 60),  # time until known
        some.one_of(some.just(np.nan), some.floats(1, 1e6)),
    ),
    min_size=1,
    max_size=60,
)


def arrays(history):
    keys, gaps, lags, values = (np.array(column) for column in zip(*history, strict=True))
    at = np.cumsum(gaps)
    return keys, at, at + lags, values.astype(float)


def plainly(keys, at, known, values, row):
    """What the key of ``row`` had shown at its submission, oldest first, by the definition."""
    rows = [
        j
        for j in range(len(keys))
        if keys[j] == keys[row] and known[j] <= at[row] and np.isfinite(values[j])
    ]
    return values[sorted(rows, key=lambda j: (known[j], j))]


@given(histories)
@settings(max_examples=60, deadline=None)
def test_replay_is_the_definition_row_by_row(history):
    keys, at, known, values = arrays(history)
    found = recent(keys, at, known, values, size=4)
    quantiles = running_quantiles(keys, at, known, values, SHARES)
    for row in range(len(keys)):
        shown = plainly(keys, at, known, values, row)
        newest = shown[::-1][:4]
        assert np.array_equal(
            found.values[row],
            np.pad(newest, (0, 4 - len(newest)), constant_values=np.nan),
            equal_nan=True,
        )
        if len(shown):
            logs = np.log(shown[0])
            for value in shown[1:]:
                logs += 0.3 * (np.log(value) - logs)
            assert np.isclose(found.average[row], np.exp(logs))
            assert np.array_equal(quantiles[row], np.quantile(shown, SHARES, method="inverted_cdf"))
        else:
            assert np.isnan(found.average[row])
            assert np.isnan(quantiles[row]).all()


def test_an_outcome_counts_from_the_moment_it_is_known():
    story = recent(
        np.zeros(3), np.array([0, 9, 10]), np.array([10, 30, 30]), np.array([7.0, 1.0, 1.0])
    )
    assert np.isnan(story.values[1]).all()
    assert story.values[2, 0] == 7.0


def test_the_last_two_are_averaged_and_one_stands_for_itself():
    story = recent(
        np.zeros(4),
        np.array([0, 5, 9, 12]),
        np.array([4, 8, 11, 40]),
        np.array([4.0, 2.0, 9.0, 1.0]),
    )
    assert np.array_equal(mean_of_two(story), [np.nan, 4.0, 3.0, 5.5], equal_nan=True)
    assert np.array_equal(median_of(3)(story), [np.nan, 4.0, 3.0, 4.0], equal_nan=True)


@given(some.lists(some.floats(0, 1e9), min_size=1, max_size=10))
def test_quantiles_of_known_values_are_numpys(values):
    padded = np.array([*values, *[np.nan] * (10 - len(values))])
    assert np.allclose(row_quantiles(padded[None], SHARES)[0], np.quantile(values, SHARES))
