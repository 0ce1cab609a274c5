"""What a reader takes and gives: options in, batches of jobs and rejected lines out."""

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
    """A line (or record) that gave no job: its 1-based number, one sentence why, and at most 500 characters of it."""

    line: int
    reason: str
    raw: str

    def __post_init__(self) -> None:
        # NUL is legal in a file and in no database's text.
        object.__setattr__(self, "raw", self.raw[:RAW_LIMIT].replace("\0", "\\0"))


@dataclass(frozen=True)
class Batch:
    """Some jobs of a file in its order: any subset of the schema's columns, the line of each row, the lines rejected on the way.

    Where ``record`` says so they are no jobs but records of that kind.
    """

    jobs: pd.DataFrame
    lines: np.ndarray
    rejects: list[Reject] = field(default_factory=list)
    notes: Counter[str] = field(default_factory=Counter)
    record: Record = JOB


@dataclass(frozen=True)
class ReadOptions:
    """How to read: the name given to the source, a column map, the time zone of times that carry none, rows a batch."""

    source: str | None = None
    columns: ColumnMap | None = None
    batch_rows: int = 50_000
    timezone: str = "UTC"


@dataclass(frozen=True)
class Reader:
    """One format: whether the first bytes of a file are it, how to stream it, and the endings its files usually have."""

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
