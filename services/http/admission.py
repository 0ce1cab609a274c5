"""Admission: how much may wait at once. Past that a caller is told to come back, instead of waiting in a queue without end."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager

from services.http.errors import HTTPError


class Admission:
    """Bounds on the requests in hand and on the bytes they hold in memory; used from one event loop, so it needs no lock."""

    def __init__(self, most_requests: int, most_bytes: int) -> None:
        self.most_requests = most_requests
        self.most_bytes = most_bytes
        self.requests = 0
        self.bytes = 0

    @contextmanager
    def admit(self) -> Iterator[Reservation]:
        """Hold a place for one request; raises HTTPError (429) when there is none."""
        if self.requests >= self.most_requests:
            raise HTTPError(
                429, "too many requests are waiting; try again in a second", retry_after=1
            )
        self.requests += 1
        reservation = Reservation(self)
        try:
            yield reservation
        finally:
            self.requests -= 1
            self.bytes -= reservation.bytes


class Reservation:
    """What one admitted request holds."""

    def __init__(self, admission: Admission) -> None:
        self.admission = admission
        self.bytes = 0

    def grow(self, size: int) -> None:
        """Hold ``size`` bytes more; raises HTTPError (429) when all requests together would hold too many."""
        if self.admission.bytes + size > self.admission.most_bytes:
            raise HTTPError(
                429,
                "the requests in hand fill the memory set aside for them; try again in a second",
                retry_after=1,
            )
        self.admission.bytes += size
        self.bytes += size


async def read_bounded_body(
    parts: AsyncIterator[bytes],
    declared: str | None,
    most: int,
    reservation: Reservation,
    patience: float,
) -> bytes:
    """A body of at most ``most`` bytes, read within ``patience`` s; raises HTTPError (400, 408, 413, 429) without reading more."""
    too_large = HTTPError(
        413, f"the body is larger than {most // 2**20} MiB; send the jobs in several requests"
    )
    if declared is not None:
        if not declared.isascii() or not declared.isdigit():
            raise HTTPError(400, "Content-Length is not a number")
        if int(declared) > most:
            raise too_large
    body = bytearray()
    try:
        async with asyncio.timeout(patience):
            async for part in parts:
                reservation.grow(len(part))
                body += part
                if len(body) > most:
                    raise too_large
    except TimeoutError:
        raise HTTPError(408, f"the body did not arrive within {patience:g} s") from None
    return bytes(body)
