"""The examples of the OpenAPI document work, its page works offline, and errors are problems."""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

import jsonschema_rs
import pytest

from services.http.contract import JSON_TYPE
from services.http.errors import PROBLEM_TYPE
from services.http.openapi import describe
from tests.services.conftest import Predictor, new_home, publish, running

TOKEN = "broker-0123456789"
DOCUMENT = describe()
OPERATIONS = {
    path: operation
    for path, (operation,) in ((p, m.values()) for p, m in DOCUMENT["paths"].items())
}
EXAMPLES = [
    pytest.param(path, example["value"], id=f"{path} {name}")
    for path, operation in OPERATIONS.items()
    if "requestBody" in operation
    for name, example in operation["requestBody"]["content"][JSON_TYPE]["examples"].items()
]


def violations(value: Any, schema: Any) -> list[str]:
    validator = jsonschema_rs.validator_for({**schema, "components": DOCUMENT["components"]})
    return [str(error) for error in validator.iter_errors(value)]


@pytest.fixture(scope="module")
def own_predictor(
    tmp_path_factory: pytest.TempPathFactory, grid_jobs: Any, model_set: Any
) -> Iterator[Predictor]:
    """A predictor of this module: the examples change its store."""
    home = new_home(tmp_path_factory.mktemp("examples"), grid_jobs.head(1200))
    publish(model_set, home)
    with running(home) as predictor:
        yield predictor


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Predictor]:
    """A predictor with a token for predictions alone."""
    tokens = f"{TOKEN}:predict"
    with running(tmp_path_factory.mktemp("guarded"), GRIDCAST_TOKENS=tokens) as predictor:
        yield predictor


def test_every_call_with_a_body_has_an_example() -> None:
    assert {example.values[0] for example in EXAMPLES} == {
        path for path, operation in OPERATIONS.items() if "requestBody" in operation
    }


@pytest.mark.parametrize(("path", "body"), EXAMPLES)
def test_every_example_is_answered_as_documented(
    path: str, body: Any, own_predictor: Predictor
) -> None:
    operation = OPERATIONS[path]
    assert not violations(body, operation["requestBody"]["content"][JSON_TYPE]["schema"])
    response = own_predictor.http.post(path, json=body)
    assert response.status_code == 200, response.text
    answer = operation["responses"]["200"]["content"][JSON_TYPE]["schema"]
    assert not violations(response.json(), answer)
    assert response.json().get("rejected", []) == []


@pytest.mark.parametrize("path", [p for p, o in OPERATIONS.items() if "requestBody" not in o])
def test_every_call_without_a_body_is_answered_as_it_stands(
    path: str, own_predictor: Predictor
) -> None:
    response = own_predictor.http.get(path)
    assert response.status_code == 200
    content = OPERATIONS[path]["responses"]["200"]["content"]
    assert response.headers["content-type"].partition(";")[0] in content
    if JSON_TYPE in content:
        assert not violations(response.json(), content[JSON_TYPE]["schema"])


def test_the_page_runs_every_example_and_asks_no_other_server(
    own_predictor: Predictor, browser: Any
) -> None:
    context = browser.new_context()
    page = context.new_page()
    requests, complaints = list[str](), list[str]()
    page.on("request", lambda request: requests.append(request.url))
    page.on("console", lambda message: complaints.append(f"{message.type}: {message.text}"))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    answer = page.goto(f"{own_predictor.url}/docs", wait_until="networkidle")
    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy and "unsafe" not in policy
    page.locator(".opblock").first.wait_for(timeout=120_000)
    assert page.locator(".opblock").count() == len(OPERATIONS)
    for path, operation in OPERATIONS.items():
        block = page.locator(f"#operations-default-{operation['operationId']}")
        block.locator(".opblock-summary-control").click()
        with page.expect_response(lambda response, path=path: path in response.url) as caught:
            block.get_by_role("button", name="Execute").click()
        assert caught.value.status == 200, (path, caught.value.text())
        block.locator(".live-responses-table .response-col_status").first.wait_for(timeout=120_000)
        block.locator(".opblock-summary-control").click()
    assert not [line for line in complaints if not line.startswith(("log", "info"))]
    foreign = [url for url in requests if not url.startswith((own_predictor.url, "data:"))]
    assert not foreign
    context.close()


def test_a_browser_with_the_token_as_password_sees_the_page(
    guarded: Predictor, browser: Any
) -> None:
    schemes = guarded.http.get("/docs").headers.get_list("www-authenticate")
    assert [scheme.partition(" ")[0] for scheme in schemes] == ["Bearer", "Basic"]
    credentials = {"username": "me", "password": TOKEN}
    context = browser.new_context(http_credentials=credentials)
    page = context.new_page()
    page.goto(f"{guarded.url}/docs")
    page.set_default_timeout(120_000)  # a busy machine
    page.wait_for_selector(".opblock")
    assert page.locator(".opblock").count() == len(OPERATIONS)
    context.close()


def assert_problem(response: Any, status: int) -> None:
    assert response.status_code == status
    assert response.headers["content-type"] == PROBLEM_TYPE
    assert not violations(response.json(), {"$ref": "#/components/schemas/Problem"})
    problem = response.json()
    assert (problem["status"], problem["title"]) == (status, HTTPStatus(status).phrase)
    assert problem["detail"] == problem["error"] != ""


LONG = {"X-Long": "x" * 40_000}


@pytest.mark.parametrize(
    ("status", "method", "path", "content", "headers"),
    [
        (400, "POST", "/predict", b"{", {}),
        (400, "GET", "/model", b"", {"Host": "evil.example"}),
        (401, "GET", "/model", b"", {"Authorization": "Bearer wrong"}),
        (403, "POST", "/outcomes", b"{}", {}),
        (404, "GET", "/nothing", b"", {}),
        (404, "GET", "/static_content/nothing.js", b"", {}),
        (405, "GET", "/predict", b"", {}),
        (405, "DELETE", "/model", b"", {}),
        (405, "POST", "/livez", b"", {}),
        (405, "POST", "/readyz", b"", {}),
        (405, "POST", "/static_content/index.css", b"", {}),
        (413, "POST", "/predict", b" " * (33 * 2**20), {}),
        (415, "POST", "/predict", b"{}", {"Content-Type": "text/plain"}),
        (422, "POST", "/predict", b"{}", {}),
        (422, "POST", "/rank", b"{}", {}),
        (422, "POST", "/task", b"{}", {}),
        (431, "GET", "/model", b"", LONG),
    ],
)
def test_every_refusal_is_a_problem(
    status: int,
    method: str,
    path: str,
    content: bytes,
    headers: dict[str, str],
    guarded: Predictor,
) -> None:
    sent = {"Authorization": f"Bearer {TOKEN}", "Content-Type": JSON_TYPE, **headers}
    response = guarded.http.request(method, path, content=content, headers=sent)
    assert_problem(response, status)
    if status == 405:
        assert response.headers["allow"]
