import numpy as np
import pandas as pd
import pytest

from jobs.schema import conform, derive_fields
from models.evaluation.allocation_rules import RULES, template_statistics
from models.quantities.targets import TARGETS

GIB = 2.0**30
START = pd.Timestamp("2026-01-01", tz="UTC")


@pytest.fixture
def story():
    """A user's jobs of 2 cores, an hour apart, each of half an hour: 1, 2, 3, 4 GiB, and one submitted while the fourth runs."""
    hours = np.array([0.0, 1.0, 2.0, 3.0, 3.2, 5.0])
    at = START + pd.to_timedelta(hours, unit="h")
    peaks = np.array([1.0, 2.0, 3.0, 4.0, 9.0, 9.0]) * GIB
    jobs = {
        "job_id": list("abcdef"),
        "source": "made",
        "user": "u",
        "requested_cores": 2,
        "submitted_at": at,
        "started_at": at,
    }
    return derive_fields(conform(pd.DataFrame(jobs | {"walltime": 1800.0, "peak_memory": peaks})))


def asked(jobs):
    request = np.full(len(jobs), 8 * GIB)
    facts = template_statistics(jobs, TARGETS["peak_memory"], request)
    return {rule.name: rule.ladder(facts) / GIB for rule in RULES}


def test_each_rule_says_what_its_definition_says(story):
    ladders = {
        name: found[4] for name, found in asked(story).items()
    }  # 1, 2 and 3 GiB have ended, 4 has not
    assert ladders["request"].tolist() == [8.0]
    assert ladders["percentile-95"].tolist() == [3.0, 3.0]
    assert np.allclose(ladders["peak"], 3.3)
    assert ladders["last-20-max"].tolist() == [3.0]
    # 1 + 3·2/3, 2 + 3·1/3 and 3 + 0 cost the same: the largest is tried first.
    assert ladders["tovar"].tolist() == [3.0, 3.0]
    # P75 of .5, 1 and 1.5 GiB a core is 1.25 GiB: 1,310,720 kB, with 10 percent 1,441,792 kB or 1,408 MB; then 2, 3, 4, 6, 8 GB a core.
    assert np.allclose(
        ladders["scout"] * 1024 / 2, [1408, np.nan, 2000, 3000, 4000, 6000, 8000], equal_nan=True
    )


def test_before_anything_has_ended_the_request_decides(story):
    assert {name: float(found[0, 0]) for name, found in asked(story).items()} == dict.fromkeys(
        (rule.name for rule in RULES), 8.0
    )


def test_the_future_moves_nothing(story):
    later = story.copy()
    later.loc[3:, "peak_memory"] = 77 * GIB
    for name, found in asked(later).items():
        assert np.array_equal(found[:4], asked(story)[name][:4], equal_nan=True)
