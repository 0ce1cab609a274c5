"""The OpenAPI document, made from the contract, and the page that shows it."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

from msgspec import json
from msgspec.structs import fields

from services.http.answers import NUMBERS_BESIDE, Problem
from services.http.authentication import OPEN
from services.http.contract import ARROW_TYPE, JSON_TYPE
from services.http.errors import PROBLEM_TYPE
from services.http.examples import EXAMPLES
from services.http.routes import DOCUMENTED, Endpoint

Schema = dict[str, Any]

# Swagger UI from the files that BentoML ships; BentoML's own page asks a foreign server.
PAGE = """<!DOCTYPE html>
<html lang="en">
<head><meta charset="utf-8"><title>Gridcast predictor</title><link rel="icon" href="data:,">
<link rel="stylesheet" href="./static_content/swagger-ui.css"></head>
<body><main id="swagger-ui"></main>
<script src="./static_content/swagger-ui-bundle.js"></script>
<script src="./docs.js"></script>
</body></html>
"""
SCRIPT = """SwaggerUIBundle({
  url: "./docs.json", dom_id: "#swagger-ui", deepLinking: true, validatorUrl: null,
  tryItOutEnabled: true,
})
"""
PAGE_HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; "
    "connect-src 'self'; img-src 'self' data:; base-uri 'none'; form-action 'none'; "
    "frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
}

_REFUSALS = {
    400: "The body or a header cannot be read",
    401: "No known token",
    403: "The token lacks the scope, or the caller is not of this machine",
    408: "The body did not arrive in time",
    413: "Too many bytes or jobs",
    415: "Neither JSON nor an Arrow stream",
    422: "A job, a field or an option is wrong; the sentence names it",
    421: "The histories of a job's user are another predictor's (GRIDCAST_SHARD)",
    429: "Too much is waiting; Retry-After says when to come again",
    431: "Too many headers, or too long ones",
    503: "Not now; Retry-After says when to come again, and nothing of the request was kept",
}
_BINARY = {"schema": {"type": "string", "format": "binary"}}


def _any_type(_: type) -> Schema:
    """The schema of the one custom type of the contract, ``Instant``."""
    return {
        "anyOf": [{"const": "now"}, {"type": "string", "format": "date-time"}, {"type": "number"}],
        "description": "ISO 8601, Unix seconds or now; from 1980 to now",
    }


@lru_cache(maxsize=1)
def describe() -> Schema:
    """The OpenAPI 3.1 document."""
    structs = [Problem, *(kind for item in DOCUMENTED for kind in (*item.bodies, *item.answers))]
    _, components = json.schema_components(
        structs, schema_hook=_any_type, ref_template="#/components/schemas/{name}"
    )
    for kind in NUMBERS_BESIDE:
        components[kind.__name__]["additionalProperties"] = {"type": ["number", "null"]}
    document = {
        "openapi": "3.1.0",
        "info": {
            "title": "Gridcast predictor",
            "version": "1",
            "description": "Predicts, before a grid job runs, how long it will run and what it "
            "will use, with calibrated ranges.",
        },
        "security": [{"bearer": []}],
        "paths": {item.path: {item.method.lower(): _operation(item)} for item in DOCUMENTED},
        "components": {
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
            "schemas": components,
        },
    }
    # As a reader sees it: msgspec leaves tuples for lists.
    return json.decode(json.encode(document), type=Schema)


def _operation(endpoint: Endpoint) -> Schema:
    operation: Schema = {
        "operationId": endpoint.name,
        "summary": endpoint.summary,
        "responses": {"200": _success(endpoint)} | _refusals(endpoint),
    }
    if endpoint.path in OPEN:
        operation["security"] = []
    if endpoint.description:
        operation["description"] = endpoint.description
    if endpoint.bodies:
        content = {"schema": _one_of(endpoint.bodies), "examples": EXAMPLES[endpoint.name]}
        body: Schema = {JSON_TYPE: content}
        operation["requestBody"] = {"required": True, "content": body | _arrow(endpoint)}
        operation["parameters"] = _query(endpoint)
    return operation


def _one_of(structs: tuple[type, ...]) -> Schema:
    references = [{"$ref": f"#/components/schemas/{struct.__name__}"} for struct in structs]
    return references[0] if len(references) == 1 else {"oneOf": references}


def _arrow(endpoint: Endpoint) -> Schema:
    return {ARROW_TYPE: _BINARY} if endpoint.arrow else {}


def _success(endpoint: Endpoint) -> Schema:
    if endpoint.text:
        content: Schema = {"text/plain": {"schema": {"type": "string"}}}
    elif endpoint.answers:
        content = {JSON_TYPE: {"schema": _one_of(endpoint.answers)}}
    else:
        content = {JSON_TYPE: {"schema": {"type": "object"}}}
    if endpoint.arrow_answer:
        content |= {ARROW_TYPE: _BINARY}
    return {"description": endpoint.summary, "content": content}


def _refusals(endpoint: Endpoint) -> Schema:
    """Responses by status."""
    statuses = {*endpoint.statuses, 400, 431, *((401, 403) if endpoint.path not in OPEN else ())}
    content = {PROBLEM_TYPE: {"schema": _one_of((Problem,))}}
    return {
        str(status): {"description": _REFUSALS[status], "content": content}
        for status in sorted(statuses)
    }


def _query(endpoint: Endpoint) -> list[Schema]:
    """The options as query parameters."""
    if not fields(endpoint.options):
        return []
    _, components = json.schema_components([endpoint.options], schema_hook=_any_type)
    properties = components[endpoint.options.__name__]["properties"]
    parameters = [{"name": name, "in": "query", "schema": properties[name]} for name in properties]
    for parameter in parameters:
        if parameter["schema"].get("type") == "array":
            parameter |= {"style": "form", "explode": False}
    return parameters
