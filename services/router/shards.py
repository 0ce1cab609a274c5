"""Requests of the router to the predictors of shards."""

from __future__ import annotations

import asyncio
import itertools
import logging
import ssl
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass

import httpx

from infra.ring import Ring
from services.http.errors import HTTPError
from services.router.metrics import RouterMetrics

log = logging.getLogger("gridcast.router")

ANSWER_SECONDS, CONNECT_SECONDS = 65.0, 2.0
"""Seconds for a predictor to answer, which itself gives up after 60, and to connect."""
IDLE_SECONDS = 2.0
"""Seconds after which an idle connection is closed: before the predictor closes it."""
AVOID_SECONDS = 1.0
"""For how long a predictor that failed is tried after the others of its shard."""
UNANSWERED = (421, 429, 502, 503, 504)
"""Statuses of a predictor that cannot answer what another one of its shard may."""


@dataclass(frozen=True)
class Forwarded:
    """What is sent to predictors: method, path with query, headers and body."""

    method: str
    path: str
    headers: Mapping[str, str]
    body: bytes = b""


class Shards:
    """Sends requests to predictors: to the next one where one does not answer.

    Args:
        metrics: Count predictors that did not answer.
        transport: Carries the requests; connections of the network unless given.
    """

    def __init__(
        self, metrics: RouterMetrics, transport: httpx.AsyncBaseTransport | None = None
    ) -> None:
        self.metrics = metrics
        self._turn = itertools.count()
        self._failed_at: dict[str, float] = {}
        # Proxies of the environment are for the outside world; certificates are those of the system
        # or of SSL_CERT_FILE, since a grid has its own authorities.
        self._http = httpx.AsyncClient(
            timeout=httpx.Timeout(ANSWER_SECONDS, connect=CONNECT_SECONDS),
            limits=httpx.Limits(max_connections=None, keepalive_expiry=IDLE_SECONDS),
            trust_env=False,
            verify=ssl.create_default_context(),
            transport=transport,
        )

    async def close(self) -> None:
        """Close the connections."""
        await self._http.aclose()

    async def ask(self, ring: Ring, shard: int, request: Forwarded, job: int) -> httpx.Response:
        """The answer of a predictor of a shard.

        Args:
            ring: The shards.
            shard: The number of the one that holds the histories.
            request: What to send.
            job: The position of a job of that shard's users, for the message.

        Raises:
            HTTPError: 503 where none of its predictors answers.
        """
        reason, retry_after = "", 1
        async for address, response, failure in self._attempts(ring.of_shard(shard), request):
            if response is not None and response.status_code not in UNANSWERED:
                return response
            label = failure or str(response.status_code if response is not None else "")
            self.metrics.failures.labels(str(shard), label).inc()
            reason = f"{address} answered {label}" if response is not None else label
            if response is not None and response.headers.get("retry-after", "").isdecimal():
                retry_after = max(retry_after, min(int(response.headers["retry-after"]), 60))
            log.info("shard %s: %s: %s", ring.name(shard), address, _detail(response) or label)
        raise HTTPError(
            503,
            f"shard {ring.name(shard)}, which has the histories of the user of job {job}, "
            f"cannot answer now ({reason})",
            retry_after,
        )

    async def ask_any(self, ring: Ring, request: Forwarded) -> httpx.Response:
        """The answer of any predictor that is reached; raises HTTPError (503)."""
        async for _, response, _ in self._attempts(ring.every_address, request):
            if response is not None and response.status_code not in (421, 502):
                return response
        raise HTTPError(503, "no predictor can be reached; try again in a second", 1)

    async def _attempts(
        self, addresses: Sequence[str], request: Forwarded
    ) -> AsyncIterator[tuple[str, httpx.Response | None, str]]:
        """Address, response and why there is none, until the caller has what it needs."""
        for address in self._in_order(addresses):
            response, failure = await self._send(address, request)
            if failure == "closed":  # an idle connection, closed as it was used again
                response, failure = await self._send(address, request)
            if response is None or response.status_code in UNANSWERED:
                self._failed_at[address] = time.monotonic()
            yield address, response, failure

    async def _send(self, address: str, request: Forwarded) -> tuple[httpx.Response | None, str]:
        try:
            response = await self._http.request(
                request.method,
                address + request.path,
                content=request.body,
                headers=dict(request.headers),
            )
        except httpx.TimeoutException:
            return None, "timeout"
        except httpx.ConnectError:
            return None, "refused"
        except httpx.HTTPError:
            return None, "closed"
        return response, ""

    def _in_order(self, addresses: Sequence[str]) -> list[str]:
        """The addresses in turn, those that failed lately last."""
        first = next(self._turn) % len(addresses)
        late = time.monotonic() - AVOID_SECONDS
        turned = [*addresses[first:], *addresses[:first]]
        return sorted(turned, key=lambda address: self._failed_at.get(address, late) > late)

    async def unready(self, ring: Ring) -> list[str]:
        """A sentence for each shard that has no ready predictor: what its predictors wait for."""
        shards = range(1, ring.count + 1)
        sentences = await asyncio.gather(*(self._why_unready(ring, shard) for shard in shards))
        return [sentence for sentence in sentences if sentence]

    async def _why_unready(self, ring: Ring, shard: int) -> str:
        probe = Forwarded("GET", "/readyz", {})
        addresses = ring.of_shard(shard)
        answers = await asyncio.gather(*(self._send(address, probe) for address in addresses))
        if any(response is not None and response.status_code == 200 for response, _ in answers):
            return ""
        reasons = [
            f"{address}: {failure or problem_of(response) or _detail(response)}"
            for address, (response, failure) in zip(addresses, answers, strict=True)
        ]
        return f"shard {ring.name(shard)} has no ready predictor ({'; '.join(reasons)})"


def problem_of(response: httpx.Response | None) -> str:
    """The sentence of a predictor's refusal; "" where there is none."""
    try:
        return "" if response is None else str(response.json()["detail"])
    except (ValueError, KeyError, TypeError):
        return ""


def _detail(response: httpx.Response | None) -> str:
    return "" if response is None else f"{response.status_code}: {response.text[:300]}"
