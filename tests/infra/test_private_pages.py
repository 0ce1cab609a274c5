"""Pages of other programs, as this site serves them: they reach no other host."""

from __future__ import annotations

import asyncio

import httpx
from starlette.applications import Starlette
from starlette.responses import HTMLResponse, JSONResponse
from starlette.routing import Route

from infra.private_pages import PrivatePages


async def page(_request: object) -> HTMLResponse:
    return HTMLResponse("<html><head><title>a page</title></head></html>", headers={"etag": "1"})


async def numbers(_request: object) -> JSONResponse:
    return JSONResponse({"text": "<head>"})


def get(path: str, **headers: str) -> httpx.Response:
    app = Starlette(routes=[Route("/", page), Route("/api", numbers)])
    private = PrivatePages(app, ["http://localhost:1"], {"colour": "blue"})

    async def ask() -> httpx.Response:
        transport = httpx.ASGITransport(private)
        async with httpx.AsyncClient(transport=transport, base_url="http://here") as client:
            return await client.get(path, headers=headers)

    return asyncio.run(ask())


def test_a_page_gets_a_policy_and_a_script_before_its_own() -> None:
    answer = get("/", **{"accept": "text/html", "if-none-match": "1"})
    assert answer.text.startswith("<html><head><script>")
    assert answer.text.endswith("<title>a page</title></head></html>")
    assert '{"colour": "blue"}' in answer.text
    assert int(answer.headers["content-length"]) == len(answer.content)
    policy = answer.headers["content-security-policy"]
    assert "connect-src 'self' data: blob: http://localhost:1 ws://localhost:1" in policy
    assert "etag" not in answer.headers


def test_what_is_no_page_is_passed_on_as_it_is() -> None:
    for accept in ("text/html", "application/json"):
        answer = get("/api", accept=accept)
        assert answer.json() == {"text": "<head>"}
        assert "content-security-policy" not in answer.headers
