"""Labels: facts of a site's own about its jobs, known at submission.

A job's labels are one text: a JSON object with sorted names, whose values are texts or floats, such
as ``{"biome":"root:Host","input_reads":1200000.0}``.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from math import isfinite
from operator import itemgetter
from typing import Any, Final

import numpy as np
import orjson
import pandas as pd

MAX_LABELS: Final = 32
"""Labels of a job, and names of labels of a source."""
MAX_NAME_CHARACTERS: Final = 64
MAX_VALUE_CHARACTERS: Final = 256
LABELS_BYTES: Final = 4096
"""Longest JSON object of a job's labels, in bytes of UTF-8."""

NO_OBJECT = "labels that are no JSON object"
_TOO_MANY = f"more than {MAX_LABELS} labels"
_TOO_LONG = f"labels of more than {LABELS_BYTES} bytes"


def name_fault(name: str) -> str:
    """Why a label cannot have this name; empty where it can.

    >>> name_fault("input_reads"), name_fault("")
    ('', 'a label with an empty name')
    """
    if not name:
        return "a label with an empty name"
    if len(name) > MAX_NAME_CHARACTERS:
        return f"a label with a name of more than {MAX_NAME_CHARACTERS} characters"
    return "" if name.isprintable() else "a label with a control character in its name"


def value_fault(value: Any) -> str:
    """Why a label cannot have this value; empty where it can."""
    if isinstance(value, str):
        if len(value) > MAX_VALUE_CHARACTERS:
            return f"a label with a text of more than {MAX_VALUE_CHARACTERS} characters"
        # PostgreSQL stores no NUL character, and half a character is not UTF-8.
        bad = "\0" in value or any("\ud800" <= character <= "\udfff" for character in value)
        return "a label with a character that is no text" if bad else ""
    if isinstance(value, int | float) and not isinstance(value, bool):
        try:
            finite = isfinite(value)
        except OverflowError:
            finite = False
        return "" if finite else "a label with a number that is not finite"
    return "a label that is neither text nor a number"


def clean_labels(labels: Mapping[str, Any]) -> tuple[str | None, dict[str, str]]:
    """The JSON text of a job's labels, None without any, and why others were left out, by name.

    A value that is None, NaN or an empty text is no label.

    >>> clean_labels({"input_reads": 1200000, "biome": "root:Host", "": 1})
    ('{"biome":"root:Host","input_reads":1200000.0}', {'': 'a label with an empty name'})
    """
    left_out: dict[str, str] = {}
    members: dict[str, str] = {}
    for name, value in sorted(labels.items(), key=itemgetter(0)):
        if value is None or value == "" or value != value:
            continue
        if fault := name_fault(name) or value_fault(value):
            left_out[name] = fault
        else:
            members[name] = _member(name, value)
    return _joined(members, left_out), left_out


def parse_labels(text: str | bytes) -> dict[str, Any] | None:
    """The members of a JSON object, unchecked; None where the text is no JSON object."""
    try:
        labels = orjson.loads(text)
    except (orjson.JSONDecodeError, UnicodeEncodeError):
        return None
    return labels if isinstance(labels, dict) else None


def merge_labels(weaker: str, stronger: str) -> str:
    """The labels of two texts of one job, by name; ``stronger`` alone where all are too many.

    >>> merge_labels('{"biome":"soil","reads":1.0}', '{"biome":"sea"}')
    '{"biome":"sea","reads":1.0}'
    """
    merged, left_out = clean_labels({**orjson.loads(weaker), **orjson.loads(stronger)})
    return stronger if merged is None or left_out else merged


def repair_labels(values: pd.Series[Any]) -> tuple[pd.Series[Any], Counter[str]]:
    """Labels as ``clean_labels`` writes them, and how often a label was left out, by reason.

    Args:
        values: JSON texts; missing where a job has none.
    """
    notes: Counter[str] = Counter()
    clean: dict[str, str | None] = {}
    for text, count in values.value_counts(sort=False).items():
        labels = parse_labels(str(text))
        if labels is None:
            clean[str(text)], left_out = None, {"": NO_OBJECT}
        else:
            clean[str(text)], left_out = clean_labels(labels)
        for fault in left_out.values():
            notes[fault] += int(count)
    return values.map(clean).astype("str"), notes


def write_labels(frame: pd.DataFrame) -> tuple[pd.Series[Any], Counter[str]]:
    """The labels of each row as ``clean_labels`` writes them, and how often one was left out.

    Args:
        frame: A column a label, of texts or numbers, on the rows' index.
    """
    notes: Counter[str] = Counter()
    members: list[dict[str, str]] = [{} for _ in range(len(frame))]
    for name in sorted(frame.columns):
        codes, distinct = pd.factorize(frame[name])
        counts = np.bincount(codes[codes >= 0], minlength=len(distinct))
        written: list[str | None] = []
        for value, count in zip(_plain(distinct), counts.tolist(), strict=True):
            fault = value != "" and (name_fault(name) or value_fault(value))
            notes.update({fault: count} if fault else {})
            written.append(None if fault or value == "" else _member(name, value))
        for row, code in zip(members, codes.tolist(), strict=True):
            if code >= 0 and (member := written[code]) is not None:
                row[name] = member
    left_out: dict[str, str] = {}
    texts = []
    for row in members:
        texts.append(_joined(row, left_out))
        if left_out:
            notes.update(left_out.values())
            left_out.clear()
    return pd.Series(texts, frame.index, dtype="str"), notes


def read_labels(values: pd.Series[Any]) -> pd.DataFrame:
    """A column a label, text or float64, on the index of ``values``.

    Only the first MAX_LABELS names to appear become columns, and the first value of a name says
    whether its column is of texts or of numbers, so that later rows change nothing in earlier ones.

    Args:
        values: JSON texts of labels, as ``clean_labels`` writes them.

    >>> read_labels(pd.Series(['{"reads":2.0}', None, '{"biome":"soil","reads":3.0}'])).to_dict()
    {'reads': {0: 2.0, 1: nan, 2: 3.0}, 'biome': {0: nan, 1: nan, 2: 'soil'}}
    """
    codes, distinct = pd.factorize(values)
    columns = split_labels([str(text) for text in distinct])
    return pd.DataFrame(
        {
            name: pd.Series(
                # The last element is that of code -1: missing.
                np.append(column, [None] if column.dtype == object else [np.nan])[codes],
                values.index,
                dtype="str" if column.dtype == object else "float64",
            )
            for name, column in columns.items()
        },
        index=values.index,
    )


def split_labels(texts: Sequence[str]) -> dict[str, np.ndarray[Any, Any]]:
    """The values of each label in some JSON texts of labels, as ``read_labels`` types them.

    Args:
        texts: Distinct texts in the order of their first rows.

    Returns:
        By name an object[n] of texts and None, or a float64[n] with NaN.
    """
    columns: dict[str, np.ndarray[Any, Any]] = {}
    for row, text in enumerate(texts):
        for name, value in (parse_labels(text) or {}).items():
            if name not in columns:
                if len(columns) == MAX_LABELS:
                    continue
                is_text = isinstance(value, str)
                columns[name] = np.full(
                    len(texts), None if is_text else np.nan, object if is_text else np.float64
                )
            column = columns[name]
            if column.dtype == object:
                column[row] = value if isinstance(value, str) else f"{value:g}"
            elif not isinstance(value, str):
                column[row] = value
    return columns


def _plain(values: Any) -> list[Any]:
    """Python's own values of an array or index."""
    return list(np.asarray(values).tolist())


def _member(name: str, value: str | float) -> str:
    return orjson.dumps({name: value if isinstance(value, str) else float(value)}).decode()[1:-1]


def _joined(members: Mapping[str, str], left_out: dict[str, str]) -> str | None:
    """The object of these members within its limits; ``left_out`` takes the names of the others."""
    accepted: list[str] = []
    size = 1
    for name, member in members.items():
        size += len(member.encode()) + 1
        if len(accepted) == MAX_LABELS:
            left_out[name] = _TOO_MANY
        elif size > LABELS_BYTES:
            left_out[name] = _TOO_LONG
        else:
            accepted.append(member)
    return f"{{{','.join(accepted)}}}" if accepted else None
