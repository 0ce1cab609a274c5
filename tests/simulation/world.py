"""The world of a seed: a grid of some days, the processes that serve it, and its invariants."""

from __future__ import annotations

import itertools
import shutil
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from math import inf
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any
from unittest.mock import patch

import numpy as np
import orjson
import pandas as pd

from infra.errors import GridcastError
from infra.settings import Settings
from infra.shards import shard_of_slots, slot_of
from tests.simulation.faults import Dice, KilledError, faults

if TYPE_CHECKING:
    from services.http.metrics import Metrics
    from services.live.live_predictor import LivePredictor

JOBS, DAYS, TICK = 240, 4.0, pd.Timedelta("16h")
MOST_SHARDS = 4
FEW = 20
"""Jobs that decide: the house asks for 200, which would take a world of weeks."""


class World:
    """A grid of some days, and one predictor or several shards on one store and one registry.

    Attributes:
        lives: The predictors that run, by the number of their shard.
        acting: The number of the one that does the current step.
        acknowledged: The accepted jobs.
    """

    def __init__(self, seed: int, home: Path, metrics: Any) -> None:
        from jobs.workload import generate

        self.rng = np.random.default_rng(seed)
        self.dice = Dice(np.random.default_rng([seed, 1]))
        self.metrics = metrics
        self.settings = Settings(home=home)
        self.truth = generate(JOBS, DAYS, seed=seed, sites=3, users=8).jobs.set_index(
            "job_id", drop=False
        )
        self.clock = self.truth["submitted_at"].min()
        self.acknowledged: set[str] = set()
        self.person_chose: int | None = None
        self.pinned_at: int | None = None
        self.steps: list[str] = []
        # Of its own: worlds of one predictor do the same with and without these draws.
        self.shard_rng = np.random.default_rng([seed, 2])
        self.shards = 1 if seed % 2 == 0 else int(self.shard_rng.integers(2, MOST_SHARDS + 1))
        self.resized = 0
        self.lives: dict[int, LivePredictor] = {}
        self.start_all()

    # -- the processes

    @property
    def live(self) -> LivePredictor:
        """The predictor that does the current step."""
        return self.lives[self.acting]

    def start(self, number: int) -> None:
        """Start a predictor anew with what the disk holds."""
        from services.live.live_predictor import LivePredictor

        settings = self.settings
        if self.shards > 1:
            folder = f"shard-{number}-of-{self.shards}-{self.resized}"
            settings = Settings(
                home=self.settings.home / folder,
                database_url=self.settings.store_url,
                mlflow_url=self.settings.tracking_url,
                shard=f"{number}/{self.shards}",
            )
        self.lives[number] = LivePredictor(settings, self.metrics)

    def start_all(self) -> None:
        """Start every predictor that does not run."""
        for number in range(1, self.shards + 1):
            if number not in self.lives:
                self.start(number)
        self.acting = 1

    def lose(self) -> None:
        """A shard does not run until the next check; the others go on."""
        if len(self.lives) > 1:
            number = int(self.shard_rng.choice([*self.lives]))
            self.lives.pop(number).engine.dispose()

    def resize(self) -> None:
        """A shard joins or leaves: other predictors, with new data folders, take over."""
        if self.shards > 1:
            self.end()
            self.resized += 1
            joins = self.shards == 2 or (
                self.shards < MOST_SHARDS and self.shard_rng.random() < 0.5
            )
            self.shards += 1 if joins else -1
            self.start_all()

    def exchange(self) -> None:
        """A shard reads what the others learned, and publishes what it learned itself."""
        exchange = self.live.state._exchange
        if exchange is not None:
            exchange.run()

    def step(self, name: str, work: Callable[[], None]) -> None:
        """One thing that a predictor does; it may die of it or be told that it failed."""
        from jobs.store import StoreError
        from services.http.errors import HTTPError

        self.acting = int(self.shard_rng.choice([*self.lives]))
        self.steps.append(name if self.shards == 1 else f"{name} {self.acting}/{self.shards}")
        try:
            with self.dice.fate():
                work()
        except KilledError:
            self.steps.append("killed")
            self._end(self.live)
            self.start(self.acting)
        except (GridcastError, HTTPError, StoreError, OSError) as failed:
            self.steps.append(f"failed: {failed}")

    def end(self) -> None:
        """End all predictors."""
        while self.lives:
            self._end(self.lives.popitem()[1])

    def _end(self, live: LivePredictor) -> None:
        with suppress(GridcastError):
            live.engine.dispose()

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
        """A broker reports outcomes to the predictor."""
        from services.http.bodies import read_body
        from services.http.requests import read_outcomes

        jobs = self.some_outcomes()
        rows = [
            {name: value for name, value in row.items() if value == value and value is not None}
            for row in jobs.to_dict("records")
        ]
        body = orjson.dumps({"jobs": rows}, default=lambda moment: moment.isoformat())
        reported = read_outcomes(read_body("application/json", body))
        assert not reported.rejected, reported.rejected[:1]
        self.live.report(reported.jobs)
        self.acknowledged |= {*jobs["job_id"]}

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
        waiting = self.waiting()
        if self.shards > 1:
            waiting = waiting[self.shard_of(waiting["user"]) == self.acting]
        if self.live.ready and len(waiting):
            self.predict(self.live, orjson.dumps({"jobs": waiting.to_dict("records")}))

    def waiting(self) -> pd.DataFrame:
        """What a broker says of the last 20 jobs that wait."""
        waiting = self.truth[
            (self.truth["submitted_at"] <= self.clock) & (self.truth["ended_at"] > self.clock)
        ]
        return waiting.tail(20)[["job_id", "source", "user", "program"]]

    def shard_of(self, users: pd.Series) -> Any:
        """The shard of each user (int64[n])."""
        return shard_of_slots(self.shards)[[slot_of(user) for user in users]]

    def predict(self, live: LivePredictor, body: bytes) -> bytes:
        """The answer of a predictor to a body of jobs."""
        from services.http.bodies import read_body
        from services.http.contract import Options
        from services.http.requests import read_jobs_to_predict
        from services.http.responses import write_answer

        queries = read_jobs_to_predict(
            read_body("application/json", body), self.clock.to_pydatetime()
        )
        answers, about = live.predict(queries, Options())
        assert np.isfinite(answers.numbers["walltime_median"]).all()
        return write_answer(answers, queries.jobs["job_id"], about, "rows")[1]

    def follow(self) -> None:
        """The predictor looks for a champion, and for what others stored."""
        self.live.watcher.look()
        self.live.catch_up()

    def train(self) -> None:
        """A retraining, as the flow does it."""
        from models.releases.automatic_rollback import roll_back_if_worse, training_lock
        from models.releases.pipeline import TrainingOptions, TrainingPipeline

        with training_lock(self.settings):
            if roll_back_if_worse(self.live.engine, self.settings) is None:
                options = TrainingOptions(by="flow retrain")
                TrainingPipeline(self.live.engine, self.settings, options).run()

    def monitor(self) -> None:
        """The hourly look at what was predicted."""
        from models.releases import registry
        from monitoring.decay.champion import watch_champion

        if champion := registry.reconcile(self.settings):
            watch_champion(self.live.engine, champion.label, self.clock.to_pydatetime())

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
        self.start_all()
        self._check_store()
        self._check_registry()
        for number in self.lives:
            self.acting = number
            self._check_live()
        if self.shards > 1:
            self._check_merged()

    def _check_store(self) -> None:
        from jobs.store import read_jobs

        stored = read_jobs(self.live.engine)
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

        self.live.watcher.forget_refusal()  # its minute of patience is over
        self.follow()
        champion = registry.champion(self.settings)
        assert self.live.ready
        assert self.live.state.active.is_of(champion), (
            f"{self.live.state.active.label} serves and not {champion}: {self.live.troubles}"
        )
        ended = int(count_jobs(self.live.engine)["ended"].sum())
        assert self.live.state.history["jobs"] == ended, (
            f"the history has {self.live.state.history['jobs']} of {ended} outcomes"
        )

    def _check_merged(self) -> None:
        """Users have one shard each, and the router's answer is, job for job, that of the shard."""
        from services.http.errors import HTTPError
        from services.router.calls import merge, read_call

        jobs = self.waiting().to_dict("records")
        if not jobs:
            return
        body = orjson.dumps({"jobs": jobs})
        call = read_call("predict", "application/json", body, {})
        shards = shard_of_slots(self.shards)[call.slots]
        parts = [(np.flatnonzero(shards == number), number) for number in np.unique(shards)]
        answers = [(rows, self.predict(self.lives[n], call.take(rows))) for rows, n in parts]
        merged = orjson.loads(merge(call, answers))["rows"]
        assert [row["job_id"] for row in merged] == [job["job_id"] for job in jobs]
        for row, job, number in zip(merged, jobs, shards, strict=True):
            alone = orjson.dumps({"jobs": [job]})
            assert row == orjson.loads(self.predict(self.lives[number], alone))["rows"][0]
            try:
                self.predict(self.lives[number % self.shards + 1], alone)
            except HTTPError as refused:
                assert refused.status == 421
            else:
                raise AssertionError(f"a foreign shard answered for {job['user']}")

    def check_time(self) -> None:
        """Raise AssertionError where a prediction changes with outcomes that came after it."""
        from jobs.store import read_jobs
        from models.engine.backtest import predict_in_time
        from models.releases import registry
        from models.releases.verification import load_model_set

        champion = registry.champion(self.settings)
        stored = read_jobs(self.live.engine, ended=True)
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
    )
    chances = np.array([3, 1, 2, 2, 3, 1, 1])
    of_shards = (world.exchange, world.lose, world.resize)
    try:
        with faults(world.dice):
            while world.clock < world.truth["submitted_at"].max():
                world.clock += TICK
                for action in world.rng.choice(len(actions), size=4, p=chances / chances.sum()):
                    world.step(actions[action].__name__, actions[action])
                    if world.shards > 1 and world.shard_rng.random() < 0.5:
                        chosen = world.shard_rng.choice(len(of_shards), p=[0.6, 0.25, 0.15])
                        world.step(of_shards[chosen].__name__, of_shards[chosen])
                world.check()
            world.check_time()
    except Exception as broken:
        raise AssertionError(
            f"seed {seed} breaks at {world.clock}: {broken!r} after {world.steps[-12:]}"
        ) from broken
    finally:
        world.end()
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
            patch("services.live.shard_exchange.PERIOD", inf),  # an action, not the clock, is due
        ):
            stack.enter_context(item)
        blank = Settings(home=Path(folder) / "blank")
        open_store(blank.store_url).dispose()
        registry.champion(blank)  # each world begins with a copy of databases that are migrated
        count = itertools.count()

        def world_of(seed: int) -> World:
            home = shutil.copytree(blank.home, Path(folder) / str(next(count)))
            return live(seed, home, metrics)

        yield world_of
