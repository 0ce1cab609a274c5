"""Arrays in one file that a process maps instead of reading: pages are read when they are used.

A page of the file is shared by all processes that map it, until one writes to it in memory and so
gets a copy of its own; the file never changes. Each array may have unused room at its end, which is
a hole in the file.

A file that is incomplete, or whose size, description or a first or last page of an array is not as
it was written, is refused. Not noticed: other damage within an array, since reading everything is
what a map avoids. A file that is shortened while it is mapped ends the process.
"""

from __future__ import annotations

import json
import mmap
import struct
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from infra.aliases import Array

_PAGE = 4096
_FORM = b"gridcast arrays 1"
_END = struct.Struct(f"<QII{len(_FORM)}s")
"""The last bytes of a file: size of what is before, length and checksum of the description."""


class StoredArray(NamedTuple):
    """What is written of an array: the part in use, and how many rows it has room for."""

    used: Array
    rows: int


def write_arrays(out: BinaryIO, arrays: Mapping[str, StoredArray]) -> list[dict[str, Any]]:
    """Write C-contiguous arrays to a new file; returns what ``write_description`` needs."""
    entries = []
    for name, (used, rows) in arrays.items():
        offset = -(-out.tell() // _PAGE) * _PAGE
        content = used.reshape(-1).view(np.uint8)
        out.seek(offset)
        out.write(content.data)
        out.seek(offset + rows * int(np.prod(used.shape[1:])) * used.itemsize)
        entries.append(
            {
                "name": name,
                "dtype": np.lib.format.dtype_to_descr(used.dtype),
                "shape": [rows, *used.shape[1:]],
                "offset": offset,
                "used": used.nbytes,
                "checksum": _checksum(content),
            }
        )
    return entries


def write_description(out: BinaryIO, entries: list[dict[str, Any]], about: dict[str, Any]) -> None:
    """Complete a file: without it the file is refused.

    Args:
        out: The file, open where ``write_arrays`` ended.
        entries: As from ``write_arrays``.
        about: What else the file says, as JSON.
    """
    text = json.dumps({"about": about, "arrays": entries}).encode()
    end = _END.pack(out.tell(), len(text), zlib.crc32(text), _FORM)
    out.write(text + end)


def map_arrays(file: Path) -> tuple[dict[str, Any], dict[str, Array]]:
    """Map a file's arrays, which may be written to in memory; returns what it says and them.

    Raises:
        OSError: The file cannot be opened.
        ValueError: It is not one of these files, or damaged.
    """
    with file.open("rb") as content:
        size = content.seek(0, 2)
        if size < _END.size:
            raise ValueError("the file is too short")
        pages = mmap.mmap(content.fileno(), 0, access=mmap.ACCESS_COPY)
    begin, length, checksum, form = _END.unpack(pages[size - _END.size :])
    text = pages[begin : begin + length]
    if form != _FORM or begin + length + _END.size != size or zlib.crc32(text) != checksum:
        raise ValueError("the file is incomplete or damaged")
    description = json.loads(text)
    arrays = {}
    for entry in description["arrays"]:
        dtype = np.dtype(
            [tuple(field) for field in entry["dtype"]]
            if isinstance(entry["dtype"], list)
            else entry["dtype"]
        )
        values = np.ndarray(tuple(entry["shape"]), dtype, pages, entry["offset"])
        written = np.ndarray(entry["used"], np.uint8, pages, entry["offset"])
        if _checksum(written) != entry["checksum"]:
            raise ValueError(f"{entry['name']} is damaged")
        arrays[entry["name"]] = values
    return description["about"], arrays


def _checksum(written: Array) -> int:
    return zlib.crc32(written[-_PAGE:].data, zlib.crc32(written[:_PAGE].data))
