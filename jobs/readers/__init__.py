"""Readers of logs of jobs and of transfers, one a format, which all give the same batches.

``detect`` finds the reader of a file.
"""

from __future__ import annotations

from pathlib import Path

from jobs.readers.condor import CONDOR
from jobs.readers.contract import Batch, Reader, ReadOptions, Reject
from jobs.readers.errors import ReadError
from jobs.readers.foreign_forms import hint
from jobs.readers.fts import FTS
from jobs.readers.gridftp import GRIDFTP
from jobs.readers.lines import peek
from jobs.readers.nextflow import NEXTFLOW
from jobs.readers.panda import PANDA
from jobs.readers.pbs import PBS
from jobs.readers.rucio import RUCIO
from jobs.readers.slurm import SLURM
from jobs.readers.swf import SWF
from jobs.readers.table import TABLE

READERS: tuple[Reader, ...] = (SWF, SLURM, CONDOR, PBS, PANDA, NEXTFLOW, GRIDFTP, FTS, RUCIO, TABLE)
"""Every format, in the order in which they are tried on a file: the most specific first."""


def detect(path: Path) -> Reader:
    """Find the reader of a file by its first 64 kB, then by its name; raises ReadError for none."""
    head = peek(path)
    for reader in READERS:
        if reader.recognises(path, head):
            return reader
    if sentence := hint(path, head):
        raise ReadError(sentence)
    if not _is_binary(head):
        name = path.name.lower().removesuffix(".gz")
        for reader in READERS:
            if name.endswith(reader.suffixes):
                return reader
    formats = ", ".join(reader.name for reader in READERS)
    raise ReadError(f"{path} is in no format that Gridcast knows ({formats}); name one by --format")


def reader_named(name: str) -> Reader:
    """The reader of the format ``name``; raises ReadError with the names there are."""
    for reader in READERS:
        if reader.name == name.lower():
            return reader
    raise ReadError(
        f"there is no format {name}: choose one of {', '.join(reader.name for reader in READERS)}"
    )


def _is_binary(head: bytes) -> bool:
    text = head.decode("utf-8", errors="replace")
    strange = sum(
        character == "\ufffd" or (character < " " and character not in "\t\r\n\f")
        for character in text
    )
    return strange > len(text) / 10


__all__ = [
    "READERS",
    "Batch",
    "ReadError",
    "ReadOptions",
    "Reader",
    "Reject",
    "detect",
    "reader_named",
]
