"""The champion watcher: keeps the active model the registry's champion, off the request path."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress

from infra.errors import GridcastError
from infra.settings import Settings
from models.releases import registry
from models.releases.noted_champion import recall, remember
from models.releases.versions import Version
from services.live.active_model import ActiveModel, load_active_model, same_version
from services.live.predictor_state import PredictorState

log = logging.getLogger("bentoml.gridcast")

RETRY_SECONDS = 60.0
"""Seconds until a refused version is tried again: a disk or a network may have been the cause."""


class ChampionWatcher:
    """Asks the registry for the champion and makes it the active model.

    Args:
        state: The state whose model it is.
        settings: Where the registry is, and the data folder that remembers the last champion.
        troubles: What is wrong, by what it concerns; sets and clears ``registry``, ``champion``.
        count_swap: Called with ``taken`` or ``refused`` for each new version.
        challenge: Called with the challenger, None for none.
    """

    def __init__(
        self,
        state: PredictorState,
        settings: Settings,
        troubles: dict[str, str],
        count_swap: Callable[[str], None] = lambda result: None,
        challenge: Callable[[Version | None], None] = lambda version: None,
    ) -> None:
        self.state, self.settings, self.troubles = state, settings, troubles
        self.count_swap, self.challenge = count_swap, challenge
        self._file = settings.folder("predictor") / "champion.json"
        self._refused: Version | None = None
        self._retry_at = 0.0

    def look(self) -> None:
        """Ask the registry which version is champion, and make it the active model."""
        troubles = self.troubles
        try:
            version = registry.champion(self.settings)
            troubles.pop("registry", None)
        except GridcastError as error:
            if "registry" not in troubles:
                log.warning("the registry cannot be asked for the champion: %s", error)
            troubles["registry"] = str(error)
            if not self.state.ready:
                self._begin_with(recall(self._file))
            return
        if self.state.ready and self.state.active.is_of(version):
            troubles.pop("champion", None)
        elif version is not None:
            self._take(version)
        elif not self.state.ready:
            self.state.rebuild(self._load(None))
        else:
            label = self.state.active.label
            troubles["champion"] = f"the registry names no champion; {label} goes on answering"

    def look_for_challenger(self) -> None:
        """Pass on which version is challenger, once the champion answers."""
        if self.state.ready and "registry" not in self.troubles:
            with suppress(GridcastError):  # the next look for the champion says what is wrong
                self.challenge(registry.challenger(self.settings))

    def forget_refusal(self) -> None:
        """Try a refused version again at the next look."""
        self._refused = None

    def _load(self, version: Version | None, verified: bool = False) -> ActiveModel:
        label = version.label if version else "bare histories: there is no champion"
        self.state.waits_for = f"it loads {label}"
        return load_active_model(version, self.settings, verified)

    def _take(self, version: Version) -> None:
        if same_version(self._refused, version) and time.monotonic() < self._retry_at:
            return
        try:
            verified = same_version(recall(self._file), version)
            self.state.rebuild(self._load(version, verified))
        except Exception as error:
            self._refuse(version, error)
            if not isinstance(error, GridcastError):
                raise
            return
        self._refused = None
        self.troubles.pop("champion", None)
        remember(self._file, version)
        self.count_swap("taken")
        log.info("%s answers now", version.label)

    def _refuse(self, version: Version, error: Exception) -> None:
        self._refused, self._retry_at = version, time.monotonic() + RETRY_SECONDS
        self.troubles["champion"] = f"{version.label} is refused: {error}"
        log.error("%s is refused, the model before it goes on answering: %s", version.label, error)
        self.count_swap("refused")
        if not self.state.ready:
            self._begin_with(recall(self._file))

    def _begin_with(self, version: Version | None) -> None:
        """Answer from the last champion of this data folder, else from the bare histories."""
        try:
            self.state.rebuild(self._load(version, verified=True))
        except GridcastError as error:
            log.error("the last champion cannot be used either: %s", error)
            self.state.rebuild(self._load(None))
