"""Bodies of requests: JSON or Arrow bytes in, a batch of jobs out; pure functions.

Whatever a body holds, the result is a ``Batch`` or an ``HTTPError``: sizes are checked before
anything is made of them, and nothing is executed, decompressed or repeated without bound.
"""

from __future__ import annotations

import difflib
import re
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import lru_cache
from typing import Any, Literal, TypeVar

import numpy as np
import pyarrow as pa
from msgspec import UNSET, DecodeError, Raw, Struct, ValidationError
from msgspec import json as msgspec_json
from msgspec.structs import asdict, astuple

from jobs.schema import COLUMNS
from services.http.arrow_metadata import refuse_compression
from services.http.columns import RowErrors, check_type, read_array, read_values, single_array
from services.http.contract import (
    ARROW_TYPE,
    JSON_TYPE,
    LABEL_FIELDS,
    MAX_JOBS,
    MAX_JSON_CONTAINERS,
    MAX_JSON_VALUES,
    Options,
    unchecked,
)
from services.http.errors import HTTPError, quote
from services.http.options import unknown_option

Shape = Literal["rows", "columns", "arrow"]
T = TypeVar("T")
Explain = Callable[[str, str, str | None], HTTPError]
"""The refusal for a wrong value: from the message, its path, and the unknown member if any."""

_UNKNOWN = re.compile(r"Object contains unknown field `(.*)`", re.DOTALL)
_SEVERAL = "send the jobs in several requests"
SLICE_ITEMS, SLICE_BYTES = 1_000, 2**20
"""What is read of a long body at a time: C code lets no other thread run before it returns."""
_SUGGESTED = 40
"""Characters of an unknown name up to which a known one is suggested."""


@dataclass(frozen=True)
class Batch:
    """The jobs of one request.

    ``jobs`` has the typed columns that were sent, ``errors`` what is wrong by row; the caller
    decides whether that refuses the batch. ``options`` are the body's other members.
    """

    jobs: pa.Table
    errors: RowErrors
    shape: Shape
    options: Mapping[str, Any]


def media_type(header: str) -> str:
    """The media type of a Content-Type header; raises HTTPError (415) unless JSON or Arrow."""
    media = header.partition(";")[0].strip().lower()
    if media not in (JSON_TYPE, ARROW_TYPE):
        raise HTTPError(415, f"the content type must be {JSON_TYPE} or {ARROW_TYPE}")
    return media


def read_body(
    content_type: str,
    body: bytes,
    options: type[Struct] = Options,
    names: tuple[str, ...] = COLUMNS,
) -> Batch:
    """Read the jobs of a request.

    Args:
        content_type: The Content-Type header.
        body: JSON, or an Arrow IPC stream.
        options: The struct of the options that a JSON body may hold.
        names: The fields that a job may have.

    Raises:
        HTTPError: 400, 413, 415 or 422.
    """
    if media_type(content_type) == JSON_TYPE:
        return read_json(body, options, names)
    return read_arrow(body, names)


# -- JSON


def decode(body: bytes, decoder: msgspec_json.Decoder[T], explain: Explain) -> T:
    """Decode a JSON body whose size was checked first.

    Args:
        body: The bytes.
        decoder: Of the struct that the body must be.
        explain: Makes the refusal (422) of JSON that is not that struct.

    Raises:
        HTTPError: 400 for what is not JSON, 413 for too many values, and what ``explain`` makes.
    """
    _check_json_size(body)
    try:
        return decoder.decode(body)
    except ValidationError as error:
        _require_json(body)
        raise _wrong_json(error, explain) from None
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json(error) from None


def decode_items(
    items: Sequence[Raw], decoder: msgspec_json.Decoder[list[T]], member: str, explain: Explain
) -> Iterator[list[T]]:
    """Decode the items of a list, a slice at a time.

    Args:
        items: The items as JSON.
        decoder: Of a list of them.
        member: The member of the body that they are, for ``explain``.
        explain: Makes the refusal (422) of an item that is wrong.

    Raises:
        HTTPError: 400 for what is not JSON, and what ``explain`` makes.
    """
    for start in range(0, len(items), SLICE_ITEMS):
        try:
            text = b",".join(items[start : start + SLICE_ITEMS])
            yield decoder.decode(b"[%b]" % text)
        except ValidationError as error:
            raise _wrong_json(error, explain, member, start) from None
        except (DecodeError, RecursionError, UnicodeDecodeError) as error:
            raise _not_json(error) from None


def _wrong_json(
    error: ValidationError, explain: Explain, member: str = "", start: int = 0
) -> HTTPError:
    """The refusal of JSON of another form; items of ``member`` are numbered from ``start``."""
    message, _, path = str(error).partition(" - at `$")
    if "out of range" in message:
        return HTTPError(400, "the body is not JSON: a number is out of range")
    path = path.rstrip("`")
    if member:
        index, _, rest = path[1:].partition("]")
        path = f".{member}[{start + int(index)}]{rest}"
    unknown = _UNKNOWN.fullmatch(message)
    return explain(message, path, unknown and unknown[1])


def _check_json_size(body: bytes) -> None:
    """Refuse bodies whose values would take many times the memory of their text."""
    for characters, limit in ((b"{[", MAX_JSON_CONTAINERS), (b",", MAX_JSON_VALUES)):
        # Texts may hold such characters too; looking for texts takes longer.
        if (
            len(body) > limit
            and _count(body, characters) > limit
            and _count_outside_texts(body, characters) > limit
        ):
            kind = "objects and lists" if b"{" in characters else "values"
            _require_shallow(body)
            raise HTTPError(413, f"the body holds more than {limit} {kind}; {_SEVERAL}")


def _require_shallow(body: bytes) -> None:
    with suppress(DecodeError):  # a body cut short is too large all the same
        try:
            msgspec_json.decode(body[:SLICE_BYTES], type=Raw)
        except RecursionError as error:
            raise _not_json(error) from None


def _count(body: bytes, characters: bytes) -> int:
    starts = range(0, len(body), SLICE_BYTES)
    return sum(body.count(c, start, start + SLICE_BYTES) for start in starts for c in characters)


def _count_outside_texts(body: bytes, characters: bytes) -> int:
    count, quotes, start = 0, 0, 0
    while start < len(body):
        text = body[start : start + SLICE_BYTES]
        text = text.replace(b"\\\\", b"  ").replace(b'\\"', b"  ")
        start += len(text) + text.endswith(b"\\")  # what that escapes is in the next slice
        plain = np.frombuffer(text, np.uint8)
        quotes_before = quotes + np.cumsum(plain == ord('"'))
        outside = quotes_before % 2 == 0
        quotes = int(quotes_before[-1])
        count += sum(int(((plain == character) & outside).sum()) for character in characters)
    return count


def _require_json(body: bytes) -> None:
    """Raise HTTPError (400) for bytes that are no JSON: that is worse than wrong JSON."""
    try:
        body.decode()
        msgspec_json.decode(body, type=Raw)
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json(error) from None


def _not_json(error: Exception) -> HTTPError:
    return HTTPError(400, f"the body is not JSON: {str(error)[:200]}")


Row: Any = unchecked("Row", COLUMNS)
_VALUES: Any = msgspec_json.Decoder(list[Any])
OBJECTS: Any = msgspec_json.Decoder(list[Raw])
"""Decodes a list whose items stay JSON."""


@lru_cache
def _decoder(options: type[Struct]) -> msgspec_json.Decoder[Any]:
    names = options.__struct_fields__
    return msgspec_json.Decoder(unchecked("Body", names, jobs=list[Raw], columns=Raw))


@lru_cache
def _job_decoders(names: tuple[str, ...]) -> tuple[Any, Any]:
    """The decoders of a list of jobs and of columns, of jobs with such fields."""
    row: Any = Row if names == COLUMNS else unchecked("Row", names)
    return (
        msgspec_json.Decoder(list[row]),
        msgspec_json.Decoder(unchecked("Columns", names, Raw)),
    )


def read_json(
    body: bytes, options: type[Struct] = Options, names: tuple[str, ...] = COLUMNS
) -> Batch:
    """Read ``{"jobs": [{…}, …]}`` or ``{"columns": {field: […], …}}``, options beside them.

    Args:
        body: The JSON.
        options: The struct of the options.
        names: The fields that a job may have.

    Raises:
        HTTPError: 400, 413 or 422.
    """
    jobs = read_undecoded(body, options, names, _VALUES)
    if jobs.rows is not None:
        rows = decode_items(jobs.rows, _job_decoders(names)[0], "jobs", jobs.explain)
        return batch_of_rows(rows, jobs.options, names)
    return _batch(jobs.columns, len(jobs), read_values, "columns", jobs.options)


@dataclass(frozen=True)
class UndecodedJobs:
    """The jobs of a JSON body: objects not decoded yet, or (``rows`` None) a list for each field.

    ``options`` are the body's other members, ``explain`` makes the refusal of a wrong job.
    """

    rows: list[Raw] | None
    columns: Mapping[str, list[Any]]
    options: Mapping[str, Any]
    explain: Explain

    def __len__(self) -> int:
        if self.rows is not None:
            return len(self.rows)
        return max(map(len, self.columns.values()), default=0)


def read_undecoded(
    body: bytes, options: type[Struct], names: tuple[str, ...], values: Any
) -> UndecodedJobs:
    """Read a JSON body of jobs but for the values of its rows.

    Args:
        body: The JSON.
        options: The struct of the options.
        names: The fields that a job may have.
        values: The decoder of a column, but of labels, whose objects stay JSON.

    Raises:
        HTTPError: 400, 413 or 422.
    """

    def explain(_: str, path: str, unknown: str | None) -> HTTPError:
        index = re.match(r"\.jobs\[(\d+)\]", path)
        if index:
            reason = unknown_field(unknown, names) if unknown else "is not an object"
            return HTTPError(422, f"job {index[1]}{': ' if unknown else ' '}{reason}")
        if path.startswith(".jobs"):
            return HTTPError(422, '"jobs" must be a list of jobs')
        if path.startswith(".columns"):
            reason = '"columns" must be an object with a list of values for each field'
            return HTTPError(422, unknown_field(unknown, names) if unknown else reason)
        if unknown:
            return unknown_option(unknown, options.__struct_fields__)
        return HTTPError(422, _EITHER)

    members = asdict(decode(body, _decoder(options), explain))
    rows, columns = members.pop("jobs"), members.pop("columns")
    if (rows is UNSET) == (columns is UNSET):
        raise HTTPError(422, _EITHER)
    chosen = set_members(members)
    if rows is not UNSET:
        jobs = UndecodedJobs(rows, {}, chosen, explain)
    else:
        decoded = _decode_columns(columns, _job_decoders(names)[1], explain, values)
        jobs = UndecodedJobs(None, decoded, chosen, explain)
    for name, column in jobs.columns.items():
        if len(column) != len(jobs):
            raise HTTPError(
                422, f"column {name} has {len(column)} values where others have {len(jobs)}"
            )
    check_job_count(len(jobs))
    return jobs


def _decode_columns(
    body: Raw, decoder: Any, explain: Explain, decoder_of_values: Any
) -> dict[str, list[Any]]:
    """Decode the columns of a body one by one."""
    columns = {}
    try:
        for name, values in set_members(asdict(decoder.decode(body))).items():
            columns[name] = (OBJECTS if name in LABEL_FIELDS else decoder_of_values).decode(values)
    except ValidationError as error:
        raise _wrong_json(
            error, lambda *reason: explain(reason[0], ".columns", reason[2])
        ) from None
    except (DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise _not_json(error) from None
    return columns


_EITHER = (
    'the body must be an object with either "jobs", a list of jobs, or "columns", '
    "a list for each field"
)


def set_members(members: Mapping[str, Any]) -> dict[str, Any]:
    """The members that a body really had."""
    return {name: value for name, value in members.items() if value is not UNSET}


class Columns:
    """The values of decoded objects by member, gathered slice by slice.

    Args:
        names: The members, in the order of the struct.
    """

    def __init__(self, names: Iterable[str]) -> None:
        self._values: dict[str, list[Any]] = {name: [] for name in names}

    def add(self, rows: Sequence[Struct]) -> None:
        """Add the values of further objects."""
        for start in range(0, len(rows), SLICE_ITEMS):
            slice_columns = zip(*map(astuple, rows[start : start + SLICE_ITEMS]), strict=True)
            for values, more in zip(self._values.values(), slice_columns, strict=False):
                values += more

    @property
    def present(self) -> dict[str, Sequence[Any]]:
        """Without members that no object has."""
        return {
            name: values
            for name, values in self._values.items()
            if values and (values[0] is not UNSET or values.count(UNSET) < len(values))
        }


def batch_of_rows(
    slices: Iterable[Sequence[Struct]],
    options: Mapping[str, Any],
    names: tuple[str, ...] = COLUMNS,
) -> Batch:
    """The batch of decoded ``Row`` objects.

    Args:
        slices: The objects, slice by slice.
        options: The body's other members.
        names: The fields that they have.
    """
    columns, count = Columns(names), 0
    for rows in slices:
        columns.add(rows)
        count += len(rows)
    return _batch(columns.present, count, read_values, "rows", options)


def check_job_count(jobs: int) -> None:
    """Raise HTTPError (413) when a request holds too many jobs."""
    if jobs > MAX_JOBS:
        raise HTTPError(413, f"the request holds more than {MAX_JOBS} jobs; {_SEVERAL}")


def unknown_field(name: str, names: Sequence[str] = COLUMNS) -> str:
    """The reason why a field is refused, with the one of ``names`` that may be meant."""
    near = difflib.get_close_matches(name, names, n=1) if len(name) <= _SUGGESTED else []
    return f"there is no field {quote(name)}" + (f"; did you mean {near[0]}?" if near else "")


# -- Arrow


def read_arrow(body: bytes, names: tuple[str, ...] = COLUMNS) -> Batch:
    """Read an Arrow IPC stream of the columns ``names``; HTTPError (400, 413, 415, 422)."""

    def check_name(name: str) -> None:
        if name not in names:
            raise HTTPError(422, unknown_field(name, names))

    columns, rows = read_stream(body, check_name, check_job_count)
    return _batch(columns, rows, read_array, "arrow", {})


def read_stream(
    body: bytes, check_name: Callable[[str], None], check_rows: Callable[[int], None]
) -> tuple[dict[str, pa.Array], int]:
    """Read the columns of an Arrow IPC stream, validated before a value is touched.

    Args:
        body: The stream.
        check_name: Refuses a column by its name.
        check_rows: Refuses a number of rows.

    Returns:
        The columns by name, and the number of rows.

    Raises:
        HTTPError: 400, 415 or 422, and what the checks raise.
    """
    try:
        refuse_compression(body)
        batches = []
        rows = 0
        with pa.ipc.open_stream(pa.py_buffer(body)) as stream:
            names = set[str]()
            for field in stream.schema:
                check_name(field.name)
                if field.name in names:
                    raise HTTPError(422, f"column {field.name} is there twice")
                names.add(field.name)
                check_type(field.name, field.type)
            for batch in stream:
                # The row count is a number in the message: checked before it becomes a length.
                rows += batch.num_rows
                check_rows(rows)
                if batch.num_rows:
                    batch.validate(full=True)
                    batches.append(batch)
            table = pa.Table.from_batches(batches, stream.schema)
            table = table.unify_dictionaries().combine_chunks()
    except (pa.ArrowException, struct.error, OSError, UnicodeDecodeError) as error:
        message = str(error).splitlines()[0][:200] if str(error) else type(error).__name__
        raise HTTPError(400, f"the body is not a valid Arrow stream: {message}") from None
    return {name: single_array(table.column(name)) for name in table.column_names}, rows


# -- both


def _batch(
    columns: Mapping[str, Any],
    rows: int,
    read: Callable[[str, Any, RowErrors], pa.Array],
    shape: Shape,
    options: Mapping[str, Any],
) -> Batch:
    typed, errors = read_columns(columns, read)
    # A table without columns has no rows: empty jobs are carried by their missing ids.
    empty = {"job_id": pa.nulls(rows, pa.string())} if shape == "rows" else {}
    return Batch(pa.table(typed or empty), errors, shape, options)


def read_columns(
    columns: Mapping[str, Any], read: Callable[[str, Any, RowErrors], pa.Array]
) -> tuple[dict[str, pa.Array], RowErrors]:
    """Columns typed by their fields, and what is wrong with single rows.

    Raises:
        HTTPError: 422 for a column of a wrong type.
    """
    errors, typed = RowErrors(), dict[str, pa.Array]()
    try:
        for errors.field, values in columns.items():
            typed[errors.field] = read(errors.field, values, errors)
        errors.field = None
        return typed, errors
    except pa.ArrowException as error:
        raise HTTPError(422, str(error).splitlines()[0]) from None
