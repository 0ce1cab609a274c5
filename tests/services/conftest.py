"""A small grid with a trained champion, and real predictors on it in processes of their own."""

import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import psutil
import pytest
from filelock import FileLock

from infra import components
from infra.settings import Settings, environment_with
from jobs.schema import COLUMNS, OUTCOMES
from jobs.store import add_jobs, open_store, read_jobs
from jobs.workload import generate
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from models.engine.training import train
from models.releases import registry
from models.releases.versions import Evidence, Version
from services.dashboard.app import Dashboard
from services.http.metrics import Metrics
from services.live.active_model import ActiveModel
from services.live.live_predictor import LivePredictor
from tests.ports import free_port, served_in_thread
from tests.trees import few_trees

ROOT = Path(__file__).parents[2]
PATIENCE = 240.0


@dataclass
class Predictor:
    """A predictor under test: its address, its data folder, and its process."""

    home: Path
    port: int
    process: subprocess.Popen[bytes]
    log: Path
    settings: Settings
    http: httpx.Client = field(init=False)

    def __post_init__(self) -> None:
        self.http = httpx.Client(base_url=self.url, timeout=60, trust_env=False)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def worker(self) -> psutil.Process:
        """The process that answers, a child of the one that was started."""
        found = [
            child
            for child in psutil.Process(self.process.pid).children()
            if "_bentoml_impl.worker.service" in child.cmdline()
        ]
        assert len(found) == 1
        return found[0]

    def wait_until_ready(self) -> None:
        wait_for(
            lambda: _answers(self.http, "/readyz"),
            f"the predictor to be ready; see {self.log}",
            self,
        )

    def stop(self, kind: signal.Signals = signal.SIGTERM) -> None:
        """End it, and wait until the processes that it started have ended by themselves."""
        self.http.close()
        if self.process.poll() is not None:
            return
        family = psutil.Process(self.process.pid).children(recursive=True)
        self.process.send_signal(kind)
        self.process.wait(240)
        _, left = psutil.wait_procs(family, timeout=240)
        for process in left:
            process.kill()
        assert not left, f"left behind: {left}"

    def kill(self) -> None:
        """End it and the processes that it started at once; how it stops has tests of its own."""
        self.http.close()
        main = psutil.Process(self.process.pid)
        family = [main, *main.children(recursive=True)]
        for process in family:
            process.kill()
        self.process.wait(240)
        psutil.wait_procs(family, timeout=240)


def _answers(http: httpx.Client, path: str) -> bool:
    try:
        return http.get(path).status_code == 200
    except httpx.HTTPError:
        return False


def wait_for(
    holds: Callable[[], Any],
    description: str,
    predictor: Predictor | None = None,
    patience: float = PATIENCE,
) -> Any:
    """What ``holds`` returns once that is true."""
    end = time.monotonic() + patience
    while time.monotonic() < end:
        if found := holds():
            return found
        if predictor is not None and predictor.process.poll() is not None:
            pytest.fail(f"the predictor ended by itself:\n{predictor.log.read_text()[-3000:]}")
        time.sleep(0.05)
    return pytest.fail(f"waited {patience:g} s for {description}")


@contextmanager
def running(home: Path, **environment: str) -> Iterator[Predictor]:
    """A predictor on the data folder ``home``, ready, and stopped at the end."""
    port, log = free_port(), home / "predictor.log"
    # What waits for a look or a time-out waits less than a site would.
    quick = {"GRIDCAST_WATCH_SECONDS": "0.5", "GRIDCAST_MLFLOW_SECONDS": "2"}
    places = {"GRIDCAST_HOME": str(home), "BENTOML_HOME": str(home / "bentoml")}
    if "GRIDCAST_TOKENS" not in environment:  # tokens have tests of their own
        quick["GRIDCAST_OPEN_ON_LOOPBACK"] = "true"
    variables = environment_with(quick | places | environment)
    variables.pop("MLFLOW_TRACKING_URI", None)
    command = components.predictor(Settings(home=home, predictor_port=port), {}).command
    with log.open("ab") as out:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdout=out, stderr=out, start_new_session=True
        )
    predictor = Predictor(home, port, process, log, Settings(home=home))
    try:
        if "GRIDCAST_TOKENS" in environment:
            wait_for(lambda: _answers(predictor.http, "/livez"), "the predictor to live", predictor)
        else:
            predictor.wait_until_ready()
        yield predictor
    finally:
        predictor.stop()


@contextmanager
def serving(dashboard: Dashboard) -> Iterator[str]:
    """Serve the page from a thread; yields its address."""
    try:
        with served_in_thread(dashboard.app(), proxy_headers=False) as address:
            try:
                yield address
            finally:
                dashboard.ended.set()
    finally:
        dashboard.engine.dispose()


Start = Callable[..., LivePredictor]


@pytest.fixture
def start(tmp_path: Path, metrics: Metrics, model_set: ModelSet) -> Iterator[Start]:
    """A function that starts a live predictor on a store, with a data folder and a model."""
    started: list[LivePredictor] = []

    def begin(
        url: str = "", home: str = "home", model: ModelSet | None = model_set
    ) -> LivePredictor:
        live = LivePredictor(
            Settings(home=tmp_path / home, database_url=url or f"sqlite:///{tmp_path / 'jobs.db'}"),
            metrics,
        )
        live.state.rebuild(ActiveModel(Forecaster(model)))
        started.append(live)
        return live

    yield begin
    for live in started:
        live.engine.dispose()


@pytest.fixture
def jobs(grid_jobs: pd.DataFrame) -> pd.DataFrame:
    """400 jobs that ended after the model was trained, by their end."""
    return grid_jobs.tail(400).sort_values("ended_at")[list(COLUMNS)].reset_index(drop=True)


@pytest.fixture(scope="session")
def grid_jobs() -> pd.DataFrame:
    """1,600 finished jobs of a generated grid."""
    return generate(jobs=1600, days=10, seed=7, sites=3, users=8).jobs.reset_index(drop=True)


@pytest.fixture(scope="session")
def model_set(grid_jobs: pd.DataFrame, shared_folder: Path) -> ModelSet:
    """A model set trained on the first 1,200 of them, once for all workers."""
    folder = shared_folder / "model-set"
    with FileLock(folder.with_suffix(".lock")):
        if not folder.exists():
            draft = folder.with_suffix(".new")
            with few_trees():
                train(grid_jobs.head(1200), targets=("walltime", "peak_memory")).save(draft)
            draft.rename(folder)
    return ModelSet.load(folder)


def publish(model_set: ModelSet, home: Path, promote: bool = True) -> Version:
    """Register ``model_set`` in the registry of ``home``, as champion if ``promote``."""
    settings = Settings(home=home)
    folder = settings.folder("tmp") / f"set-{time.monotonic_ns()}"
    model_set.save(folder)
    version = registry.publish(folder, Evidence(card="a test's model"), settings=settings)
    return (
        registry.promote(version.version, by="test", why="test", settings=settings)
        if promote
        else version
    )


def new_home(folder: Path, jobs: pd.DataFrame) -> Path:
    """A data folder whose store holds ``jobs``."""
    folder.mkdir(parents=True, exist_ok=True)
    engine = open_store(Settings(home=folder).store_url)
    with engine.begin() as connection:
        add_jobs(connection, jobs)
    engine.dispose()
    return folder


@pytest.fixture(scope="session")
def home(
    tmp_path_factory: pytest.TempPathFactory, grid_jobs: pd.DataFrame, model_set: ModelSet
) -> Path:
    """A data folder with 1,200 finished jobs and a champion trained on them."""
    folder = new_home(tmp_path_factory.mktemp("grid"), grid_jobs.head(1200))
    publish(model_set, folder)
    return folder


@pytest.fixture(scope="session")
def predictor(home: Path) -> Iterator[Predictor]:
    """The predictor that most tests share."""
    with running(home) as predictor_process:
        yield predictor_process
        predictor_process.kill()  # to stop takes it half a minute after these many callers


@pytest.fixture(scope="session")
def waiting(grid_jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """The other 400 jobs as a broker describes them before they run."""
    return as_rows(grid_jobs.tail(400).drop(columns=list(OUTCOMES)))


@pytest.fixture(scope="session")
def finished(grid_jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """The same 400 jobs as a broker reports them when they have ended."""
    return as_rows(grid_jobs.tail(400))


def as_rows(jobs: pd.DataFrame) -> list[dict[str, Any]]:
    """Jobs as JSON objects, times as ISO 8601, missing fields left out."""
    rows = jobs.astype(object).where(jobs.notna(), None).to_dict("records")
    return [
        {
            str(name): value.isoformat() if isinstance(value, pd.Timestamp) else value
            for name, value in row.items()
            if value is not None
        }
        for row in rows
    ]


def stored(predictor: Predictor) -> pd.DataFrame:
    """The jobs in a predictor's store."""
    engine = open_store(predictor.settings.store_url)
    jobs = read_jobs(engine)
    engine.dispose()
    return jobs
