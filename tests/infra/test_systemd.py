"""The units of systemd: valid, hardened, and of components that exist."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from infra.components import local_components
from infra.settings import Settings

UNITS = Path(__file__).parents[2] / "infra" / "systemd"
EXPOSURE = 2.0
"""Of 10, as `systemd-analyze security` rates what a unit leaves open; a unit without hardening has 9.6."""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """The units with paths of this machine, each component's written out."""
    shutil.copytree(UNITS, tmp_path, dirs_exist_ok=True)
    text = (UNITS / "gridcast@.service").read_text()
    text = text.replace("/opt/gridcast/.venv/bin/python", sys.executable)
    text = text.replace("WorkingDirectory=/opt/gridcast", f"WorkingDirectory={tmp_path}")
    for component in local_components(Settings(_env_file=None, home=tmp_path / "home")):
        (tmp_path / f"gridcast@{component.name}.service").write_text(text)
    return tmp_path


def test_the_target_starts_every_component() -> None:
    components = {component.name for component in local_components(Settings(_env_file=None))}
    wanted = re.findall(r"gridcast@(\w+)\.service", (UNITS / "gridcast.target").read_text())
    assert sorted(wanted) == sorted(components)


def test_systemd_takes_the_units_and_rates_them_as_closed(folder: Path) -> None:
    if not (analyze := shutil.which("systemd-analyze")):
        pytest.skip("no systemd-analyze: the units are not verified")
    units = sorted(map(str, folder.glob("gridcast@?*.service")))
    environment = {**os.environ, "SYSTEMD_UNIT_PATH": f"{folder}:"}
    verify = [
        analyze,
        "verify",
        "--man=no",
        "--recursive-errors=yes",
        *units,
        str(folder / "gridcast.target"),
    ]
    run = subprocess.run(verify, env=environment, capture_output=True, text=True, check=False)
    ours = [line for line in run.stderr.splitlines() if "gridcast" in line]
    assert ours == []
    rated = subprocess.run(
        [analyze, "security", "--offline=true", f"--threshold={int(EXPOSURE * 10)}", units[0]],
        capture_output=True,
        text=True,
        check=False,
    )
    assert rated.returncode == 0, rated.stdout[-600:]
