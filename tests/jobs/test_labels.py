"""Labels of jobs: their JSON text, its limits, and their columns."""

from __future__ import annotations

import numpy as np
import orjson
import pandas as pd
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.labels import (
    LABELS_BYTES,
    MAX_LABELS,
    MAX_NAME_CHARACTERS,
    MAX_VALUE_CHARACTERS,
    clean_labels,
    read_labels,
    repair_labels,
    write_labels,
)

names = st.text(max_size=4) | st.sampled_from(["x" * MAX_NAME_CHARACTERS, "x" * 65, "a\nb"])
values = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["x" * MAX_VALUE_CHARACTERS, "x" * 257, "a\0b", [1], {"a": 1}, 10**400])
)


@settings(max_examples=100, deadline=None)
@given(st.dictionaries(names, values, max_size=40))
def test_clean_labels_are_within_their_limits_and_stay_as_they_are(
    labels: dict[str, object],
) -> None:
    text, left_out = clean_labels(labels)
    missing = {name for name, value in labels.items() if value is None or value in ("",)}
    missing |= {name for name, value in labels.items() if value != value}
    clean = orjson.loads(text) if text else {}
    assert set(clean) | set(left_out) | missing == set(labels)
    assert not set(clean) & set(left_out)
    assert list(clean) == sorted(clean) and len(clean) <= MAX_LABELS
    assert len((text or "").encode()) <= LABELS_BYTES
    for name, value in clean.items():
        assert 0 < len(name) <= MAX_NAME_CHARACTERS
        assert isinstance(value, str | float)
    again, notes = repair_labels(pd.Series([text], dtype="str"))
    assert not notes and (again[0] == text or text is None)


def test_columns_of_labels_come_back_as_they_were_written() -> None:
    frame = pd.DataFrame(
        {"reads": [1.5, np.nan, 3.0], "biome": ["soil", "gut", None], "files": [1, 2, 3]},
        index=[5, 6, 7],
    )
    texts, notes = write_labels(frame)
    assert texts.tolist()[:2] == [
        '{"biome":"soil","files":1.0,"reads":1.5}',
        '{"biome":"gut","files":2.0}',
    ]
    assert not notes
    columns = read_labels(texts)
    assert columns.dtypes.astype(str).to_dict() == {
        "biome": "str",
        "files": "float64",
        "reads": "float64",
    }
    pd.testing.assert_frame_equal(
        columns[["reads", "files"]], frame[["reads", "files"]].astype(float)
    )
    assert columns["biome"].tolist()[:2] == ["soil", "gut"] and pd.isna(columns["biome"][7])


def test_rows_are_written_as_single_objects_are() -> None:
    rows = [
        {"a": "x" * 257, "b": 1, "c": "ä"},
        {f"name{i}": f"text{i}" for i in range(40)},
        {f"long{i}": "ä" * 256 for i in range(20)},
        {"a": True, "b": float("inf"), "\t": 1},
        {},
    ]
    texts, notes = write_labels(pd.DataFrame(rows, dtype=object))
    expected = [clean_labels(row) for row in rows]
    assert [None if pd.isna(text) else text for text in texts] == [text for text, _ in expected]
    assert notes.total() == sum(len(left_out) for _, left_out in expected) > 0


@pytest.mark.parametrize("cut", range(1, 6))
def test_later_rows_change_nothing_in_the_columns_of_earlier_ones(cut: int) -> None:
    rows = [{f"label{i * 8 + j}": j if i % 2 else "t" for j in range(10)} for i in range(4)]
    rows += [{"label0": 1.0, "label8": "late"}, {"label7": "x"}]
    texts = pd.Series([clean_labels(row)[0] for row in rows], dtype="str")
    whole, part = read_labels(texts), read_labels(texts[:cut])
    assert len(whole.columns) == MAX_LABELS
    assert list(whole.columns[: len(part.columns)]) == list(part.columns)
    pd.testing.assert_frame_equal(whole[:cut][part.columns], part)


def test_labels_of_jobs_without_any_are_no_columns() -> None:
    nothing = pd.Series([None, None], dtype="str")
    assert read_labels(nothing).shape == (2, 0)
    assert write_labels(pd.DataFrame(index=[0, 1]))[0].isna().all()
