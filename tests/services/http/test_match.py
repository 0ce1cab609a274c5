"""The call that matches waiting jobs to a slot: what it reads, refuses, and writes."""

from __future__ import annotations

from typing import Any

import orjson
import pyarrow as pa
import pytest

from services.http.contract import ARROW_TYPE, JSON_TYPE
from services.http.errors import HTTPError
from services.http.match import MatchRequest, read_match

SLOT = {"cores": 8, "seconds_left": 3600}
JOB = {"job_id": "a", "source": "grid", "user": "ann", "requested_cores": 2}


def read(**body: Any) -> MatchRequest:
    return read_match(JSON_TYPE, orjson.dumps({"jobs": [JOB], **SLOT} | body), {})


def test_rows_columns_and_arrow_say_the_same() -> None:
    jobs = [JOB | {"count": 3, "priority": 2.5, "ran": 60}, JOB | {"job_id": "b"}]
    columns = {"job_id": ["a", "b"], "source": ["grid"] * 2, "user": ["ann"] * 2}
    columns |= {"requested_cores": [2, 2], "count": [3, None]}
    columns |= {"priority": [2.5, None], "ran": [60, None]}
    batch = pa.RecordBatch.from_pydict(columns)
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as stream:
        stream.write_batch(batch)
    query = {"cores": "8", "seconds_left": "3600", "site": "CERN"}
    body = orjson.dumps({"columns": columns, **SLOT, "site": "CERN"})
    for request in (
        read(jobs=jobs, site="CERN"),
        read_match(JSON_TYPE, body, {}),
        read_match(ARROW_TYPE, bytes(sink.getvalue()), query),
    ):
        assert request.waiting["count"].tolist() == [3, 1]
        assert request.waiting["priority"].tolist() == [2.5, 1]
        assert request.waiting["quota_used"].tolist() == [0, 0]
        assert request.waiting["ran"].tolist() == [60, 0]
        assert (request.options.cores, request.options.site) == (8, "CERN")
        assert request.options.seconds_left == 3600
        assert request.jobs.jobs.column("job_id").to_pylist() == ["a", "b"]


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        ({"cores": 2.5}, "cores must be a whole number from 1 to 1024"),
        ({"cores": 2000}, "cores must be a whole number from 1 to 1024"),
        ({"seconds_left": 0}, "seconds_left must be a number of seconds above 0, at most 1e9"),
        ({"risk": 2}, "risk must be a number from 0 to 1"),
        ({"site": ""}, "site must be text of 1 to 200 characters"),
        ({"seconds": 5}, "there is no option 'seconds' here"),
        ({"jobs": [JOB | {"count": 0}]}, "job 0: count is 0, not between 1 and 1e+09"),
        ({"jobs": [JOB | {"cuont": 1}]}, "job 0: there is no field 'cuont'; did you mean count?"),
        ({"jobs": [JOB | {"priority": "high"}]}, "job 0: priority is text, not a number"),
        ({"jobs": [{"job_id": "a"}]}, "job 0: source is missing"),
    ],
)
def test_what_is_wrong_is_named_in_a_sentence(body: dict[str, Any], sentence: str) -> None:
    with pytest.raises(HTTPError) as caught:
        read(**body)
    assert caught.value.status == 422
    assert str(caught.value).startswith(sentence)


def test_a_slot_without_its_cores_or_its_end_is_refused() -> None:
    for name in SLOT:
        body = {"jobs": [JOB]} | {key: value for key, value in SLOT.items() if key != name}
        with pytest.raises(HTTPError, match=name):
            read_match(JSON_TYPE, orjson.dumps(body), {})
