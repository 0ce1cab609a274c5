"""Compiled code: the one decorator for it, and where its machine code is kept between runs.

Numba notices that a function's own file changed, but not that a function it calls from another file did, and would go on using
the old one. So the machine code of a top-level package is kept in a folder named after the contents of its files that hold compiled
code, and of those files of the package that they import from.
"""

from __future__ import annotations

import hashlib
import os
import re
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

REORDERED = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order, so that they can be vectorised; infinities and NaN keep their meaning."""


def compiled(function: Any) -> Any:
    """Compile a function at its first call; it runs without the interpreter's lock, and a division by zero gives infinity."""
    file = Path(function.__code__.co_filename)
    folder = _folder(file.parents[function.__module__.count(".") - 1], numba.config.CACHE_DIR)
    numba.config.CACHE_DIR, before = str(folder), numba.config.CACHE_DIR
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)(function)
    finally:
        numba.config.CACHE_DIR = before


@cache
def _folder(package: Path, wished_for: str) -> Path:
    contents = hashlib.sha256(
        b"".join(path.read_bytes() for path in (Path(__file__), *_sources(package)))
    ).hexdigest()[:16]
    wished = Path(wished_for or package / "__pycache__") / f"gridcast-{contents}"
    try:
        wished.mkdir(parents=True, exist_ok=True)
    except OSError:
        wished = Path(tempfile.gettempdir()) / f"gridcast-{os.getuid()}-{contents}"
        wished.mkdir(mode=0o700, exist_ok=True)
    return wished


def _sources(package: Path) -> list[Path]:
    texts = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    holding = {
        path for path, text in texts.items() if re.search(r"^@compiled$", text, re.MULTILINE)
    }
    imports = re.compile(rf"^from {package.name}\.([\w.]+) import", re.MULTILINE)
    used = {
        package.joinpath(*found.split(".")).with_suffix(".py")
        for path in holding
        for found in imports.findall(texts[path])
    }
    return sorted((holding | used) & texts.keys())
