"""Rows of a delimited text file under a header, whatever a stray quote or a cut line does to some.

Two kinds of writers are read: those that quote (CSV), and those that never do (sacct, Nextflow),
whose free texts may hold the delimiter and line feeds. Rows of the latter are put right by an
``Alignment``: the typed columns say where the free texts begin and end.
"""

from __future__ import annotations

import csv
import re
from collections import deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from pathlib import Path
from typing import TypeAlias

from jobs.readers.contract import Reject
from jobs.readers.errors import ReadError
from jobs.readers.lines import LINE_LIMIT, head_lines, peek, read_chunks

QUOTE = '"'
LONGEST_RECORD = 50
"""Lines that a record may span; a stray quote would otherwise swallow the rest of the file."""
MAX_SURPLUS = 500
"""Delimiters that the free texts of a row may hold."""
MAX_VAIN_JOINS = 5_000
"""Lines of a file that are joined to rows in vain before no more are tried."""

Cells: TypeAlias = "tuple[int, str, list[str]] | Reject | str"
"""A row as (line, raw text, cells), or a rejected line, or a note."""

Record: TypeAlias = "tuple[int, str, dict[str, str]] | Reject | str"


class Alignment:
    """Which cells of an unquoted row belong to which column, where free texts hold delimiters.

    ``kinds`` gives the pattern of each typed column by lower-case name, ``free_text`` names the
    columns that may hold anything; the pattern of one of these is that of its usual beginning.
    ``certain`` names the columns to leave empty, and to list in ``uncertain``, where a row can be
    divided in several ways. All alignments are followed at once, as bits of an integer, so
    that a row takes time linear in its cells.
    """

    def __init__(
        self,
        kinds: Mapping[str, re.Pattern[str]],
        free_text: Collection[str],
        delimiter: str,
        header: list[str],
        certain: Collection[str] = (),
    ) -> None:
        self.uncertain: list[str] = []
        names = [name.strip().lower() for name in header]
        self.width, self.delimiter = len(names), delimiter
        self._certain = [(i, name) for i, name in enumerate(names) if name in certain]
        self.free = sum(1 << i for i, name in enumerate(names) if name in free_text)
        masks: dict[re.Pattern[str], int] = {}
        for i, name in enumerate(names):
            if name in kinds:
                masks[kinds[name]] = masks.get(kinds[name], 0) | 1 << i
        self._typed = masks
        self._untyped = (1 << self.width) - 1 & ~self.free & ~sum(masks.values())
        self._untyped_free = self.free & ~sum(masks.values())
        self._accepted: dict[str, int] = {}

    def accepts(self, cell: str, usual: bool = False) -> int:
        """The columns (bits) that may begin with the cell; ``usual``: as they usually do."""
        mask = self._accepted.get(cell)
        if mask is None:
            mask = self._untyped_free | self._untyped
            for pattern, columns in self._typed.items():
                if not cell or pattern.fullmatch(cell[:200].strip()):
                    mask |= columns
            if len(self._accepted) < 100_000 and len(cell) <= 100:
                self._accepted[cell] = mask
        mask = mask if usual else mask | self.free
        return mask & self.free if "\n" in cell else mask

    def states(self, cells: list[str], usual: bool = False) -> list[int]:
        """The columns (bits) that may come next, before each cell and after the last one."""
        states = [1]
        for cell in cells:
            state = states[-1]
            states.append(((state & self.accepts(cell, usual)) << 1) | (state & (self.free << 1)))
        return states

    def may_begin(self, cells: list[str]) -> bool:
        """Whether a row may begin with these cells, of which the last may go on."""
        state = self.states(cells[:-1])[-1]
        if len(cells) > self.width + MAX_SURPLUS or not state:
            return False
        return bool(state & (self.accepts(cells[-1]) | self.free << 1))

    def align(self, cells: list[str]) -> list[str] | None:
        """The cells put together to the header's width, or None where they do not fit.

        Where several ways fit, those are preferred in which free texts begin as usual, then the
        one in which the last free text takes the surplus.
        """
        self.uncertain.clear()
        if not self.width <= len(cells) <= self.width + MAX_SURPLUS:
            return None
        for usual in (True, False):
            states = self.states(cells, usual)
            if states[-1] >> self.width & 1:
                row = self._divide(cells, states, usual, last_longest=True)
                other_row = self._divide(cells, states, usual, last_longest=False)
                for i, name in self._certain:
                    if row[i] != other_row[i]:
                        row[i] = ""
                        self.uncertain.append(name)
                return row
        return None

    def _divide(
        self, cells: list[str], states: list[int], usual: bool, last_longest: bool
    ) -> list[str]:
        """The cells by column, where the last or the first free text takes the surplus.

        Args:
            cells: The cells of the row.
            states: Their ``states``.
            usual: Whether these are of usual beginnings.
            last_longest: Whether the last free text takes the surplus, or the first.
        """
        column = self.width
        aligned: list[list[str]] = [[] for _ in range(self.width)]
        for i in range(len(cells) - 1, -1, -1):
            aligned[column - 1].append(cells[i])
            goes_on = self.free << 1 >> column & 1 and states[i] >> column & 1
            begins = (states[i] & self.accepts(cells[i], usual)) >> (column - 1) & 1
            if not goes_on or (begins and not last_longest):
                column -= 1
        return [self.delimiter.join(reversed(parts)) for parts in aligned]


Align: TypeAlias = "Callable[[list[str]], Alignment]"


def sniff(head: bytes, delimiters: str = ",\t;|") -> tuple[str, list[str]]:
    """The delimiter and the column names of a file's first line that is no comment."""
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


Line: TypeAlias = "tuple[int, str]"


class _Lines:
    """The lines of a file that are not blank, with a way to put some back."""

    def __init__(self, path: Path, size: int) -> None:
        self._lines = _lines(path, size)
        self._waiting: deque[Line] = deque()
        self.passed: list[Reject | str] = []
        """Rejects and notes met while looking ahead."""

    def next_item(self) -> Line | Reject | str | None:
        return self._waiting.popleft() if self._waiting else next(self._lines, None)

    def next_line(self) -> Line | None:
        """The next line; rejects and notes before it go to ``passed``."""
        while (item := self.next_item()) is not None:
            if isinstance(item, tuple):
                return item
            self.passed.append(item)
        return None

    def put_back(self, lines: list[Line]) -> None:
        self._waiting.extendleft(reversed(lines))


def _lines(path: Path, size: int) -> Iterator[Line | Reject | str]:
    for chunk in read_chunks(path, size):
        yield from chunk.rejects
        yield from chunk.notes.elements()
        for number, line in enumerate(chunk.lines, chunk.first):
            if line.strip():
                yield number, line


def read_cells(
    path: Path, size: int, delimiter: str, align: Align | None = None
) -> Iterator[Cells]:
    """Stream the header and then the rows of its width; others are rejected.

    A repeated header is skipped. ``align`` makes the alignment of a header, for formats that never
    quote; without it quotes are understood as in CSV.

    Args:
        path: The file.
        size: The bytes of a block.
        delimiter: The delimiter.
        align: Makes the alignment of a header, for formats that never quote.
    """
    lines = _Lines(path, size)
    header: list[str] = []
    alignment: Alignment | None = None
    vain = 0
    while (item := lines.next_item()) is not None:
        if not isinstance(item, tuple):
            yield item
            continue
        number, text = item
        if not header:
            if text.startswith("#"):
                continue
            cells = split(text, delimiter)
            if cells is None:
                yield Reject(number, "the quotes on the line do not match", text)
                continue
            header, alignment = cells, align(cells) if align else None
            yield number, text, cells
            continue
        if alignment is None:
            text, row = _quoted(text, delimiter, len(header), lines)
            reason = "the quotes on the line do not match"
        else:
            text, row, lost = _unquoted(text, delimiter, alignment, lines, vain < MAX_VAIN_JOINS)
            vain += lost
            reason = ""
            lines.passed += [
                f"{name} not used: a delimiter in it or beside it may be another column's"
                for name in alignment.uncertain
            ]
        yield from lines.passed
        lines.passed.clear()
        if row is None or len(row) != len(header):
            cells = row or text.split(delimiter)
            width = f"the row has {len(cells)} cells, the header {len(header)}"
            yield Reject(number, reason if row is None and reason else width, text)
        elif row == header:
            yield "repeated header skipped"
        else:
            yield number, text, row


def _quoted(text: str, delimiter: str, width: int, lines: _Lines) -> tuple[str, list[str] | None]:
    """A record of CSV, over as many lines as its quotes need; None where they do not match."""
    if QUOTE not in text:
        return text, text.split(delimiter)
    taken: list[Line] = []
    record, quotes = text, text.count(QUOTE)
    while quotes % 2 and len(taken) < LONGEST_RECORD and len(record) < LINE_LIMIT:
        following = lines.next_line()
        if following is None:
            break
        taken.append(following)
        record += "\n" + following[1]
        quotes += following[1].count(QUOTE)
    cells = split(record, delimiter)
    if taken and (cells is None or len(cells) != width):
        lines.put_back(taken)
        record, cells = text, None
    if cells is None and text.count(delimiter) == width - 1:
        # Some writers never quote: then a quote is a character like another.
        record, cells = text, text.split(delimiter)
    return record, cells


def _unquoted(
    text: str, delimiter: str, alignment: Alignment, lines: _Lines, join: bool
) -> tuple[str, list[str] | None, int]:
    """A row of a writer that never quotes, over as many lines as its free texts have.

    Returns the text, the cells (None where none fit), and how many lines were tried in vain.
    """
    alignment.uncertain.clear()
    cells = text.split(delimiter)
    if QUOTE in text and (delimiter == "," or len(cells) != alignment.width):
        quoted = split(text, delimiter)  # as a spreadsheet or pandas saved it
        if quoted is not None and len(quoted) == alignment.width:
            return text, quoted, 0
    row = cells if len(cells) == alignment.width else alignment.align(cells)
    if not alignment.free or not join:
        return text, row, 0
    record, taken = text, list[Line]()
    if row is None:
        if len(cells) > alignment.width or not alignment.may_begin(cells):
            return text, None, 0
        while row is None and len(taken) < LONGEST_RECORD and len(record) < LINE_LIMIT:
            following = lines.next_line()
            if following is None:
                break
            taken.append(following)
            further = following[1].split(delimiter)
            if len(further) == alignment.width or alignment.align(further):
                break  # a row of its own
            record += "\n" + following[1]
            cells = [*cells[:-1], f"{cells[-1]}\n{further[0]}", *further[1:]]
            row = alignment.align(cells)
            if row is None and not alignment.may_begin(cells):
                break
        if row is None:
            lines.put_back(taken)
            return text, None, len(taken)
    if alignment.free >> (alignment.width - 1) & 1:
        record, row = _with_trailing_lines(record, row, delimiter, alignment, lines)
    return record, row, 0


def _with_trailing_lines(
    record: str, row: list[str], delimiter: str, alignment: Alignment, lines: _Lines
) -> tuple[str, list[str]]:
    """The row with the lines after it that can only be the rest of its last column."""
    for _ in range(LONGEST_RECORD):
        following = lines.next_line()
        if following is None:
            break
        cells = following[1].split(delimiter)
        # A line of the whole width is a row, if only a bad one.
        if len(cells) >= alignment.width or alignment.may_begin(cells):
            lines.put_back([following])
            break
        lines.passed.append("line without a row's columns added to the free text before it")
        record += "\n" + following[1]
        row = [*row[:-1], f"{row[-1]}\n{following[1]}"]
    return record, row


def read_records(
    path: Path,
    size: int,
    columns: Iterable[str],
    required: Iterable[str],
    delimiter: str,
    align: Align | None = None,
) -> Iterator[Record]:
    """Stream rows as dicts by lower-case column name, only of these columns.

    A column that is not among them becomes one note. Raises ReadError where the header lacks one of
    the ``required`` columns.

    Args:
        path: The file.
        size: The bytes of a block.
        columns: The columns to read.
        required: Those without which the file cannot be read.
        delimiter: The delimiter.
        align: Makes the alignment of a header, for formats that never quote.
    """
    wanted = {name.lower() for name in columns}
    positions: list[tuple[int, str]] | None = None
    for item in read_cells(path, size, delimiter, align):
        if not isinstance(item, tuple):
            yield item
            continue
        number, text, cells = item
        if positions is None:
            names = [cell.strip().lower() for cell in cells]
            positions = [
                (i, name)
                for i, name in enumerate(names)
                if name in wanted and name not in names[:i]
            ]
            missing = [name for name in required if name.lower() not in names]
            if missing:
                raise ReadError(
                    f"{path} has no column {missing[0]}: its columns are {', '.join(cells)[:300]}"
                )
            yield from (
                f"unknown column {name} ignored" for name in names if name and name not in wanted
            )
        else:
            yield number, text, {name: cells[i] for i, name in positions}


def columns_of(path: Path, delimiters: str = ",\t;|") -> tuple[str, list[str]]:
    """The delimiter and the column names of a file; raises ReadError where it is empty."""
    return sniff(peek(path), delimiters)
