"""The processes of a world: predictors, each with its data folder, and calls between them."""

from __future__ import annotations

import asyncio
import gc
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import httpx
from starlette.testclient import TestClient

from infra.errors import GridcastError
from infra.settings import Settings
from infra.shards import Shard
from tests.simulation.faults import Dice, KilledError

TOKEN = "0123456789abcdef"


class Predictor:
    """A predictor's process: what it has in memory, and the app that it serves.

    Args:
        settings: Its shard, and its own data folder beside the store and registry of all.
        metrics: Of all predictors of a world.
    """

    def __init__(self, settings: Settings, metrics: Any) -> None:
        self.settings, self.metrics = settings, metrics
        self.shard = Shard.parse(settings.shard) if settings.shard else Shard(1, 1)
        self.address = f"http://127.0.0.1:{3000 + 10 * self.shard.count + self.shard.number}"
        self.running = False
        self.start()

    def start(self) -> None:
        """Start anew with what the disk holds."""
        from services.live.live_predictor import LivePredictor
        from tests.predictor_app import guarded_app

        self.live = LivePredictor(self.settings, self.metrics)
        self.app, self.endpoints = guarded_app(self.live, self.settings)
        self.running = True

    def end(self) -> None:
        """End at once: what is not on disk is gone."""
        from tests.predictor_app import end_threads

        self.running = False
        end_threads(self.endpoints)
        with suppress(GridcastError):
            self.live.engine.dispose()
        gc.collect()  # with the process its transactions end

    def ask(self, body: bytes) -> httpx.Response:
        """Its own answer about jobs."""
        headers = {"Authorization": f"Bearer {TOKEN}", "content-type": "application/json"}
        return TestClient(self.app, "http://127.0.0.1").post(
            "/predict", content=body, headers=headers
        )

    def follow(self) -> None:
        """Look for a champion, and for what others stored."""
        self.live.watcher.look()
        self.live.catch_up()

    def exchange(self) -> None:
        """Exchange with other shards what was learned, though the last time is not long ago."""
        if exchange := self.live.state._exchange:
            exchange.run()


class Network(httpx.AsyncBaseTransport):
    """Carries calls to the predictors of a world, one at a time.

    Args:
        dice: Kills predictors while they answer.
    """

    def __init__(self, dice: Dice) -> None:
        self.dice, self._one_at_a_time = dice, asyncio.Lock()
        self.predictors: dict[str, Predictor] = {}
        self.killed: list[Predictor] = []

    def serve(self, predictors: Sequence[Predictor]) -> None:
        """Let only these be reached."""
        self.predictors = {item.address: item for item in predictors}

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """The answer of a predictor, or an error of httpx where its process is not there."""
        predictor = self.predictors.get(f"http://{request.url.host}:{request.url.port}")
        async with self._one_at_a_time:
            if predictor is None or not predictor.running or predictor in self.killed:
                raise httpx.ConnectError("refused", request=request)
            try:
                return await httpx.ASGITransport(predictor.app).handle_async_request(request)
            except KilledError:
                self.killed.append(predictor)
                self.dice.dead = False  # that process alone
                raise httpx.ReadError("closed", request=request) from None
