"""Partitions of past records, which each worker reads by itself from a file or the store."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from infra.errors import InputError
from infra.settings import prepare_environment
from jobs.ingest import ReadArguments, read_log
from jobs.readers.columns import RECORDS
from jobs.store import count_jobs, open_store, read_jobs


@dataclass(frozen=True)
class Partition:
    """A log file, a stored source, or all that is stored; or of it the jobs with a field's value.

    Attributes:
        log: A path, the name of a stored source, or None for all that is stored.
        arguments: How a file is read.
        kind: The kind of record.
        field: A field whose value tells partitions of a log apart; empty: the whole log.
        value: The value of its jobs.
    """

    log: str | None
    arguments: ReadArguments
    kind: str = "job"
    field: str = ""
    value: str = ""

    @property
    def name(self) -> str:
        """The name of the log, with the value of the field where there is one."""
        log = Path(self.log).name if self.log else "the store"
        return f"{log}, {self.field} {self.value}" if self.field else log

    @property
    def file(self) -> Path | None:
        """The log's file, None for records of the store."""
        return Path(self.log) if self.log and Path(self.log).exists() else None

    def read(self) -> pd.DataFrame:
        """Read the records.

        Raises:
            InputError: There are none, or no such log.
        """
        record = next(record for record in RECORDS if record.name == self.kind)
        if file := self.file:
            jobs, _ = read_log(file, record=record, **self.arguments)
            if self.field:
                jobs = jobs[jobs[self.field] == self.value].reset_index(drop=True)
        else:
            engine = open_store(prepare_environment().store_url)
            having = {self.field: self.value} if self.field else None
            sources = [self.log] if self.log else None
            jobs = read_jobs(engine, sources=sources, record=record, having=having)
        if jobs.empty and self.log:
            raise _no_such_log(self.log)
        if jobs.empty:
            raise InputError("nothing is stored: gridcast ingest FILE")
        return jobs

    def split(self, field: str) -> tuple[list[Partition], list[float]]:
        """Return a partition for each value of a field, the largest first, and their jobs.

        Raises:
            InputError: No job has the field.
        """
        jobs = self.read()
        counts = jobs[field].value_counts()
        if counts.empty:
            raise InputError(f"no job of {self.name} has a {field}")
        parts = [replace(self, field=field, value=str(value)) for value in counts.index]
        return parts, [float(count) for count in counts]


def logs_of(names: Sequence[str] | None, arguments: ReadArguments) -> list[Partition]:
    """Return the logs of some names; one of all that is stored where there are none.

    Files are named by their absolute paths, for workers with another folder.

    Raises:
        InputError: Of several, one is neither a file nor a stored source, or two are called alike:
            results are named by the last part of a path.
    """
    if not names:
        return [Partition(None, arguments)]
    if len(names) > 1:
        _check_names(names)
    files = (str(Path(name).resolve()) if Path(name).exists() else name for name in names)
    return [Partition(file, arguments) for file in files]


def _check_names(names: Sequence[str]) -> None:
    called = [Path(name).name for name in names]
    for name in called:
        if called.count(name) > 1:
            raise InputError(
                f"two logs are called {name}, by which their results are named: take one at a time"
            )
    missing = [name for name in names if not Path(name).exists()]
    if missing:
        stored = set(count_jobs(open_store(prepare_environment().store_url))["source"])
        for name in missing:
            if name not in stored:
                raise _no_such_log(name)


def _no_such_log(name: str) -> InputError:
    return InputError(
        f"there is no file and no stored source called {name} (gridcast jobs lists the sources)"
    )


def sizes_of(partitions: Sequence[Partition]) -> list[float]:
    """How long the logs are: bytes of files (0 of stored sources)."""
    files = (partition.file for partition in partitions)
    return [float(file.stat().st_size) if file else 0.0 for file in files]
