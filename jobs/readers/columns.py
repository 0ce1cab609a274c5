"""Column maps: which column of a table is which field of a record, and in which unit.

On the command line ``run=walltime:s`` says that the file's column ``run`` is the field ``walltime``
in seconds; a TOML file has the same as ``run = "walltime:s"`` under ``[columns]``. A label of the
site's own is ``biome=label:biome``, and ``reads=label:input_reads:number`` where it is a number.
"""

from __future__ import annotations

import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from jobs.labels import MAX_LABELS, name_fault
from jobs.readers.errors import ReadError
from jobs.schema import JOB, Field, Record
from jobs.transfers import TRANSFER
from jobs.workflow_tasks import WORKFLOW_TASK

FACTORS = {
    "seconds": {"us": 1e-6, "ms": 1e-3, "s": 1.0, "min": 60.0, "h": 3600.0, "d": 86400.0},
    "bytes": {
        "b": 1.0,
        **{f"{letter}b": 1000.0**power for power, letter in enumerate("kmgt", 1)},
        **{f"{letter}ib": 1024.0**power for power, letter in enumerate("kmgt", 1)},
    },
    "joules": {"j": 1.0, "kj": 1e3, "mj": 1e6, "wh": 3600.0, "kwh": 3.6e6, "mwh": 3.6e9},
}
"""Factors to the schema's units: kb, mb, gb, tb are powers of 1000, kib, mib, gib, tib of 1024; the
m of mj and mwh is mega."""
UNITS = {"s": "seconds", "bytes": "bytes", "J": "joules"}
"""The factors of a field by its unit."""
LABEL = "label"
NUMBER = "number"
OTHER_TYPES = frozenset(
    ["int", "integer", "float", "double", "real", "num", "numeric", "str", "string", "text"]
)
"""Words that are a wrong type of a label, not the end of its name."""
CLOCK = "hms"
ELAPSED = "elapsed"
"""Seconds since the log's begin, whose date is unknown: counted from 2000-01-01 UTC."""
TIME_UNITS = ("iso", "epoch", "epoch_ms", "epoch_us", ELAPSED)
RECORDS = (JOB, TRANSFER, WORKFLOW_TASK)
BY_NAME = {name: field for record in reversed(RECORDS) for name, field in record.by_name.items()}


@dataclass(frozen=True)
class Column:
    """One column of the file, the field it fills, and its unit (empty: the field's own).

    Columns that fill ``labels`` have the ``label`` each, and the unit ``number`` or none.
    """

    name: str
    field: str
    unit: str = ""
    label: str = ""

    @property
    def content(self) -> str:
        """What only one column of a map may fill: a field or a label."""
        return f"{LABEL}:{self.label}" if self.label else self.field

    def __str__(self) -> str:
        return f"{self.name}={self.content}" + (f":{self.unit}" if self.unit else "")


@dataclass(frozen=True)
class ColumnMap:
    """Columns of a file, each with its field; no field is filled twice."""

    columns: tuple[Column, ...]

    def __post_init__(self) -> None:
        filled: dict[str, Column] = {}
        for column in self.columns:
            if column.content in filled:
                raise ReadError(
                    f"the column map fills {column.content} twice:"
                    f" {filled[column.content]} and {column}"
                )
            filled[column.content] = column
        fields = {column.field for column in self.columns}
        if not any(fields <= set(record.columns) for record in RECORDS):
            raise ReadError(
                f"the column map mixes fields of jobs and of transfers: {', '.join(filled)}"
            )
        if "labels" in filled and len(fields) < len(filled):
            raise ReadError(f"the column map fills labels twice: {filled['labels']} and by name")
        if len(filled) - len(fields) >= MAX_LABELS:
            raise ReadError(f"the column map has more than {MAX_LABELS} labels")

    @property
    def record(self) -> Record:
        """The kind of record that has all these fields."""
        return next(
            record
            for record in RECORDS
            if all(column.field in record.columns for column in self.columns)
        )


def units_of(field: Field) -> tuple[str, ...]:
    """The units that a column for ``field`` may have."""
    if field.kind == "time":
        return TIME_UNITS
    factors = FACTORS.get(UNITS.get(field.unit, ""), {})
    return (*factors, CLOCK, "plain") if field.unit == "s" else (*factors, "plain")


def parse_column_map(entries: Iterable[str]) -> ColumnMap:
    """Read ``file_column=field:unit`` entries; raises ReadError naming the entry that is wrong.

    >>> parse_column_map(["run=walltime:ms", "id=job_id"]).columns[0]
    Column(name='run', field='walltime', unit='ms', label='')
    """
    return ColumnMap(tuple(_column(*_split(entry)) for entry in entries))


def load_column_map(path: Path) -> ColumnMap:
    """Read a column map from a TOML file; raises ReadError naming the file and its fault."""
    try:
        columns = tomllib.loads(path.read_text(encoding="utf-8")).get("columns")
    except OSError as error:
        raise ReadError(
            f"the column map {path} cannot be read: {(error.strerror or str(error)).lower()}"
        ) from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise ReadError(f"the column map {path} is not TOML: {error}") from None
    if not isinstance(columns, dict) or not all(
        isinstance(target, str) for target in columns.values()
    ):
        raise ReadError(
            f'the column map {path} needs a table [columns] of lines such as run = "walltime:s"'
        )
    try:
        return ColumnMap(tuple(_column(name, target) for name, target in columns.items()))
    except ReadError as error:
        raise ReadError(f"the column map {path} is wrong: {error}") from None


LAYOUTS: dict[str, tuple[str, ...]] = {
    "lcls-transfers": (
        "start=submitted_at:epoch", "fsz=bytes:b", "elap=duration:ms", "instr=group",
        "ftype=activity", "ttype=direction", "fsid=file_system", "stripe0=device",
    ),
    "pegasus-workflow": (
        "run=run_id", "task=task_id", "transformations=program", "site=site", "hostname=host",
        "submit=submitted_at:epoch", "execute_start=started_at:epoch",
        "execute_end=ended_at:epoch", "runtime=walltime:s", "stage_in_bytes=input_bytes:b",
        "stage_in_start=stage_in_started_at:epoch", "stage_in_end=stage_in_ended_at:epoch",
        "stage_out_start=stage_out_started_at:epoch", "cpu_time=cpu_time:s",
        "anomaly_type=fault",
    ),
}  # fmt: skip
"""Maps of tables that are recognised by their header and need no map of the user."""


def layout_of(names: Iterable[str]) -> ColumnMap | None:
    """The map of the known layout whose columns are all among ``names``, or None."""
    header = set(names)
    maps = (parse_column_map(entries) for entries in LAYOUTS.values())
    return next((map_ for map_ in maps if {c.name for c in map_.columns} <= header), None)


def _split(entry: str) -> tuple[str, str]:
    name, equals, target = entry.rpartition("=")
    if not equals or not name.strip() or not target.strip():
        raise ReadError(f"a column map's entry reads file_column=field:unit, not {entry!r}")
    return name.strip(), target


def _column(name: str, target: str) -> Column:
    field_name, _, unit = map(str.strip, target.partition(":"))
    if field_name == LABEL:
        return _label_column(name, target, unit)
    field = BY_NAME.get(field_name)
    if field is None:
        raise ReadError(
            f"{field_name!r} in {name}={target} is no field of a job or a transfer: write"
            f" {LABEL}:NAME[:{NUMBER}] for a fact of your own, or choose one of"
            f" {', '.join(BY_NAME)}"
        )
    unit = unit.lower()
    if unit and field.kind == "labels":
        raise ReadError(
            f"{name}={target}: labels is a column of JSON objects; for one fact of your own write"
            f" {name}={LABEL}:NAME[:{NUMBER}]"
        )
    if unit and unit not in units_of(field):
        raise ReadError(
            f"{unit!r} in {name}={target} is no unit of {field_name}:"
            f" choose one of {', '.join(units_of(field))}"
        )
    return Column(name, field_name, unit)


def _label_column(name: str, target: str, text: str) -> Column:
    """The column of ``label:NAME`` or ``label:NAME:number``."""
    label, colon, unit = map(str.strip, text.rpartition(":"))
    if colon and unit.lower() in OTHER_TYPES:
        raise ReadError(
            f"{unit!r} in {name}={target} is no type of a label: write {NUMBER}, or nothing for"
            " text"
        )
    label, unit = (label, unit.lower()) if colon and unit.lower() == NUMBER else (text, "")
    if fault := name_fault(label):
        raise ReadError(
            f"{name}={target} is {fault}: a label reads file_column={LABEL}:NAME[:{NUMBER}]"
        )
    return Column(name, "labels", unit, label)
