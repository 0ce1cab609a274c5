"""Bodies of requests: JSON or Arrow bytes in, a batch of jobs out; pure functions without a server.

Whatever a body holds, the outcome is a ``Batch`` or a ``HTTPError``; nothing of a body is executed, decompressed or repeated
without bound. What is wrong with single jobs is in ``Batch.errors``: the caller decides whether that refuses the batch.
"""

from __future__ import annotations

import difflib
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from operator import itemgetter
from typing import Any, Literal

import orjson
import pyarrow as pa

from jobs.schema import COLUMNS
from services.http.columns import RowErrors, one_array, read_array, read_values
from services.http.errors import HTTPError

JSON_TYPE = "application/json"
ARROW_TYPE = "application/vnd.apache.arrow.stream"

MAX_JOBS = 100_000
"""Jobs a request may hold; the response to more would take longer than a broker's matching loop has."""
MAX_JSON_BYTES = 32 * 2**20
MAX_ARROW_BYTES = 64 * 2**20
MAX_JSON_CONTAINERS = 2_000_000
"""Objects and lists a JSON body may hold: each costs 64 bytes or more once parsed, against 2 in the body."""

Shape = Literal["rows", "columns", "arrow"]


@dataclass(frozen=True)
class Batch:
    """Jobs of one request: ``jobs`` has the typed columns that were sent (schema names), ``errors`` what is wrong by row."""

    jobs: pa.Table
    errors: RowErrors
    shape: Shape
    options: Mapping[str, Any]


def read_body(content_type: str, body: bytes) -> Batch:
    """Read the jobs of a request by its content type; raises HTTPError (400, 413, 415, 422)."""
    kind = content_type.partition(";")[0].strip().lower()
    if kind == JSON_TYPE:
        return read_json(body)
    if kind == ARROW_TYPE:
        return read_arrow(body)
    raise HTTPError(415, f"the content type must be {JSON_TYPE} or {ARROW_TYPE}")


def parse_json(body: bytes) -> Any:
    """What a JSON body says; raises HTTPError (400)."""
    try:
        return orjson.loads(body)
    except orjson.JSONDecodeError as error:
        raise HTTPError(400, f"the body is not JSON: {error}") from None


def read_json(body: bytes) -> Batch:
    """Read ``{"jobs": [{…}, …]}`` or ``{"columns": {field: […], …}}``; other keys are options; raises HTTPError (400, 413, 422)."""
    if body.count(b"{") + body.count(b"[") > MAX_JSON_CONTAINERS:
        raise HTTPError(
            413,
            f"the body holds more than {MAX_JSON_CONTAINERS} objects and lists; send at most {MAX_JOBS} jobs a request",
        )
    request = parse_json(body)
    if not isinstance(request, dict) or ("jobs" in request) == ("columns" in request):
        raise HTTPError(
            422,
            'the body must be an object with either "jobs", a list of jobs, or "columns", a list for each field',
        )
    options = {key: value for key, value in request.items() if key not in ("jobs", "columns")}
    if "jobs" in request:
        return _from_rows(request["jobs"], options)
    return _from_columns(request["columns"], options)


def _from_rows(rows: Any, options: dict[str, Any]) -> Batch:
    if not isinstance(rows, list):
        raise HTTPError(422, '"jobs" must be a list of jobs')
    check_job_count(len(rows))
    for index, row in enumerate(rows):
        if not isinstance(row, dict):
            raise HTTPError(422, f"job {index} is not an object")
    names = set[str]().union(*rows)
    if not names <= set(COLUMNS):
        index, name = next(
            (index, name) for index, row in enumerate(rows) for name in row if name not in COLUMNS
        )
        raise HTTPError(422, f"job {index}: {_unknown(name)}")
    return _typed(
        {name: _values_of(rows, name) for name in COLUMNS if name in names},
        len(rows),
        read_values,
        "rows",
        options,
    )


def _values_of(rows: list[dict[str, Any]], name: str) -> list[Any]:
    try:
        return list(
            map(itemgetter(name), rows)
        )  # a third of the time, where every job has the field
    except KeyError:
        return [row.get(name) for row in rows]


def _from_columns(columns: Any, options: dict[str, Any]) -> Batch:
    if not isinstance(columns, dict) or not all(
        isinstance(values, list) for values in columns.values()
    ):
        raise HTTPError(422, '"columns" must be an object with a list of values for each field')
    _check_names(columns)
    lengths = {name: len(values) for name, values in columns.items()}
    rows = max(lengths.values(), default=0)
    for name, length in lengths.items():
        if length != rows:
            raise HTTPError(422, f"column {name} has {length} values where others have {rows}")
    check_job_count(rows)
    return _typed(columns, rows, read_values, "columns", options)


def read_arrow(body: bytes) -> Batch:
    """Read an Arrow IPC stream of job columns, fully validated before a value is touched; raises HTTPError (400, 413, 422)."""
    columns, rows = read_stream(body, _check_names, check_job_count)
    return _typed(columns, rows, read_array, "arrow", {})


def read_stream(
    body: bytes, check_names: Callable[[list[str]], None], check_rows: Callable[[int], None]
) -> tuple[dict[str, pa.Array], int]:
    """The columns of an Arrow IPC stream and its number of rows, fully validated; the checks refuse its names and how many rows it has.

    Raises HTTPError (400, 415), and what the checks raise.
    """
    try:
        refuse_compression(body)
        batches = []
        rows = 0
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            check_names(stream.schema.names)
            for batch in stream:
                # The row count is only a number in the message: look at it before anything is made of that length.
                rows += batch.num_rows
                check_rows(rows)
                batch.validate(full=True)
                batches.append(batch)
            table = (
                pa.Table.from_batches(batches, stream.schema).unify_dictionaries().combine_chunks()
            )
    except (pa.ArrowException, struct.error, OSError, UnicodeDecodeError) as error:
        sentence = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise HTTPError(400, f"the body is not a valid Arrow stream: {sentence}") from None
    return {name: one_array(table.column(name)) for name in table.column_names}, table.num_rows


def _typed(
    columns: Mapping[str, Any],
    rows: int,
    read: Callable[[str, Any, RowErrors], pa.Array],
    shape: Shape,
    options: dict[str, Any],
) -> Batch:
    typed, errors = read_columns(columns, read)
    # A table without columns has no rows: empty jobs are carried by their missing ids.
    empty = {"job_id": pa.nulls(rows, pa.string())} if shape == "rows" else {}
    return Batch(pa.table(typed or empty), errors, shape, options)


def read_columns(
    columns: Mapping[str, Any], read: Callable[[str, Any, RowErrors], pa.Array]
) -> tuple[dict[str, pa.Array], RowErrors]:
    """Columns typed by their fields, and what is wrong with single rows; raises HTTPError (422) for a column of a wrong type."""
    errors = RowErrors()
    try:
        return {name: read(name, values, errors) for name, values in columns.items()}, errors
    except (TypeError, pa.ArrowException) as error:
        raise HTTPError(422, str(error).splitlines()[0]) from None


def _check_names(names: Any) -> None:
    seen = set()
    for name in names:
        if name not in COLUMNS:
            raise HTTPError(422, _unknown(name))
        if name in seen:
            raise HTTPError(422, f"column {name} is there twice")
        seen.add(name)


def _unknown(name: str) -> str:
    near = difflib.get_close_matches(name, COLUMNS, n=1)
    return f"there is no field {name[:100]!r}" + (f"; did you mean {near[0]}?" if near else "")


def check_job_count(jobs: int) -> None:
    """Raise HTTPError (413) when a request holds too many jobs."""
    if jobs > MAX_JOBS:
        raise HTTPError(
            413, f"the request holds more than {MAX_JOBS} jobs; send them in several requests"
        )


def refuse_compression(body: bytes) -> None:
    """Raise HTTPError (415) for a stream with compressed buffers: a small body could claim any amount of memory.

    Arrow decompresses while it reads, so this looks at the flatbuffer of each message first: Message.header (its third field)
    is a RecordBatch, or a DictionaryBatch whose second field is one; a RecordBatch's fourth field is its compression.
    """
    for message in pa.ipc.MessageReader.open_stream(pa.py_buffer(body)):
        metadata = message.metadata.to_pybytes()
        batch = _table_in(metadata, _root(metadata), 2) if message.type != "schema" else None
        if batch is not None and message.type == "dictionary":
            batch = _table_in(metadata, batch, 1)
        if batch is not None and _table_in(metadata, batch, 3) is not None:
            raise HTTPError(
                415, "compressed Arrow buffers are not read; write the stream without compression"
            )


def _root(buffer: bytes) -> int:
    return int(struct.unpack_from("<I", buffer, 0)[0])


def _table_in(buffer: bytes, table: int, field: int) -> int | None:
    """Where the flatbuffer table in slot ``field`` of the one at ``table`` begins, or None when the slot is empty."""
    vtable = table - struct.unpack_from("<i", buffer, table)[0]
    if 4 + 2 * field >= struct.unpack_from("<H", buffer, vtable)[0]:
        return None
    offset = struct.unpack_from("<H", buffer, vtable + 4 + 2 * field)[0]
    if not offset:
        return None
    place = table + offset
    return int(place + struct.unpack_from("<I", buffer, place)[0])
