"""Export of stored records to files that other programs read: CSV, Parquet, JSON lines."""

from __future__ import annotations

import gzip
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any, cast

import pyarrow as pa
from pyarrow import csv, parquet

from infra.errors import InputError
from jobs.store import export_batches
from jobs.store.frames import Moment

if TYPE_CHECKING:
    from sqlalchemy import Engine

Writer = Callable[[pa.RecordBatch], None]
SUFFIXES = (".csv", ".csv.gz", ".parquet", ".jsonl", ".jsonl.gz")


def export_records(
    engine: Engine,
    kind: str,
    output: Path | IO[bytes],
    *,
    sources: Sequence[str] | None = None,
    since: Moment | None = None,
    until: Moment | None = None,
) -> int:
    """Write stored records, a row a record, batch by batch.

    Args:
        engine: The store.
        kind: ``jobs``, ``attempts``, ``transfers`` or ``predictions``.
        output: A path that ends in one of SUFFIXES, which appears complete or not at all, or an
            open file, which gets CSV.
        sources: Only records of these sources.
        since: Only records submitted (predictions: made) at this time or later.
        until: Only records submitted (predictions: made) before this time.

    Returns:
        The number of records.

    Raises:
        InputError: The path has another suffix or cannot be written.
        StoreError: The store cannot be read.
    """
    require_suffix(output)
    return write_batches(
        export_batches(engine, kind, sources=sources, since=since, until=until), output
    )


def write_batches(batches: Iterator[pa.RecordBatch], output: Path | IO[bytes]) -> int:
    """Write batches of at least one, as ``export_records`` does; returns the number of rows.

    Raises:
        InputError: The path has another suffix or cannot be written, or a file that exists would be
            replaced by one without rows.
    """
    require_suffix(output)
    rows = 0
    try:
        first = next(batches)
        if not first.num_rows and isinstance(output, Path) and output.exists():
            raise InputError(f"there is no row to write, so {output} stays as it is")
        with ExitStack() as stack:
            if isinstance(output, Path):
                write = _open(stack.enter_context(_replacing(output)), output.name, first, stack)
            else:
                write = _open(output, ".csv", first, stack)
            for batch in _chain(first, batches):
                write(batch)
                rows += batch.num_rows
    except BrokenPipeError:  # as of `| head`: its reader has enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    except OSError as error:
        raise InputError(f"{output} cannot be written: {error.strerror or error}") from None
    return rows


def require_suffix(output: Path | IO[bytes]) -> None:
    """Raise InputError for a path that does not say its format."""
    if isinstance(output, Path) and not output.name.endswith(SUFFIXES):
        raise InputError(f"{output} must end in one of {', '.join(SUFFIXES)}")


def _chain(first: pa.RecordBatch, rest: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    yield first
    yield from rest


@contextmanager
def _replacing(path: Path) -> Iterator[IO[bytes]]:
    """A draft beside ``path`` that takes its place once it is complete."""
    draft = path.with_name(f".{path.name}.new")
    try:
        with draft.open("wb") as file:
            yield file
        draft.replace(path)
    finally:
        draft.unlink(missing_ok=True)


def _open(file: IO[bytes], name: str, first: pa.RecordBatch, stack: ExitStack) -> Writer:
    """A function that writes a batch to ``file`` in the format that the name ends in."""
    if name.endswith(".parquet"):
        writer = stack.enter_context(parquet.ParquetWriter(file, first.schema, compression="zstd"))
        return lambda batch: writer.write_batch(batch)
    if name.endswith(".gz"):
        file = cast("IO[bytes]", stack.enter_context(gzip.GzipFile(fileobj=file, mode="wb")))
    if ".jsonl" in name:
        return lambda batch: _write_lines(file, batch)
    header = csv.WriteOptions(include_header=False)
    file.write((",".join(first.schema.names) + "\n").encode())
    return lambda batch: csv.write_csv(_with_text_times(batch), file, header)


def _with_text_times(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch with its times in ISO 8601, as the readers of tables take them."""
    columns = [
        pa.compute.strftime(column, format="%Y-%m-%dT%H:%M:%SZ")
        if pa.types.is_timestamp(column.type)
        else column
        for column in batch.columns
    ]
    return pa.RecordBatch.from_arrays(columns, names=batch.schema.names)


def _write_lines(file: IO[bytes], batch: pa.RecordBatch) -> None:
    import orjson

    for row in _with_text_times(batch).to_pylist():
        present: dict[str, Any] = {name: value for name, value in row.items() if value is not None}
        file.write(orjson.dumps(present, option=orjson.OPT_APPEND_NEWLINE))
