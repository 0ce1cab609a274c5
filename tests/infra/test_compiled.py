"""Compiled code is kept between runs, and never used again after a file that it calls from has changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from infra.compiled import _folder

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


@pytest.mark.parametrize("planted", ["link", "open"])
def test_a_folder_of_code_that_another_user_could_have_made_is_not_used(
    planted: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    (tmp_path / "file").touch()
    _folder.cache_clear()
    shared = _folder(ROOT / "scheduling", str(tmp_path / "file"))
    assert shared.parent == tmp_path and shared.stat().st_mode & 0o777 == 0o700
    shared.rmdir()
    if planted == "link":
        (tmp_path / "planted").mkdir(mode=0o700)
        shared.symlink_to(tmp_path / "planted")
    else:
        shared.mkdir()
        shared.chmod(0o777)
    _folder.cache_clear()
    other = _folder(ROOT / "scheduling", str(tmp_path / "file"))
    assert other != shared and other.stat().st_mode & 0o777 == 0o700 and not other.is_symlink()
    _folder.cache_clear()
