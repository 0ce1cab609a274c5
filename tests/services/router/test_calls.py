"""Calls are divided whatever their bodies hold, or refused as a predictor refuses them."""

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from infra.shards import slot_of
from services.http.bodies import read_body
from services.http.contract import ARROW_TYPE, JSON_TYPE
from services.http.errors import HTTPError
from services.http.requests import read_jobs_to_predict
from services.router.calls import Call, check_call, merge, read_call

IDS = ["a", "b", "c"]


def arrow(**columns: Any) -> bytes:
    sink = pa.BufferOutputStream()
    table = pa.table({"job_id": IDS, "source": ["s"] * 3, **columns})
    with pa.ipc.new_stream(sink, table.schema) as stream:
        stream.write_table(table)
    return bytes(sink.getvalue())


def taken(call: Call, media: str, *rows: int) -> list[dict[str, Any]]:
    """Some jobs of a call as a predictor reads them."""
    jobs = read_jobs_to_predict(read_body(media, call.take(np.array(rows)))).jobs
    return [
        {name: row[name] for name in ("job_id", "user", "queue") if name in row}
        for row in jobs.to_pylist()
    ]


NAMED = ["Zoë", None, ""]
QUEUES = ["q", "long", None]


@pytest.mark.parametrize(
    ("media", "body"),
    [
        (JSON_TYPE, {"jobs": [dict(zip(("job_id", "source", "user", "queue"), row, strict=True)) for row in zip(IDS, "sss", NAMED, QUEUES, strict=True)]}),
        (JSON_TYPE, {"columns": {"job_id": IDS, "source": ["s"] * 3, "user": NAMED, "queue": QUEUES}}),
        (ARROW_TYPE, arrow(user=NAMED, queue=QUEUES)),
        (ARROW_TYPE, arrow(user=pa.array(NAMED, pa.string_view()), queue=pa.array(QUEUES, pa.large_string()))),
        (ARROW_TYPE, arrow(user=pa.array(NAMED).dictionary_encode(), queue=pa.array(QUEUES).dictionary_encode())),
    ],
)  # fmt: skip
def test_jobs_go_to_the_slot_of_their_user_as_they_came(media: str, body: Any) -> None:
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    call = read_call("predict", media, content, {})
    assert call.slots.tolist() == [slot_of("Zoë"), slot_of(""), slot_of("")]
    assert taken(call, media, 0, 2) == [
        {"job_id": "a", "user": "Zoë", "queue": "q"},
        {"job_id": "c", "user": None, "queue": None},
    ]


@pytest.mark.parametrize("name", ["predict", "match"])
@pytest.mark.parametrize(
    ("media", "body"),
    [
        (JSON_TYPE, b'{"columns":{"job_id":["a"],"source":["s"]}}'),
        (JSON_TYPE, b'{"jobs":[{"job_id":"a","source":"s"}]}'),
        (JSON_TYPE, b'{"jobs":[]}'),
        (ARROW_TYPE, arrow()),
        (ARROW_TYPE, arrow(user=pa.nulls(3))),
    ],
)
def test_jobs_without_a_user_have_the_slot_of_the_empty_name(
    name: str, media: str, body: bytes
) -> None:
    query = {"cores": "1", "seconds_left": "60"} if name == "match" else {}
    assert set(read_call(name, media, body, query).slots.tolist()) <= {slot_of("")}


@pytest.mark.parametrize("name", ["predict", "match", "rank", "task"])
@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b"\xff",
        b'{"jobs":[{"job_id":"a","source":"s","user":"\\ud800"}]}',
        b'{"jobs":[{"job_id":"a","source":"s","user":"\xff"}]}',
        b'{"jobs":[{"job_id":"a","source":"s","user":"\\x"}]}',
        b'{"columns":{"job_id":["a"],"source":["s"],"user":["\\ud800"]}}',
        b'{"columns":{"job_id":["a"],"source":["s"],"user":["\xff"]}}',
        b'{"columns":{"job_id":["a"],"source":["s"],"user":[tru]}}',
        b'{"columns":{"job_id":["a"],"source":["s"],"user":"ann"}}',
        b'{"columns":{"job_id":["a","b"],"source":["s"]}}',
        b'{"jobs":[{"job_id":"a","candidates":[]}]}',
        b'{"jobs":[{"candidates":[{"site":"x"}],"job_id":[1]}]}',
        b'{"jobs":1,"task":{"source":"s","user":"\\ud800"}}',
    ],
)
def test_a_wrong_body_is_refused_as_a_predictor_does(name: str, body: bytes) -> None:
    with pytest.raises(HTTPError) as alone:
        check_call(name, JSON_TYPE, body, {})
    try:
        call = read_call(name, JSON_TYPE, body, {})
    except HTTPError as refused:
        assert (refused.status, refused.message) == (alone.value.status, alone.value.message)
    else:  # by the shard, which is sent what is wrong
        with pytest.raises(HTTPError) as refusal:
            check_call(name, JSON_TYPE, call.take(np.arange(len(call))), {})
        assert refusal.value.message == alone.value.message


def test_rows_of_one_version_with_other_columns_are_not_mixed_in_columns() -> None:
    body = b'{"columns":{"job_id":["a","b"],"source":["s","s"],"user":["x","y"]}}'
    call = read_call("predict", JSON_TYPE, body, {})
    answers = [
        (np.array([1]), b'{"columns":{"job_id":["b"],"walltime":[2.50]},"unread":["x"]}'),
        (np.array([0]), b'{"columns":{"job_id":["a"],"walltime":[1e3]},"unread":[]}'),
    ]
    merged = merge(call, answers)
    assert merged == b'{"columns":{"job_id":["a","b"],"walltime":[1e3,2.50]},"unread":[]}'
    answers[1] = (np.array([0]), b'{"columns":{"job_id":["a"]},"unread":[]}')
    with pytest.raises(HTTPError, match="by models of different targets") as refused:
        merge(call, answers)
    assert (refused.value.status, refused.value.retry_after) == (503, 1)
