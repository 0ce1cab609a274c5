"""Access to MLflow: a client, the experiment, and its errors as one sentence."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from infra.errors import GridcastError
from infra.settings import Settings, prepare_environment

KIND_TAG, MODEL_TRAINING = "mlflow.experimentKind", "custom_model_development"
"""MLflow's page shows runs and models of such an experiment, and no pages about language models."""


FULL_DISK = ("disk is full", "disk I/O error", "No space left on device")
"""What SQLite and the system say of a disk without space."""


IMPORTING = threading.Lock()


class RegistryError(GridcastError):
    """MLflow cannot be reached or refuses; the message is one sentence that names its address."""


@contextmanager
def mlflow_client(settings: Settings | None) -> Iterator[tuple[Any, Settings]]:
    """A client of MLflow, and the settings; MLflow's errors become a RegistryError."""
    settings = settings or prepare_environment()
    # Its modules import each other in a circle: of two threads that begin at once, one would fail.
    with IMPORTING:
        from mlflow.exceptions import MlflowException
        from mlflow.store.db import utils as database

    # Ten doubling waits, 100 s in all, before it says that a database is down.
    database.MAX_RETRY_COUNT = 3
    try:
        yield _make_client(settings.tracking_url), settings
    except (MlflowException, OSError, database.sqlalchemy.exc.SQLAlchemyError) as error:
        raise RegistryError(
            f"MLflow at {settings.displayed_tracking_url} did not do it: {_sentence(error)}"
        ) from error


@contextmanager
def opening_mlflow(settings: Settings) -> Iterator[None]:
    """Import MLflow and open its store in a thread beside other work: a new store takes seconds.

    What is wrong with it is said by the first call that needs it. Libraries that the other work
    imports must have been imported before, since MLflow imports some of them too.
    """

    def open_store() -> None:
        with mlflow_client(settings):
            pass

    with ThreadPoolExecutor(1, "open MLflow") as pool:
        pool.submit(open_store)
        yield


def _make_client(url: str) -> Any:
    """A client, which makes the tables of a new SQLite database.

    Where the disk is full, none of them are left: MLflow cannot go on with a part.
    """
    from mlflow import MlflowClient

    file = Path(url.removeprefix("sqlite:///"))
    is_new = url.startswith("sqlite:///") and not file.exists()
    try:
        return MlflowClient(url, url)
    except Exception as error:
        if is_new and any(text in str(error) for text in FULL_DISK):
            for suffix in ("", "-journal", "-wal", "-shm"):
                file.with_name(file.name + suffix).unlink(missing_ok=True)
        raise


def _sentence(error: Exception) -> str:
    text = str(error)
    if any(reason in text for reason in FULL_DISK):
        return "its disk is full; free some space and run the same command again"
    if "Max retries exceeded" in text or "Connection" in text:
        return "nobody answers there; is it running (gridcast status)?"
    with suppress(ValueError, KeyError, TypeError):
        text = json.loads(text)["message"]
    return text.splitlines()[0][:300] if text else type(error).__name__


def experiment_of(client: Any, settings: Settings) -> str:
    """Return the id of the model's experiment, which is made or restored where it is missing."""
    experiment = client.get_experiment_by_name(settings.model_name)
    if experiment is None:
        # A server decides where artifacts are; without one they are beside its database, where
        # ``gridcast up`` finds them.
        local = not settings.tracking_url.startswith("http")
        where = (settings.folder("mlflow") / "artifacts").as_uri() if local else None
        return str(
            client.create_experiment(
                settings.model_name, artifact_location=where, tags={KIND_TAG: MODEL_TRAINING}
            )
        )
    if experiment.lifecycle_stage == "deleted":  # in MLflow's page: its name stays taken
        client.restore_experiment(experiment.experiment_id)
    if KIND_TAG not in experiment.tags:  # one of an earlier Gridcast
        client.set_experiment_tag(experiment.experiment_id, KIND_TAG, MODEL_TRAINING)
    return str(experiment.experiment_id)
