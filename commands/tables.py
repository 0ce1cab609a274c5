"""Output of commands: tables or JSON to standard output, the rest to standard error."""

from __future__ import annotations

import json
import math
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape
from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
from rich.table import Table

if TYPE_CHECKING:
    import pandas as pd

# A pipe has no width of its own; 80 columns would fold most tables.
out = Console(width=None if sys.stdout.isatty() else 140)
err = Console(stderr=True)


def show_rows(
    rows: Sequence[Mapping[str, Any]],
    as_json: bool,
    title: str = "",
    columns: tuple[str, ...] = (),
) -> None:
    """Print rows as a table for people, or as one JSON object for machines.

    Args:
        rows: The rows; a missing value is None, NaN or NaT.
        as_json: Print JSON, which has all columns, and null for a missing value.
        title: The title of the table.
        columns: Only these columns of the table; default: those of the first row.
    """
    if as_json:
        sys.stdout.write(json.dumps({"rows": [_plain(row) for row in rows]}, default=str) + "\n")
        return
    if not rows:
        print_sentence(f"{title}: nothing" if title else "nothing")
        return
    table = Table(title=escape(title) or None, title_justify="left")
    names = columns or tuple(rows[0])
    for name in names:
        is_number = isinstance(rows[0].get(name), int | float)
        table.add_column(escape(name.replace("_", " ")), justify="right" if is_number else "left")
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in names))
    out.print(table)


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


@contextmanager
def progress_bar(text: str) -> Iterator[Any]:
    """Show a progress bar on standard error; yields ``report(text, share done)``."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=not err.is_terminal) as progress:
        task = progress.add_task(text, total=None)

        def report(text: str, share: float | None = None) -> None:
            progress.update(
                task, completed=share or 0.0, total=None if share is None else 1.0, description=text
            )

        yield report
