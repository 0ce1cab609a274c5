"""Columns of jobs as a caller sent them, turned into typed Arrow arrays; what cannot be true is named by job and field.

Both doors end here, so that a value is accepted, or refused with the same sentence, whichever way it came. The arrays are
float64 for numbers, timestamp[us, UTC] for times and dictionary-encoded text (plain text for ``job_id``), null for missing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from jobs.coded_jobs import NOT_AVAILABLE, Coded, CodedJobs
from jobs.schema import CLOCK_TOLERANCE, EARLIEST, FIELDS, Field
from models.ranking.candidates import CANDIDATE_FIELDS

MAX_TEXT = 1024
"""Characters; no user, site or program is called more than that, and the store keeps what is sent."""
MAX_COLUMN_BYTES = 64 * 2**20
"""Bytes of one column written out: what a body could hold without repeating itself."""

TIME = pa.timestamp("us", tz="UTC")
CODED = pa.dictionary(pa.int32(), pa.string())
BY_NAME = {one.name: one for one in (*FIELDS, *CANDIDATE_FIELDS)}

_EARLIEST = int(EARLIEST.timestamp() * 1e6)
_LONGEST = int(1e12)  # seconds since 1970 that a timestamp in microseconds can surely hold


@dataclass
class RowErrors:
    """What is wrong with a batch: the first sentence for each bad job, by its index."""

    by_row: dict[int, str] = field(default_factory=dict)

    def add(self, index: int, sentence: str) -> None:
        """Note that job ``index`` is bad, unless it is known to be already."""
        self.by_row.setdefault(int(index), sentence)

    def add_all(self, bad: Any, sentence: Any) -> None:
        """Note every job where the bool array ``bad`` holds; ``sentence(index)`` says why."""
        for index in np.flatnonzero(bad):
            self.add(int(index), sentence(int(index)))

    def add_all_named(self, indices: Any, sentence: str) -> None:
        """Note every job of ``indices`` with one sentence."""
        for index in indices:
            self.add(index, sentence)

    @property
    def first(self) -> str:
        """One sentence: the first bad job, and how many more there are."""
        index = min(self.by_row)
        more = len(self.by_row) - 1
        return f"job {index}: {self.by_row[index]}" + (
            f" (and {more} more jobs are wrong)" if more else ""
        )


def read_values(name: str, values: Sequence[Any], errors: RowErrors) -> pa.Array:
    """The typed array of field ``name`` from plain Python values (None for missing); bad values are noted and become null."""
    field = BY_NAME[name]
    allowed = {"text": (str,), "number": (int, float), "time": (str, int, float)}[field.kind]
    if not set(map(type, values)) <= {*allowed, type(None)}:
        values = [
            _allowed(index, value, allowed, field, errors) for index, value in enumerate(values)
        ]
    if field.kind == "text":
        return _check_text(field, pa.array(values, pa.string()), errors)
    if field.kind == "number":
        return _check_numbers(field, _read_numbers(values), errors)
    return _check_times(field, _read_times(field, values, errors), errors)


def _allowed(
    index: int, value: Any, allowed: tuple[type, ...], field: Field, errors: RowErrors
) -> Any:
    if value is None or type(value) in allowed:
        return value
    wanted = {"text": "text", "number": "a number", "time": "a time"}[field.kind]
    errors.add(index, f"{field.name} is {_kind(value)}, not {wanted}")
    return None


def _kind(value: Any) -> str:
    names = {
        str: "text",
        bool: "true or false",
        int: "a number",
        float: "a number",
        list: "a list",
        dict: "an object",
    }
    return names.get(type(value), "something else")


def _read_numbers(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.float64())
    except (pa.ArrowInvalid, OverflowError):  # a whole number that no float64 holds exactly
        return pa.array([None if value is None else float(value) for value in values], pa.float64())


def _read_times(field: Field, values: Sequence[Any], errors: RowErrors) -> pa.Array:
    try:
        return pa.array(values, pa.string()).cast(
            TIME
        )  # ISO 8601 with an offset, the usual case, read by Arrow
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        return pa.array(
            [_read_time(field, index, value, errors) for index, value in enumerate(values)], TIME
        )


def _read_time(field: Field, index: int, value: Any, errors: RowErrors) -> int | None:
    """Microseconds since 1970 of an ISO 8601 text (UTC unless it has an offset) or of Unix seconds."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return round(moment.timestamp() * 1e6)
        if abs(value) < _LONGEST:
            return round(value * 1e6)
    except (ValueError, OverflowError):
        pass
    errors.add(
        index,
        f"{field.name} is not a time: give ISO 8601 text such as 2026-11-21T09:30:00Z, or Unix seconds",
    )
    return None


def read_array(name: str, values: pa.Array, errors: RowErrors) -> pa.Array:
    """The typed array of field ``name`` from an Arrow array of a fitting type; raises TypeError with one sentence for others."""
    field, type_ = BY_NAME[name], values.type
    if pa.types.is_null(type_):
        return pa.nulls(
            len(values),
            {
                "text": pa.string() if name == "job_id" else CODED,
                "number": pa.float64(),
                "time": TIME,
            }[field.kind],
        )
    if field.kind == "text":
        return (
            _check_text(field, values, errors) if _is_text(type_) else _wrong(field, type_, "text")
        )
    if field.kind == "time" and pa.types.is_timestamp(type_):
        return _check_times(
            field, values.cast(pa.timestamp("us"), safe=False).cast(TIME, safe=False), errors
        )
    if not (pa.types.is_integer(type_) or pa.types.is_floating(type_)):
        if field.kind == "time" and _is_text(type_):
            _check_lengths(field, values, errors)
            return read_values(name, values.to_pylist(), errors)
        return _wrong(
            field,
            type_,
            "a number" if field.kind == "number" else "a timestamp, text or Unix seconds",
        )
    if field.kind == "time":
        return read_values(name, values.cast(pa.float64(), safe=False).to_pylist(), errors)
    return _check_numbers(
        field, values if type_ == pa.float64() else values.cast(pa.float64(), safe=False), errors
    )


def to_coded_jobs(jobs: pa.Table) -> CodedJobs:
    """Typed columns of jobs as the engine reads them, which is all but their names; codes and numbers without a null are not copied."""
    return CodedJobs(
        {
            name: _code(one_array(jobs.column(name)))
            for name in jobs.column_names
            if name != "job_id"
        },
        jobs.num_rows,
    )


def one_array(column: pa.ChunkedArray) -> pa.Array:
    """A column in one piece; not copied where it is."""
    return column.chunk(0) if column.num_chunks == 1 else column.combine_chunks()


def _code(values: pa.Array) -> Coded | np.ndarray[Any, Any]:
    if pa.types.is_dictionary(values.type):
        return Coded(_filled(values.indices, -1), values.dictionary.to_pylist())
    if pa.types.is_timestamp(values.type):
        return _filled(values.cast(pa.int64()), NOT_AVAILABLE)
    return np.asarray(values.to_numpy(zero_copy_only=False))  # a null number becomes NaN


def _filled(integers: pa.Array, missing: int) -> np.ndarray[Any, Any]:
    return np.asarray((integers.fill_null(missing) if integers.null_count else integers).to_numpy())


def _is_text(type_: pa.DataType) -> bool:
    of = type_.value_type if pa.types.is_dictionary(type_) else type_
    return pa.types.is_string(of) or pa.types.is_large_string(of) or pa.types.is_string_view(of)


def _wrong(field: Field, type_: pa.DataType, wanted: str) -> pa.Array:
    raise TypeError(f"column {field.name} is {type_}, not {wanted}")


def _check_lengths(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    """Null out texts that are too long and unfold views, before anything copies a text that a dictionary or view repeats without end."""
    coded = pa.types.is_dictionary(values.type)
    lengths = _lengths(values.dictionary).take(values.indices) if coded else _lengths(values)
    if (pc.sum(lengths).as_py() or 0) > MAX_COLUMN_BYTES:
        raise TypeError(
            f"column {field.name} holds more than {MAX_COLUMN_BYTES // 2**20} MiB of text"
        )
    plain = values.cast(pa.string()) if pa.types.is_string_view(values.type) else values
    if (pc.max(lengths).as_py() or 0) <= MAX_TEXT:
        return plain
    plain = plain.cast(pa.string())
    long = pc.fill_null(pc.greater(pc.utf8_length(plain), MAX_TEXT), False)
    errors.add_all(
        long.to_numpy(zero_copy_only=False),
        lambda _: f"{field.name} is longer than {MAX_TEXT} characters",
    )
    return pc.if_else(long, pa.scalar(None, pa.string()), plain)


def _lengths(texts: pa.Array) -> pa.Array:
    """Bytes in each text, without copying any."""
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts).cast(pa.int64())
    # Arrow has no kernel for it: a view is 16 bytes, of which the first four are the length.
    views = np.frombuffer(texts.buffers()[1], dtype=np.int32).reshape(-1, 4)[
        texts.offset : texts.offset + len(texts)
    ]
    return pa.array(views[:, 0], pa.int64(), mask=texts.is_null().to_numpy(zero_copy_only=False))


def _check_text(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    if values.type == pa.large_string():
        values = values.cast(pa.string())
    given = pa.types.is_dictionary(values.type)
    if values.type == pa.string() or (given and values.type.value_type == pa.string()):
        coded = values if given or field.name == "job_id" else values.dictionary_encode()
        distinct = coded.dictionary if coded is not values or given else values
        if _are_sound(distinct, len(values)):
            if field.name == "job_id":
                return distinct.take(values.indices) if given else values
            return coded.cast(CODED) if coded.type != CODED else coded
    return _mend_text(field, values, errors)


def _are_sound(texts: pa.Array, rows: int) -> bool:
    """Whether nothing is wrong with any of ``texts``, even if all ``rows`` of a column hold the longest of them."""
    if not len(texts):
        return True
    if texts.null_count:  # a null may have a length, and any bytes
        return False
    # Two looks at the buffers, where Arrow's own functions would take four, each of them dear for a single job.
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends)
    if lengths.min() == 0 or lengths.max() > min(MAX_TEXT, MAX_COLUMN_BYTES // max(rows, 1)):
        return False
    return bool(np.frombuffer(content, dtype=np.uint8)[ends[0] : ends[-1]].all())


def _mend_text(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    """Note what is wrong with single texts and make it missing, and what is empty."""
    values = _check_lengths(field, values, errors)
    coded = (
        values
        if pa.types.is_dictionary(values.type)
        else pc.dictionary_encode(values.cast(pa.string()))
    )
    distinct = coded.dictionary.cast(pa.string())
    # "" means missing in this house; a NUL cannot be kept by PostgreSQL.
    bad = pc.fill_null(pc.match_substring(distinct, "\0"), False)
    empty = pc.fill_null(pc.equal(distinct, ""), False)
    if pc.any(bad).as_py():
        rows = pc.fill_null(bad.take(coded.indices), False).to_numpy(zero_copy_only=False)
        errors.add_all(rows, lambda _: f"{field.name} holds a NUL character")
    unusable = pc.or_(bad, empty)
    if pc.any(unusable).as_py() or coded.dictionary.null_count:
        distinct = pc.if_else(unusable, pa.scalar(None, pa.string()), distinct)
        plain = distinct.take(coded.indices)
        return plain if field.name == "job_id" else pc.dictionary_encode(plain)
    if field.name == "job_id":
        return distinct.take(coded.indices)
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), distinct)


def _check_numbers(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    """Note the numbers that the field cannot have and make them missing."""
    if not values.null_count and _lie_within(field, values.to_numpy()):
        return values
    missing = values.is_null().to_numpy(zero_copy_only=False)
    numbers = values.to_numpy(zero_copy_only=False)
    bad = ~((numbers >= field.lowest) & (numbers <= field.highest)) & ~missing
    if not bad.any():
        return values
    errors.add_all(bad, lambda index: _say_number(field, float(numbers[index])))
    return pa.array(numbers, pa.float64(), mask=missing | bad)


def _lie_within(field: Field, numbers: np.ndarray[Any, Any]) -> bool:
    return not len(numbers) or bool(
        numbers.min() >= field.lowest and numbers.max() <= field.highest
    )


def _say_number(field: Field, value: float) -> str:
    if np.isnan(value):
        return f"{field.name} is NaN; leave a missing value out, or send null"
    unit = f" {field.unit}" if field.unit else ""
    return f"{field.name} is {value:g}, not between {field.lowest:g} and {field.highest:g}{unit}"


def _check_times(field: Field, times: pa.Array, errors: RowErrors) -> pa.Array:
    micros = _filled(times.cast(pa.int64()), _EARLIEST)
    latest = int((datetime.now(UTC) + CLOCK_TOLERANCE).timestamp() * 1e6)
    early, late = micros < _EARLIEST, micros > latest
    if early.any() or late.any():
        errors.add_all(early, lambda _: f"{field.name} is before {EARLIEST:%Y}")
        errors.add_all(late, lambda _: f"{field.name} is in the future")
        return pc.if_else(pa.array(early | late), pa.scalar(None, TIME), times)
    return times
