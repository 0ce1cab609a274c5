"""Commands as flow runs: what a person starts is seen on Prefect's page while the site is up."""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from infra.components import prefect_address
from infra.processes import is_up
from infra.settings import Settings, prepare_environment, split_login

if TYPE_CHECKING:
    from models.releases.pipeline import Release, TrainingPipeline

Result = TypeVar("Result")

ANSWER_SECONDS = 2.0


def as_flow_run(
    name: str,
    call: Callable[[], Result],
    describe: Callable[[Result], str] = lambda _result: "done",
    show: Callable[[Result], None] = lambda _result: None,
) -> Result:
    """Run a command's work as a run of the flow ``name``, or plainly where the site is not up.

    Args:
        name: The name of the flow.
        call: The work.
        describe: Says in a sentence what it did, for the run's log and final state.
        show: Makes the run's artifacts.

    Returns:
        What ``call`` returns; its errors are raised as they are.
    """
    settings = prepare_environment()
    api = f"{prefect_address(settings)}/api"
    if not _is_answering(settings, api):
        return call()
    from prefect import flow, get_run_logger
    from prefect.settings import PREFECT_API_URL, temporary_settings
    from prefect.states import Completed

    # The command reports by itself: the run's lines go to Prefect's page only.
    for handler in logging.getLogger("prefect").handlers:
        handler.setLevel(logging.CRITICAL)
    results: list[Result] = []

    @flow(name=name, flow_run_name=f"{name}: from the command line", persist_result=False)
    def run() -> object:
        log = get_run_logger()
        log.info("started on the command line")
        results.append(call())
        sentence = describe(results[0])
        log.info(sentence)
        show(results[0])
        return Completed(message=sentence)

    with temporary_settings({PREFECT_API_URL: api}):
        run()
    return results[0]


def _is_answering(settings: Settings, api: str) -> bool:
    """Whether Prefect is up on this data folder, or elsewhere by name, and takes our login."""
    # Without its process the port may be that of another data folder's Prefect.
    if not settings.prefect_url and not is_up(settings, "prefect"):
        return False
    import httpx

    # As for Prefect's own client: only our own server gets the login.
    login = settings.logins.get("PREFECT_API_AUTH_STRING", "")
    auth = split_login(login) if login else None
    try:
        answer = httpx.get(f"{api}/admin/version", auth=auth, timeout=ANSWER_SECONDS)
    except httpx.HTTPError:
        return False
    return answer.status_code == httpx.codes.OK


def train_as_flow_run(pipeline: TrainingPipeline, settings: Settings) -> Release:
    """Train, with the run's log and artifacts on Prefect's page while the site is up."""

    def train() -> Release:
        release = pipeline.run()
        assert release, "only a retraining may stop before its last step"  # noqa: S101
        return release

    def show(release: Release) -> None:
        from flows.train import report_release

        report_release(release, settings)

    return as_flow_run("train", train, lambda done: f"{done.version.label}: {done.why}", show)
