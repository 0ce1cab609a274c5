"""The decorator of compiled functions, and the cache of their machine code.

Numba detects a change of a function's own file, but not of a file whose functions it calls, and
would use outdated code. So the code of a top-level package is cached in a folder named after the
contents of its files with compiled functions, and of the files of the package that they import.
"""

from __future__ import annotations

import hashlib
import os
import re
import stat
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numba
from numba import njit

_OWN = (Path(__file__), Path(__file__).with_name("lanes.py"))
FAST_MATH = {"reassoc", "contract", "nsz"}
"""Sums may be reordered, so that they can be vectorised; infinities and NaN are respected."""


def compiled(function: Any) -> Any:
    """Compile a function at its first call.

    It runs without the interpreter's lock, and a division by zero gives infinity.
    """
    return _compile(function)


def compiled_in_place(function: Any) -> Any:
    """Compile a function that makes no array: it need not count references.

    Counting takes longer than the work of a small function of many arrays. Slices are allowed, an
    assignment of one array to a slice of another is not.
    """
    return _compile(function, _nrt=False)


def _compile(function: Any, **options: bool) -> Any:
    file = Path(function.__code__.co_filename)
    folder = _folder(file.parents[function.__module__.count(".") - 1], numba.config.CACHE_DIR)
    numba.config.CACHE_DIR, before = str(folder), numba.config.CACHE_DIR
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=FAST_MATH, **options)(
            function
        )
    finally:
        numba.config.CACHE_DIR = before


@cache
def _folder(package: Path, cache_dir: str) -> Path:
    contents = hashlib.sha256(
        b"".join(path.read_bytes() for path in (*_OWN, *_sources(package)))
    ).hexdigest()[:16]
    folder = Path(cache_dir or package / "__pycache__") / f"gridcast-{contents}"
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError:
        folder = Path(tempfile.gettempdir()) / f"gridcast-{os.getuid()}-{contents}"
        folder.mkdir(mode=0o700, exist_ok=True)
        status = folder.lstat()
        if (
            not stat.S_ISDIR(status.st_mode)
            or status.st_uid != os.getuid()
            or status.st_mode & 0o77
        ):
            # Somebody else's: Numba would run what is in it.
            return Path(tempfile.mkdtemp(prefix="gridcast-"))
    return folder


def _sources(package: Path) -> list[Path]:
    texts = {path: path.read_text(encoding="utf-8") for path in package.rglob("*.py")}
    compiling = {
        path
        for path, text in texts.items()
        if re.search(r"^@compiled(_in_place)?$", text, re.MULTILINE)
    }
    imports = re.compile(rf"^from {package.name}\.([\w.]+) import", re.MULTILINE)
    imported = {
        package.joinpath(*module.split(".")).with_suffix(".py")
        for path in compiling
        for module in imports.findall(texts[path])
    }
    return sorted((compiling | imported) & texts.keys())
