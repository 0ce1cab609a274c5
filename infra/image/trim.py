"""Leave out of an image's environment what no component imports.

``trim.py ENVIRONMENT MODULE...`` removes tests, headers, libraries of unused parts and CatBoost's
code for GPUs, strips shared libraries of symbols, and writes the bytecode of what the modules
import and of nothing else.
"""

from __future__ import annotations

import shutil
import struct
import subprocess
import sys
from pathlib import Path

UNUSED = (
    "*/tests",
    "*/test",
    "pyarrow/include",
    "pyarrow/src",
    "pyarrow/libarrow_flight*",
    "pyarrow/libarrow_python_flight*",
    "pyarrow/_flight*",
    "pyarrow/libarrow_substrait*",
    "pyarrow/_substrait*",
    "catboost/hnsw",
    "numba/cuda",
)
PAGE = 4096
LOAD, TABLE = 1, 6


def remove(packages: Path) -> None:
    """Remove what UNUSED lists, and all bytecode."""
    for pattern in (*UNUSED, "**/tests", "**/__pycache__"):
        for path in packages.glob(pattern):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def cut_section(library: Path, name: bytes) -> None:
    """Take the bytes of a read-only section out of a shared library for 64-bit Linux.

    The loadable segment around it is split: addresses stay, the pages of the section become
    zeros that occupy no file. The program headers move to the end of the file.
    """
    data = library.read_bytes()
    headers_at, sections_at = struct.unpack_from("<QQ", data, 32)
    _, count, _, sections, names = struct.unpack_from("<HHHHH", data, 54)
    rows = [
        list(struct.unpack_from("<IIQQQQIIQQ", data, sections_at + 64 * row))
        for row in range(sections)
    ]
    texts = rows[names][4]
    section = next(
        row for row in rows if data[texts + row[0] : data.index(b"\0", texts + row[0])] == name
    )
    begin = -(-section[4] // PAGE) * PAGE
    end = (section[4] + section[5]) // PAGE * PAGE
    removed = end - begin
    segments = []
    for row in range(count):
        kind, flags, offset, address, physical, in_file, in_memory, align = struct.unpack_from(
            "<IIQQQQQQ", data, headers_at + 56 * row
        )
        if kind == TABLE:
            continue  # without it the loader reads the headers from the file
        if kind == LOAD and offset <= begin and end <= offset + in_file:
            first = begin - offset
            segments.append((kind, flags, offset, address, physical, first, first, PAGE))
            gap, rest = address + first, address + first + removed
            segments.append((kind, flags, begin, gap, gap, 0, removed, PAGE))
            lost = first + removed
            left = (in_file - lost, in_memory - lost)
            segments.append((kind, flags, begin, rest, rest, *left, PAGE))
        else:
            moved = offset - removed if offset >= end else offset
            fits = min(align, PAGE) if kind == LOAD else align
            segments.append((kind, flags, moved, address, physical, in_file, in_memory, fits))
    short = bytearray(data[:begin] + data[end:])
    sections_at -= removed if sections_at >= end else 0
    for row, values in enumerate(rows):
        values[4] -= removed if values[4] >= end else 0
        if values is section:
            values[1], values[5] = 8, 0  # no bits
        struct.pack_into("<IIQQQQIIQQ", short, sections_at + 64 * row, *values)
    short += bytes(-len(short) % 8)
    struct.pack_into("<QQ", short, 32, len(short), sections_at)
    struct.pack_into("<H", short, 56, len(segments))
    for segment in segments:
        short += struct.pack("<IIQQQQQQ", *segment)
    library.write_bytes(short)


def strip(packages: Path) -> None:
    """Remove the symbols of shared libraries that no loader reads, where ``strip`` is there."""
    if shutil.which("strip"):
        for library in packages.rglob("*.so*"):
            subprocess.run(["strip", "--strip-unneeded", str(library)], check=False)  # noqa: S603, S607


def main(environment: str, *modules: str) -> None:
    """Trim the environment, and import the modules once with bytecode written."""
    (packages,) = Path(environment).glob("lib/python3*/site-packages")
    remove(packages)
    cut_section(packages / "catboost" / "_catboost.so", b".nv_fatbin")
    strip(packages)
    python = str(Path(environment) / "bin" / "python")
    lines = "; ".join(f"import {module}" for module in modules)
    subprocess.run([python, "-c", lines], check=True)  # noqa: S603


if __name__ == "__main__":
    main(*sys.argv[1:])
