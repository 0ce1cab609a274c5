"""Output of commands: tables or JSON to standard output, the rest to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

from rich.cells import cell_len
from rich.text import Text

from commands.progress import Report, progress_on
from commands.terminal import Terminal, visible

if TYPE_CHECKING:
    import pandas as pd

# Where standard output is no terminal, its width is COLUMNS, or 80.
out = Terminal()
err = Terminal(stderr=True)

GAP = 2
"""Blanks between two columns."""
MIN_TEXT, LONG_NAME = 16, 40
"""Least width of a column of sentences; a longer name is folded over lines, never cut."""


@dataclass
class Layout:
    """How tables are printed: ``wide`` shows all columns, as wide as they are."""

    wide: bool = False


layout = Layout()


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    title: str = "",
    columns: tuple[str, ...] = (),
    meaning: str = "",
) -> None:
    """Print rows as a table for people, or as one JSON object for machines.

    The table is as wide as the terminal at most: the last of ``columns`` that do not fit are left
    out, and a note names them.

    Args:
        rows: The rows; a missing value is None, NaN or NaT.
        as_json: Print JSON, which has all columns, and null for a missing value.
        title: The title of the table.
        columns: Only these columns of the table, the most important first; default: those of the
            first row.
        meaning: A sentence below the table: what it says.
    """
    if as_json:
        sys.stdout.write(json.dumps({"rows": [_plain(row) for row in rows]}, default=str) + "\n")
        return
    if not rows:
        print_sentence(f"{title}: nothing" if title else "nothing")
        if meaning:
            print_text(meaning)
        return
    names = columns or tuple(rows[0])
    if layout.wide:
        names = (*names, *(name for name in rows[0] if name not in names))
    drawn = [_Column.of(name, rows) for name in names]
    left_out = [] if layout.wide else _leave_out(drawn, out.width)
    _share_width(drawn, sum(column.longest for column in drawn) if layout.wide else out.width)
    if title:
        out.print(title, style="italic", highlight=False, markup=False)
    for line in _lines(drawn):
        out.print(line, soft_wrap=True, highlight=False)
    if meaning:
        print_text(meaning)
    more = [*left_out, *(name for name in rows[0] if name not in names)]
    if more and not layout.wide:
        count = len(more)
        print_text(f"(--wide shows {count} more column{'s' * (count > 1)}, --json all)", "dim")


@dataclass
class _Column:
    """A column as it is drawn: its heading and cells, and its width."""

    heading: str
    cells: list[str]
    is_number: bool
    width: int = 0

    @classmethod
    def of(cls, name: str, rows: Sequence[Mapping[str, Any]]) -> _Column:
        cells = [visible(_cell(row.get(name))).replace("\n", "\\n") for row in rows]
        values = [value for row in rows if not is_missing(value := row.get(name))]
        numbers = (isinstance(value, int | float) for value in values)
        return cls(name.replace("_", " "), cells, bool(values) and all(numbers))

    @property
    def longest(self) -> int:
        return max(cell_len(text) for text in (self.heading, *self.cells)) + GAP

    @property
    def least(self) -> int:
        """The least width: names and numbers are not folded, sentences and headings are."""
        words = max(cell_len(word) for word in self.heading.split() or [""])
        cells = max(cell_len(cell) for cell in self.cells)
        has_sentences = any(" " in cell.strip() for cell in self.cells) and not self.is_number
        if has_sentences or cells > LONG_NAME:
            cells = min(cells, MIN_TEXT if has_sentences else LONG_NAME)
        return max(words, cells)

    def lines_of(self, text: str) -> list[str]:
        """The text in lines of the width: between words, or within a longer one."""
        wrapped = Text(text).wrap(out, self.width, overflow="fold")
        return [line.plain.rstrip() for line in wrapped] or [""]


def _leave_out(columns: list[_Column], width: int) -> list[str]:
    """Remove the last columns until the others fit; returns the names of the removed."""
    removed = []
    while len(columns) > 1 and _width_of(columns) > width:
        removed.append(columns.pop().heading)
    return removed[::-1]


def _width_of(columns: Sequence[_Column]) -> int:
    return sum(column.least + GAP for column in columns) - GAP


def _share_width(columns: Sequence[_Column], width: int) -> None:
    """Give each column its least width, and what is left to those that need more."""
    for column in columns:
        column.width = min(column.least, width)
    spare = width - _width_of(columns)
    for column in sorted(columns, key=lambda column: column.longest - GAP - column.width):
        waiting = [narrow for narrow in columns if narrow.width < narrow.longest - GAP]
        if waiting and column in waiting and spare > 0:
            more = min(column.longest - GAP - column.width, max(spare // len(waiting), 1))
            column.width += more
            spare -= more


def _lines(columns: Sequence[_Column]) -> Iterator[str | Text]:
    """The heading, a rule, and the rows."""
    yield from (Text(line, "bold") for line in _row(columns, [c.heading for c in columns]))
    yield "─" * (sum(column.width + GAP for column in columns) - GAP)
    for cells in zip(*(column.cells for column in columns), strict=True):
        yield from map(Text, _row(columns, list(cells)))


def _row(columns: Sequence[_Column], texts: Sequence[str]) -> list[str]:
    """One row of cells, of as many lines as its longest cell has."""
    folded = [column.lines_of(text) for column, text in zip(columns, texts, strict=True)]
    lines = []
    for cells in zip_longest(*folded, fillvalue=""):
        aligned = (
            " " * (column.width - cell_len(cell)) + cell
            if column.is_number
            else cell + " " * (column.width - cell_len(cell))
            for column, cell in zip(columns, cells, strict=True)
        )
        lines.append((" " * GAP).join(aligned).rstrip())
    return lines


def _plain(value: Any) -> Any:
    """The value in JSON's types, which have no NaN, no infinity and no NaT."""
    if isinstance(value, Mapping):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(item) for item in value]
    if hasattr(value, "dtype") and hasattr(value, "item"):
        value = value.item()
    if is_missing(value) or (isinstance(value, float) and math.isinf(value)):
        return None
    return value


def is_missing(value: object) -> bool:
    """Tell whether a cell has no value: None, NaN, pandas' NaT or NA."""
    if value is None or type(value).__name__ in ("NaTType", "NAType"):
        return True
    return isinstance(value, float) and math.isnan(value)


def _cell(value: object) -> str:
    if is_missing(value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """Return the rows of a frame, as ``show_rows`` takes them."""
    return frame.to_dict("records")  # type: ignore[return-value]


def print_text(text: str, style: str = "") -> None:
    """Print a text to standard output in lines between words."""
    out.print(text, style=style, highlight=False, markup=False)


def print_sentence(sentence: str) -> None:
    """Print what was asked for to standard output; square brackets are no markup."""
    out.print(sentence, highlight=False, soft_wrap=True, markup=False)


def print_note(sentence: str) -> None:
    """Print a note to standard error; square brackets are no markup."""
    err.print(sentence, highlight=False, soft_wrap=True, markup=False)


def print_error(sentence: str) -> None:
    """Print what went wrong to standard error, in red."""
    err.print(
        f"gridcast: {sentence}", style="bold red", soft_wrap=True, highlight=False, markup=False
    )


def progress_bar(text: str, expected: float | None = None) -> AbstractContextManager[Report]:
    """Show progress on standard error; yields ``report(text, share done)``.

    Args:
        text: The first phase.
        expected: How long everything usually takes (s), if known.
    """
    return progress_on(err, text, expected, print_note)
