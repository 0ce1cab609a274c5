"""What the tests of all readers share: reading a text or a file to its end."""

from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from jobs.readers import ReadOptions, Reject, detect, reader_named
from jobs.schema import JOB, Record, conform


@dataclass(frozen=True)
class Outcome:
    """All that a reader gave: conformed jobs, their lines, the rejects, the notes."""

    jobs: pd.DataFrame
    lines: list[int]
    rejects: list[Reject]
    notes: Counter[str]
    record: Record = JOB

    def row(self, job_id: str) -> dict[str, Any]:
        """The known fields of one job."""
        found = self.jobs[self.jobs[self.record.identity[1]] == job_id]
        assert len(found) == 1, f"{len(found)} rows of {job_id}"
        return {str(name): value for name, value in found.iloc[0].items() if not pd.isna(value)}


def read_file(path: Path, format: str | None = None, **options: Any) -> Outcome:
    reader = reader_named(format) if format else detect(path)
    batches = list(reader.read(path, ReadOptions(**options)))
    for batch in batches:
        assert len(batch.jobs) == len(batch.lines)
    record = batches[0].record if batches else JOB
    jobs = (
        pd.concat([conform(batch.jobs, record) for batch in batches], ignore_index=True)
        if batches
        else conform(pd.DataFrame())
    )
    notes: Counter[str] = Counter()
    for batch in batches:
        notes.update(batch.notes)
    lines = [int(line) for batch in batches for line in batch.lines]
    return Outcome(
        jobs, lines, [reject for batch in batches for reject in batch.rejects], notes, record
    )


Read = Callable[..., Outcome]


@pytest.fixture
def read_text(tmp_path: Path) -> Read:
    """Write a text (or bytes) to a file and read it: ``read_text(text, name="log", format=None, **options)``."""

    def read(
        text: str | bytes, name: str = "log", format: str | None = None, **options: Any
    ) -> Outcome:
        path = tmp_path / name
        path.write_bytes(text.encode() if isinstance(text, str) else text)
        return read_file(path, format, **options)

    return read
