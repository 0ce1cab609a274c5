"""From a log file to the store, a batch at a time.

A batch's jobs and rejects are one transaction: after a kill at any moment what was reported as done
is stored once, and ingesting the file again completes the rest.
"""

from __future__ import annotations

import json
from bisect import bisect_right
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from itertools import accumulate
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypedDict

import pandas as pd

from infra.lineage import lineage, log_file, stored_jobs
from infra.settings import prepare_environment
from jobs.readers import Batch, Reader, ReadError, ReadOptions, Reject, detect, reader_named
from jobs.readers.columns import ColumnMap, load_column_map, parse_column_map
from jobs.readers.units import zone
from jobs.schema import JOB, Record, conform, derive_fields, leave_out_bad_fields, split_valid
from jobs.store import (
    AddResult,
    add_counted,
    add_rejects,
    read_revision,
    stored_bytes,
    write_transaction,
)
from jobs.store.merging import (
    align_outcomes,
    is_other_attempt,
    merge_repeated,
    separate_recycled,
)
from jobs.transfers import TRANSFER, derive_transfer_fields
from jobs.workflow_tasks import WORKFLOW_TASK

if TYPE_CHECKING:
    from sqlalchemy import Connection, Engine


@dataclass(frozen=True)
class IngestResult:
    """What became of a file: records read = added + updated + unchanged + rejected.

    ``error`` says why reading stopped, if it did. ``notes`` counts what the reader skipped,
    interpreted or left out, and the unchanged records that are older than what the store keeps.
    ``sources`` are those of the stored records.
    """

    file: Path
    format: str
    read: int = 0
    added: int = 0
    updated: int = 0
    unchanged: int = 0
    rejected: int = 0
    notes: Counter[str] = field(default_factory=Counter)
    error: str | None = None
    sources: frozenset[str] = frozenset()

    def row(self) -> dict[str, Any]:
        """The values by name, for a table."""
        values = asdict(self) | {"file": str(self.file), "notes": dict(self.notes)}
        del values["sources"]
        return values

    def describe(self) -> str:
        """Say in a sentence what became of the file.

        >>> IngestResult(Path("log.csv"), "table", read=3, added=2, rejected=1).describe()
        'log.csv (table): 3 records read, 2 added, 0 updated, 0 unchanged, 1 rejected'
        """
        counts = (f"{getattr(self, name):,} {name}" for name in ("added", "updated", "unchanged"))
        text = (
            f"{self.file.name} ({self.format}): {self.read:,} records read, {', '.join(counts)}, "
            f"{self.rejected:,} rejected"
        )
        return f"{text}; {self.error}" if self.error else text


class ReadArguments(TypedDict):
    """Arguments of ``ingest_file``, ``ingest_files`` and ``read_log`` on how to read a log."""

    format: str | None
    columns: ColumnMap | None
    timezone: str


def read_arguments(
    format: str | None = None,
    mapping: Iterable[str] | None = None,
    map_file: str | Path | None = None,
    timezone: str = "UTC",
) -> ReadArguments:
    """Make the arguments on how to read a log from the options of a command.

    Args:
        format: name of the format; None: found from the file.
        mapping: column map as entries COLUMN=FIELD[:UNIT].
        map_file: column map as a TOML file.
        timezone: time zone of times that carry none.

    Raises ReadError where the map is wrong or given twice, or there is no such time zone.

    >>> read_arguments(mapping=["run=walltime:min"], timezone="Europe/Paris")["timezone"]
    'Europe/Paris'
    """
    if mapping and map_file:
        raise ReadError("the column map is given twice: by --map and by --map-file")
    zone(timezone)
    columns = (
        load_column_map(Path(map_file))
        if map_file
        else parse_column_map(mapping)
        if mapping
        else None
    )
    return ReadArguments(format=format, columns=columns, timezone=timezone)


OUTDATED = "older than what is kept (GRIDCAST_RETENTION_MONTHS), left out"
MAX_REJECTS = 10_000
"""Rejects of one file that are kept; the others are only counted."""
MAX_REJECT_BYTES = 16 * 2**20
"""Bytes of the records of these."""
EARLIER_ATTEMPT = "earlier run of a job that ran again: its last run is the outcome"
Progress = Callable[[IngestResult], None]
"""Called after each batch with what is stored by then."""


def ingest_file(
    engine: Engine,
    path: str | Path,
    format: str | None = None,
    source: str | None = None,
    columns: ColumnMap | None = None,
    progress: Progress | None = None,
    timezone: str = "UTC",
    window: str = "",
) -> IngestResult:
    """Read one log file into the store; doing so again changes nothing.

    Args:
        engine: the store.
        path: the file.
        format: name of its format; None: found from the file.
        source: name of the source; None: from the log.
        columns: column map of a table.
        progress: called after each batch.
        timezone: time zone of times that carry none.
        window: name of a part of a longer record whose parts overlap; a reject that another part
            had is not stored again.

    Raises ReadError where the file cannot be read at all, StoreError where the store cannot be
    written.
    """
    path = Path(path)
    reader = reader_named(format) if format else detect(path)
    done = IngestResult(path, reader.name)
    options = ReadOptions(source=source, columns=columns, timezone=timezone)
    settings = prepare_environment()
    with lineage(settings, "ingest") as run:
        run.inputs.append(log_file(path))
        for done in _ingest(engine, reader, path, options, window):
            if progress:
                progress(done)
        if run.is_sent and done.sources:
            version = str(read_revision(engine))
            run.outputs += [stored_jobs(settings, name, version) for name in sorted(done.sources)]
    return done


def ingest_files(
    engine: Engine,
    paths: Iterable[str | Path],
    format: str | None = None,
    source: str | None = None,
    columns: ColumnMap | None = None,
    progress: Progress | None = None,
    timezone: str = "UTC",
) -> list[IngestResult]:
    """Read log files, and the files of folders, into the store.

    The result of a file that cannot be read carries its error, and the next file is read. Raises
    StoreError where the store cannot be written. Arguments are those of ``ingest_file``.
    """
    results: list[IngestResult] = []
    for path in log_files(paths):
        stored = IngestResult(path, format or "unknown")

        def remember(done: IngestResult) -> None:
            nonlocal stored
            stored = done
            if progress:
                progress(done)

        try:
            results.append(ingest_file(engine, path, format, source, columns, remember, timezone))
        except ReadError as error:
            results.append(replace(stored, error=str(error)))
        except OSError as error:
            results.append(
                replace(stored, error=f"{path} cannot be read: {error.strerror or error}")
            )
    return results


def read_log(
    path: str | Path,
    format: str | None = None,
    columns: ColumnMap | None = None,
    progress: Progress | None = None,
    timezone: str = "UTC",
    record: Record = JOB,
) -> tuple[pd.DataFrame, IngestResult]:
    """Read the valid records of one log file, by submission, without a store.

    Several reports of a job are merged as in the store. Arguments are those of ``ingest_file``,
    ``record`` is the kind that the log must have. Raises ReadError where the file cannot be read,
    or has no such record.
    """
    path = Path(path)
    reader = reader_named(format) if format else detect(path)
    done, frames, first_reason = IngestResult(path, reader.name), [], ""
    for batch in reader.read(path, ReadOptions(columns=columns, timezone=timezone)):
        if batch.record is not record:
            raise ReadError(f"{path} is a log of {batch.record.name}s, not of {record.name}s")
        jobs, rejects, notes = _prepare(batch)
        frames.append(jobs)
        first_reason = first_reason or (rejects[0].reason if rejects else "")
        done = replace(
            done,
            read=done.read + len(batch.jobs) + len(batch.rejects),
            rejected=done.rejected + len(rejects),
            notes=done.notes + notes,
        )
        if progress:
            progress(done)
    jobs = pd.concat(frames, ignore_index=True) if frames else pd.DataFrame()
    if jobs.empty:
        why = [f"{count:,} × {note}" for note, count in done.notes.items() if count]
        if done.rejected:
            count = f"{done.rejected} of {done.read} records were rejected"
            why = [f"{count}, the first because {first_reason}", *why]
        reasons = f": {'; '.join(why)}" if why else ""
        raise ReadError(f"{path} holds no {record.name} that could be read{reasons}")
    reports = separate_recycled(jobs, jobs.iloc[:0], record=record)
    jobs = merge_repeated(reports, record)
    earlier = is_other_attempt(reports, align_outcomes(reports, jobs, record))
    jobs = jobs.sort_values("submitted_at", kind="stable", ignore_index=True)
    notes = done.notes + Counter({EARLIER_ATTEMPT: int(earlier.sum())})
    return jobs, replace(done, added=len(jobs), notes=notes)


def log_files(paths: Iterable[str | Path]) -> list[Path]:
    """The files of ``paths``, those of a folder by name; hidden ones of a folder are left out."""
    files: list[Path] = []
    for path in map(Path, paths):
        files += (
            sorted(p for p in path.iterdir() if p.is_file() and not p.name.startswith("."))
            if path.is_dir()
            else [path]
        )
    return files


def _store(
    jobs: pd.DataFrame,
    record: Record,
    subject: str,
    path: Path,
    rejects: Sequence[Reject],
    window: str,
    connection: Connection,
) -> AddResult:
    """Store a batch and its rejects, and count it in the audit log under ``subject``."""
    added = add_counted(connection, jobs, "ingest", subject, record)
    add_rejects(connection, path, rejects, window=window)
    return added


def _ingest(
    engine: Engine, reader: Reader, path: Path, options: ReadOptions, window: str = ""
) -> Iterator[IngestResult]:
    done, room = IngestResult(path, reader.name), MAX_REJECT_BYTES
    for batch in reader.read(path, options):
        if batch.record is WORKFLOW_TASK:
            raise ReadError(
                f"{path} is a table of workflow tasks, which are not stored:"
                " gridcast evaluate-stalls reads it"
            )
        jobs, rejects, notes = _prepare(batch)
        storable = rejects[: max(0, MAX_REJECTS - done.rejected)]
        notes[f"only {MAX_REJECTS:,} rejects of a file are kept"] += len(rejects) - len(storable)
        sizes = list(accumulate(map(stored_bytes, storable)))
        fitting = bisect_right(sizes, room)
        room -= sizes[fitting - 1] if fitting else 0
        notes[f"only {MAX_REJECT_BYTES:,} bytes of a file's rejects are kept"] += (
            len(storable) - fitting
        )
        storable = storable[:fitting]
        subject = window.rpartition(": ")[0] or str(path)
        added = write_transaction(
            engine, partial(_store, jobs, batch.record, subject, path, storable, window)
        )
        notes[OUTDATED] += added.outdated
        notes[EARLIER_ATTEMPT] += added.attempts
        done = replace(
            done,
            read=done.read + len(batch.jobs) + len(batch.rejects),
            added=done.added + added.added,
            updated=done.updated + added.updated,
            unchanged=done.unchanged + len(jobs) - added.added - added.updated,
            rejected=done.rejected + len(rejects),
            notes=done.notes + notes,
            sources=done.sources | {*jobs["source"]},
        )
        yield done


def _prepare(batch: Batch) -> tuple[pd.DataFrame, list[Reject], Counter[str]]:
    """The batch's sane jobs, all that was rejected of it, and its notes."""
    jobs = conform(batch.jobs.reset_index(drop=True), batch.record)
    jobs, left_out = leave_out_bad_fields(jobs, batch.record)
    is_transfer = batch.record is TRANSFER
    derived = derive_transfer_fields(jobs) if is_transfer else derive_fields(jobs, batch.record)
    jobs, refused = split_valid(derived, record=batch.record)
    return jobs, [*batch.rejects, *_rejects(batch, refused)], batch.notes + left_out


def _rejects(batch: Batch, refused: pd.Series) -> Iterator[Reject]:
    """Rejects for rows that are not valid, with the record as it was read."""
    records = batch.jobs.iloc[refused.index].to_dict("records")
    for row, record in zip(refused.index, records, strict=True):
        values = {str(name): str(value) for name, value in record.items() if pd.notna(value)}
        raw = json.dumps(values, ensure_ascii=False)
        yield Reject(int(batch.lines[row]), str(refused[row]), raw)
