"""Following: the thread that keeps the live state true to the registry's champion and to the store, off the request path."""

from __future__ import annotations

import json
import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from datetime import datetime
from pathlib import Path

from infra.errors import GridcastError
from models.releases import registry
from models.releases.versions import Version
from services.live.predictor_state import PredictorState

log = logging.getLogger("bentoml.gridcast")

PAUSE = 0.7
"""Seconds between two looks; there are four, in turn, so that each comes about every three seconds."""
RETRY_SECONDS = 60.0
"""How long a version that was refused is left alone; a disk or a network may have been what was wrong."""


class ChampionWatcher:
    """The thread that asks for the champion, and what it remembers between two questions."""

    def __init__(
        self,
        live: PredictorState,
        count_swap: Callable[[str], None],
        challenge: Callable[[Version | None], None] = lambda version: None,
    ) -> None:
        self.live = live
        self.count_swap = count_swap
        self.challenge = challenge
        self._stop = threading.Event()
        self._refused: tuple[int, str, float] = (0, "", 0.0)
        self._parent = os.getppid()
        self._thread = threading.Thread(target=self._run, name="follow-champion", daemon=True)

    def start(self) -> None:
        """Begin to follow; the first look makes the predictor ready."""
        self._thread.start()

    def stop(self) -> None:
        """End after the look that is under way."""
        self._stop.set()

    def _run(self) -> None:
        while not self._stop.is_set():
            if os.getppid() != self._parent:
                # BentoML's supervisor was killed: an orphan would hold the port and go on answering from an ageing state.
                log.warning("the process that started this one is gone, so this one ends")
                os.kill(os.getpid(), signal.SIGTERM)
                return
            for step in (
                self.look,
                self.catch_up,
                self.look_for_challenger,
                self.live.save_history,
            ):
                self.live.idle.wait()
                try:
                    step()
                except Exception:
                    # Whatever it is, the next look may find it gone, and requests are answered meanwhile.
                    log.exception("following the champion failed")
                # All at once they would take their time from one request.
                self._stop.wait(PAUSE if self.live.ready else 0)

    def look(self) -> None:
        """Ask the registry which version is champion, and let it answer if it does not yet."""
        troubles = self.live.troubles
        try:
            version = registry.champion(self.live.settings)
            troubles.pop("registry", None)
        except GridcastError as error:
            if "registry" not in troubles:
                log.warning("the champion cannot be asked for: %s", error)
            troubles["registry"] = str(error)
            if not self.live.ready:
                self._begin_without(recall(self.live))
            return
        if self.live.ready and self.live.active.is_of(version):
            troubles.pop("champion", None)
        elif version is not None:
            self._take(version)
        elif not self.live.ready:
            self.live.take(None)
        else:
            troubles["champion"] = (
                f"the registry names no champion; {self.live.active.label} goes on answering"
            )

    def catch_up(self) -> None:
        """Learn what others stored."""
        try:
            self.live.catch_up()
            self.live.troubles.pop("history", None)
        except GridcastError as error:
            if "history" not in self.live.troubles:
                log.warning("what others stored cannot be learned: %s", error)
            self.live.troubles["history"] = str(error)

    def look_for_challenger(self) -> None:
        """Tell which version is challenger, once the champion answers."""
        if self.live.ready and "registry" not in self.live.troubles:
            with suppress(GridcastError):  # the next look for the champion says what is wrong
                self.challenge(registry.challenger(self.live.settings))

    def _take(self, version: Version) -> None:
        number, run_id, when = self._refused
        if (number, run_id) == (
            version.version,
            version.run_id,
        ) and time.monotonic() < when + RETRY_SECONDS:
            return
        try:
            self.live.take(version, tried=_same(recall(self.live), version))
        except GridcastError as error:
            self._refused = (version.version, version.run_id, time.monotonic())
            self.live.troubles["champion"] = f"{version.label} is refused: {error}"
            log.error(
                "%s is refused and the model before it goes on answering: %s", version.label, error
            )
            self.count_swap("refused")
            if not self.live.ready:
                self._begin_without(recall(self.live))
            return
        self.live.troubles.pop("champion", None)
        remember(self.live, version)
        self.count_swap("taken")
        log.info("%s answers now", version.label)

    def _begin_without(self, version: Version | None) -> None:
        """Answer from the last champion that this data folder knows, else from the bare histories."""
        try:
            self.live.take(version, tried=True)
        except GridcastError as error:
            log.error("the last champion cannot be used either: %s", error)
            self.live.take(None)


def _same(one: Version | None, other: Version) -> bool:
    return one is not None and (one.name, one.version, one.run_id) == (
        other.name,
        other.version,
        other.run_id,
    )


def _place(live: PredictorState) -> Path:
    return live.settings.folder("predictor") / "champion.json"


def remember(live: PredictorState, version: Version) -> None:
    """Note the version that answers, for a start while the registry is away."""
    text = json.dumps(
        {
            **asdict(version),
            "created_at": version.created_at.isoformat(),
            "tags": dict(version.tags),
        }
    )
    draft = _place(live).with_suffix(".new")
    draft.write_text(text)
    draft.replace(_place(live))


def recall(live: PredictorState) -> Version | None:
    """The version that answered last, None if there was none or the note cannot be read."""
    try:
        noted = json.loads(_place(live).read_text())
        return Version(
            **{
                **noted,
                "aliases": tuple(noted["aliases"]),
                "created_at": datetime.fromisoformat(noted["created_at"]),
            }
        )
    except (OSError, ValueError, TypeError, KeyError):
        return None
