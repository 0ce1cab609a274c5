"""The pinned set works together: its pins break silently, with a resolver and `pip check` that see nothing.

Prefect's filters, which answer 422 beside a wrong fastapi, are called in tests/infra/test_pins.py; Evidently, which does
not import beside a wrong pandas, draws in tests/monitoring.
"""

import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions, version
from pathlib import Path

import pytest
from packaging.requirements import Requirement

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
EXTRAS = {
    name: [Requirement(text) for text in requirements]
    for name, requirements in PROJECT["optional-dependencies"].items()
}
BASE = [Requirement(text) for text in PROJECT["dependencies"]]
DECLARED = [*BASE, *EXTRAS["serve"], *EXTRAS["train"], *EXTRAS["monitor"]]


def plain(name: str) -> str:
    return name.lower().replace("-", "_")


def module_of(name: str) -> str:
    """What to import of a distribution: the module of its name, or else its first public one."""
    provided = {
        module
        for module, sources in packages_distributions().items()
        if plain(name) in map(plain, sources) and module[0].isalpha()
    }
    return plain(name) if plain(name) in provided else min(provided)


@pytest.mark.parametrize("requirement", DECLARED, ids=lambda requirement: requirement.name)
def test_the_installed_version_is_within_its_pin(requirement: Requirement) -> None:
    assert requirement.specifier.contains(version(requirement.name), prereleases=True)


def test_every_dependency_can_be_imported_beside_the_others() -> None:
    # In a process of its own: one process must hold them all, and the test run need not.
    names = {module_of(requirement.name) for requirement in DECLARED}
    assert {"prefect", "mlflow", "evidently", "catboost", "sqlalchemy", "bentoml"} <= names
    lines = "; ".join(
        [
            "from infra.settings import prepare_environment",
            "prepare_environment()",
            *(f"import {name}" for name in sorted(names)),
        ]
    )
    run = subprocess.run(
        [sys.executable, "-c", lines], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert run.returncode == 0, run.stderr[-2000:]


def test_the_extra_all_is_the_others_together() -> None:
    (everything,) = EXTRAS["all"]
    assert (everything.name, everything.extras) == ("gridcast", EXTRAS.keys() - {"all"})
