"""The keys and numbers by which jobs are known."""

import numpy as np
import pandas as pd
import pytest

from jobs.schema import COLUMNS, OUTCOMES
from models.histories.features import choose_levels, encode
from models.quantities.subjects import JOBS, SUBJECTS, Subject


def test_no_key_and_no_number_is_a_fact_of_a_job_that_ran() -> None:
    read = {*JOBS.keys, *JOBS.numbers}
    assert read <= {*COLUMNS}
    assert not read & {*OUTCOMES, "host", "host_power"}
    assert {*JOBS.owners, *JOBS.sizes, *JOBS.measured_against} <= read


def test_another_subject_gets_keys_by_its_own_rule_and_is_known_from_its_own_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    parcels = Subject(
        "parcel",
        (("carrier", "weight"), ("carrier",), ()),
        ("carrier",),
        ("weight",),
        sizes=("weight",),
        measured_against=("weight",),
        identity=("source", "number"),
        outcome_time="delivered_at",
    )
    monkeypatch.setitem(SUBJECTS, "parcel", parcels)
    at = pd.Timestamp("2026-01-01", tz="UTC") + pd.to_timedelta(np.arange(6), unit="h")
    sent = pd.DataFrame(
        {
            "source": "post",
            "number": list("abcdef"),
            "carrier": list("xyxyxy"),
            "weight": [1.0, 1.1, 9.0, 9.1, 1.0, 9.0],
        }
    )
    sent = sent.assign(submitted_at=at, delivered_at=at + pd.Timedelta("1h"))
    levels = choose_levels(sent, parcels)
    assert [level.name for level in levels.levels] == [
        "carrier+weight",
        "carrier",
        "all",
        "carrier over limit",
        "all over limit",
    ]
    contexts = encode(sent, type(levels).from_json(levels.to_json()))
    assert (contexts.available_at - contexts.at == 3_600_000_000).all()
    assert len(set(contexts.ids)) == 6
    assert contexts.keys[1, 0] != contexts.keys[0, 0] == contexts.keys[4, 0]
