"""JSON objects of a file, one at a time: an array of them, ``{"jobs": [...]}``, or an object a line, of any length.

Only the object at hand is held in memory. One that is broken is rejected, and reading goes on at the next.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from jobs.readers.contract import Reject
from jobs.readers.lines import BROKEN, open_log

OBJECT_LIMIT = 1 << 20
PIECE = 1 << 16
ENDLESS = 10
"""Objects without an end in a row, after which a whole limit's worth of text is passed over: each costs a scan of it."""

TOKEN = re.compile(r'"(?:[^"\\\n]|\\.)*"|[{}]')
"""A string (none holds a line's end, so that a lost quote harms one line only) or a brace."""

NEXT = re.compile(r"[\n,]\s*(?=\{)")
WRAPPING = re.compile(r'\s*\{(?:(?!pandaid).)*?"jobs"\s*:\s*\[', re.IGNORECASE | re.DOTALL)
JUNK = re.compile(r"[^\s,\[\]]")

JsonRecord = tuple[int, str, dict[str, Any]] | Reject | str


def read_objects(path: Path) -> Iterator[JsonRecord]:
    """Stream the objects of a JSON file as (number, text, object), the number counting records from 1."""
    text, start, number, endless = "", 0, 0, 0
    pieces, ended, wrapped = _pieces(path), False, False
    while True:
        if not number and not wrapped and (wrapping := WRAPPING.match(text)):
            start, wrapped = wrapping.end(), True
        brace = text.find("{", start)
        gap = text[start:brace] if brace >= 0 else text[start:]
        if wrapped and "]" in gap:
            return
        end = _end(text, brace) if brace >= 0 else -1
        if end < 0 and not ended and (brace < 0 or len(text) - brace < OBJECT_LIMIT):
            piece = next(pieces, None)
            if isinstance(piece, Reject):
                yield Reject(number + 1, piece.reason, piece.raw)
                continue
            ended = piece is None
            text, start = text[start:] + (piece or ""), 0
            if len(text) < OBJECT_LIMIT or brace >= 0:
                continue
        if JUNK.search(gap):
            number += 1
            yield Reject(number, "the text is no JSON object", gap.strip())
        if brace < 0:
            if ended:
                return
            text, start = "", 0
            continue
        number += 1
        whole = text[brace : end if end > 0 else len(text)]
        found = _loaded(whole) if end > 0 else None
        if found is not None:
            yield number, whole, found
            start, endless = end, 0
            continue
        yield Reject(number, "the record is not a whole JSON object", whole[:2000])
        endless = endless + 1 if end < 0 else 0
        stop = brace + len(whole)
        following = NEXT.search(text, brace + 1, stop) if endless < ENDLESS else None
        start = following.end() if following else stop


def _pieces(path: Path) -> Iterator[str | Reject]:
    decode = codecs.getincrementaldecoder("utf-8-sig")(errors="replace").decode
    with open_log(path) as file:
        try:
            while piece := file.read1(PIECE):
                yield decode(piece)
        except BROKEN as error:
            yield Reject(0, f"the gzip stream is broken here and the rest is lost: {error}", "")


def _end(text: str, start: int) -> int:
    """Where the object that opens at ``start`` closes, or -1."""
    depth = 0
    for token in TOKEN.finditer(text, start):
        if token[0] == "{":
            depth += 1
        elif token[0] == "}":
            depth -= 1
            if depth == 0:
                return token.end()
    return -1


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return found if isinstance(found, dict) else None
