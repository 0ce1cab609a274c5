"""What commands print: tables to standard output, or as JSON; sentences and progress to standard error."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
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
    rows: list[dict[str, Any]], as_json: bool, title: str = "", columns: tuple[str, ...] = ()
) -> None:
    """Print rows as a table for people (only ``columns``, if given) or whole as one JSON object for machines."""
    if as_json:
        sys.stdout.write(json.dumps({"rows": [_plain(row) for row in rows]}, default=str) + "\n")
        return
    table = Table(title=title or None, title_justify="left")
    names = columns or tuple(rows[0]) if rows else columns
    for name in names:
        table.add_column(
            name.replace("_", " "),
            justify="right" if rows and isinstance(rows[0].get(name), int | float) else "left",
        )
    for row in rows:
        table.add_row(*(escape(_cell(row.get(name))) for name in names))
    out.print(table if rows else f"{title}: nothing" if title else "nothing")


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """JSON has no NaN: a missing number is null."""
    return {
        key: None if isinstance(value, float) and value != value else value
        for key, value in row.items()
    }


def _cell(value: object) -> str:
    if value is None or (isinstance(value, float) and value != value):
        return "–"
    if isinstance(value, float):
        return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.4g}"
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


def to_records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The rows of a frame, as ``show`` takes them."""
    return frame.to_dict("records")  # type: ignore[return-value]


def print_sentence(sentence: str) -> None:
    """A sentence that was asked for, to standard output, as it is."""
    out.print(sentence, highlight=False, soft_wrap=True, markup=False)


def print_note(sentence: str) -> None:
    """A sentence to standard error, as it is."""
    err.print(sentence, highlight=False, soft_wrap=True)


def print_error(sentence: str) -> None:
    """What went wrong, in one red sentence to standard error."""
    err.print(
        f"gridcast: {sentence}", style="bold red", soft_wrap=True, highlight=False, markup=False
    )


@contextmanager
def progress_bar(what: str) -> Iterator[Any]:
    """A progress bar on standard error; yields ``report(text, share done)``."""
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=err, transient=not err.is_terminal) as progress:
        task = progress.add_task(what, total=None)

        def report(text: str, share: float | None = None) -> None:
            progress.update(
                task, completed=share or 0.0, total=None if share is None else 1.0, description=text
            )

        yield report
