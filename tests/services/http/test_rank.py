"""The call that ranks: what it reads, what it refuses in read_request sentence, what it writes."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pytest

from jobs.coded_jobs import Coded
from models.ranking.ranker import Ranked
from services.http.contract import ARROW_TYPE, JSON_TYPE
from services.http.errors import HTTPError
from services.http.rank import read_rank, write_rank

JOBS: list[dict[str, Any]] = [
    {
        "job_id": "a",
        "user": "ann",
        "candidates": [{"site": "CERN"}, {"site": "BNL", "input_at": "CERN", "input_bytes": 1e9}],
    }
]


def read(**body: Any) -> Any:
    return read_rank(JSON_TYPE, json.dumps(body).encode(), {})


def arrow(frame: pd.DataFrame) -> bytes:
    batch = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def test_json_and_arrow_say_the_same() -> None:
    request = read(jobs=JOBS, policy="conservative", tuning=2, overlap=True)
    rows = pd.DataFrame(
        [{"job_id": "a", "user": "ann", **candidate} for candidate in JOBS[0]["candidates"]]
    )
    same = read_rank(
        ARROW_TYPE, arrow(rows), {"policy": "conservative", "tuning": "2", "overlap": "true"}
    )
    for read_request in (request, same):
        assert read_request.candidates.job.values == ["a"]
        assert [
            read_request.candidates["site"].values[code]
            for code in read_request.candidates["site"].codes
        ] == [
            "CERN",
            "BNL",
        ]
        np.testing.assert_equal(read_request.candidates["input_bytes"], [np.nan, 1e9])
        assert read_request.candidates["input_at"].codes.tolist()[0] == -1
    assert request.rule == same.rule
    assert (request.arrow, same.arrow) == (False, True)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"jobs": []}, "there is no candidate to rank"),
        ({"jobs": [{"job_id": "a", "candidates": []}]}, "job a has no candidates"),
        ({"jobs": [{"job_id": "a"}]}, "job 0 must be an object with a list of candidates"),
        (
            {"jobs": [{"job_id": "a", "candidates": [{"sight": "x"}]}]},
            "a candidate of job a has no field 'sight'",
        ),
        (
            {"jobs": [{"walltime": 3, "candidates": [{"site": "x"}]}]},
            "there is no field 'walltime' of a job or a candidate",
        ),
        (
            {"jobs": [{"candidates": [{"site": "x"}, {"site": 7}]}]},
            "candidate 1: site is a number, not text",
        ),
        (
            {"jobs": [{"candidates": [{"site": "x", "deadline": -1}]}]},
            "candidate 0: deadline is -1, not between 0 and 1e.18 s",
        ),
        (
            {
                "jobs": [
                    {"job_id": "1", "candidates": [{"site": "x"}]},
                    {"candidates": [{"site": "x"}]},
                ]
            },
            "job 1 is there twice",
        ),
        ({"jobs": JOBS, "policy": "luck"}, "there is no policy 'luck'"),
        ({"jobs": JOBS, "luck": 1}, "there is no option 'luck' here"),
    ],
)
def test_what_cannot_be_ranked_is_one_sentence(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HTTPError, match=sentence) as refusal:
        read(**body)
    assert refusal.value.status == 422


def test_what_is_not_known_is_null() -> None:
    columns: dict[str, Any] = {
        "queue": Coded(np.array([-1]), []),
        "in_time": np.array([np.nan]),
        "rank": np.array([1]),
    }
    ranked = Ranked(Coded(np.array([0]), ["a"]), columns)
    (row,) = json.loads(write_rank(ranked, "v1", arrow=False)[1])["rows"]
    assert row == {"job_id": "a", "queue": None, "in_time": None, "rank": 1}
    with pa.ipc.open_stream(write_rank(ranked, "v1", arrow=True)[1]) as stream:
        assert stream.read_all().to_pylist() == [row]
