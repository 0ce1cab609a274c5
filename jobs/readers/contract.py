"""Input and output of a reader: options, and batches of records with rejected lines."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from jobs.schema import JOB, Record

if TYPE_CHECKING:
    from jobs.readers.columns import ColumnMap

RAW_LIMIT = 500


@dataclass(frozen=True)
class Reject:
    """A line or record that gave no job: its number from 1, the reason, and the text, cut."""

    line: int
    reason: str
    raw: str

    def __post_init__(self) -> None:
        # A file may hold NUL characters, a database's text may not.
        object.__setattr__(self, "raw", self.raw[:RAW_LIMIT].replace("\0", "\\0"))


@dataclass(frozen=True)
class Batch:
    """Some records of a file in its order: any of the schema's columns, and the line of each row.

    ``rejects`` are the lines refused on the way, ``notes`` what was skipped or left out, by count.
    """

    jobs: pd.DataFrame
    lines: np.ndarray
    rejects: list[Reject] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    record: Record = JOB


@dataclass(frozen=True)
class ReadOptions:
    """Name of the source, column map, rows a batch, and time zone of times that carry none."""

    source: str | None = None
    columns: ColumnMap | None = None
    batch_rows: int = 50_000
    timezone: str = "UTC"


@dataclass(frozen=True)
class Reader:
    """One format: a test of a file's first bytes, a stream of batches, endings of file names."""

    name: str
    recognises: Callable[[Path, bytes], bool]
    read: Callable[[Path, ReadOptions], Iterator[Batch]]
    suffixes: tuple[str, ...] = ()


def stem(path: Path) -> str:
    """The file's name without .gz and its own ending.

    >>> stem(Path("logs/KTH-SP2-1996.swf.gz"))
    'KTH-SP2-1996'
    """
    name = path.name.removesuffix(".gz")
    return name.rsplit(".", 1)[0] if "." in name[1:] else name
