"""Every refusal is a problem of RFC 9457, a framework's too."""

import asyncio
from typing import Any

import orjson

from services.http.errors import PROBLEM_TYPE, HTTPError, ProblemResponses, error_response
from services.http.openapi import describe

PROBLEM = {"title": "", "status": 0, "detail": "", "error": ""}


def test_every_documented_refusal_is_made_a_problem() -> None:
    for path, methods in describe()["paths"].items():
        (operation,) = methods.values()
        refusals = {s: r for s, r in operation["responses"].items() if s != "200"}
        assert refusals, path
        assert all(list(refusal["content"]) == [PROBLEM_TYPE] for refusal in refusals.values())
        for status in map(int, refusals):
            response = error_response(HTTPError(status, "a sentence", 1))
            assert response.media_type == PROBLEM_TYPE
            problem = orjson.loads(response.body)
            assert problem.keys() == PROBLEM.keys()
            assert (problem["status"], problem["detail"]) == (status, "a sentence")


def test_a_refusal_of_the_framework_becomes_a_problem() -> None:
    """As of a predictor that is not ready yet, which BentoML answers with an empty 503."""
    sent = list[Any]()

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 503, "headers": []})
        await send({"type": "http.response.body", "body": b"no", "more_body": True})
        await send({"type": "http.response.body", "body": b"thing"})

    async def send(message: Any) -> None:
        sent.append(message)

    scope = {"type": "http", "path": "/readyz", "method": "GET", "headers": []}
    responses = ProblemResponses(app, lambda: "it has learned 3 of 10 stored outcomes")
    asyncio.run(responses(scope, None, send))  # type: ignore[arg-type]
    start, body = sent
    assert dict(start["headers"])[b"content-type"].decode() == PROBLEM_TYPE
    assert dict(start["headers"])[b"retry-after"] == b"1"
    problem = orjson.loads(body["body"])
    assert problem["status"] == 503
    assert problem["detail"] == "not ready yet: it has learned 3 of 10 stored outcomes"
