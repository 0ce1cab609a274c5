"""JSON objects of a file, one at a time, of any length.

Read are an array of objects, an object a line, ``{"jobs": [...]}`` and the answer of Elasticsearch
(``{"hits": {"hits": [...]}}``); a record in an envelope (``_source`` of Elasticsearch, ``data`` of
MONIT) is taken out of it. Only the object at hand is held in memory. One that is broken is
rejected, and reading goes on at the next.
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

OBJECT_LIMIT = 1 << 23
PIECE = 1 << 16
ENDLESS = 10
"""Objects without an end in a row, after which OBJECT_LIMIT of text is passed over each time."""

TOKEN = re.compile(r'"(?:[^"\\\n]++|\\.)*+("?)|[{}]')
"""A string, up to its quote or the line's end, or a brace; each character is looked at once."""
BRACE = re.compile(r"[{}]")
NEXT = re.compile(r"[\n,]\s*+(?=\{)")
LIST_START = re.compile(r'"(jobs|hits|rows|results)"\s*+:\s*+\[')
"""What opens the list of records within one object. The wrapper has no record's field before it."""
LONGEST_START = 100
RECORD_MARK = re.compile(r'"(pandaid|clusterid|job_id|tr_id|event_type)"', re.IGNORECASE)
JUNK = re.compile(r"[^\s,\[\]\x01-\x1f]")
"""Text between objects that is more than separators (EOT of FTS and RS of JSON-seq are such)."""
ENVELOPES = ("_source", "data")

JsonRecord = tuple[int, str, dict[str, Any]] | Reject | str


def read_objects(path: Path) -> Iterator[JsonRecord]:
    """Stream the objects of a JSON file as (number, text, object), numbered from 1."""
    text, start, number, endless = "", 0, 0, 0
    pieces, ended, wrapped = _pieces(path), False, False
    while True:
        if not number and not wrapped and (begin := _list_start(text)):
            start, wrapped = begin, True
        brace = text.find("{", start)
        gap = text[start:brace] if brace >= 0 else text[start:]
        if wrapped and "]" in gap:
            # The list ends; another answer may follow in the same file.
            start, wrapped = start + gap.index("]") + 1, False
            while not (opening := LIST_START.search(text, start)):
                piece = next(pieces, None)
                if not isinstance(piece, str):
                    return
                text, start = text[max(start, len(text) - LONGEST_START) :] + piece, 0
            start, wrapped = opening.end(), True
            continue
        end = _end(text, brace) if brace >= 0 else -1
        if end < 0 and not ended and (brace < 0 or len(text) - brace < OBJECT_LIMIT):
            # Twice as much before the next look keeps the whole linear.
            text, start, enough = text[start:], 0, 2 * (len(text) - start)
            broken: Reject | None = None
            while len(text) <= min(enough, OBJECT_LIMIT) and not ended and not broken:
                piece = next(pieces, None)
                broken = piece if isinstance(piece, Reject) else None
                ended = piece is None
                text += piece if isinstance(piece, str) else ""
            if broken:
                yield Reject(number + 1, broken.reason, broken.raw)
            if len(text) < OBJECT_LIMIT or "{" in text:
                continue
            gap = text
        if JUNK.search(gap):
            number += 1
            yield Reject(number, "the text is no JSON object", gap.strip())
        if brace < 0:
            if ended:
                return
            text, start = "", 0
            continue
        number += 1
        raw = text[brace : end if end > 0 else len(text)]
        record = _loaded(raw) if end > 0 else None
        if record is not None:
            yield number, raw, record
            start, endless = end, 0
            continue
        yield Reject(number, "the record is not a whole JSON object", raw[:2000])
        endless = endless + 1 if end < 0 else 0
        stop = brace + len(raw)
        following = NEXT.search(text, brace + 1, stop) if endless < ENDLESS else None
        start = following.end() if following else stop


def _list_start(text: str) -> int:
    """Where the list of records within one wrapping object begins; 0 where there is none."""
    if not text.lstrip().startswith("{"):
        return 0
    opening = LIST_START.search(text)
    return opening.end() if opening and not RECORD_MARK.search(text, 0, opening.start()) else 0


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
        if token[1]:
            continue
        # A quote that its line does not close opens no string: the braces after it count.
        braces = [token] if len(token[0]) == 1 else BRACE.finditer(text, *token.span())
        for brace in braces:
            depth += {"{": 1, "}": -1}.get(brace[0], 0)
            if depth == 0 and brace[0] == "}":
                return brace.end()
    return -1


def _loaded(text: str) -> dict[str, Any] | None:
    try:
        record = json.loads(text)
    except (ValueError, RecursionError):
        return None
    for name in ENVELOPES:
        if isinstance(record, dict) and isinstance(record.get(name), dict):
            record = record[name]
    return record if isinstance(record, dict) else None
