"""One conformance test for all baselines, and the published figures on a real log."""

import numpy as np
import pandas as pd
import pytest

from jobs.readers import detect
from jobs.readers.contract import ReadOptions
from jobs.schema import conform, derive_fields, split_valid
from models.baselines.available_history import coalesce, read_history
from models.baselines.catalogue import BASELINES, predict_baselines
from models.past.recent import mean_of_two
from models.quantities.metrics import QUANTILE_LEVELS, point_errors
from models.quantities.targets import TARGETS

WALLTIME = TARGETS["walltime"]
EVERY = pytest.mark.parametrize("name", [baseline.name for baseline in BASELINES])


@pytest.fixture(scope="module")
def jobs(habits):
    return habits()


@pytest.fixture(scope="module")
def answers(jobs):
    return predict_baselines(jobs, WALLTIME, refit_every=0.3)


@EVERY
def test_every_baseline_answers_from_the_first_job_on_within_the_request(name, jobs, answers):
    point = answers[name].point
    assert point.shape == (len(jobs),)
    assert np.isfinite(point).all()
    assert (point >= WALLTIME.grid.lowest).all()
    assert (point <= np.maximum(WALLTIME.limit(jobs), WALLTIME.grid.lowest)).all()


@EVERY
def test_no_baseline_knows_the_future(name, jobs, answers):
    cut = len(jobs) * 7 // 10
    now = jobs["submitted_at"].iloc[cut]
    open_ones = ~(jobs["ended_at"] <= now)
    draw = np.random.default_rng(8)
    scrambled = jobs.copy()
    ends = now + pd.to_timedelta(draw.integers(1, 10**6, int(open_ones.sum())), unit="s")
    scrambled.loc[open_ones, "ended_at"] = ends.astype(jobs["ended_at"].dtype)
    scrambled.loc[open_ones, "walltime"] = draw.integers(1, 10**5, int(open_ones.sum())).astype(
        float
    )
    is_earlier = (jobs["submitted_at"] <= now).to_numpy()
    # Nor what later jobs are like: were each to ask for a time of its own, requests would tell no
    # kinds of job apart.
    scrambled.loc[~is_earlier, "requested_walltime"] = 1e5 + np.arange(int((~is_earlier).sum()))
    changed = predict_baselines(scrambled, WALLTIME, [name], refit_every=0.3)[name]
    assert np.array_equal(answers[name].point[is_earlier], changed.point[is_earlier])
    if name not in ("request",):  # the test could not fail if nothing depended on outcomes
        assert not np.array_equal(answers[name].point[~is_earlier], changed.point[~is_earlier])
    if changed.quantiles is not None:
        assert np.array_equal(answers[name].quantiles[is_earlier], changed.quantiles[is_earlier])


@EVERY
def test_every_baseline_answers_the_first_job_of_an_empty_history(name, jobs):
    first = jobs.iloc[:1].assign(requested_walltime=np.nan)
    point = predict_baselines(first, WALLTIME, [name])[name].point
    assert point.tolist() == [WALLTIME.grid.centres[WALLTIME.grid.bins // 2]]


def test_ranges_do_not_cross_and_hold_the_point(answers):
    answer = answers["median-10"]
    assert answer.quantiles.shape[1] == len(QUANTILE_LEVELS)
    assert (np.diff(answer.quantiles, axis=1) >= 0).all()
    assert ((answer.low <= answer.point) & (answer.point <= answer.high)).all()


def test_every_target_has_the_same_baselines(jobs):
    measured = jobs.assign(peak_memory=jobs["walltime"] * 2.0**20, requested_memory=2.0**34)
    for answer in predict_baselines(measured, TARGETS["peak_memory"], refit_every=0.5).values():
        assert ((answer.point >= 2.0**16) & (answer.point <= 2.0**34)).all()


@pytest.fixture(scope="module")
def kth(traces):
    path = traces / "KTH-SP2-1996.swf.gz"
    batches = detect(path).read(path, ReadOptions(source="kth", columns=None))
    everything = derive_fields(
        conform(pd.concat([batch.jobs for batch in batches], ignore_index=True))
    )
    return split_valid(everything)[0].sort_values("submitted_at", kind="stable", ignore_index=True)


def test_the_published_figures_on_kth_are_reached(kth):
    # ../shared/ANCHORS.md: over the whole log, the request where there is no history.
    actual, request = WALLTIME.value(kth), kth["requested_walltime"].to_numpy()
    seen = read_history(
        kth, WALLTIME, levels=(("user", "requested_cores", "requested_walltime"), ("user",))
    )
    scores = point_errors(actual, request)
    assert (round(scores["mae"]), round(scores["median_ae"]), round(scores["apa"], 3)) == (
        4818,
        669,
        0.473,
    )
    template = point_errors(
        actual,
        np.minimum(coalesce(*(mean_of_two(level) for level in seen.levels), request), request),
    )
    assert template["mae"] == pytest.approx(4361, rel=0.002)
    assert template["median_ae"] == pytest.approx(231, abs=3)
    assert template["apa"] == pytest.approx(0.569, abs=0.001)
    users = point_errors(
        actual, np.minimum(coalesce(mean_of_two(seen.levels[-1]), request), request)
    )
    assert users["mae"] == pytest.approx(5254, rel=0.002)
    assert users["apa"] == pytest.approx(0.534, abs=0.001)
