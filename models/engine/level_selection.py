"""Selection of optional fields: facts and labels whose histories lower the error of training data.

Each optional field that tells kinds of job apart is tried alone, then those that gained are joined,
the best first. A field must lower the continuous ranked probability score (CRPS) of the mixture in
each of three later windows, and clearly in all, as a cluster's refiner must.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Floats, Integers
from models.engine.log_rows import LogRows
from models.engine.target_predictor import TargetPredictor, batches
from models.histories.components import MixtureSettings
from models.histories.features import Level, Levels, choose_levels, encode, optional_fields
from models.histories.mixture import PrequentialReplay
from models.quantities.targets import Target

MAX_ROWS = 6000
"""The fields are tried on so many of the outcomes that became available last."""
WINDOWS = (0.4, 0.6, 0.8, 1.0)
"""Bounds of the windows, as shares of these outcomes in order of submission."""
MIN_WINDOW = 30
"""Jobs in a window at least; with fewer no optional field is used."""
MIN_GAIN = 0.01
"""A field must lower the CRPS by this share."""
MIN_CLOSER = 0.02
"""A field is tried only if consecutive outcomes of its kinds of job are closer by this share."""
MAX_FIELDS = 6
"""So many optional fields are used for one target at most."""


@dataclass(frozen=True)
class FieldGain:
    """What an optional field was worth in the selection for one target.

    ``gain`` is the share by which it lowers the CRPS of the histories, beside the fields used
    before it; None where outcomes of its kinds of job are no closer to each other than any.
    ``jobs`` were scored.
    """

    field: str
    used: bool
    gain: float | None
    jobs: int

    def to_json(self) -> dict[str, Any]:
        """Return plain JSON values."""
        return asdict(self)


@dataclass(frozen=True)
class SelectedLevels:
    """The levels of a log, and by target what each optional field was worth."""

    levels: Levels
    gains: dict[str, list[FieldGain]]


def select_levels(
    jobs: pd.DataFrame,
    targets: Sequence[Target],
    until: int | None = None,
    settings: MixtureSettings | None = None,
) -> SelectedLevels:
    """Choose the levels of a log, with the optional fields that are worth it for any target.

    Args:
        jobs: The jobs of the training.
        targets: What is predicted, all of one subject.
        until: Only outcomes available by this time (µs) are used; None for all.
        settings: Of the mixtures; each target's own unless given.
    """
    subject = targets[0].subject
    candidates = optional_fields(jobs, subject)
    if not candidates:
        return SelectedLevels(choose_levels(jobs, subject), {})
    gains = {
        target.name: _Trial(jobs, target, until, settings).select(candidates) for target in targets
    }
    used = {gain.field for rows in gains.values() for gain in rows if gain.used}
    chosen = [name for name in candidates if name in used]
    return SelectedLevels(choose_levels(jobs, subject, chosen), gains)


class _Trial:
    """The latest outcomes of a target, on which optional fields are tried."""

    def __init__(
        self,
        jobs: pd.DataFrame,
        target: Target,
        until: int | None,
        settings: MixtureSettings | None,
    ) -> None:
        self.target, self.settings = target, settings
        levels = choose_levels(jobs, target.subject)
        ended = LogRows.of(jobs, target, levels, until).outcome_order[-MAX_ROWS:]
        self.jobs = jobs.iloc[ended].sort_values("submitted_at", kind="stable")
        count = len(self.jobs)
        self.bounds = [int(count * share) for share in WINDOWS]
        self.enough = self.bounds[1] - self.bounds[0] >= MIN_WINDOW

    def select(self, candidates: Sequence[str]) -> list[FieldGain]:
        """Select among ``candidates``; returns what each was worth."""
        jobs = self.bounds[-1] - self.bounds[0]
        varying = optional_fields(self.jobs, self.target.subject) if self.enough else ()
        tried = [name for name in varying if self._brings_closer(name)]
        before = self._losses(()) if tried else np.empty(0)
        losses = {name: self._losses((name,)) for name in tried}
        alone = {name: _gain(before, loss) for name, loss in losses.items()}
        gains = {
            name: FieldGain(name, used=False, gain=alone.get(name), jobs=jobs)
            for name in candidates
        }
        used: list[str] = []
        winners = [name for name in tried if _wins(before, losses[name])]
        for name in sorted(winners, key=lambda name: -alone[name])[:MAX_FIELDS]:
            after = self._losses((*used, name)) if used else losses[name]
            wins = _wins(before, after)
            gains[name] = FieldGain(name, wins, _gain(before, after), jobs)
            if wins:
                used, before = [*used, name], after
        return list(gains.values())

    def _log(self, optional: Sequence[str]) -> tuple[Levels, LogRows]:
        levels = choose_levels(self.jobs, self.target.subject, optional)
        return levels, LogRows.of(self.jobs, self.target, levels)

    def _losses(self, optional: Sequence[str]) -> Floats:
        """Return the CRPS of each window with histories of some optional fields (float64[3])."""
        levels, log = self._log(optional)
        mixture = TargetPredictor.create(self.target, levels, self.settings).mixture
        replay = PrequentialReplay(mixture, log.contexts, log.values, log.limits)
        scores = np.concatenate(
            [
                replay.advance(rows)[0].continuous_ranked_probability(log.values[rows])
                for rows in batches(np.arange(self.bounds[0], self.bounds[-1]))
            ]
        )
        starts = np.array(self.bounds[:-1]) - self.bounds[0]
        return np.add.reduceat(scores, starts)

    def _brings_closer(self, name: str) -> bool:
        """Whether consecutive outcomes of equal keys are closer where the field is equal, too."""
        levels, log = self._log(())
        positions = self.target.grid.log_bin_positions(log.values)
        with_field = choose_levels(self.jobs, self.target.subject, (name,))
        field = encode(self.jobs, replace(with_field, levels=(Level((name,)),), owner=0)).keys[:, 0]
        order = log.outcome_order
        everyone = max(row for row, level in enumerate(levels.levels) if not level.relative)
        for level in {0, levels.owner, everyone}:
            keys = log.contexts.keys[order, level]
            both = keys ^ (field[order] * np.uint64(0x9E3779B97F4A7C15))
            apart, closer = (_steps(values, positions[order]) for values in (keys, both))
            pairs = np.isfinite(apart) & np.isfinite(closer)
            if closer[pairs].sum() < (1 - MIN_CLOSER) * apart[pairs].sum():
                return True
        return False


def _steps(keys: Array, positions: Floats) -> Floats:
    """Return how far each outcome is from the one before it with the same key (float64[n], NaN)."""
    order = np.argsort(keys, kind="stable")
    steps = np.full(len(keys), np.nan)
    same: Integers = np.flatnonzero(keys[order][1:] == keys[order][:-1]) + 1
    steps[order[same]] = np.abs(positions[order[same]] - positions[order[same - 1]])
    return steps


def _gain(before: Floats, after: Floats) -> float:
    return float(1 - after.sum() / before.sum()) if before.sum() > 0 else 0.0


def _wins(before: Floats, after: Floats) -> bool:
    """Whether the losses ``after`` are lower in each window, and clearly in all."""
    return bool((after < before).all()) and _gain(before, after) >= MIN_GAIN
