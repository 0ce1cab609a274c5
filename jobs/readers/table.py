"""Reader of any table (CSV, Parquet, JSON): through a column map, or by the schema's own names."""

from __future__ import annotations

import json
import re
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from itertools import chain
from pathlib import Path
from typing import IO, Any

import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from jobs.labels import LABELS_BYTES, write_labels
from jobs.readers import units
from jobs.readers.columns import (
    CLOCK,
    ELAPSED,
    FACTORS,
    NUMBER,
    RECORDS,
    UNITS,
    Column,
    layout_of,
)
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject, stem
from jobs.readers.delimited import Cells, columns_of, read_cells, sniff
from jobs.readers.errors import ReadError
from jobs.readers.lines import head_lines, open_log, peek
from jobs.readers.objects import read_objects
from jobs.readers.slurm_words import state
from jobs.schema import JOB, STATUSES, TEXT_BYTES, Field, Record
from jobs.transfers import TRANSFER

MAGIC = b"PAR1"
NAME = re.compile(r'"([^"\\\n]{1,100}+)"\s{0,9}+:')
"""The names in JSON objects."""
ROW_GROUP_BYTES = 1 << 29
"""Largest row group of a Parquet file, unpacked, of the columns that are read."""
UNPACKED_BYTES = 1 << 32
"""Largest Parquet file within gzip, unpacked: it is unpacked to the disk."""
PRINTED = {"seconds": units.duration, "bytes": units.size}
"""What reads amounts that may have their unit with them."""
FLAGS = {"true": 1.0, "yes": 1.0, "false": 0.0, "no": 0.0}
SENTINEL_TEXTS = frozenset(f"{value:.0f}" for value in units.SENTINELS)


@dataclass(frozen=True)
class TablePart:
    """Some rows of a table as texts (CSV) or in JSON's or Arrow's types, with rejects and notes."""

    cells: dict[str, pd.Series]
    lines: np.ndarray
    raw: Callable[[int], str]
    rejects: list[Reject]
    notes: Counter[str]


def recognises(path: Path, head: bytes) -> bool:
    """Whether this is Parquet, or its names have a record's required ones or a known layout."""
    if head.startswith(MAGIC):
        return True
    names = NAME.findall("\n".join(head_lines(head))) if _is_json(head) else sniff(head)[1]
    return any(_has_names(record, names) for record in RECORDS) or layout_of(names) is not None


def _is_json(head: bytes) -> bool:
    return head.lstrip(b"\xef\xbb\xbf \t\r\n")[:1] in (b"{", b"[")


def _has_names(record: Record, names: Iterable[str]) -> bool:
    return {"submitted_at", record.identity[1]} <= set(names)


def read(path: Path, options: ReadOptions) -> Iterator[Batch]:
    """Stream the jobs of a table.

    Raises ReadError where a column is missing that the map names or a job needs.
    """
    head = peek(path)
    if head.startswith(MAGIC):
        names = _parquet_names(path)
        record, columns = _columns(path, names, options)
        parts = _parquet(path, columns, options)
    elif _is_json(head):
        objects = (item[2] for item in read_objects(path) if isinstance(item, tuple))
        names = list(dict.fromkeys(name for fields in objects for name in fields))
        record, columns = _columns(path, names, options)
        parts = _delimited(_json_cells(path, columns), [c.name for c in columns], columns, options)
    else:
        rows = read_cells(path, options.batch_rows, columns_of(path)[0])
        before: list[Reject | str] = []
        names = _header(rows, before)
        record, columns = _columns(path, names, options)
        parts = _delimited(chain(before, rows), names, columns, options)
    used = {column.name for column in columns}
    unused = Counter(
        f"unknown column {name} ignored" for name in names if name and name not in used
    )
    for rows_read in parts:
        rows_read.notes.update(unused)
        unused.clear()
        yield _batch(rows_read, record, columns, options, options.source or stem(path))


def _header(rows: Iterator[Cells], before: list[Reject | str]) -> list[str]:
    """The names in the first row; rejects before it go to ``before``."""
    for item in rows:
        if isinstance(item, tuple):
            return [name.strip() for name in item[2]]
        before.append(item)
    return []


def _columns(path: Path, names: list[str], options: ReadOptions) -> tuple[Record, list[Column]]:
    """The kind of record, and the map's columns, then others that have a field's name."""
    column_map = options.columns or layout_of(names)
    mapped = list(column_map.columns) if column_map else []
    record = (
        column_map.record
        if column_map
        else next((record for record in RECORDS if _has_names(record, names)), JOB)
    )
    for column in mapped:
        if column.name not in names:
            raise ReadError(
                f"{path} has no column {column.name} to fill {column.field}:"
                f" its columns are {', '.join(names)[:300]}"
            )
    fields = {column.field for column in mapped}
    taken = {column.name for column in mapped}
    columns = mapped + [
        Column(name, name)
        for name in record.columns
        if name in names and name not in fields and name not in taken
    ]
    for required in _needed(record):
        if required not in {column.field for column in columns}:
            raise ReadError(
                f"{path} has no column for {required}: say which it is by --map COLUMN={required}"
            )
    return record, columns


def _needed(record: Record) -> tuple[str, ...]:
    """Columns that a table must have; a transfer without a name is named by its line."""
    if record is TRANSFER:
        return ("submitted_at", "bytes")
    return tuple(name for name in record.required if name != "source")


def _delimited(
    items: Iterable[Cells], header: list[str], columns: list[Column], options: ReadOptions
) -> Iterator[TablePart]:
    positions = {column.name: header.index(column.name) for column in columns}
    rows: list[tuple[int, str, list[str]]] = []
    rejects: list[Reject] = []
    notes: Counter[str] = Counter()
    for item in items:
        if isinstance(item, Reject):
            rejects.append(item)
        elif isinstance(item, str):
            notes[item] += 1
        else:
            rows.append(item)
        if len(rows) >= options.batch_rows or len(rejects) >= options.batch_rows:
            yield _text_part(rows, positions, rejects, notes)
            rows, rejects, notes = [], [], Counter()
    yield _text_part(rows, positions, rejects, notes)


def _text_part(
    rows: list[tuple[int, str, list[str]]],
    positions: dict[str, int],
    rejects: list[Reject],
    notes: Counter[str],
) -> TablePart:
    cells = {
        name: pd.Series([row[index] for _, _, row in rows], dtype=object)
        for name, index in positions.items()
    }
    lines = np.array([line for line, _, _ in rows], dtype=np.int64)
    return TablePart(cells, lines, lambda index: rows[index][1], rejects, notes)


def _json_cells(path: Path, columns: list[Column]) -> Iterator[Cells]:
    """Each object's values of the columns; an object that lacks one leaves it out."""
    for item in read_objects(path):
        if isinstance(item, tuple):
            number, raw, fields = item
            yield number, raw, [_plain(fields.get(column.name), column) for column in columns]
        else:
            yield item


def _plain(value: Any, column: Column) -> Any:
    """A JSON value as a cell: objects and lists are none, nor is a flag a number."""
    if column.field == "labels" and isinstance(value, dict):
        return json.dumps(value)
    return None if isinstance(value, dict | list | bool) else value


@contextmanager
def _opened_parquet(path: Path) -> Iterator[pq.ParquetFile]:
    with path.open("rb") as file:
        packed = file.read(4) != MAGIC
    # Parquet is read from its end, which gzip cannot seek to.
    with tempfile.TemporaryFile() if packed else path.open("rb") as plain:
        if packed:
            _unpack(path, plain)
        texts = [field.name for field in pq.read_schema(plain) if pa.types.is_string(field.type)]
        plain.seek(0)
        # A text that is repeated a million times takes memory once.
        yield pq.ParquetFile(plain, read_dictionary=texts)


def _unpack(path: Path, plain: IO[bytes]) -> None:
    """Unpack a gzip file; raises ReadError beyond UNPACKED_BYTES, or where the disk is full."""
    with open_log(path) as source:
        while piece := source.read(1 << 20):
            if plain.tell() + len(piece) > UNPACKED_BYTES:
                raise ReadError(
                    f"{path} unpacks to more than {UNPACKED_BYTES >> 20:,} MB: give the Parquet"
                    " file itself, whose columns are compressed already"
                )
            try:
                plain.write(piece)
            except OSError as error:
                raise ReadError(
                    f"{path} cannot be unpacked into {tempfile.gettempdir()}: {error.strerror}"
                ) from None
    plain.seek(0)


BROKEN = (pa.ArrowException, OSError, EOFError, ValueError, NotImplementedError)


def _parquet_names(path: Path) -> list[str]:
    try:
        with _opened_parquet(path) as file:
            return [str(name) for name in file.schema_arrow.names]
    except BROKEN as error:
        raise ReadError(f"{path} is not a whole Parquet file: {_first_line(error)}") from None


def _parquet(path: Path, columns: list[Column], options: ReadOptions) -> Iterator[TablePart]:
    wanted, number = sorted({column.name for column in columns}), 1
    objects = {column.name for column in columns if column.field == "labels" and not column.label}
    try:
        with _opened_parquet(path) as file:
            _check_size(path, file.metadata, wanted)
            for batch in file.iter_batches(options.batch_rows, columns=wanted):
                lines = np.arange(number, number + len(batch))
                yield TablePart(
                    {
                        name: _cells(
                            batch.column(name), LABELS_BYTES if name in objects else TEXT_BYTES
                        )
                        for name in wanted
                    },
                    lines,
                    partial(_arrow_row, batch),
                    [],
                    Counter(),
                )
                number += len(batch)
    except BROKEN as error:
        damage = Reject(number, f"the file is damaged from this row on: {_first_line(error)}", "")
        yield TablePart(
            {name: pd.Series(dtype=object) for name in wanted},
            np.empty(0, dtype=np.int64),
            lambda i: "",
            [damage],
            Counter(),
        )


def _check_size(path: Path, metadata: pq.FileMetaData, columns: list[str]) -> None:
    """Raise ReadError where a row group unpacks to more than ROW_GROUP_BYTES of these columns."""
    for number in range(metadata.num_row_groups):
        group = metadata.row_group(number)
        chunks = [group.column(i) for i in range(group.num_columns)]
        unpacked = sum(
            chunk.total_uncompressed_size
            for chunk in chunks
            if chunk.path_in_schema.partition(".")[0] in columns
        )
        if unpacked > ROW_GROUP_BYTES:
            raise ReadError(
                f"{path} unpacks to {unpacked / 2**20:,.0f} MB in its row group {number + 1}, more"
                f" than {ROW_GROUP_BYTES >> 20} MB: write it with smaller row groups"
            )


def _cells(column: pa.Array, most: int) -> pd.Series:
    """An Arrow column as a Series; whole numbers with gaps stay whole, since they may be ids.

    Bytes are texts in UTF-8: some writers do not say so.

    Args:
        column: The column.
        most: Bytes of the longest text that its field may have.
    """
    if pa.types.is_binary(column.type) or pa.types.is_large_binary(column.type):
        texts = [cell and cell.decode("utf-8", "replace") for cell in column.to_pylist()]
        return pd.Series(texts, dtype=object)
    if pa.types.is_dictionary(column.type):
        # A text over the limit is left out later, so that one character more than it is enough.
        texts = [text and text[: most + 1] for text in column.dictionary.to_pylist()]
        values = np.array([*texts, None], dtype=object)
        return pd.Series(values[column.indices.fill_null(len(values) - 1).to_numpy()])
    if pa.types.is_integer(column.type) and column.null_count:
        return pd.Series(column.to_pandas(integer_object_nulls=True), dtype=object)
    return pd.Series(column.to_pandas())


def _arrow_row(batch: pa.RecordBatch, index: int) -> str:
    return str(batch.slice(index, 1).to_pylist()[0])


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0][:200]


def _batch(
    rows_read: TablePart, record: Record, columns: list[Column], options: ReadOptions, source: str
) -> Batch:
    """Convert each column into its field's type and unit.

    A cell that cannot be rejects its row where the field is essential, else it is left out.
    """
    jobs: dict[str, pd.Series] = {}
    reasons: dict[int, str] = {}
    moments: dict[str, list[Any]] = {}
    labels: dict[str, pd.Series] = {}
    for column in columns:
        field, cells = record.by_name[column.field], rows_read.cells[column.name]
        if field.kind == "text" or (column.label and column.unit != NUMBER):
            (labels if column.label else jobs)[column.label or field.name] = _texts(cells)
            continue
        if field.kind == "labels" and not column.label:
            jobs[field.name] = _objects(cells)
            continue
        if field.name.startswith("requested_"):
            cells = cells.mask(cells.isin([*units.SENTINELS, *SENTINEL_TEXTS]))
        values, faults = _parsed(cells, *_parser(field, column.unit))
        if field.name in record.essential:
            for i, fault in faults.items():
                reasons.setdefault(i, f"{column.name} {fault}")
        elif faults:
            rows_read.notes[f"{column.name} cannot be read: left out"] += len(faults)
        if field.kind == "time":
            moments[field.name] = values
        elif column.label:
            labels[column.label] = pd.Series(np.array(values, dtype=float))
        else:
            jobs[field.name] = pd.Series(np.array(values, dtype=float))
    if labels:
        jobs["labels"], left_out = write_labels(pd.DataFrame(labels))
        rows_read.notes.update({f"{fault}: left out": n for fault, n in left_out.items()})
    jobs.update(_utc(moments, options.timezone, len(rows_read.lines)))
    if "status" in jobs:
        jobs["status"] = jobs["status"].map(lambda word: _status(word, rows_read.notes))
    if record.identity[1] not in jobs:
        jobs[record.identity[1]] = pd.Series(rows_read.lines).astype("str")
    if options.source or "source" not in jobs:
        jobs["source"] = pd.Series([source] * len(rows_read.lines), dtype=object)
    rejects = rows_read.rejects + [
        Reject(int(rows_read.lines[i]), reason, rows_read.raw(i)) for i, reason in reasons.items()
    ]
    good = np.array([i not in reasons for i in range(len(rows_read.lines))], dtype=bool)
    frame = pd.DataFrame(jobs)[good].reset_index(drop=True)
    return Batch(
        frame,
        rows_read.lines[good],
        sorted(rejects, key=lambda reject: reject.line),
        rows_read.notes,
        record,
    )


def _objects(cells: pd.Series) -> pd.Series:
    """JSON texts; one that is too long to be labels becomes a text that is no object."""
    return pd.Series(
        [
            None if not isinstance(cell, str) else cell if len(cell) <= LABELS_BYTES else "too long"
            for cell in cells.tolist()
        ],
        dtype=object,
    )


def _texts(cells: pd.Series) -> pd.Series:
    kinds = {
        value: units.words(value)
        for value in cells.unique()
        if value is not None and value is not pd.NA
    }
    return pd.Series([kinds.get(value) for value in cells], dtype=object)


def _parser(field: Field, unit: str) -> tuple[Callable[[str], Any], float | None]:
    """What reads a cell of this field and unit, and the factor of a column of numbers."""
    if unit == ELAPSED:
        return lambda cell: units.NOMINAL_START + units.number(cell), None
    if field.kind == "time":
        return (units.timestamp if unit.startswith("epoch") else units.calendar), None
    if unit == CLOCK:
        return units.duration, 1.0
    if field.name == "exclusive":
        return _flag, 1.0
    kind = UNITS.get(field.unit, "")
    factor = FACTORS[kind][unit] if unit and unit not in ("plain", NUMBER) else 1.0
    if kind in PRINTED and not unit:
        return PRINTED[kind], factor
    return lambda cell: units.scaled(units.number(cell), factor), factor


def _flag(cell: str) -> float:
    return FLAGS[cell.lower()] if cell.lower() in FLAGS else units.number(cell)


def _parsed(
    cells: pd.Series, parse: Callable[[str], Any], factor: float | None
) -> tuple[Any, dict[int, str]]:
    """Every cell's value (NaN where missing or faulty), and the fault of each that cannot be read.

    A column of numbers is converted as a whole.
    """
    if factor is not None and cells.dtype.kind in "iuf":
        return units.scaled(cells.to_numpy(dtype=float), factor), {}
    values: list[Any] = []
    faults: dict[int, str] = {}
    for i, cell in enumerate(cells.tolist()):
        try:
            values.append(_cell(cell, parse))
        except (ValueError, OverflowError) as error:
            faults[i] = str(error)
            values.append(np.nan)
    return values, faults


def _cell(cell: Any, parse: Callable[[str], Any]) -> Any:
    if isinstance(cell, str):
        return parse(cell)
    if cell is None or cell is pd.NA or cell is pd.NaT or cell != cell:
        return np.nan
    if isinstance(cell, pd.Timedelta):
        return cell.total_seconds()
    if isinstance(cell, pd.Timestamp):
        return cell.timestamp() if cell.tzinfo else cell.to_pydatetime(warn=False)
    return parse(str(cell))


def _utc(moments: dict[str, Any], timezone: str, rows: int) -> dict[str, pd.Series]:
    """Times in UTC; those without a zone are read in ``timezone``, a job's three together."""
    times: tuple[str, ...] = ("submitted_at", "started_at", "ended_at")
    in_order = [name for name in times if name in moments]
    columns: dict[str, pd.Series] = {}
    groups = [in_order, *([name] for name in moments if name not in in_order)]
    for names in groups:
        printed = [
            [None if moment is None or moment != moment else moment for moment in moments[name]]
            for name in names
        ]
        seconds = [units.to_utc([column[i] for column in printed], timezone) for i in range(rows)]
        for i, name in enumerate(names):
            columns[name] = units.times(np.array([row[i] for row in seconds], dtype=float))
    return columns


def _status(word: Any, notes: Counter[str]) -> str | None:
    """The status of a cell: one of ours, or a state of Slurm; any other word is noted."""
    if not isinstance(word, str) or word.lower() in STATUSES:
        return word.lower() if isinstance(word, str) else None
    status, new = state(word)
    if new:
        notes[f"unknown status {word[:60]}"] += 1
    return status


TABLE = Reader("table", recognises, read, (".csv", ".tsv", ".parquet", ".json", ".jsonl"))
"""The reader to put in the list."""
