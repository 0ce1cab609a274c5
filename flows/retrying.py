"""Retries of tasks: where a store or a registry could not be reached, never for wrong input."""

from __future__ import annotations

from typing import Any

from prefect.cache_policies import NO_CACHE

from jobs.store import StoreAddressError, StoreError
from models.releases.registry import OvertakenError, RegistryError


def is_transient(_task: Any, _run: Any, state: Any) -> bool:
    """Whether the failure may be over in a moment.

    Args:
        _task: The task, which Prefect passes.
        _run: Its run, which Prefect passes.
        state: The state of the failed run.
    """
    error = state.result(raise_on_failure=False)
    return isinstance(error, StoreError | RegistryError) and not isinstance(
        error, StoreAddressError | OvertakenError
    )


TASK_OPTIONS: dict[str, Any] = {
    "retries": 3,
    "retry_delay_seconds": [2, 10, 30],
    "retry_condition_fn": is_transient,
    # Values are tables and models of this run: nothing of them is hashed or stored.
    "cache_policy": NO_CACHE,
    "persist_result": False,
}
"""The options of every task."""
