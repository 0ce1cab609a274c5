"""Rows of a delimited text file under a header: as many as are whole, whatever a stray quote or a cut line does to the others."""

from __future__ import annotations

import csv
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeAlias

from jobs.readers.contract import Reject
from jobs.readers.errors import ReadError
from jobs.readers.lines import LINE_LIMIT, head_lines, peek, read_chunks

QUOTE = '"'
LONGEST_RECORD = 50
"""Lines that a quoted record may span; a stray quote would otherwise swallow the rest of the file."""

Cells: TypeAlias = "tuple[int, str, list[str]] | Reject | str"
"""A row as (line, raw text, cells), or a rejected line, or a note."""

Record: TypeAlias = "tuple[int, str, dict[str, str]] | Reject | str"

Mend: TypeAlias = "Callable[[list[str], list[str]], list[str] | None]"


def sniff(head: bytes, delimiters: str = ",\t;|") -> tuple[str, list[str]]:
    """The delimiter and the column names of a file's first line that is neither empty nor a comment."""
    line = next(
        (line for line in head_lines(head) if line.strip() and not line.startswith("#")), ""
    )
    counts = {delimiter: len(split(line, delimiter) or []) for delimiter in delimiters}
    best = max(delimiters, key=lambda delimiter: counts[delimiter])
    return best, [name.strip() for name in split(line, best) or []]


def split(line: str, delimiter: str) -> list[str] | None:
    """The cells of one record, or None where its quotes make no sense."""
    if QUOTE not in line:
        return line.split(delimiter)
    try:
        return next(csv.reader([line], delimiter=delimiter, strict=True), None)
    except csv.Error:
        return None


def _rows(path: Path, size: int, delimiter: str, quoted: bool) -> Iterator[Cells]:
    lines = _lines(path, size)
    waiting: deque[tuple[int, str]] = deque()
    width = 0
    while item := waiting.popleft() if waiting else next(lines, None):
        if not isinstance(item, tuple):
            yield item
            continue
        number, text = item
        if not quoted or QUOTE not in text:
            cells: list[str] | None = text.split(delimiter)
        else:
            text, cells, aside = _quoted_record(text, delimiter, width, waiting, lines)
            yield from aside
        if cells is None:
            yield Reject(number, "the quotes on the line do not match", text)
            continue
        width = width or len(cells)
        yield number, text, cells


def _quoted_record(
    text: str,
    delimiter: str,
    width: int,
    waiting: deque[tuple[int, str]],
    lines: Iterator[tuple[int, str] | Reject | str],
) -> tuple[str, list[str] | None, list[Reject | str]]:
    """A record with quotes, over as many lines as it needs; lines that do not belong to it wait for their turn."""
    aside: list[Reject | str] = []
    taken: list[tuple[int, str]] = []
    whole = text
    while whole.count(QUOTE) % 2 and len(taken) < LONGEST_RECORD and len(whole) < LINE_LIMIT:
        following = waiting.popleft() if waiting else next(lines, None)
        if following is None:
            break
        if not isinstance(following, tuple):
            aside.append(following)
            continue
        taken.append(following)
        whole += "\n" + following[1]
    cells = split(whole, delimiter)
    if taken and (cells is None or (width and len(cells) != width)):
        waiting.extendleft(reversed(taken))
        whole, cells = text, None
    if cells is None and width and text.count(delimiter) == width - 1:
        # Some writers never quote: then a quote is a character like another.
        whole, cells = text, text.split(delimiter)
    return whole, cells, aside


def _lines(path: Path, size: int) -> Iterator[tuple[int, str] | Reject | str]:
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        for note, count in chunk.notes.items():
            yield from [note] * count
        for number, line in enumerate(chunk.lines, chunk.first):
            if line.strip():
                yield number, line


def read_cells(path: Path, size: int, delimiter: str, mend: Mend | None = None) -> Iterator[Cells]:
    """Stream the header and then the rows of its width; others are rejected, a repeated header is skipped.

    ``mend`` is given for formats that never quote: it takes the header and a row of another width and gives one that fits, or None.
    """
    header: list[str] = []
    for item in _rows(path, size, delimiter, quoted=mend is None):
        if not isinstance(item, tuple):
            yield item
            continue
        number, text, cells = item
        if not header:
            if text.startswith("#"):
                continue
            header = cells
        elif len(cells) != len(header):
            mended = mend(header, cells) if mend else None
            if mended is None:
                yield Reject(
                    number, f"the row has {len(cells)} cells, the header {len(header)}", text
                )
                continue
            item = number, text, mended
        elif cells == header:
            yield "repeated header skipped"
            continue
        yield item


def read_records(
    path: Path,
    size: int,
    known: Iterable[str],
    required: Iterable[str],
    delimiter: str,
    mend: Mend | None = None,
) -> Iterator[Record]:
    """Stream rows as dicts by lower-case column name, only the ``known`` columns; each new column becomes one note.

    Raises ReadError where the header lacks one of the ``required`` columns.
    """
    known = {name.lower() for name in known}
    places: list[tuple[int, str]] | None = None
    for item in read_cells(path, size, delimiter, mend):
        if not isinstance(item, tuple):
            yield item
            continue
        number, text, cells = item
        if places is None:
            names = [cell.strip().lower() for cell in cells]
            places = [
                (i, name) for i, name in enumerate(names) if name in known and name not in names[:i]
            ]
            missing = [name for name in required if name.lower() not in names]
            if missing:
                raise ReadError(
                    f"{path} has no column {missing[0]}: its columns are {', '.join(cells)[:300]}"
                )
            yield from (
                f"unknown column {name} ignored" for name in names if name and name not in known
            )
        else:
            yield number, text, {name: cells[i] for i, name in places}


def columns_of(path: Path, delimiters: str = ",\t;|") -> tuple[str, list[str]]:
    """The delimiter and the column names of a file; raises ReadError where it is empty."""
    return sniff(peek(path), delimiters)
