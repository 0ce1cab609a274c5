"""The world of a seed: a grid of some days, the processes that serve it, and its invariants."""

from __future__ import annotations

import gc
import itertools
import logging
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import httpx
import numpy as np
import orjson
import pandas as pd
from starlette.testclient import TestClient

from infra.errors import GridcastError
from infra.settings import Settings, prepare_environment
from infra.shards import Shard
from tests.simulation.faults import Dice, KilledError, faults
from tests.simulation.processes import TOKEN, Network, Predictor

if TYPE_CHECKING:
    from models.engine.forecaster import Forecaster
    from services.http.metrics import Metrics

JOBS, DAYS, TICK = 240, 4.0, pd.Timedelta("16h")
FEW = 20
"""Jobs that decide: the house asks for 200, which would take a world of weeks."""


MOST_SHARDS = 4


class World:
    """A grid of some days, its predictors, and a router before them.

    A quarter of the worlds begin with one predictor, the others with up to four shards; flows are
    one further process. ``acknowledged`` are accepted jobs.
    """

    def __init__(self, seed: int, home: Path, metrics: Any) -> None:
        from jobs.workload import generate

        self.rng = np.random.default_rng(seed)
        self.dice = Dice(np.random.default_rng([seed, 1]))
        self.metrics = metrics
        self.settings = Settings(home=home, tokens=f"{TOKEN}:predict+report")
        self.truth = generate(JOBS, DAYS, seed=seed, sites=3, users=8).jobs.set_index(
            "job_id", drop=False
        )
        self.clock = self.truth["submitted_at"].min()
        self.acknowledged: set[str] = set()
        self.person_chose: int | None = None
        self.pinned_at: int | None = None
        self.steps: list[str] = []
        self.network = Network(self.dice)
        self.homes = itertools.count()
        self.predictors = self._shards(int(self.rng.integers(1, MOST_SHARDS + 1)))
        self.joining: list[Predictor] = []
        self.lost: dict[str, int] = {}
        self.acting: Predictor | None = None

    # -- the processes

    def _shards(self, count: int) -> list[Predictor]:
        """Start the predictors of so many shards, each with a new data folder."""
        settings = self.settings
        return [
            Predictor(
                settings.model_copy(
                    update={
                        "home": settings.home / f"predictor-{next(self.homes)}",
                        "database_url": settings.store_url,
                        "mlflow_url": settings.tracking_url,
                        "shard": str(Shard(number, count)) if count > 1 else "",
                    }
                ),
                self.metrics,
            )
            for number in range(1, count + 1)
        ]

    @contextmanager
    def processes(self) -> Iterator[None]:
        """Start the flows and the router; end them and the predictors."""
        from jobs.store import open_store
        from services.router.app import Router

        self.engine = open_store(self.settings.store_url)
        self._address(self.predictors)
        # It looks for changed addresses when the world tells it to.
        updates = {"shard_addresses": str(self.ring), "watch_seconds": 1e6}
        self.router = Router(self.settings.model_copy(update=updates), self.network)
        try:
            with TestClient(self.router.app(), "http://127.0.0.1") as self.http:
                self.http.headers = {"Authorization": f"Bearer {TOKEN}"}
                yield
        finally:
            for predictor in (*self.predictors, *self.joining):
                predictor.end()
            self._end_flows()

    @property
    def ring(self) -> Path:
        """The file that says where the shards are."""
        return self.settings.folder("router") / "shards"

    def _address(self, predictors: Sequence[Predictor]) -> None:
        self.network.serve([*self.predictors, *self.joining])
        self.ring.write_text(
            "\n".join(f"{item.shard}={item.address}" for item in predictors), encoding="utf-8"
        )

    @property
    def running(self) -> list[Predictor]:
        """The predictors that are there."""
        return [item for item in (*self.predictors, *self.joining) if item.running]

    def _one(self) -> Predictor:
        """One of those that are there, which acts now: what kills the step kills it."""
        self.acting = self.running[int(self.rng.integers(len(self.running)))]
        return self.acting

    def _end_flows(self) -> None:
        self.engine.dispose()
        gc.collect()  # with the process its transactions end

    def step(self, name: str, work: Callable[[], None]) -> None:
        """One thing that a process does; it may die of it or be told that it failed."""
        from jobs.store import StoreError, open_store

        self.steps.append(name)
        self.acting = None
        killed = self.network.killed
        try:
            with self.dice.fate():
                work()
        except KilledError:
            if self.acting:
                killed.append(self.acting)
            else:
                self.steps.append("killed")
                self._end_flows()
                self.engine = open_store(self.settings.store_url)
        except (GridcastError, StoreError, OSError) as failed:
            self.steps.append(f"failed: {failed}")
        for predictor in killed:
            self.steps.append(f"killed {predictor.shard}")
            predictor.end()
            predictor.start()
        killed.clear()

    # -- what happens in it

    def ended(self) -> pd.DataFrame:
        """The jobs that have ended, as their batch system tells of them."""
        return self.truth[self.truth["ended_at"] <= self.clock]

    def some_outcomes(self) -> pd.DataFrame:
        """Most of what is still to be told, out of order, and some of what was told already."""
        ended = self.ended()
        is_acknowledged = ended["job_id"].isin(self.acknowledged).to_numpy()
        return ended[self.rng.random(len(ended)) < np.where(is_acknowledged, 0.1, 0.8)].sample(
            frac=1.0, random_state=self.rng
        )

    def report(self) -> None:
        """A broker reports outcomes."""
        jobs = self.some_outcomes()
        rows = [
            {name: value for name, value in row.items() if value == value and value is not None}
            for row in jobs.to_dict("records")
        ]
        body = orjson.dumps({"jobs": rows}, default=lambda moment: moment.isoformat())
        response = self._post("/outcomes", body)
        if response.status_code == 200:
            assert not response.json()["rejected"], response.text
            self.acknowledged |= {*jobs["job_id"]}
        else:
            assert response.status_code == 503, response.text
            self.steps.append(f"failed: {response.text}")

    def _post(self, path: str, body: bytes) -> httpx.Response:
        return self.http.post(path, content=body, headers={"content-type": "application/json"})

    def ingest(self) -> None:
        """A site's log is ingested by another process."""
        from jobs.ingest import ingest_file
        from jobs.store import open_store
        from jobs.writers import write_csv

        jobs = self.some_outcomes()
        path = write_csv(jobs, self.settings.folder("inbox") / "ended.csv")
        engine = open_store(self.settings.store_url)
        try:
            done = ingest_file(engine, path)
        finally:
            engine.dispose()
        assert done.rejected == 0
        self.acknowledged |= {*jobs["job_id"]}

    def ask(self) -> None:
        """A broker asks about the jobs that wait."""
        from models.engine.sharding import job_slots

        rows = self._waiting()
        if not len(rows):
            return
        response = self._post("/predict", _body(rows, self.clock))
        shard_of_job = self.router.ring.of_slots(job_slots(rows))
        asked = {int(n): rows[shard_of_job == n] for n in np.unique(shard_of_job)}
        predictors = {item.shard.number: item for item in self.predictors}
        if not all(predictors[n].running and predictors[n].live.ready for n in asked):
            assert response.status_code == 503, response.text
            return
        assert response.status_code == 200, response.text
        answers = {row["job_id"]: row for row in response.json()["rows"]}
        assert [*answers] == rows["job_id"].tolist(), "the answers are in another order"
        for number, jobs in asked.items():
            for row in predictors[number].ask(_body(jobs, self.clock)).json()["rows"]:
                assert row == answers[row["job_id"]], f"{row} and not {answers[row['job_id']]}"
            other = predictors[1 + number % len(predictors)]
            if other.shard != predictors[number].shard and other.running and other.live.ready:
                refused = other.ask(_body(jobs, self.clock)).status_code
                assert refused == 421, f"shard {other.shard} answers {refused} for users of others"

    def _waiting(self) -> pd.DataFrame:
        truth = self.truth
        is_waiting = (truth["submitted_at"] <= self.clock) & (truth["ended_at"] > self.clock)
        return truth[is_waiting].tail(20)

    def follow(self) -> None:
        """A predictor looks for a champion, and for what others stored."""
        self._one().follow()

    def exchange(self) -> None:
        """A predictor exchanges with the other shards what was learned."""
        self._one().exchange()

    def save(self) -> None:
        """A predictor saves its history on disk."""
        self._one().live.state.save_history()

    def lose(self) -> None:
        """The machine of a predictor is gone for some time, with or without its disk."""
        if len(self.running) < 2:
            return
        predictor = self._one()
        predictor.end()
        self.lost[predictor.address] = int(self.rng.integers(1, 4))
        if self.rng.random() < 0.5:
            shutil.rmtree(predictor.settings.home)

    def recover(self) -> None:
        """Machines that were gone long enough come back."""
        self.lost = {address: ticks - 1 for address, ticks in self.lost.items()}
        for predictor in (*self.predictors, *self.joining):
            if not predictor.running and self.lost.get(predictor.address, 0) <= 0:
                predictor.start()

    def resize(self) -> None:
        """An operator starts predictors of another number of shards, and names them to the router."""
        if not self.joining:
            counts = [n for n in range(1, MOST_SHARDS + 1) if n != len(self.predictors)]
            self.joining = self._shards(int(self.rng.choice(counts)))
            self._address(self.joining)

    def route(self) -> None:
        """The router looks for changed addresses; the operator stops predictors it has left."""
        self.http.portal.call(self.router._look)
        if self.joining and self.router.ring.every_address[0] == self.joining[0].address:
            for predictor in self.predictors:
                predictor.end()
            self.predictors, self.joining = self.joining, []
            self._address(self.predictors)

    def train(self) -> None:
        """A retraining, as the flow does it."""
        from models.releases.automatic_rollback import roll_back_if_worse, training_lock
        from models.releases.pipeline import TrainingOptions, TrainingPipeline

        with training_lock(self.settings):
            if roll_back_if_worse(self.engine, self.settings) is None:
                options = TrainingOptions(by="flow retrain")
                TrainingPipeline(self.engine, self.settings, options).run()

    def monitor(self) -> None:
        """The hourly look at what was predicted."""
        from models.releases import registry
        from monitoring.decay.champion import watch_champion

        if champion := registry.reconcile(self.settings):
            watch_champion(self.engine, champion.label, self.clock.to_pydatetime())

    def person(self) -> None:
        """An engineer moves the alias in MLflow's page, or pins or unpins the champion."""
        import mlflow

        from models.releases import registry
        from models.releases.alias_moves import CHAMPION

        with suppress(GridcastError):
            registry.reconcile(self.settings)
            done = [item for item in registry.versions(self.settings) if item.state != "unfinished"]
            is_active = registry.champion(self.settings)
            if is_active is None:
                return
            if self.rng.random() < 0.3:
                registry.unpin(self.settings) if self.pinned_at else registry.pin(
                    by="an engineer", why="a test", settings=self.settings
                )
                self.pinned_at = None if self.pinned_at else is_active.version
            elif (chosen := done[int(self.rng.integers(len(done)))]).version != is_active.version:
                # In the page, which no die reaches: a person sees that it was done.
                self.dice.armed = False
                mlflow.MlflowClient(self.settings.tracking_url).set_registered_model_alias(
                    chosen.name, CHAMPION, str(chosen.version)
                )
                self.person_chose = chosen.version
                self.pinned_at = chosen.version if self.pinned_at else None

    # -- what must hold

    def check(self) -> None:
        """Raise AssertionError unless the world is whole."""
        self._check_store()
        self._check_registry()
        self._check_live()

    def _check_store(self) -> None:
        from jobs.store import read_jobs

        stored = read_jobs(self.engine)
        assert stored["job_id"].is_unique, "a job is stored twice"
        stored = stored.set_index("job_id", drop=False)
        lost = self.acknowledged - {*stored.index[stored["ended_at"].notna()]}
        assert not lost, f"acknowledged and not there: {sorted(lost)[:3]}"
        outcomes = self.truth.loc[stored.index]
        pd.testing.assert_series_equal(stored["walltime"], outcomes["walltime"], check_index=False)

    def _check_registry(self) -> None:
        from models.releases import registry
        from models.releases.alias_moves import BY_PERSON_IN_MLFLOW
        from models.releases.verification import load_model_set

        champion = registry.reconcile(self.settings)
        standing = [item for item in registry.versions(self.settings) if item.state == "champion"]
        assert len(standing) == (champion is not None), f"{len(standing)} champions"
        if champion is None:
            return
        assert champion.tags.get("promoted_by") and champion.tags.get("promoted_why"), (
            "a promotion that nobody explained"
        )
        if self.person_chose == champion.version:
            assert champion.tags["promoted_by"] == BY_PERSON_IN_MLFLOW
        self.person_chose = None
        if self.pinned_at and registry.pinned(self.settings):
            assert champion.version == self.pinned_at, "a pinned version was moved"
        load_model_set(champion, self.settings)

    def _check_live(self) -> None:
        from jobs.store import count_jobs
        from models.releases import registry

        champion = registry.champion(self.settings)
        ended = int(count_jobs(self.engine)["ended"].sum())
        for predictor in self.running:
            live = predictor.live
            live.watcher.forget_refusal()  # its minute of patience is over
            predictor.follow()
            assert live.ready
            assert live.state.active.is_of(champion), (
                f"{live.state.active.label} serves and not {champion}: {live.troubles}"
            )
            assert live.state.history["jobs"] == ended, (
                f"the history has {live.state.history['jobs']} of {ended} outcomes"
            )

    def check_shards(self) -> None:
        """Raise AssertionError unless the shards together have learned what one predictor has."""
        from jobs.store import read_jobs
        from models.engine.forecaster import Forecaster
        from models.engine.sharding import user_levels
        from models.histories.features import NOT_AVAILABLE, encode
        from models.releases import registry
        from models.releases.verification import load_model_set

        champion = registry.champion(self.settings)
        if champion is None or len(self.predictors) == 1:
            return
        self.lost.clear()
        self.recover()
        self._check_live()
        for _ in range(2):
            for predictor in self.predictors:
                predictor.exchange()
        stored = read_jobs(self.engine, ended=True)
        whole = Forecaster(load_model_set(champion, self.settings), shard=Shard(1, 1))
        whole.learn(stored)
        whole.sums.add({})
        contexts = replace(
            encode(stored, whole.levels), at=np.full(len(stored), NOT_AVAILABLE, dtype=np.int64)
        )
        shards = [predictor.live.state.active.forecaster for predictor in self.predictors]
        for name, mixture in whole.mixtures.items():
            expected = mixture.ended_counts(contexts)
            for shard in shards:
                counts, is_own = shard.mixtures[name].ended_counts(contexts), shard.owns(stored)
                np.testing.assert_array_equal(counts[is_own], expected[is_own])
                # Of others' users only the first outcome is there.
                assert counts[~is_own][:, user_levels(whole.levels)].max(initial=0) <= 1
        for name in whole.names:
            own = [shard.sums[name].own for shard in shards]
            for shard in shards:
                for number, learned in shard.sums[name].read.items():
                    for kind, sums in own[number - 1].items():
                        # Values too, but where a shard has learned again, in another order.
                        updates = learned[kind].aligned(sums.keys).updates
                        np.testing.assert_array_equal(updates, sums.updates)
            # How often a row learns depends a little on the order of the outcomes.
            learned = sum(sums["weights"].updates[0, 0] for sums in own)
            expected = whole.sums[name].own["weights"].updates[0, 0]
            assert abs(learned - expected) <= 5 + 0.03 * expected, f"{learned} not {expected}"
            weights = [_weight(shard, name) for shard in shards]
            np.testing.assert_allclose(weights, _weight(whole, name), rtol=0.1)

    def check_time(self) -> None:
        """Raise AssertionError where a prediction changes with outcomes that came after it."""
        from jobs.store import read_jobs
        from models.engine.backtest import predict_in_time
        from models.releases import registry
        from models.releases.verification import load_model_set

        champion = registry.champion(self.settings)
        stored = read_jobs(self.engine, ended=True)
        queries = (
            self.truth.sort_values("submitted_at")
            .iloc[JOBS // 2 : JOBS // 2 + 30]
            .reset_index(drop=True)
        )
        late = stored["ended_at"] > queries["submitted_at"].max()
        scrambled = stored.assign(
            walltime=stored["walltime"].where(
                ~late, 1 + stored["walltime"].sample(frac=1, random_state=1).to_numpy()
            )
        )
        item, again = (
            predict_in_time(
                load_model_set(champion, self.settings) if champion else None, entry, queries
            )
            for entry in (stored, scrambled)
        )
        pd.testing.assert_frame_equal(item, again)


def _weight(forecaster: Forecaster, name: str) -> float:
    """The weight of the outcomes that a target learned, nearly the same in any order."""
    from models.histories.weights import CoarseRows

    mixture = forecaster.mixtures[name]
    return float(CoarseRows(mixture.shape).read(mixture.state.tables)[0][0].sum())


def _body(rows: pd.DataFrame, at: pd.Timestamp) -> bytes:
    names = ["job_id", "source", "user", "program"]
    rows = rows[names].assign(submitted_at=at.isoformat())
    return orjson.dumps({"jobs": rows.to_dict("records")})


def live(seed: int, home: Path, metrics: Any) -> World:
    """Run the world of a seed; raises AssertionError with the seed and its steps if it breaks."""
    world = World(seed, home, metrics)
    actions = (
        world.report,
        world.ingest,
        world.ask,
        world.follow,
        world.train,
        world.monitor,
        world.person,
        world.exchange,
        world.save,
        world.lose,
        world.resize,
        world.route,
    )
    chances = np.array([3, 1, 2, 2, 3, 1, 1, 2, 1, 0.5, 0.5, 1])
    try:
        with world.processes(), faults(world.dice, home):
            while world.clock < world.truth["submitted_at"].max():
                world.clock += TICK
                world.recover()
                for action in world.rng.choice(len(actions), size=5, p=chances / chances.sum()):
                    world.step(actions[action].__name__, actions[action])
                world.check()
            world.check_time()
            world.check_shards()
    except Exception as broken:
        raise AssertionError(
            f"seed {seed} breaks at {world.clock}: {broken!r} after {world.steps[-12:]}"
        ) from broken
    return world


@contextmanager
def universe(metrics: Metrics | None = None) -> Iterator[Callable[[int], World]]:
    """Gives the function that runs the world of a seed."""
    from matplotlib.figure import Figure

    from jobs.store import open_store
    from models.releases import registry
    from services.http.metrics import make_metrics

    metrics = metrics or make_metrics()
    limits = [
        patch(f"models.releases.{name}", FEW)
        for name in ("candidate.MIN_EVALUATION_JOBS", "automatic_rollback.MIN_EVALUATION_JOBS")
    ]
    # A child process that verifies a version, and plots, take seconds and have their own tests; a
    # predictor's memory, which it excludes from garbage collection, would not be freed.
    quick = [
        patch("models.releases.verification.verify_in_subprocess"),
        patch("models.releases.evidence.plot_predicted", lambda *_: Figure(figsize=(1, 1))),
    ]
    with TemporaryDirectory(prefix="gridcast-world-") as folder, ExitStack() as stack:
        for item in (
            *limits,
            *quick,
            patch("time.sleep"),
            patch("services.live.predictor_state.gc"),
            # What is due depends on the seed, not on the time that it takes.
            patch("services.live.shard_exchange.PERIOD", 1e12),
            patch("services.router.shards.AVOID_SECONDS", 0.0),
            patch("services.live.snapshots.PERIOD", 0.0),
            patch("services.live.snapshots.RETRY_SECONDS", 0.0),
        ):
            stack.enter_context(item)
        blank = Settings(home=Path(folder) / "blank")
        open_store(blank.store_url).dispose()
        registry.champion(blank)  # each world begins with a copy of databases that are migrated
        count = itertools.count()

        def world_of(seed: int) -> World:
            home = shutil.copytree(blank.home, Path(folder) / str(next(count)))
            # A process that ends collects garbage; libraries are none, and many objects.
            gc.collect()
            gc.freeze()
            return live(seed, home, metrics)

        try:
            yield world_of
        finally:
            gc.unfreeze()


def run_worlds(first: int, end: int) -> tuple[Counter[str], Counter[str]]:
    """Run worlds; returns the faults that were thrown and the steps that were taken."""
    prepare_environment()
    logging.disable(logging.CRITICAL)  # each fault is logged, with its traceback
    thrown, steps = Counter[str](), Counter[str]()
    with universe() as world_of:
        for seed in range(first, end):
            world = world_of(seed)
            thrown += world.dice.thrown
            steps.update(step for step in world.steps if not step.startswith("failed"))
    return thrown, steps
