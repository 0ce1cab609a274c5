"""Compiled code is kept between runs, and never used again after a file that it calls from has changed."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]


def answer(folder: Path) -> str:
    """What the package in ``folder`` answers in a process of its own."""
    run = subprocess.run(
        [
            sys.executable,
            "-c",
            "from kernels.calling import ask; print(ask(1.0), ask.stats.cache_hits)",
        ],
        cwd=folder,
        env={
            **os.environ,
            "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}",
            "NUMBA_CACHE_DIR": str(folder / "cache"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return run.stdout.strip()


def test_a_change_in_a_called_file_is_compiled_anew_and_no_change_is_not(tmp_path: Path) -> None:
    package = tmp_path / "kernels"
    package.mkdir()
    (package / "__init__.py").touch()
    (package / "constants.py").write_text("STEP = 1.0\n", encoding="utf-8")
    called = "from infra.compiled import compiled\nfrom kernels.constants import STEP\n\n\n@compiled\ndef more(x):\n    return x + STEP\n"
    (package / "called.py").write_text(called, encoding="utf-8")
    (package / "calling.py").write_text(
        "from infra.compiled import compiled\nfrom kernels.called import more\n\n\n@compiled\ndef ask(x):\n    return more(x)\n",
        encoding="utf-8",
    )
    assert answer(tmp_path).startswith("2.0 Counter()")
    assert answer(tmp_path).startswith("2.0 Counter({")
    (package / "called.py").write_text(
        called.replace("x + STEP", "x + 10 * STEP"), encoding="utf-8"
    )
    assert answer(tmp_path).startswith("11.0 Counter()")
    (package / "constants.py").write_text("STEP = 2.0\n", encoding="utf-8")
    assert answer(tmp_path).startswith("21.0 Counter()")
