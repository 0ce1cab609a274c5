"""HTML pages of reports: one file with tables and figures that loads nothing from elsewhere."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

from models.evaluation.plots import as_html

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """body{font:15px system-ui,sans-serif;max-width:72rem;margin:2rem auto;padding:0 1rem}
table{border-collapse:collapse;font-size:13px}
td,th{padding:.25rem .45rem;border-bottom:1px solid #ccc;text-align:right}
td{white-space:nowrap}.text td{white-space:normal}
td:first-child,th:first-child,.text td,.text th{text-align:left}
img{max-width:100%}div{overflow-x:auto}"""


def paragraph(text: str) -> str:
    """A paragraph of plain text."""
    return f"<p>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<h2>{escape(text)}</h2>\n"


def table(headings: Iterable[str], rows: Sequence[Sequence[str]], text: bool = False) -> str:
    """Make a table; where it has no rows, one cell says so.

    Args:
        headings: The headings of its columns.
        rows: The cells of each row.
        text: Whether cells hold sentences, which are aligned left and wrapped.
    """
    names = list(headings)
    lines = [f"<tr>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>" for row in rows]
    body = "\n".join(lines) or f'<tr><td colspan="{len(names)}">none</td></tr>'
    head = "".join(f"<th>{escape(name)}</th>" for name in names)
    style = ' class="text"' if text else ""
    return f"<div><table{style}><tr>{head}</tr>\n{body}</table></div>\n"


def figures(by_title: Mapping[str, Figure]) -> str:
    """Make images of figures, by what they show."""
    return as_html(by_title)


def write_html(path: Path, title: str, content: str) -> Path:
    """Write a page; its folder is made if it does not exist.

    Args:
        path: The file.
        title: The title, plain text.
        content: HTML of the functions above.

    Returns:
        The file.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(
        f'<!doctype html>\n<html lang="en"><meta charset="utf-8"><title>{escape(title)}</title>\n'
        f"<style>{STYLE}</style>\n<h1>{escape(title)}</h1>\n{content}</html>\n",
        encoding="utf-8",
    )
    return path
