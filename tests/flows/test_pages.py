"""MLflow's and Prefect's pages in a real browser: what they ask for, and what they open on."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any
from urllib.parse import urlsplit

import pytest

from infra.components import mlflow
from infra.settings import Settings
from infra.temporary import running
from models.releases import registry
from models.releases.versions import Evidence

LAPTOP, PHONE = {"width": 1366, "height": 900}, {"width": 390, "height": 844}
LOOK_MS = 3000
"""Analytics are loaded a moment after the page."""


@pytest.fixture(scope="module")
def mlflow_page(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """The address of MLflow's server, with an experiment of a version of its own."""
    ours = settings.model_copy(update={"model_name": "pages"})
    folder = tmp_path_factory.mktemp("version")
    (folder / "model_set.json").write_text("{}")
    registry.publish(folder, Evidence(card="# A card", metrics={"mae": 1.0}), settings=ours)
    with running(ours, mlflow(ours)):
        yield f"http://127.0.0.1:{ours.mlflow_port}"


def open_pages(browser: Any, addresses: list[str], size: dict[str, int]) -> tuple[set[str], str]:
    """Open pages in a new browser; returns the hosts of all requests, and the last page's text."""
    context = browser.new_context(viewport=size)
    page = context.new_page()
    hosts: set[str] = set()
    page.on("request", lambda request: hosts.add(urlsplit(request.url).hostname or ""))
    page.on("websocket", lambda socket: hosts.add(urlsplit(socket.url).hostname or ""))
    for address in addresses:
        page.goto(address)
        page.wait_for_load_state("load")
        page.wait_for_timeout(LOOK_MS)
    text = page.inner_text("body")
    context.close()
    return hosts - {""}, text


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_prefects_pages_ask_only_their_own_server(
    prefect_server: str, browser: Any, size: dict[str, int]
) -> None:
    paths = ("/", "/runs", "/flows", "/deployments")
    hosts, _ = open_pages(browser, [prefect_server + path for path in paths], size)
    assert hosts == {"127.0.0.1"}


@pytest.mark.parametrize("size", [LAPTOP, PHONE], ids=["laptop", "phone"])
def test_mlflows_pages_ask_only_their_own_server_and_open_on_runs(
    mlflow_page: str, settings: Settings, browser: Any, size: dict[str, int]
) -> None:
    version = registry.versions(settings.model_copy(update={"model_name": "pages"}))[0]
    from mlflow import MlflowClient

    client = MlflowClient(settings.tracking_url, settings.tracking_url)
    experiment = client.get_run(version.run_id).info.experiment_id
    paths = (
        "/",
        "/#/models",
        "/#/models/pages/versions/1",
        f"/#/experiments/{experiment}/runs/{version.run_id}",
        f"/#/experiments/{experiment}",
    )
    hosts, text = open_pages(browser, [mlflow_page + path for path in paths], size)
    assert hosts == {"127.0.0.1"}
    assert "Traces\n0" not in text and "Detect Issues" not in text, "a page about language models"
    assert "usage data" not in text
    assert "Runs" in text
