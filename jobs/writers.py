"""Writers of job records in formats that the readers take: SWF, CSV and Parquet, in pieces."""

from __future__ import annotations

import gzip
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import IO

import numpy as np
import pandas as pd

from infra.errors import InputError

ROWS_AT_ONCE = 100_000
SWF_NAMED = {
    "Partition": "site",
    "Queue": "queue",
    "User": "user",
    "Group": "group",
    "Program": "program",
}
_EPOCH = pd.Timestamp("1970-01-01", tz="UTC")


def write_jobs(jobs: pd.DataFrame, path: str | Path) -> Path:
    """Write conformed ``jobs`` in the format of the file's name.

    That is .swf or .csv, either with .gz, or .parquet; raises InputError for another name.
    """
    path = Path(path)
    writers: dict[str, Callable[[pd.DataFrame, str | Path], Path]] = {
        ".swf": write_swf,
        ".csv": write_csv,
        ".parquet": write_parquet,
    }
    for suffix, write in writers.items():
        if path.name.endswith((suffix, f"{suffix}.gz")) and not path.name.endswith(".parquet.gz"):
            return write(jobs, path)
    raise InputError(
        f"{path} does not say its format: end it with .swf, .csv (either with .gz) or .parquet"
    )


def write_csv(jobs: pd.DataFrame, path: str | Path) -> Path:
    """Write every column of the schema under its own name; times in ISO 8601."""
    with _open(Path(path)) as file:
        for start, piece in _pieces(jobs):
            piece.to_csv(
                file,
                index=False,
                header=start == 0,
                date_format="%Y-%m-%dT%H:%M:%S.%fZ",
                lineterminator="\n",
            )
    return Path(path)


def write_parquet(jobs: pd.DataFrame, path: str | Path) -> Path:
    """Write every column of the schema under its own name and in its type."""
    import pyarrow as pa
    import pyarrow.parquet as parquet

    schema = pa.Schema.from_pandas(jobs, preserve_index=False)
    with parquet.ParquetWriter(Path(path), schema) as file:
        for _, piece in _pieces(jobs):
            file.write_table(pa.Table.from_pandas(piece, schema, preserve_index=False))
    return Path(path)


def write_swf(jobs: pd.DataFrame, path: str | Path) -> Path:
    """Write the Standard Workload Format 2.2, which has no fields for task, host, input and I/O.

    Users, programs, queues and sites are numbers, named in the header; times are whole seconds,
    memory is kB a processor. A job id that is no number becomes the row's number.
    """
    start = jobs["submitted_at"].min().floor("D") if len(jobs) else _EPOCH
    levels = {
        label: pd.Index(jobs[column].dropna().unique()).sort_values()
        for label, column in SWF_NAMED.items()
    }
    with _open(Path(path)) as file:
        file.write(
            f"; Version: 2.2\n; Computer: {', '.join(jobs['source'].dropna().unique())}\n"
            "; Acknowledge: written by Gridcast\n"
        )
        file.write(
            f"; MaxJobs: {len(jobs)}\n; MaxRecords: {len(jobs)}\n"
            f"; UnixStartTime: {int(start.timestamp())}\n; TimeZoneString: UTC\n"
        )
        for label, names in levels.items():
            file.writelines(f"; {label}: {number} {name}\n" for number, name in enumerate(names, 1))
        for first, piece in _pieces(jobs):
            _swf_rows(piece, first, start, levels).to_csv(
                file, sep=" ", header=False, index=False, lineterminator="\n"
            )
    return Path(path)


def _swf_rows(
    jobs: pd.DataFrame, first: int, start: pd.Timestamp, levels: dict[str, pd.Index]
) -> pd.DataFrame:
    number = pd.to_numeric(jobs["job_id"], errors="coerce").to_numpy(float)
    number = (
        number
        if (number == np.round(number)).all()
        else np.arange(first + 1, first + 1 + len(jobs))
    )
    began = jobs["started_at"].fillna(jobs["ended_at"])
    cores = jobs["cores"].fillna(jobs["requested_cores"])
    status = jobs["status"].map(
        {
            "completed": 1,
            "failed": 0,
            "timeout": 0,
            "out_of_memory": 0,
            "cancelled": 5,
            "preempted": 5,
        }
    )
    code = {
        label: names.get_indexer(pd.Index(jobs[SWF_NAMED[label]])) + 1
        for label, names in levels.items()
    }
    columns = [
        number,
        (jobs["submitted_at"] - start).dt.total_seconds(),
        (began - jobs["submitted_at"]).dt.total_seconds(),
        jobs["walltime"],
        jobs["cores"],
        jobs["cpu_time"] / cores,
        jobs["peak_memory"] / 1024 / cores,
        jobs["requested_cores"],
        jobs["requested_walltime"],
        jobs["requested_memory"] / 1024 / jobs["requested_cores"],
        status,
        *(
            np.where(code[label] == 0, -1, code[label])
            for label in ("User", "Group", "Program", "Queue", "Partition")
        ),
        np.full(len(jobs), -1),
        np.full(len(jobs), -1),
    ]
    integers = [
        np.round(np.nan_to_num(np.asarray(column, dtype=float), nan=-1)).astype(np.int64)
        for column in columns
    ]
    return pd.DataFrame(dict(enumerate(integers)))


def _pieces(jobs: pd.DataFrame) -> Iterator[tuple[int, pd.DataFrame]]:
    for start in range(0, max(1, len(jobs)), ROWS_AT_ONCE):
        yield start, jobs.iloc[start : start + ROWS_AT_ONCE]


def _open(path: Path) -> IO[str]:
    if path.suffix == ".gz":
        return gzip.open(path, "wt", encoding="utf-8", newline="")
    return path.open("w", encoding="utf-8", newline="")
