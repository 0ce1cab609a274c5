"""The call that ranks: what it reads, what it refuses in one sentence, what it writes."""

from __future__ import annotations

import json
from typing import Any

import pandas as pd
import pyarrow as pa
import pytest

from services.bodies import ARROW_TYPE, JSON_TYPE
from services.rank_call import read_rank, write_rank
from services.refusal import RefusalError

JOBS = [{"job_id": "a", "user": "ann", "candidates": [{"site": "CERN"}, {"site": "BNL", "input_at": "CERN", "input_bytes": 1e9}]}]


def asked(**body: Any) -> Any:
    return read_rank(JSON_TYPE, json.dumps(body).encode(), {})


def arrow(frame: pd.DataFrame) -> bytes:
    batch = pa.RecordBatch.from_pandas(frame, preserve_index=False)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    return bytes(sink.getvalue())


def test_json_and_arrow_say_the_same() -> None:
    found = asked(jobs=JOBS, policy="conservative", tuning=2, overlap=True)
    same = read_rank(ARROW_TYPE, arrow(found.candidates), {"policy": "conservative", "tuning": "2", "overlap": "true"})
    pd.testing.assert_frame_equal(found.candidates, same.candidates, check_dtype=False)
    assert found.rule == same.rule
    assert (found.arrow, same.arrow) == (False, True)


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"jobs": []}, "there is no candidate to rank"),
        ({"jobs": [{"job_id": "a", "candidates": []}]}, "job a has no candidates"),
        ({"jobs": [{"job_id": "a"}]}, "job 0 must be an object with a list of candidates"),
        ({"jobs": [{"job_id": "a", "candidates": [{"sight": "x"}]}]}, "a candidate of job a has no field 'sight'"),
        ({"jobs": [{"walltime": 3, "candidates": [{"site": "x"}]}]}, "there is no field 'walltime' of a job or a candidate"),
        ({"jobs": JOBS, "policy": "luck"}, "there is no policy 'luck'"),
        ({"jobs": JOBS, "luck": 1}, "there is no option 'luck' here"),
    ],
)
def test_what_cannot_be_ranked_is_one_sentence(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(RefusalError, match=sentence) as refusal:
        asked(**body)
    assert refusal.value.status == 422


def test_what_is_not_known_is_null() -> None:
    ranked = pd.DataFrame({"job_id": ["a"], "queue": [None], "in_time": [float("nan")], "rank": [1]})
    (row,) = json.loads(write_rank(ranked, "v1", arrow=False)[1])["rows"]
    assert row == {"job_id": "a", "queue": None, "in_time": None, "rank": 1}
    with pa.ipc.open_stream(write_rank(ranked, "v1", arrow=True)[1]) as stream:
        assert stream.read_all().column("rank").to_pylist() == [1]
