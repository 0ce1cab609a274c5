"""Answers: the same values in every shape."""

from dataclasses import replace

import numpy as np
import orjson
import pyarrow as pa

from models.engine.predictions import Predictions
from services.http.responses import write_answer

IDS = pa.array(["1", "2", "3"])
ANSWERS = Predictions(
    numbers={"walltime": np.array([60.5, np.nan]), "walltime_low": np.array([1.0, 2.0])},
    cluster=np.array(["global", "site A"], dtype=object),
    cold_start=np.array([True, False]),
    context_of_row=np.array([0, 1, 0]),
    model_version="gridcast-3",
)
EXPECTED: list[dict[str, object]] = [
    {
        "job_id": "1",
        "walltime": 60.5,
        "walltime_low": 1.0,
        "cluster": "global",
        "model_version": "gridcast-3",
        "cold_start": True,
    },
    {
        "job_id": "2",
        "walltime": None,
        "walltime_low": 2.0,
        "cluster": "site A",
        "model_version": "gridcast-3",
        "cold_start": False,
    },
    {
        "job_id": "3",
        "walltime": 60.5,
        "walltime_low": 1.0,
        "cluster": "global",
        "model_version": "gridcast-3",
        "cold_start": True,
    },
]


def test_rows_columns_and_arrow_hold_the_same_values_and_null_for_what_is_not_known() -> None:
    about = {"model_version": "gridcast-3", "unread": ["walltime"]}
    rows = orjson.loads(write_answer(ANSWERS, IDS, about, "rows")[1])
    columns = orjson.loads(write_answer(ANSWERS, IDS, about, "columns")[1])
    kind, body = write_answer(ANSWERS, IDS, about, "arrow")
    with pa.ipc.open_stream(body) as stream:
        table = stream.read_all()
    assert kind == "application/vnd.apache.arrow.stream"
    assert rows == {"rows": EXPECTED, **about}
    assert columns == {
        "columns": {name: [row[name] for row in EXPECTED] for name in EXPECTED[0]},
        **about,
    }
    assert table.to_pylist() == EXPECTED
    assert orjson.loads(table.schema.metadata[b"gridcast"]) == about


def test_no_jobs_give_an_empty_answer() -> None:
    nothing = replace(ANSWERS, context_of_row=ANSWERS.context_of_row[:0])
    assert orjson.loads(write_answer(nothing, IDS[:0], {}, "rows")[1]) == {"rows": []}
    with pa.ipc.open_stream(write_answer(nothing, IDS[:0], {}, "arrow")[1]) as stream:
        assert stream.read_all().num_rows == 0
