"""Two shards and one predictor with all users on one store, as real servers, and a router before the shards."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pandas as pd
import pytest

from infra.settings import Settings
from infra.shards import Shard
from models.engine.forecaster import Forecaster
from models.engine.model_set import ModelSet
from services.http.metrics import Metrics
from services.live.active_model import ActiveModel
from services.live.live_predictor import LivePredictor
from services.router.app import Router
from tests.ports import served_in_thread
from tests.predictor_app import end_threads, guarded_app
from tests.services.conftest import new_home

COUNT = 2
TOKEN, READER = "0123456789abcdef", "fedcba9876543210"
TOKENS = f"{TOKEN}:predict+report,{READER}:predict"


@dataclass
class Shards:
    """Predictors on one store: that of all users, and a shard each."""

    settings: Settings
    one: LivePredictor
    shards: list[LivePredictor]

    def catch_up(self) -> None:
        for live in (self.one, *self.shards):
            live.catch_up()

    @contextmanager
    def served(self, live: LivePredictor) -> Iterator[str]:
        """Serve a predictor as its BentoML service does; yields its address."""

        guarded, endpoints = guarded_app(live, self.settings)
        try:
            with served_in_thread(guarded) as address:
                yield address
        finally:
            end_threads(endpoints)

    @contextmanager
    def router(self, addresses: str, **changes: Any) -> Iterator[httpx.Client]:
        """Serve a router; yields a client with a token."""
        changes |= {"shard_addresses": addresses, "watch_seconds": 0.05}
        app = Router(self.settings.model_copy(update=changes)).app()
        with served_in_thread(app) as address, client_of(address) as client:
            yield client


def client_of(address: str, token: str = TOKEN) -> httpx.Client:
    headers = {"Authorization": f"Bearer {token}"} if token else {}
    return httpx.Client(base_url=address, headers=headers, trust_env=False, timeout=120)


def ring_text(addresses: list[str]) -> str:
    count = len(addresses)
    return ",".join(f"{n}/{count}={address}" for n, address in enumerate(addresses, 1))


@pytest.fixture(scope="module")
def cluster(
    tmp_path_factory: pytest.TempPathFactory,
    grid_jobs: pd.DataFrame,
    model_set: ModelSet,
    metrics: Metrics,
) -> Iterator[Shards]:
    """Predictors of a trained model that learned its training jobs."""
    home: Path = new_home(tmp_path_factory.mktemp("shards"), grid_jobs.head(1200))
    common = {"database_url": Settings(home=home).store_url, "tokens": TOKENS}
    lives = []
    for number in range(COUNT + 1):
        shard = Shard(number, COUNT) if number else None
        settings = Settings(home=home / str(number), **common)  # type: ignore[arg-type]
        live = LivePredictor(settings, metrics)
        live.state.rebuild(ActiveModel(Forecaster(model_set, shard=shard)))
        lives.append(live)
    yield Shards(lives[0].settings, lives[0], lives[1:])
    for live in lives:
        live.engine.dispose()


@dataclass
class Servers:
    """Clients of the router and of the predictor with all users, and the shards' addresses."""

    router: httpx.Client
    one: httpx.Client
    addresses: list[str]


@pytest.fixture(scope="module")
def servers(cluster: Shards) -> Iterator[Servers]:
    with ExitStack() as stack:
        addresses = [stack.enter_context(cluster.served(live)) for live in cluster.shards]
        router = stack.enter_context(cluster.router(ring_text(addresses)))
        one = stack.enter_context(client_of(stack.enter_context(cluster.served(cluster.one))))
        yield Servers(router, one, addresses)
