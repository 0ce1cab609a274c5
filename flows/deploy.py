"""Deploy: verify the champion, and wait until the predictor answers with it."""

from __future__ import annotations

import time
from typing import Any

import httpx
from prefect import flow, get_run_logger, task
from prefect.artifacts import create_link_artifact
from prefect.states import Completed

from flows.champion import current_champion
from flows.retrying import TASK_OPTIONS
from infra.errors import GridcastError
from infra.links import models_page
from infra.settings import Settings, prepare_environment
from models.releases.verification import verify
from models.releases.versions import Version
from services.http.callers import own_token

TAKE_SECONDS = 120.0
"""The time in which a predictor must load the champion and learn the history of the store."""


@flow(
    name="deploy",
    flow_run_name="deploy",
    description="Check that the champion works and that the predictor answers with it.",
)
def deploy() -> Any:
    """Verify the champion in a child process, then wait until the predictor answers with it.

    The predictor follows the alias by itself.
    """
    settings = prepare_environment()
    champion = current_champion(settings)
    if champion is None:
        return Completed(message="there is no champion yet: train one first (gridcast train)")
    verify_in_subprocess(champion, settings)
    address = settings.predictor_address
    served = await_predictor(address, champion, settings)
    text = (
        f"{champion.label} answers at {address}"
        if served
        else f"{champion.label} works; no predictor answers at {address}"
    )
    get_run_logger().info(text)
    create_link_artifact(
        models_page(settings), "The versions and what serves", key="deploy", description=text
    )
    return {"version": champion.version, "served": served}


@task(task_run_name="verify the champion", **TASK_OPTIONS)
def verify_in_subprocess(version: Version, settings: Settings) -> None:
    """Load it and let it predict once in a process of its own."""
    verify(version, settings)


@task(task_run_name="wait for the predictor", **TASK_OPTIONS)
def await_predictor(address: str, version: Version, settings: Settings) -> bool:
    """Wait until the predictor answers with ``version``.

    Returns False where none runs; raises GridcastError where it goes on with another version.

    Args:
        address: The predictor's URL.
        version: The version that must answer.
        settings: The settings.
    """
    deadline, serves = time.monotonic() + TAKE_SECONDS, "nothing"
    while time.monotonic() < deadline:
        try:
            answer = httpx.get(f"{address}/model", headers=_token(settings), timeout=10)
        except httpx.TransportError:
            return False
        serves = (
            answer.json().get("model_version", "nothing")
            if answer.status_code == 200
            else f"status {answer.status_code}"
        )
        if serves == version.label:
            return True
        time.sleep(1)
    raise GridcastError(
        f"the predictor at {address} answers with {serves} and not with {version.label}: "
        "its log says why"
    )


def _token(settings: Settings) -> dict[str, str]:
    """The header for Gridcast's own request, where authentication is on."""
    token = own_token(settings, "predict")
    return {"Authorization": f"Bearer {token}"} if token else {}
