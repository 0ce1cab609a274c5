"""Bodies that are small or allowed, and were made to take time or memory; run, it reads each.

``python -m tests.services.http.hostile_bodies`` reads each body at each endpoint in a child process
and prints a JSON line: the body's name, the endpoint, its answer, and the memory that it took.
"""

import json
import os
import resource
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa

from services.http.bodies import read_body
from services.http.contract import ARROW_TYPE, JSON_TYPE, NoOptions, Options
from services.http.errors import HTTPError
from services.http.options import read_options
from services.http.rank import read_rank
from services.http.requests import read_jobs_to_predict, read_outcomes
from services.http.task import read_task

MB = 2**20
CPU_SECONDS = 40
"""A guard against a loop that is quadratic in the size of a body; reading one takes about one."""


def fill(begin: bytes, item: bytes, end: bytes, size: int = 32 * MB) -> bytes:
    return begin + item * ((size - len(begin) - len(end)) // len(item)) + end


def stream(table: pa.Table, rows: int | None = None) -> bytes:
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, table.schema) as out:
        out.write_table(table, max_chunksize=rows)
    return bytes(sink.getvalue())


def empty_batches() -> bytes:
    sink = pa.BufferOutputStream()
    batch = pa.record_batch({"user": pa.array([], pa.string())})
    with pa.ipc.new_stream(sink, batch.schema) as out:
        while sink.tell() < 60 * MB:
            out.write_batch(batch)
    return bytes(sink.getvalue())


def jobs(count: int, form: str) -> bytes:
    return b'{"jobs":[' + ",".join(form % index for index in range(count)).encode() + b"]}"


LONG = "u" * 500
ROW = '{"job_id":"%d","source":"g","user":"' + "u" * 250 + '"}'
OF_ONE_JOB = f'{{"jobs":[{{"user":"{LONG}","site":"{LONG}","queue":"{LONG}","candidates":['.encode()

JSON_BODIES: dict[str, Callable[[], bytes]] = {
    "objects": lambda: fill(b'{"jobs":[', b"{},", b"{}]}"),
    "objects below the limit": lambda: b'{"jobs":[' + b"{}," * 299_000 + b"{}]}",
    "jobs": lambda: jobs(100_000, ROW),
    "wrong jobs": lambda: jobs(100_000, '{"job_id":"%d","source":"g","events":-1,"walltime":"x"}'),
    "numbers": lambda: fill(b'{"columns":{"events":[', b"1.5,", b"1]}}"),
    "quantiles": lambda: fill(b'{"jobs":[],"quantiles":[', b"0.5,", b"0.5]}", 12 * MB),
    "long text": lambda: fill(b'{"columns":{"user":["', b"x", b'"]}}'),
    "long name of a field": lambda: fill(b'{"jobs":[{"', b"x", b'":1}]}'),
    "long name of a column": lambda: fill(b'{"columns":{"', b"x", b'":[]}}'),
    "long name of an option": lambda: fill(b'{"jobs":[],"', b"x", b'":1}'),
    "long name at a candidate": lambda: fill(b'{"jobs":[{"candidates":[{"', b"x", b'":1}]}]}'),
    "deep lists": lambda: b"[" * (32 * MB),
    "deep objects": lambda: fill(b"", b'{"a":', b"1"),
    "digits": lambda: fill(b'{"columns":{"events":[', b"9", b"]}}"),
    "quotes without an end": lambda: b'{"jobs":["' + b'\\"' * (16 * MB - 10),
    "braces in a text": lambda: b'{"jobs":[{"user":"' + b"{" * (31 * MB) + b'"}]}',
    "empty texts": lambda: fill(b'{"columns":{"user":[', b'"",', b'""]}}'),
    "one field again and again": lambda: fill(b'{"jobs":[{', b'"user":"a",', b'"user":"b"}]}'),
    "dates": lambda: b'{"columns":{"submitted_at":[' + b'"2026-13-45",' * 99_999 + b"1]}}",
    "empty candidates": lambda: fill(b'{"jobs":[{"candidates":[', b"{},", b"{}]}]}", 9 * MB),
    "candidates of a job with long texts": lambda: OF_ONE_JOB + b"{}," * 99_000 + b"{}]}]}",
    "jobs of a candidate": lambda: jobs(100_000, '{"job_id":"%d","candidates":[{}]}'),
    "jobs without candidates": lambda: fill(b'{"jobs":[', b'{"candidates":[]},', b"{}]}"),
    "a name twice at the end": lambda: jobs(
        100_000, '{"job_id":"%d","candidates":[{"site":"s"}]}'
    ).replace(b'"99999"', b'"99998"'),
    "task of a list": lambda: fill(b'{"jobs":1,"task":{"source":[', b"{},", b"{}]}}"),
}
ARROW_BODIES: dict[str, Callable[[], bytes]] = {
    "empty batches": empty_batches,
    "batches of a row": lambda: stream(pa.table({"user": ["x" * 100] * 60_000}), 1),
    "columns": lambda: stream(pa.table({f"c{i}": pa.array([], pa.int8()) for i in range(60_000)})),
    "repeated text": lambda: stream(
        pa.table({"user": pa.DictionaryArray.from_arrays(np.zeros(100_000, np.int32), ["x" * 600])})
    ),
    "long dictionary": lambda: stream(
        pa.table({"user": pa.DictionaryArray.from_arrays(np.zeros(9, np.int32), ["x" * 60 * MB])})
    ),
    "views": lambda: stream(
        pa.table({"user": pa.array(["x" * 600] * 100_000).cast(pa.string_view())})
    ),
    "nulls": lambda: stream(pa.table({"job_id": pa.nulls(2**31 - 1)})),
    "times as texts": lambda: stream(pa.table({"submitted_at": ["2026-13-45"] * 100_000})),
    "nested lists": lambda: stream(pa.table({"user": pa.array([[["a"]]] * 100_000)})),
    "long name of an Arrow column": lambda: stream(pa.table({"x" * 16 * MB: [1]})),
}


def predict(media_type: str, body: bytes) -> Any:
    batch = read_body(media_type, body)
    read_options(batch.options, {}, Options)
    return read_jobs_to_predict(batch)


def outcomes(media_type: str, body: bytes) -> Any:
    return read_outcomes(read_body(media_type, body, NoOptions))


def task(media_type: str, body: bytes) -> Any:
    return read_task(body)


def rank(media_type: str, body: bytes) -> Any:
    return read_rank(media_type, body, {})


ENDPOINTS = (predict, outcomes, task, rank)


def peak() -> int:
    """Bytes of memory that this process had at most."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def read_in_child(endpoint: Callable[[str, bytes], Any], media_type: str, body: bytes) -> Any:
    """What became of a body in a child process: status and message, and bytes of memory taken."""
    reader, writer = os.pipe()
    child = os.fork()
    if child:
        os.close(writer)
        with os.fdopen(reader) as answer:
            text = answer.read()
        os.waitpid(child, 0)
        return json.loads(text) if text else [0, "the child was ended", 0]
    resource.setrlimit(resource.RLIMIT_CPU, (CPU_SECONDS, CPU_SECONDS))
    before = peak()
    status, message = 200, ""
    try:
        endpoint(media_type, body)
    except HTTPError as error:
        status, message = error.status, error.message
    except BaseException as error:
        status, message = 500, repr(error)[:500]
    os.write(writer, json.dumps([status, message[:1000], peak() - before]).encode())
    os._exit(0)


def main() -> None:
    for media_type, bodies in ((JSON_TYPE, JSON_BODIES), (ARROW_TYPE, ARROW_BODIES)):
        for name, make in bodies.items():
            body = make()
            for endpoint in ENDPOINTS:
                if endpoint is task and media_type == ARROW_TYPE:
                    continue
                answer = read_in_child(endpoint, media_type, body)
                print(json.dumps([name, endpoint.__name__, len(body), *answer]), flush=True)


if __name__ == "__main__":
    main()
