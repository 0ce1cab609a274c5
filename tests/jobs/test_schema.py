"""The shape of job records: conform, derive_fields, split_valid."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pandera.pandas as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.schema import (
    COLUMNS,
    FIELDS,
    JOB,
    OF_KIND,
    OUTCOMES,
    QUERY_FIELDS,
    STATUSES,
    TIME_TYPE,
    Field,
    _complaint,
    _wrong,
    conform,
    derive_fields,
    leave_out_bad_fields,
    split_valid,
)

NOW = pd.Timestamp("2026-06-01", tz="UTC")


def frame_schema() -> pa.DataFrameSchema:
    """pandera's schema of a DataFrame of jobs, from the same declarations as the product's checks."""
    kinds = {"text": "str", "number": float, "time": TIME_TYPE, "labels": "str"}

    def column(field: Field) -> pa.Column:
        check = pa.Check(
            lambda values: ~pd.Series(_wrong(values, field), values.index), error=_complaint(field)
        )
        return pa.Column(kinds[field.kind], check, nullable=not field.required)

    return pa.DataFrameSchema(
        {field.name: column(field) for field in JOB.fields}, strict=True, ordered=True
    )


SCHEMA = frame_schema()


def row(**fields: object) -> dict[str, object]:
    return {"job_id": "1", "source": "test", "submitted_at": "2026-01-01", **fields}


def reasons(*rows: dict[str, object]) -> list[str]:
    _, refused = split_valid(derive_fields(conform(pd.DataFrame(list(rows)))), now=NOW)
    return refused.tolist()


numbers = st.one_of(
    st.none(),
    st.sampled_from([-1.0, 0.0, 1.0, 3.5, 1e9, 1e17, 1e18, 1e30, float("inf"), -float("inf")]),
    st.floats(),
)
times = st.sampled_from(
    [
        None,
        "1979-12-31",
        "2026-01-01",
        "2026-01-01T01:00:00+02:00",
        "2026-05-31",
        "2026-06-03",
        "2999-01-01",
        "rubbish",
        7,
    ]
)
lengths = st.builds(
    lambda length, letter: (letter * length)[:length],
    st.sampled_from([128, 129, 256, 257, 511, 512, 513, 10_000]),
    st.sampled_from(["z", "ä", "\U0001f600"]),
)
texts = st.one_of(
    st.sampled_from([None, "", "a", "ä", "x\0y", "\udcff", 7]), st.text(max_size=5), lengths
)
objects = st.sampled_from(
    [None, "", "rubbish", "[1]", '{"a":1}', '{"a":1.0}', '{"b":2.0,"a":"x"}', {"a": 1}, {"": 1}]
)
a_kind = {"number": numbers, "time": times, "text": texts, "labels": objects}
status = st.sampled_from([None, "completed", "odd"])
cells = st.sampled_from(FIELDS).flatmap(
    lambda field: st.tuples(
        st.just(field.name), status if field.name == "status" else a_kind[field.kind]
    )
)
frames = st.lists(
    st.lists(cells, max_size=3).map(lambda fields: row(**dict(fields))), min_size=1, max_size=5
).map(lambda rows: pd.DataFrame(rows, dtype=object))


@settings(max_examples=25, deadline=None)
@given(frames)
def test_what_is_accepted_is_what_the_declaration_allows(frame: pd.DataFrame) -> None:
    jobs = derive_fields(conform(frame))
    accepted, refused = split_valid(jobs, now=NOW)
    assert sorted([*accepted.index, *refused.index]) == list(frame.index)
    wrong: set[int] = set()
    try:
        SCHEMA.validate(jobs, lazy=True)
    except pa.errors.SchemaErrors as errors:
        wrong = set(errors.failure_cases["index"].dropna().astype(int))
    # What the declaration knows nothing of: the clock, and the order of times.
    beyond = set(refused[refused.str.contains("is in the future| is before [a-z]")].index)
    assert wrong <= set(refused.index) <= wrong | beyond


@settings(max_examples=40, deadline=None)
@given(frames)
def test_conforming_twice_changes_nothing(frame: pd.DataFrame) -> None:
    jobs = conform(frame)
    assert tuple(jobs.columns) == COLUMNS
    pd.testing.assert_frame_equal(conform(jobs), jobs)


@settings(max_examples=40, deadline=None)
@given(frames)
def test_no_accepted_job_lasts_a_negative_time(frame: pd.DataFrame) -> None:
    jobs, _ = split_valid(derive_fields(conform(frame)), now=NOW)
    for later, earlier in (
        ("ended_at", "started_at"),
        ("started_at", "submitted_at"),
        ("ended_at", "submitted_at"),
    ):
        assert not (jobs[later] < jobs[earlier]).any()
    for name in OF_KIND["number"]:
        assert np.isfinite(jobs[name].dropna()).all()
        assert name == "priority" or not (jobs[name] < 0).any()


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"job_id": None}, "job_id is missing"),
        ({"submitted_at": None}, "submitted_at is missing"),
        ({"submitted_at": "1979-01-01"}, "submitted_at is before 1980: 1979-01-01 00:00:00+00:00"),
        ({"submitted_at": "2026-06-03"}, "submitted_at is in the future"),
        ({"started_at": "2025-12-31"}, "started_at is before submitted_at"),
        (
            {"started_at": "2026-01-03", "ended_at": "2026-01-02"},
            "walltime is not between 0 and 3.16224e+08: -86400.0",
        ),
        ({"walltime": 1e18}, "walltime is not between 0 and 3.16224e+08: 1e+18"),
        ({"peak_memory": -1.0}, "peak_memory is not between 0 and 1e+17: -1.0"),
        ({"cpu_time": float("inf")}, "cpu_time is not between 0 and 1e+13: inf"),
        ({"status": "odd"}, "status is not a known state: odd"),
        (
            {"user": "ä" * 257},
            f"user is longer than 512 bytes or has a NUL character: {'ä' * 100}",
        ),
        ({"user": "a\0b"}, "user is longer than 512 bytes or has a NUL character: a\0b"),
    ],
)
def test_a_row_that_cannot_be_true_is_refused_with_its_reason(
    fields: dict[str, object], reason: str
) -> None:
    assert reasons(row(), row(**fields), row()) == [reason]


def test_what_only_a_run_tells_of_gpus_nodes_and_energy_is_no_part_of_a_query() -> None:
    outcomes = {"nodes", "energy", "gpu_time", "peak_gpu_memory"}
    assert outcomes <= set(OUTCOMES) and not outcomes & set(QUERY_FIELDS)
    requests = {"requested_gpus", "gpu_type", "requested_nodes", "qos", "reservation", "labels"}
    requests |= {"constraint", "priority", "fair_share", "exclusive"}
    assert requests <= set(QUERY_FIELDS) and not requests & set(OUTCOMES)


def test_an_infinite_fair_share_becomes_the_highest_value() -> None:
    shares = conform(pd.DataFrame([row(fair_share=value) for value in ("inf", 1231, 2e9, None)]))
    assert shares["fair_share"].tolist()[:3] == [1e6, 1231, 1e6]
    assert shares["fair_share"].isna().tolist() == [False, False, False, True]


def test_a_bad_label_is_left_out_and_counted_and_its_job_stays() -> None:
    good, wrong = '{"biome":"soil","reads":2.0}', '{"reads":2,"biome":"soil","bad":[1],"":7}'
    jobs = conform(pd.DataFrame([row(labels=text) for text in (good, wrong, wrong, "[1]", None)]))
    repaired, notes = leave_out_bad_fields(jobs)
    assert repaired["labels"].tolist()[:3] == [good] * 3
    assert repaired["labels"].isna().tolist() == [False, False, False, True, True]
    assert notes == {
        "a label that is neither text nor a number: left out": 2,
        "a label with an empty name: left out": 2,
        "labels that are no JSON object: left out": 1,
    }
    accepted, reasons = split_valid(repaired, now=NOW)
    assert len(accepted) == 5 and reasons.empty


def test_every_known_status_is_accepted() -> None:
    assert reasons(*(row(status=status) for status in STATUSES)) == []


def test_mixed_zones_fractions_and_daylight_saving_become_one_utc() -> None:
    given = [
        "2026-03-29T01:59:59+01:00",  # the last second of winter time in Geneva
        "2026-03-29T03:00:00+02:00",  # one second later
        "2026-03-29T01:00:01Z",
        "2026-03-29 01:00:02.5",  # no zone: UTC
        "2026-03-28T20:00:03-05:00",
        "2026-03-29",
    ]
    submitted = conform(pd.DataFrame([row(submitted_at=text) for text in given]))["submitted_at"]
    seconds = (submitted - pd.Timestamp("2026-03-29T00:59:59Z")).dt.total_seconds().tolist()
    assert seconds == [0, 1, 2, 3.5, 4, -3599]


def test_the_missing_one_of_start_end_and_walltime_is_derived() -> None:
    jobs = derive_fields(
        conform(
            pd.DataFrame(
                [
                    row(started_at="2026-01-01T01:00", ended_at="2026-01-01T01:01"),
                    row(started_at="2026-01-01T01:00", walltime=60),
                    row(ended_at="2026-01-01T01:01", walltime=60),
                ]
            )
        )
    )
    assert jobs["started_at"].eq(pd.Timestamp("2026-01-01T01:00Z")).all()
    assert jobs["ended_at"].eq(pd.Timestamp("2026-01-01T01:01Z")).all()
    assert jobs["walltime"].eq(60).all()
