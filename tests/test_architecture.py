"""The code is as docs/explanation/architecture.md says: floors, and each outside package in one place."""

import ast
import importlib
import re
import subprocess
import sys
import tomllib
from importlib.metadata import packages_distributions
from itertools import chain
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = (
    "infra",
    "jobs",
    "models",
    "monitoring",
    "scheduling",
    "trial",
    "services",
    "flows",
    "commands",
    "adapters",
)
AT_A_SITE = {
    "pandajedi",
    "gridcast_client",
    "gridcast_panda_mapping",
    "gridcast_panda",
    "gridcast_request_policy",
    "stomp",
}
"""What an adapter finds where it is copied to."""
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
MODULES = [
    *sorted(path for package in PACKAGES for path in (ROOT / package).rglob("*.py")),
    ROOT / "gridcast.py",
]


def name_of(path: Path) -> str:
    return str(path.relative_to(ROOT))


def imports(path: Path) -> set[str]:
    """Every absolute import of a module, wherever in it, but not those that only annotations use."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    typing_only = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    modules: set[str] = set()
    for node in ast.walk(tree):
        if id(node) in typing_only:
            continue
        if isinstance(node, ast.Import):
            modules |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            modules.add(node.module)
    return modules


def plain(requirement: str) -> str:
    return re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement)[0]).lower()


def test_the_contracts_of_the_floors_hold() -> None:
    run = subprocess.run(
        [Path(sys.executable).with_name("lint-imports"), "--no-cache"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stdout


@pytest.mark.parametrize("name", (*PACKAGES, "gridcast"))
def test_what_is_imported_under_our_names_is_ours(name: str) -> None:
    file = importlib.import_module(name).__file__
    assert file is not None
    assert Path(file).is_relative_to(ROOT)


def test_no_module_of_ours_bears_the_name_of_a_dependency() -> None:
    dependencies = {
        name for name, sources in packages_distributions().items() if set(sources) != {"gridcast"}
    }
    assert {path.stem for path in MODULES if path.stem != "__init__"} & {
        plain(name) for name in SETTINGS["project"]["dependencies"]
    } == set()
    assert {*PACKAGES, "gridcast"} & dependencies == set()


def test_no_folder_or_module_is_a_drawer_for_everything() -> None:
    assert {
        path
        for path in MODULES
        if {"utils", "util", "helpers", "common", "core", "misc"}
        & {*path.relative_to(ROOT).parts, path.stem}
    } == set()


def test_every_folder_of_code_is_a_package_that_the_build_finds() -> None:
    include = SETTINGS["tool"]["setuptools"]["packages"]["find"]["include"]
    assert [pattern.rstrip("*") for pattern in include] == list(PACKAGES)
    assert {path.parent for path in MODULES if not (path.parent / "__init__.py").is_file()} == {
        ROOT
    }


def test_the_tools_look_at_every_package() -> None:
    assert set(SETTINGS["tool"]["importlinter"]["root_packages"]) == set(PACKAGES)
    assert set(SETTINGS["tool"]["mypy"]["packages"]) == set(PACKAGES)
    folders = {path.parent.name for path in ROOT.glob("*/__init__.py")}
    assert folders == set(PACKAGES)


def test_the_command_line_uses_none_of_the_packages_that_have_one_place() -> None:
    one_place = {
        "prefect",
        "mlflow",
        "evidently",
        "bentoml",
        "catboost",
        "sqlalchemy",
        "sqlite3",
        "psycopg",
        "alembic",
    }
    for path in (ROOT / "gridcast.py", *(ROOT / "commands").glob("*.py")):
        assert {name.split(".")[0] for name in imports(path)} & one_place == set(), path


def test_reading_and_storing_jobs_waits_for_no_heavy_package() -> None:
    heavy = [
        "pandera",
        "sklearn",
        "numba",
        "matplotlib",
        "alembic",
        "mlflow",
        "prefect",
        "evidently",
        "bentoml",
        "catboost",
    ]
    look = f"import sys, gridcast, jobs.ingest, jobs.store; print([name for name in {heavy} if name in sys.modules])"
    run = subprocess.run(
        [sys.executable, "-c", look], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"


def test_only_the_settings_read_the_environment() -> None:
    readers = re.compile(r"os\.environ|os\.getenv|\bgetenv\(|from os import .*environ")
    modules = {
        name_of(path) for path in MODULES if readers.search(path.read_text(encoding="utf-8"))
    }
    # The client and the adapter are copied to a site's machines, without our settings; the
    # configuration of a workflow reads its own run's.
    copied = {"services/client.py", "adapters/gridcast_panda_stomp.py"}
    assert modules - copied - {"services/workflow_config.py"} == {"infra/settings.py"}


def test_nothing_is_pickled() -> None:
    pickling = {"pickle", "cloudpickle", "joblib", "dill", "shelve", "marshal"}
    assert {
        name_of(path)
        for path in MODULES
        if {name.split(".")[0] for name in imports(path)} & pickling
    } == set()


def test_every_outside_package_is_a_declared_dependency() -> None:
    # A part of another one may be missing from an environment of one extra.
    extras = SETTINGS["project"]["optional-dependencies"].values()
    requirements = [*SETTINGS["project"]["dependencies"], *chain.from_iterable(extras)]
    declared = {plain(requirement) for requirement in requirements}
    sources = packages_distributions()
    missing = {
        (name_of(path), top)
        for path in MODULES
        for top in {name.split(".")[0] for name in imports(path)}
        if top not in sys.stdlib_module_names and top not in {*PACKAGES, "gridcast", *AT_A_SITE}
        if not {plain(source) for source in sources.get(top, ["?"])} & declared
    }
    assert missing == set()


def test_every_test_is_named_after_what_it_tests() -> None:
    for test in (ROOT / "tests").glob("*/**/test_*.py"):
        package = test.parent.relative_to(ROOT / "tests")
        assert (ROOT / package).is_dir(), f"{test} mirrors no folder"


def test_no_module_is_longer_than_a_few_screens() -> None:
    lengths = {
        name_of(path): len(path.read_text(encoding="utf-8").splitlines()) for path in MODULES
    }
    assert {name: lines for name, lines in lengths.items() if lines > 510} == {}
