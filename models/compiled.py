"""Compiled code: the one decorator for it, and where its machine code is kept between runs.

Numba notices that a function's own file changed, but not that a function it calls from another file did, and would go on using
the old one. So the machine code is kept in a folder named after the contents of all the files that hold compiled code.
"""

from __future__ import annotations

import hashlib
import os
import tempfile
from pathlib import Path
from typing import Any

import numba
from numba import njit

_HERE = Path(__file__).parent
_SOURCES = ("compiled", "history", "running", "components", "blend", "weights", "mixture", "calibration", "masses", "kinds")

REORDERED = {"reassoc", "contract", "nsz"}
"""Sums may be taken in any order, so that they can be vectorised; infinities and NaN keep their meaning."""


def _folder() -> Path:
    contents = hashlib.sha256(b"".join((_HERE / f"{name}.py").read_bytes() for name in _SOURCES)).hexdigest()[:16]
    wished = Path(numba.config.CACHE_DIR or _HERE / "__pycache__") / f"gridcast-{contents}"
    try:
        wished.mkdir(parents=True, exist_ok=True)
    except OSError:
        wished = Path(tempfile.gettempdir()) / f"gridcast-{os.getuid()}-{contents}"
        wished.mkdir(mode=0o700, exist_ok=True)
    return wished


def compiled(function: Any) -> Any:
    """Compile a function at its first call; it runs without the interpreter's lock, and a division by zero gives infinity."""
    numba.config.CACHE_DIR, before = str(_FOLDER), numba.config.CACHE_DIR
    try:
        return njit(cache=True, nogil=True, error_model="numpy", fastmath=REORDERED)(function)
    finally:
        numba.config.CACHE_DIR = before


_FOLDER = _folder()
