"""The OpenAPI document describes the endpoints as they are: Schemathesis tests a real predictor."""

from typing import Any

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    negative_data_rejection,
    response_schema_conformance,
    status_code_conformance,
)

from services.http.contract import ARROW_TYPE
from services.http.openapi import describe
from tests.services.conftest import Predictor

# The predictor of these tests asks for no token.
DOCUMENT = schemathesis.openapi.from_dict({**describe(), "security": []})
CHECKS = [not_a_server_error, status_code_conformance, content_type_conformance]


@schemathesis.serializer(ARROW_TYPE)
def as_it_is(_: object, value: bytes | str) -> bytes:
    """Nonsense instead of an Arrow stream; nearly valid streams have a test of their own."""
    return value if isinstance(value, bytes) else str(value).encode()


@DOCUMENT.exclude(path="/metrics").parametrize()
@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=list(HealthCheck),
    phases=[Phase.explicit, Phase.generate],
)
def test_the_predictor_answers_as_its_document_says(
    case: schemathesis.Case[Any], predictor: Predictor
) -> None:
    checks = list(CHECKS)
    if case.media_type != ARROW_TYPE:
        checks.append(response_schema_conformance)
        # A wrong finished job is rejected alone, in an answer of 200 for the others.
        checks += [negative_data_rejection] if case.path != "/outcomes" else []
    case.call_and_validate(base_url=predictor.url, checks=checks, timeout=120)


def test_the_document_is_served_as_it_is(predictor: Predictor) -> None:
    assert (
        predictor.http.get("/docs.json").json()
        == predictor.http.get("/openapi.json").json()
        == describe()
    )


def test_errors_of_address_and_method_have_the_form_of_all_others(predictor: Predictor) -> None:
    unknown, wrong = predictor.http.get("/nothing"), predictor.http.get("/predict")
    assert (unknown.status_code, unknown.json()["error"]) == (
        404,
        "there is nothing at this address",
    )
    assert (wrong.status_code, wrong.json()["error"]) == (405, "/predict takes POST only")
    assert wrong.headers["allow"] == "POST"
    assert predictor.http.post("/model").headers["allow"] == "GET, HEAD"
    assert predictor.http.get("/static_content/index.css").status_code == 200


@pytest.mark.parametrize(
    "path",
    ["/predict", "/outcomes", "/task", "/model", "/metrics", "/docs.json", "/livez", "/readyz"],
)
def test_every_address_is_in_the_document(path: str) -> None:
    assert path in describe()["paths"]
