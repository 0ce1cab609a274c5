"""Columns of jobs as a caller sent them, turned into typed Arrow arrays.

JSON and Arrow bodies end here, so that a value is accepted, or refused with the same sentence,
in every form. The arrays are float64 for numbers, timestamp[us, UTC] for times and
dictionary-encoded text (plain text for ``job_id``), null for missing.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from msgspec import UNSET, Raw, UnsetType

from infra.aliases import Array
from jobs.coded_jobs import NOT_AVAILABLE, Coded, CodedJobs
from jobs.labels import clean_labels, parse_labels
from jobs.schema import CLOCK_TOLERANCE, EARLIEST, JOB, TEXT_BYTES, Field
from services.http.contract import FIELD_BY_NAME, ID_FIELDS
from services.http.errors import HTTPError, quote

MAX_COLUMN_BYTES = 64 * 2**20
"""Bytes of one column written out: what a body could hold without repeating itself."""

REASON_CHARACTERS = 200
"""After so many characters about one job, more is not added."""
TIME = pa.timestamp("us", tz="UTC")
CODED = pa.dictionary(pa.int32(), pa.string())

_EARLIEST = int(EARLIEST.timestamp() * 1e6)
_MAX_SECONDS = int(1e12)  # since 1970, which a timestamp in microseconds can surely hold
_TYPES: dict[str, tuple[type, ...]] = {
    "text": (str,),
    "number": (int, float),
    "time": (str, int, float),
}
_TYPE_NAMES = {
    str: "text",
    bool: "true or false",
    int: "a number",
    float: "a number",
    list: "a list",
    dict: "an object",
}


@dataclass
class RowErrors:
    """What is wrong with a batch: the first reasons for each bad job, by its index.

    ``essential`` has the same for the jobs with a bad field that no job can do without, or with
    something wrong that is no field's. ``field`` is the one being read, None for none.
    """

    by_row: dict[int, str] = dataclasses.field(default_factory=dict)
    essential: dict[int, str] = dataclasses.field(default_factory=dict)
    field: str | None = None

    def add(self, index: int, reason: str) -> None:
        """Note why job ``index`` is bad, after at most REASON_CHARACTERS noted already."""
        _note(self.by_row, int(index), reason)
        if self.field is None or self.field in JOB.essential:
            _note(self.essential, int(index), reason)

    def add_where(self, bad: Array, reason: str) -> None:
        """Note every job where ``bad`` (bool[n]) holds."""
        for index in np.flatnonzero(bad).tolist():
            self.add(index, reason)

    @property
    def first(self) -> str:
        """One sentence: the first bad job, and how many more there are."""
        index = min(self.by_row)
        more = len(self.by_row) - 1
        rest = "one more job is" if more == 1 else f"{more} more jobs are"
        return f"job {index}: {self.by_row[index]}" + (f" (and {rest} wrong)" if more else "")


def _note(reasons: dict[int, str], index: int, reason: str) -> None:
    before = reasons.get(index)
    if before is None:
        reasons[index] = reason
    elif len(before) < REASON_CHARACTERS and reason not in before:
        reasons[index] = f"{before}; {reason}"


def read_values(name: str, values: Sequence[Any], errors: RowErrors) -> pa.Array:
    """The typed array of a field from JSON values.

    Args:
        name: The field.
        values: One for each row; None and UNSET for missing.
        errors: Takes what is wrong; such values become null.
    """
    field = FIELD_BY_NAME[name]
    if field.kind == "labels":
        return _read_labels(values, errors)
    allowed = _TYPES[field.kind]
    types = set(map(type, values))
    if UnsetType in types:
        values = [None if value is UNSET else value for value in values]
        types.discard(UnsetType)
    if not types <= {*allowed, type(None)}:
        values = [_right_type(field, index, value, errors) for index, value in enumerate(values)]
    if field.kind == "text":
        return _check_text(field, pa.array(values, pa.string()), errors)
    if field.kind == "number":
        return _check_numbers(field, _read_numbers(values), errors)
    return _check_times(field, _read_times(field, values, errors), errors)


def _read_labels(values: Sequence[Any], errors: RowErrors) -> pa.Array:
    """Labels from a JSON object a row, as bytes or text; None and UNSET for missing.

    Each distinct object is read once.
    """
    clean: dict[Any, str | None] = {None: None, UNSET: None, b"null": None, "": None}
    faults: dict[Any, str] = {}
    texts: list[str | None] = []
    for index, value in enumerate(values):
        text = bytes(value) if isinstance(value, Raw) else value
        if text not in clean:
            clean[text], fault = _read_labels_of_job(text)
            if fault:
                faults[text] = fault
        if text in faults:
            errors.add(index, faults[text])
        texts.append(clean[text])
    return pa.array(texts, pa.string()).dictionary_encode().cast(CODED)


def _read_label_texts(texts: pa.Array, errors: RowErrors) -> pa.Array:
    """Labels from an Arrow array of JSON objects as text."""
    coded = texts if pa.types.is_dictionary(texts.type) else texts.dictionary_encode()
    faults = RowErrors()
    distinct = _read_labels(coded.dictionary.to_pylist(), faults)
    for code, reason in faults.by_row.items():
        errors.add_where(_filled(coded.indices, -1) == code, reason)
    return distinct.take(coded.indices)


def _read_labels_of_job(text: str | bytes) -> tuple[str | None, str]:
    """The labels of a JSON object, and what is wrong with them, if anything."""
    labels = parse_labels(text)
    if labels is None:
        return None, "labels is not an object of texts and numbers"
    clean, left_out = clean_labels(labels)
    if not left_out:
        return clean, ""
    name, fault = next(iter(left_out.items()))
    more = f" (and {len(left_out) - 1} more)" if len(left_out) > 1 else ""
    return clean, f"labels has {fault}: {quote(name)}{more}"


def _right_type(field: Field, index: int, value: Any, errors: RowErrors) -> Any:
    if value is None or type(value) in _TYPES[field.kind]:
        return value
    if field.name in ID_FIELDS and type(value) is int:
        return str(value)
    errors.add(index, wrong_type(field, value))
    return None


def wrong_type(field: Field, value: Any) -> str:
    """The reason why a field cannot have a value of such a type."""
    wanted = {"text": "text", "number": "a number", "time": "a time"}[field.kind]
    if field.name in ID_FIELDS:
        wanted += " or a whole number"
    return f"{field.name} is {_TYPE_NAMES[type(value)]}, not {wanted}"


def _read_numbers(values: Sequence[Any]) -> pa.Array:
    try:
        return pa.array(values, pa.float64())
    except (pa.ArrowInvalid, OverflowError):  # a whole number that no float64 holds exactly
        return pa.array([None if value is None else _to_float(value) for value in values])


def _to_float(value: float) -> float:
    try:
        return float(value)
    except OverflowError:
        return np.inf if value > 0 else -np.inf


def _read_times(field: Field, values: Sequence[Any], errors: RowErrors) -> pa.Array:
    try:
        # ISO 8601 with an offset, the usual case, read by Arrow
        return pa.array(values, pa.string()).cast(TIME)
    except (pa.ArrowInvalid, pa.ArrowTypeError):
        times = [_read_time(field, index, value, errors) for index, value in enumerate(values)]
        return pa.array(times, TIME)


def _read_time(field: Field, index: int, value: Any, errors: RowErrors) -> int | None:
    """Microseconds since 1970 of an ISO 8601 text (UTC unless it has an offset) or Unix seconds."""
    if value is None:
        return None
    try:
        if isinstance(value, str):
            moment = datetime.fromisoformat(value)
            moment = moment if moment.tzinfo else moment.replace(tzinfo=UTC)
            return round(moment.timestamp() * 1e6)
        if abs(value) < _MAX_SECONDS:
            return round(value * 1e6)
    except (ValueError, OverflowError):
        pass
    errors.add(
        index,
        f"{field.name} is not a time: give ISO 8601 text such as 2026-11-21T09:30:00Z, "
        "or Unix seconds",
    )
    return None


def check_type(name: str, type_: pa.DataType) -> None:
    """Raise HTTPError (422) where no column of field ``name`` can have an Arrow type."""
    kind = FIELD_BY_NAME[name].kind
    number = pa.types.is_integer(type_) or pa.types.is_floating(type_)
    fits = {
        "labels": _is_text(type_),
        "text": _is_text(type_) or (name in ID_FIELDS and pa.types.is_integer(type_)),
        "number": number,
        "time": number or _is_text(type_) or pa.types.is_timestamp(type_),
    }
    if not fits[kind] and not pa.types.is_null(type_):
        wanted = {
            "text": "text",
            "number": "a number",
            "time": "a timestamp, text or Unix seconds",
            "labels": "text: a JSON object for each job",
        }
        raise HTTPError(422, f"column {name} is {str(type_)[:100]}, not {wanted[kind]}")


def read_array(name: str, values: pa.Array, errors: RowErrors) -> pa.Array:
    """The typed array of a field from an Arrow array, whose type ``check_type`` let pass.

    Args:
        name: The field.
        values: One for each row.
        errors: Takes what is wrong; such values become null.
    """
    field, type_ = FIELD_BY_NAME[name], values.type
    if pa.types.is_null(type_):
        text = pa.string() if name == "job_id" else CODED
        types = {"text": text, "number": pa.float64(), "time": TIME, "labels": CODED}
        return pa.nulls(len(values), types[field.kind])
    if field.kind == "labels":
        return _read_label_texts(_check_lengths(field, values, errors), errors)
    if field.kind == "text":
        values = values.cast(pa.string()) if pa.types.is_integer(type_) else values
        return _check_text(field, values, errors)
    if pa.types.is_timestamp(type_):
        times = values.cast(pa.timestamp("us"), safe=False).cast(TIME, safe=False)
        return _check_times(field, times, errors)
    if field.kind == "time":
        if _is_text(type_):
            values = _check_lengths(field, values, errors)
        else:
            values = values.cast(pa.float64(), safe=False)
        return read_values(name, values.to_pylist(), errors)
    numbers = values if type_ == pa.float64() else values.cast(pa.float64(), safe=False)
    return _check_numbers(field, numbers, errors)


def to_coded_jobs(jobs: pa.Table) -> CodedJobs:
    """Typed columns as the engine reads them, without ``job_id``; not copied unless null."""
    return CodedJobs(
        {
            name: _code(single_array(jobs.column(name)))
            for name in jobs.column_names
            if name != "job_id"
        },
        jobs.num_rows,
    )


def single_array(column: pa.ChunkedArray) -> pa.Array:
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
    text = type_.value_type if pa.types.is_dictionary(type_) else type_
    return (
        pa.types.is_string(text) or pa.types.is_large_string(text) or pa.types.is_string_view(text)
    )


def _check_lengths(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    """Make texts null that are too long, and unfold views.

    Comes before anything copies a text: a dictionary or a view may repeat it without end.
    """
    coded = pa.types.is_dictionary(values.type)
    lengths = _lengths(values.dictionary).take(values.indices) if coded else _lengths(values)
    if (pc.sum(lengths).as_py() or 0) > MAX_COLUMN_BYTES:
        raise HTTPError(
            422, f"column {field.name} holds more than {MAX_COLUMN_BYTES // 2**20} MiB of text"
        )
    plain = values.cast(pa.string()) if pa.types.is_string_view(values.type) else values
    if (pc.max(lengths).as_py() or 0) <= field.max_bytes:
        return plain
    long = pc.fill_null(pc.greater(lengths, field.max_bytes), False)
    errors.add_where(
        long.to_numpy(zero_copy_only=False), f"{field.name} is longer than {field.max_bytes} bytes"
    )
    return pc.if_else(long, pa.scalar(None, pa.string()), plain.cast(pa.string()))


def _lengths(texts: pa.Array) -> pa.Array:
    """Bytes in each text, without copying any."""
    if not pa.types.is_string_view(texts.type):
        return pc.binary_length(texts).cast(pa.int64())
    # Arrow has no kernel for it: a view is 16 bytes, of which the first four are the length.
    views = np.frombuffer(texts.buffers()[1], dtype=np.int32).reshape(-1, 4)
    lengths = views[texts.offset : texts.offset + len(texts), 0]
    return pa.array(lengths, pa.int64(), mask=texts.is_null().to_numpy(zero_copy_only=False))


def _check_text(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    if values.type == pa.large_string():
        values = values.cast(pa.string())
    coded = pa.types.is_dictionary(values.type)
    if values.type == pa.string() or (coded and values.type.value_type == pa.string()):
        if field.name == "job_id":
            if _all_valid(values.dictionary if coded else values, len(values)):
                return values.dictionary.take(values.indices) if coded else values
        else:
            codes = values if coded else values.dictionary_encode()
            if _all_valid(codes.dictionary, len(values)):
                return codes.cast(CODED) if codes.type != CODED else codes
    return _repair_text(field, values, errors)


def _all_valid(texts: pa.Array, rows: int) -> bool:
    """Whether all ``texts`` are valid, even if all ``rows`` of a column hold the longest."""
    if not len(texts):
        return True
    if texts.null_count:  # a null may have a length, and any bytes
        return False
    # Two looks at the buffers: Arrow's functions would take four, which a single job would feel.
    _, offsets, content = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    lengths = np.diff(ends)
    if lengths.min() == 0 or lengths.max() > min(TEXT_BYTES, MAX_COLUMN_BYTES // max(rows, 1)):
        return False
    return bool(np.frombuffer(content, dtype=np.uint8)[ends[0] : ends[-1]].all())


def _repair_text(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    """Note what is wrong with single texts and make these null, and empty ones."""
    values = _check_lengths(field, values, errors)
    coded = (
        values
        if pa.types.is_dictionary(values.type)
        else pc.dictionary_encode(values.cast(pa.string()))
    )
    distinct = coded.dictionary.cast(pa.string())
    # "" means missing; PostgreSQL cannot store a NUL.
    bad = pc.fill_null(pc.match_substring(distinct, "\0"), False)
    empty = pc.fill_null(pc.equal(distinct, ""), False)
    if pc.any(bad).as_py():
        rows = pc.fill_null(bad.take(coded.indices), False).to_numpy(zero_copy_only=False)
        errors.add_where(rows, f"{field.name} holds a NUL character")
    unusable = pc.or_(bad, empty)
    if pc.any(unusable).as_py() or coded.dictionary.null_count:
        distinct = pc.if_else(unusable, pa.scalar(None, pa.string()), distinct)
        plain = distinct.take(coded.indices)
        return plain if field.name == "job_id" else pc.dictionary_encode(plain)
    if field.name == "job_id":
        return distinct.take(coded.indices)
    return pa.DictionaryArray.from_arrays(coded.indices.cast(pa.int32()), distinct)


def _check_numbers(field: Field, values: pa.Array, errors: RowErrors) -> pa.Array:
    """Note the numbers that the field cannot have and make them null."""
    if field.clipped:
        values = pc.if_else(pc.greater(values, field.highest), field.highest, values)
    if not values.null_count and _all_within(field, values.to_numpy()):
        return values
    missing = values.is_null().to_numpy(zero_copy_only=False)
    numbers = values.to_numpy(zero_copy_only=False)
    bad = ~((numbers >= field.lowest) & (numbers <= field.highest)) & ~missing
    if not bad.any():
        return values
    for index in np.flatnonzero(bad).tolist():
        errors.add(index, _number_reason(field, float(numbers[index])))
    return pa.array(numbers, pa.float64(), mask=missing | bad)


def _all_within(field: Field, numbers: Array) -> bool:
    return not len(numbers) or bool(
        numbers.min() >= field.lowest and numbers.max() <= field.highest
    )


def _number_reason(field: Field, value: float) -> str:
    if np.isnan(value):
        return f"{field.name} is NaN; leave a missing value out, or send null"
    unit = f" {field.unit}" if field.unit else ""
    return f"{field.name} is {value:g}, not between {field.lowest:g} and {field.highest:g}{unit}"


def _check_times(field: Field, times: pa.Array, errors: RowErrors) -> pa.Array:
    micros = _filled(times.cast(pa.int64()), _EARLIEST)
    latest = int((datetime.now(UTC) + CLOCK_TOLERANCE).timestamp() * 1e6)
    early, late = micros < _EARLIEST, micros > latest
    if early.any() or late.any():
        errors.add_where(early, f"{field.name} is before {EARLIEST:%Y}")
        errors.add_where(late, f"{field.name} is in the future")
        return pc.if_else(pa.array(early | late), pa.scalar(None, TIME), times)
    return times
