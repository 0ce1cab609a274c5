"""Bodies: whatever is in them, the outcome is a batch or a refusal."""

import asyncio
import gzip
import sys
import threading
from collections.abc import Iterator
from typing import Any

import msgspec
import numpy as np
import orjson
import pandas as pd
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from jobs.schema import TEXT_BYTES, conform, split_valid
from services.http.bodies import (
    SLICE_BYTES,
    SLICE_ITEMS,
    Batch,
    decode_items,
    read_arrow,
    read_body,
    read_json,
)
from services.http.contract import ARROW_TYPE, JSON_TYPE, MAX_JOBS, MAX_JSON_VALUES
from services.http.errors import HTTPError
from services.http.openapi import describe
from services.http.rank import read_rank
from services.http.requests import read_jobs_to_predict, read_outcomes

JOBS = pa.table(
    {
        "job_id": ["1", "2", "3"],
        "source": pa.array(["grid"] * 3).dictionary_encode(),
        "user": ["alice", None, "bob"],
        "requested_cores": pa.array([1, None, 8], pa.int32()),
        "submitted_at": pa.array([1_760_000_000_000] * 3, pa.timestamp("ms")),
    }
)


def stream(table: pa.Table, **options: Any) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema, options=pa.ipc.IpcWriteOptions(**options)) as out:
        out.write_table(table)
    return bytes(sink.getvalue())


def refusal(body: object, read: Any = read_json) -> tuple[int, str]:
    with pytest.raises(HTTPError) as caught:
        read(body if isinstance(body, bytes) else orjson.dumps(body))
    return caught.value.status, caught.value.message


def test_rows_columns_and_arrow_give_the_same_batch() -> None:
    rows = [{k: v for k, v in row.items() if v is not None} for row in JOBS.to_pylist()]
    for row in rows:
        row["submitted_at"] = row["submitted_at"].isoformat() + "Z"
    columns = {name: [row.get(name) for row in rows] for name in JOBS.column_names}
    by_rows, by_columns, by_arrow = (
        read_json(orjson.dumps({"jobs": rows})),
        read_json(orjson.dumps({"columns": columns})),
        read_arrow(stream(JOBS)),
    )
    assert by_rows.jobs.equals(by_columns.jobs)
    assert by_rows.jobs.select(JOBS.column_names).equals(by_arrow.jobs)
    assert (by_rows.shape, by_columns.shape, by_arrow.shape) == ("rows", "columns", "arrow")
    assert not by_rows.errors.by_row and not by_arrow.errors.by_row


@pytest.mark.parametrize(
    ("body", "status", "sentence"),
    [
        (b"", 400, "not JSON"),
        (b"{", 400, "not JSON"),
        (b'{"jobs": [{"requested_cores": NaN}]}', 400, "not JSON"),
        (b"[" * 100_000, 400, "not JSON"),
        (b'{"jobs": [' + b"[],[]," * 400_000 + b"[]" * 2_000_000, 413, "objects and lists"),
        (b'"\xff\xfe"', 400, "not JSON"),
        ([], 422, '"jobs", a list of jobs'),
        ({}, 422, '"jobs", a list of jobs'),
        ({"jobs": [], "columns": {}}, 422, "either"),
        ({"jobs": {}}, 422, '"jobs" must be a list'),
        ({"jobs": [{}, 7]}, 422, "job 1 is not an object"),
        (
            {"jobs": [{"job_id": "1"}, {"usr": "alice"}]},
            422,
            "job 1: there is no field 'usr'; did you mean user?",
        ),
        ({"jobs": [{}] * (MAX_JOBS + 1)}, 413, f"more than {MAX_JOBS} jobs"),
        ({"columns": []}, 422, '"columns" must be an object'),
        ({"columns": {"user": "alice"}}, 422, '"columns" must be an object with a list'),
        (
            {"columns": {"user": ["alice"], "site": []}},
            422,
            "column site has 0 values where others have 1",
        ),
        ({"columns": {"color": []}}, 422, "there is no field 'color'"),
    ],
)
def test_a_json_body_that_is_no_batch_is_refused_with_a_sentence(
    body: object, status: int, sentence: str
) -> None:
    got, message = refusal(body)
    assert got == status
    assert sentence in message


@pytest.mark.parametrize(
    ("field", "value", "sentence"),
    [
        ("user", 7, "user is a number, not text"),
        ("user", ["a"], "user is a list, not text"),
        ("user", "a\0b", "user holds a NUL character"),
        ("user", "x" * 5000, f"user is longer than {TEXT_BYTES} bytes"),
        ("requested_cores", "8", "requested_cores is text, not a number"),
        ("requested_cores", True, "requested_cores is true or false, not a number"),
        ("requested_cores", 0, "requested_cores is 0, not between 1 and 1e+08 cores"),
        ("requested_memory", -1, "requested_memory is -1, not between 0 and 1e+17 bytes"),
        ("requested_walltime", 1e18, "requested_walltime is 1e+18, not between 0 and"),
        ("submitted_at", "yesterday", "submitted_at is not a time"),
        ("submitted_at", {}, "submitted_at is an object, not a time"),
        ("submitted_at", "1970-01-01T00:00:00Z", "submitted_at is before 1980"),
        ("submitted_at", 4e9, "submitted_at is in the future"),
        ("submitted_at", 1e300, "submitted_at is not a time"),
    ],
)
def test_a_bad_value_is_named_by_job_and_field(field: str, value: object, sentence: str) -> None:
    batch = read_json(orjson.dumps({"jobs": [{"job_id": "1"}, {"job_id": "2", field: value}]}))
    assert list(batch.errors.by_row) == [1]
    assert batch.errors.first.startswith(f"job 1: {sentence}")


LABELED = {"biome": "root:Host", "input_reads": 1.2e6}
LABELS = '{"biome":"root:Host","input_reads":1200000.0}'


def test_labels_are_an_object_in_json_and_its_text_in_arrow() -> None:
    jobs = [{"job_id": "1", "source": "grid", "labels": labels} for labels in (LABELED, None, {})]
    jobs += [{"job_id": "2", "source": "grid"}]
    columns = {"job_id": ["1"] * 4, "source": ["grid"] * 4, "labels": [LABELED, None, {}, None]}
    texts = pa.array(['{"input_reads": 1200000, "biome": "root:Host"}', None, "{}", ""])
    table = pa.table(columns | {"labels": texts})
    coded = table.set_column(2, "labels", texts.dictionary_encode())
    for batch in (
        read_json(orjson.dumps({"jobs": jobs})),
        read_json(orjson.dumps({"columns": columns})),
        read_arrow(stream(table)),
        read_arrow(stream(coded)),
    ):
        assert not batch.errors.by_row
        assert batch.jobs["labels"].to_pylist() == [LABELS, None, None, None]
    frame = read_outcomes(
        read_json(
            orjson.dumps(
                {"jobs": [{**jobs[0], "submitted_at": 1.7e9, "started_at": 1.7e9, "walltime": 1}]}
            )
        )
    ).jobs
    assert frame["labels"].tolist() == [LABELS]


@pytest.mark.parametrize(
    ("labels", "reason"),
    [
        ([1], "labels is not an object of texts and numbers"),
        (LABELS, "labels is not an object of texts and numbers"),
        ({"a": True}, "labels has a label that is neither text nor a number: 'a'"),
        ({"a": {}}, "labels has a label that is neither text nor a number: 'a'"),
        ({"": 1}, "labels has a label with an empty name: ''"),
        ({"n" * 65: 1}, "labels has a label with a name of more than 64 characters"),
        ({"a": "x" * 257}, "labels has a label with a text of more than 256 characters: 'a'"),
        ({f"n{i:02}": i for i in range(33)}, "labels has more than 32 labels: 'n32'"),
        (
            {"a": True, "b": True},
            "labels has a label that is neither text nor a number: 'a' (and 1",
        ),
    ],
)
def test_wrong_labels_are_refused_for_their_job_in_one_sentence(labels: Any, reason: str) -> None:
    rows = [{"job_id": str(n), "source": "grid", "labels": LABELED} for n in range(3)]
    rows[1]["labels"] = labels
    status, message = refusal({"jobs": rows}, lambda body: read_jobs_to_predict(read_json(body)))
    assert status == 422 and message.startswith(f"job 1: {reason}")
    finished = [row | {"submitted_at": 1.7e9, "started_at": 1.7e9, "walltime": 1} for row in rows]
    report = read_outcomes(read_json(orjson.dumps({"jobs": finished})))
    assert len(report.jobs) == 3 and not report.rejected
    assert [note["index"] for note in report.left_out] == [1]
    assert report.left_out[0]["reason"].startswith(reason)
    rank = {"jobs": [{"job_id": "1", "labels": labels, "candidates": [{"site": "CERN"}]}]}
    status, message = refusal(rank, lambda body: read_rank(JSON_TYPE, body, {}))
    assert status == 422 and message.startswith(f"candidate 0: {reason}")


def test_every_field_that_was_left_out_of_an_outcome_is_named() -> None:
    wrong = {"labels": {"a": True}, "peak_memory": -5, "cpu_time": -1}
    job = {"job_id": "1", "source": "grid", "submitted_at": 1.7e9, "started_at": 1.7e9}
    report = read_outcomes(read_json(orjson.dumps({"jobs": [job | {"walltime": 1} | wrong]})))
    [note] = report.left_out
    assert len(report.jobs) == 1
    assert all(name in note["reason"] for name in wrong), note


def test_each_of_a_hundred_thousand_jobs_may_have_labels() -> None:
    job = b'{"job_id":"1","source":"grid","labels":{"a":1,"b":2,"c":3}}'
    body = b'{"jobs":[%s]}' % b",".join([job] * MAX_JOBS)
    assert read_json(body).jobs["labels"].null_count == 0


def test_an_infinite_fair_share_is_the_highest_in_arrow() -> None:
    table = pa.table({"job_id": ["1", "2", "3"], "fair_share": [np.inf, 0.5, np.nan]})
    batch = read_arrow(stream(table))
    assert batch.jobs["fair_share"].to_pylist()[:2] == [1e6, 0.5]
    assert list(batch.errors.by_row) == [2]


def test_times_come_with_an_offset_without_one_or_as_unix_seconds() -> None:
    times = [
        "2026-01-02T03:04:05Z",
        "2026-01-02T04:04:05+01:00",
        "2026-01-02 03:04:05",
        1767323045,
        1767323045.0,
    ]
    batch = read_json(orjson.dumps({"columns": {"submitted_at": times}}))
    assert set(batch.jobs["submitted_at"].cast(pa.int64()).to_pylist()) == {1_767_323_045_000_000}


@pytest.mark.parametrize("character", ["x", "é", "😀"])
@pytest.mark.parametrize("field", ["job_id", "source", "user", "task_id"])
def test_texts_have_one_limit_in_bytes_for_every_form_the_store_and_the_document(
    field: str, character: str
) -> None:
    size = len(character.encode())
    fitting, long = character * (TEXT_BYTES // size), character * (TEXT_BYTES // size + 1)
    job = {"job_id": "1", "source": "grid", "submitted_at": "2026-01-01", "user": "ann"}
    for text, fits in ((fitting, True), (long, False)):
        batches = [
            read_json(orjson.dumps({"jobs": [job | {field: text}]})),
            read_json(orjson.dumps({"columns": {field: [text]}})),
            *(
                read_arrow(stream(pa.table({field: pa.array([text], kind)})))
                for kind in (pa.string(), pa.large_string(), pa.string_view())
            ),
            read_arrow(stream(pa.table({field: pa.array([text]).dictionary_encode()}))),
        ]
        for batch in batches:
            assert batch.errors.by_row == (
                {} if fits else {0: f"{field} is longer than {TEXT_BYTES} bytes"}
            )
        frame = conform(pd.DataFrame([job | {field: text}]))
        assert len(split_valid(frame)[0]) == int(fits)
        candidates = {"jobs": [{"source": "g"} | {field: text, "candidates": [{"site": "s"}]}]}
        if fits:
            read_rank(JSON_TYPE, orjson.dumps(candidates), {})
        else:
            with pytest.raises(HTTPError, match=f"{field} is longer than {TEXT_BYTES} bytes"):
                read_rank(JSON_TYPE, orjson.dumps(candidates), {})
    document = describe()["components"]["schemas"]["JobToPredict"]["properties"][field]
    assert document.get("maxLength", document.get("anyOf", [{}])[0].get("maxLength")) == TEXT_BYTES


def test_an_empty_text_is_a_missing_one() -> None:
    batch = read_json(orjson.dumps({"columns": {"user": ["", "alice"], "job_id": ["1", ""]}}))
    assert batch.jobs["user"].to_pylist() == [None, "alice"]
    assert batch.jobs["job_id"].to_pylist() == ["1", None]


@pytest.mark.parametrize(
    ("column", "values", "sentence"),
    [
        ("requested_cores", pa.array([1.0, np.nan, 2.0]), "job 1: requested_cores is NaN"),
        (
            "requested_cores",
            pa.array([1.0, np.inf, 2.0]),
            "job 1: requested_cores is inf, not between",
        ),
        ("requested_memory", pa.array([1, -5, 2]), "job 1: requested_memory is -5"),
        ("submitted_at", pa.array([10**18] * 3, pa.timestamp("s")), "submitted_at"),
        ("user", pa.array(["a", "b" * 5000, "c"], pa.string_view()), "job 1: user is longer"),
        (
            "user",
            pa.array(["a", "b" * 5000, "b" * 5000]).dictionary_encode(),
            "job 1: user is longer",
        ),
    ],
)
def test_a_bad_value_in_arrow_is_named_the_same_way(
    column: str, values: pa.Array, sentence: str
) -> None:
    index = JOBS.schema.get_field_index(column)
    table = (
        JOBS.set_column(index, column, values) if index >= 0 else JOBS.append_column(column, values)
    )
    assert sentence in read_arrow(stream(table)).errors.first


@pytest.mark.parametrize(
    ("table", "status", "sentence"),
    [
        (JOBS.append_column("color", [["red"] * 3]), 422, "there is no field 'color'"),
        (JOBS.append_column("user", [["red"] * 3]), 422, "column user is there twice"),
        (JOBS.append_column("site", [[1, 2, 3]]), 422, "column site is int64, not text"),
        (JOBS.append_column("site", [[b"a"] * 3]), 422, "column site is binary, not text"),
        (JOBS.append_column("events", [["a"] * 3]), 422, "column events is string, not a number"),
        (JOBS.append_column("events", [[True] * 3]), 422, "column events is bool, not a number"),
        (
            JOBS.append_column("events", [[[1]] * 3]),
            422,
            "column events is list<item: int64>, not a number",
        ),
        (
            pa.table(
                {"user": pa.DictionaryArray.from_arrays(np.zeros(70_000, np.int32), ["x" * 1000])}
            ),
            422,
            "column user holds more than 64 MiB",
        ),
        (
            pa.table(
                {
                    "user": pa.array(["x" * 1000] * 70_000)
                    .dictionary_encode()
                    .cast(pa.string())
                    .cast(pa.string_view())
                }
            ),
            422,
            "more than 64 MiB",
        ),
        (pa.table({"job_id": pa.nulls(2**20)}), 413, f"more than {MAX_JOBS} jobs"),
    ],
)
def test_an_arrow_table_of_other_columns_is_refused_with_a_sentence(
    table: pa.Table, status: int, sentence: str
) -> None:
    got, message = refusal(stream(table), read_arrow)
    assert got == status
    assert sentence in message


@pytest.mark.parametrize("codec", ["lz4", "zstd"])
@pytest.mark.parametrize(
    "table", [JOBS, JOBS.drop_columns(["source"])], ids=["dictionaries first", "batches only"]
)
def test_a_compressed_stream_is_refused_before_anything_is_decompressed(
    codec: str, table: pa.Table
) -> None:
    assert refusal(stream(table, compression=codec), read_arrow)[0] == 415


@pytest.mark.parametrize(
    "kind",
    [
        "application/x-pickle",
        "application/vnd.bentoml+pickle",
        "text/csv",
        "",
        "multipart/form-data; boundary=x",
    ],
)
def test_other_content_types_are_refused(kind: str) -> None:
    with pytest.raises(HTTPError) as caught:
        read_body(kind, b"cos\nsystem\n(S'true'\ntR.")
    assert caught.value.status == 415


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"ARROW1\0\0",
        b"\xff\xff\xff\xff\x10\0\0\0",
        gzip.compress(stream(JOBS)),
        stream(JOBS)[:-100],
        stream(JOBS)[:100],
    ],
)
def test_what_is_no_stream_is_refused(body: bytes) -> None:
    try:
        batch = read_arrow(body)
    except HTTPError as refused:
        assert refused.status in (400, 422)
    else:  # a stream may end after any batch
        assert batch.jobs.num_rows in (0, 3)


def mutations() -> Iterator[bytes]:
    """Streams with some bytes changed, cut out or repeated."""
    body = stream(JOBS)
    random = np.random.default_rng(11)
    for _ in range(3000):
        mutant = bytearray(body)
        for _ in range(random.integers(1, 6)):
            index = int(random.integers(len(mutant)))
            match random.integers(4):
                case 0:
                    mutant[index] = int(random.integers(256))
                case 1:
                    mutant[index : index + 4] = int(
                        random.choice([0, 1, 2**31 - 1, 2**32 - 1])
                    ).to_bytes(4, "little")
                case 2:
                    del mutant[index : index + int(random.integers(1, 40))]
                case 3:
                    mutant[index:index] = mutant[index : index + int(random.integers(1, 40))]
        yield bytes(mutant)


def test_three_thousand_mutated_streams_are_read_or_refused() -> None:
    outcomes: set[object] = set()
    for body in mutations():
        try:
            outcomes.add(type(read_arrow(body)))
        except HTTPError as refused:
            assert 400 <= refused.status < 500
            outcomes.add(refused.status)
    assert {Batch, 400, 422} <= outcomes


json_values = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**70), 2**70) | st.floats() | st.text(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3)
    ),
    max_leaves=6,
)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.dictionaries(
            st.sampled_from(
                ["job_id", "user", "requested_cores", "submitted_at", "status", "walltime"]
            ),
            json_values,
        ),
        max_size=5,
    )
)
def test_any_values_in_known_fields_are_read_or_noted(rows: list[dict[str, object]]) -> None:
    import json

    try:
        batch = read_body(JSON_TYPE, json.dumps({"jobs": rows}).encode())
    except HTTPError as refused:
        assert (
            refused.status == 400
        )  # NaN, infinities, lone surrogates and integers beyond 64 bits are no JSON here
        return
    assert batch.jobs.num_rows == len(rows)
    assert all(0 <= index < len(rows) for index in batch.errors.by_row)


def test_the_content_type_may_carry_parameters() -> None:
    assert read_body("Application/JSON; charset=utf-8", b'{"jobs": []}').jobs.num_rows == 0
    assert read_body(ARROW_TYPE, stream(JOBS)).jobs.num_rows == 3


class Recorded:
    """A decoder that notes how many items each call was given."""

    def __init__(self) -> None:
        self.decoder = msgspec.json.Decoder(list[Any])
        self.sizes: list[int] = []

    def decode(self, text: bytes) -> list[Any]:
        self.sizes.append(len(items := self.decoder.decode(text)))
        return items


def test_a_long_list_is_decoded_in_bounded_slices() -> None:
    """So that C code, which lets no other thread run, returns in between."""
    items = msgspec.json.decode(orjson.dumps(list(range(2500))), type=list[msgspec.Raw])
    recorded = Recorded()

    def explain(message: str, path: str, unknown: str | None) -> HTTPError:
        return HTTPError(422, path)

    slices = decode_items(items, recorded, "jobs", explain)  # type: ignore[arg-type]
    assert next(slices) == list(range(SLICE_ITEMS)) and recorded.sizes == [SLICE_ITEMS]
    assert [value for rows in slices for value in rows] == list(range(SLICE_ITEMS, 2500))
    assert recorded.sizes == [1000, 1000, 500]


def test_a_wrong_job_of_a_later_slice_is_named_by_its_index() -> None:
    jobs: list[Any] = [{"job_id": "1", "source": "x"}] * 1234
    for wrong, reason in ((7, "job 1234 is not an object"), ({"nope": 1}, "job 1234: there is no")):
        with pytest.raises(HTTPError, match=reason):
            read_json(orjson.dumps({"jobs": [*jobs, wrong]}))
    candidates = [{"job_id": str(i), "candidates": [{"site": "x"}]} for i in range(1234)]
    last = {"job_id": "last", "candidates": [{"nope": 1}]}
    with pytest.raises(HTTPError, match="a candidate of job last has no field 'nope'"):
        read_rank(JSON_TYPE, orjson.dumps({"jobs": [*candidates, last]}), {})


@pytest.mark.parametrize("shift", range(4))
def test_texts_that_lie_across_slices_are_no_structure(shift: int) -> None:
    """Commas in texts are not values, wherever a slice ends: also within an escape."""
    padding = b" " * (SLICE_BYTES - 40 + shift)
    text = rb'"' + rb"\\" * 15 + rb"\"," + b"," * (MAX_JSON_VALUES + 10) + b'"'
    body = b'{"jobs": [' + padding + b'{"job_id": ' + text + b"}]}"
    batch = read_json(body)
    assert batch.errors.by_row[0].startswith("job_id is longer than")


def test_the_event_loop_runs_while_a_body_is_read() -> None:
    jobs = [{"job_id": str(i), "source": "x", "user": "u" * 200} for i in range(50_000)]
    body = orjson.dumps({"jobs": jobs})
    reading = threading.Event()
    ticks = 0

    def read() -> Batch:
        reading.set()
        return read_json(body)

    async def tick() -> Batch:
        nonlocal ticks
        work = asyncio.get_running_loop().run_in_executor(None, read)
        while not work.done():
            ticks += reading.is_set()
            await asyncio.sleep(0)
        return await work

    interval = sys.getswitchinterval()
    sys.setswitchinterval(0.0001)
    try:
        batch = asyncio.run(tick())
    finally:
        sys.setswitchinterval(interval)
    assert batch.jobs.num_rows == 50_000
    assert ticks >= len(jobs) / SLICE_ITEMS
