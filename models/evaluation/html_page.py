"""HTML pages of reports: one file with tables and charts that loads nothing from elsewhere.

Charts are matplotlib's, as SVG within the page. They follow the page's colours, light or dark, and
its width.
"""

from __future__ import annotations

import io
import re
from collections.abc import Container, Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

STYLE = """:root{color-scheme:light dark;--page:#fff;--text:#1c2128;--soft:#57606a;--line:#d0d7de;
--wrong:#b3261e}
@media(prefers-color-scheme:dark){:root{--page:#14181d;--text:#e6e9ed;--soft:#a3adb8;
--line:#39424c;--wrong:#ff8a80}}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;background:var(--page);color:var(--text);
max-width:72rem;margin:0 auto;padding:1rem}
h1{font-size:1.5rem}h2{font-size:1.15rem;margin:2rem 0 .5rem}
p,li{overflow-wrap:anywhere}p{max-width:46rem}.lead{font-size:1.1rem}
table{border-collapse:collapse;font-size:14px}
td,th{padding:.3rem .5rem;border-bottom:1px solid var(--line);text-align:right}
th{color:var(--soft);font-weight:600;vertical-align:bottom}
td{white-space:nowrap}.text td{white-space:normal}
.text td:first-child,.text td:last-child{min-width:11rem}
td:first-child,th:first-child,.text td,.text th{text-align:left}
.scroll{overflow-x:auto}
.charts{display:grid;gap:1.5rem;grid-template-columns:repeat(auto-fit,minmax(min(100%,27rem),1fr))}
figure{margin:0}figcaption{font-weight:600;margin-bottom:.25rem}
.wrong td{color:var(--wrong);font-weight:600}
svg{width:100%;height:auto;display:block}
svg text{fill:currentColor;font-family:inherit!important}"""
WIDTH, HEIGHT = 5.4, 3.4
"""Inches of a chart: on a phone its letters are as large as those of the page, nearly."""
IDS = re.compile(r' id="[A-Za-z0-9_.]+_\d+"')
"""Names that matplotlib gives to its drawings, the same in each."""


def paragraph(text: str, lead: bool = False) -> str:
    """A paragraph of plain text; ``lead`` for the one that says what was found."""
    style = ' class="lead"' if lead else ""
    return f"<p{style}>{escape(text)}</p>\n"


def heading(text: str) -> str:
    """A heading of a section."""
    return f"<h2>{escape(text)}</h2>\n"


def listing(texts: Iterable[str]) -> str:
    """A numbered list of plain texts."""
    return f"<ol>{''.join(f'<li>{escape(text)}</li>' for text in texts)}</ol>\n"


def table(
    headings: Iterable[str],
    rows: Sequence[Sequence[str]],
    text: bool = False,
    wrong: Container[int] = (),
) -> str:
    """Make a table; where it has no rows, one cell says so.

    Args:
        headings: The headings of its columns.
        rows: The cells of each row.
        text: Whether cells hold sentences, which are aligned left and wrapped.
        wrong: Numbers of the rows shown in red.
    """
    names = list(headings)
    marks = [' class="wrong"' if number in wrong else "" for number in range(len(rows))]
    lines = [
        f"<tr{mark}>{''.join(f'<td>{escape(cell)}</td>' for cell in row)}</tr>"
        for mark, row in zip(marks, rows, strict=True)
    ]
    body = "\n".join(lines) or f'<tr><td colspan="{len(names)}">none</td></tr>'
    head = "".join(f'<th scope="col">{escape(name)}</th>' for name in names)
    style = ' class="text"' if text else ""
    return f'<div class="scroll" tabindex="0"><table{style}><tr>{head}</tr>\n{body}</table></div>\n'


def figures(by_title: Mapping[str, Figure]) -> str:
    """Make charts of figures, by what they show."""
    charts = (
        f"<figure><figcaption>{escape(title)}</figcaption>{_svg(figure, title)}</figure>"
        for title, figure in by_title.items()
    )
    return f'<div class="charts">{"".join(charts)}</div>\n'


def _svg(figure: Figure, title: str) -> str:
    import matplotlib as mpl

    width, height = figure.get_size_inches()
    # A drawing of two parts is twice as high: they stand one above the other on a phone.
    figure.set_size_inches(WIDTH, HEIGHT * max(1.0, min(height / width / 0.6, 1.6)))
    for axes in figure.axes:
        axes.set_title("")  # the caption says it
    file = io.StringIO()
    with mpl.rc_context({"svg.fonttype": "none"}):
        figure.savefig(file, format="svg", transparent=True, metadata={"Date": None})
    text = file.getvalue()
    text = IDS.sub("", text[text.index("<svg") :])
    for ink, colour in (("#000000", "currentColor"), ("#ffffff", "var(--page)")):
        text = text.replace(ink, colour)
    text = re.sub(r"<metadata>.*?</metadata>", "", text, flags=re.DOTALL)
    label = escape(title, quote=True)
    return re.sub(
        r'<svg .*?viewBox="([^"]*)"[^>]*>',
        f'<svg viewBox="\\1" role="img" aria-label="{label}">',
        text,
        count=1,
        flags=re.DOTALL,
    )


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
        f'<!doctype html>\n<html lang="en"><head><meta charset="utf-8">\n'
        f'<meta name="viewport" content="width=device-width,initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{STYLE}</style></head>\n"
        f"<body><main><h1>{escape(title)}</h1>\n{content}</main></body></html>\n",
        encoding="utf-8",
    )
    return path
