"""Seeded faults: at every effect of the process a die may kill it or fail the effect."""

from __future__ import annotations

import sqlite3
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from threading import current_thread
from typing import Any
from unittest.mock import patch

import numpy as np

STATEMENT, EFFECT = 0.0002, 0.003
"""The chance of a kill, and of a failure, at each statement and at each other effect."""
SAMPLER = "SystemMetricsMonitor"
"""MLflow's thread that samples CPU and memory: when it writes depends on the clock, not the seed."""
CALLS = (
    "create_run", "create_model_version", "log_artifacts", "set_terminated",
    "set_model_version_tag", "set_registered_model_tag", "set_registered_model_alias",
    "delete_registered_model_alias", "get_model_version", "get_model_version_by_alias",
)  # fmt: skip


class KilledError(BaseException):
    """The simulated process is gone; nothing may catch this but the world."""


class Dice:
    """Decides at each effect whether the process is killed or the effect fails; off in checks."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.armed = self.dead = False
        self.thrown: Counter[str] = Counter()

    @contextmanager
    def fate(self) -> Iterator[None]:
        """Let fate decide within."""
        self.armed = True
        try:
            yield
        finally:
            self.armed = self.dead = False

    def throw(self, text: str, failure: Callable[[], Exception], chance: float = EFFECT) -> None:
        """Before an effect, or after it: go on, die or fail, the last two by ``chance`` each."""
        if not self.armed or current_thread().name == SAMPLER:
            return
        if self.dead:
            raise KilledError
        drawn = self.rng.random()
        if drawn < chance:
            self.dead = True
            self.thrown[f"killed at {text}"] += 1
            raise KilledError
        if drawn < 2 * chance:
            self.thrown[f"{text} failed"] += 1
            raise failure()

    def around(
        self, text: str, effect: Callable[..., Any], failure: Callable[[], Exception]
    ) -> Callable[..., Any]:
        """``effect`` that may not happen, or happen without anyone hearing of it."""

        def thrown(*args: Any, **kwargs: Any) -> Any:
            self.throw(text, failure)
            done = effect(*args, **kwargs)
            self.throw(f"the end of {text}", failure)
            return done

        return thrown


@contextmanager
def faults(dice: Dice, home: Path) -> Iterator[None]:
    """Every effect of the world whose files are in ``home`` in the hands of ``dice``."""
    import mlflow
    from mlflow.exceptions import MlflowException
    from sqlalchemy import Engine, event
    from sqlalchemy.engine.default import DefaultDialect

    def broken() -> Exception:
        return sqlite3.OperationalError("disk I/O error")

    def on_statement(*_: Any) -> None:
        dice.throw("a statement", broken, STATEMENT)

    with ExitStack() as stack:
        event.listen(Engine, "before_cursor_execute", on_statement)
        stack.callback(event.remove, Engine, "before_cursor_execute", on_statement)
        stack.enter_context(
            patch.object(
                DefaultDialect,
                "do_commit",
                dice.around("a commit", DefaultDialect.do_commit, broken),
            )
        )
        for name in CALLS:
            effect = dice.around(
                name,
                getattr(mlflow.MlflowClient, name),
                lambda: MlflowException("the registry is away"),
            )
            stack.enter_context(patch.object(mlflow.MlflowClient, name, effect))
        for name in ("replace", "read_bytes"):
            stack.enter_context(patch.object(Path, name, _of_files(dice, name, home)))
        yield


def _of_files(dice: Dice, name: str, home: Path) -> Callable[..., Any]:
    """A method of paths, with the die thrown for the world's files; libraries read others, once."""
    plain = getattr(Path, name)
    thrown = dice.around(name, plain, lambda: OSError(5, "Input/output error"))

    def of_files(path: Path, *args: Any) -> Any:
        return (thrown if path.is_relative_to(home) else plain)(path, *args)

    return of_files
