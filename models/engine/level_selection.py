"""Selection of optional fields: facts and labels whose histories lower the error of training data.

A field must lower two scores of the mixture, the continuous ranked probability score (CRPS) and the
logarithmic one, and the CRPS also below those with its own values shuffled: any further key changes
what a history's latest outcomes are, and may help by that alone. The fields that pass are joined,
the best first, as long as each lowers both scores again.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Floats
from models.engine.log_rows import LogRows
from models.engine.target_predictor import TargetPredictor, batches
from models.histories.components import MixtureSettings
from models.histories.features import (
    Keys,
    Level,
    Levels,
    choose_levels,
    encode,
    optional_fields,
)
from models.histories.labels import LABELS, with_label_columns
from models.histories.mixture import PrequentialReplay
from models.quantities.targets import Target

MAX_ROWS = 6000
"""The fields are tried on so many of the outcomes that became available last."""
LEARNED_SHARE = 0.4
"""Of these, in order of submission, the first are only learned; the others are scored."""
MIN_SCORED = 90
"""Scored jobs at least; with fewer no optional field is used."""
MIN_GAIN = 0.01
"""A field must lower the CRPS by this share."""
SHUFFLES = 3
"""How often the values of a field are shuffled for its trial."""
SCREENING_SHUFFLES = 19
"""A field is tried only if outcomes vary less within its kinds of job, by MIN_GAIN of the variance,
than after each of so many shuffles."""
MAX_FIELDS = 6
"""So many optional fields are used for one target at most."""
_SPREAD = np.uint64(0x9E3779B97F4A7C15)


@dataclass(frozen=True)
class FieldGain:
    """What an optional field was worth in the selection for one target.

    ``gain`` is the share by which it lowers the CRPS of the histories, beside the fields used
    before it; None where outcomes vary within its kinds of job as within any. ``jobs`` were scored.
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


@dataclass(frozen=True)
class _Scores:
    """Sums of the CRPS and of the negative logarithms of the masses at the outcomes."""

    crps: float
    log: float

    def gain(self, after: _Scores) -> float:
        """Return the share by which the CRPS is lower ``after``."""
        return 1 - after.crps / self.crps if self.crps > 0 else 0.0

    def improves(self, after: _Scores) -> bool:
        """Whether both scores are lower ``after``, the CRPS by MIN_GAIN."""
        return self.gain(after) >= MIN_GAIN and after.log < self.log


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
        latest = jobs.iloc[ended].sort_values("submitted_at", kind="stable", ignore_index=True)
        self.jobs = with_label_columns(latest, target.subject).drop(columns=LABELS, errors="ignore")
        self.scored = np.arange(int(LEARNED_SHARE * len(latest)), len(latest))

    def select(self, candidates: Sequence[str]) -> list[FieldGain]:
        """Select among ``candidates``; returns what each was worth."""
        count = len(self.scored)
        varying = optional_fields(self.jobs, self.target.subject) if count >= MIN_SCORED else ()
        tried = [name for name in varying if self._explains(name)]
        before = self._scores(self.jobs, ()) if tried else _Scores(0.0, 0.0)
        alone = {name: self._scores(self.jobs, (name,)) for name in tried}
        gains = {name: FieldGain(name, False, None, count) for name in candidates}
        for name, after in alone.items():
            gains[name] = FieldGain(name, False, before.gain(after), count)
        winners = [name for name in tried if before.improves(alone[name])]
        winners = [name for name in winners if self._beats_shuffled(name, alone[name])]
        used: list[str] = []
        for name in sorted(winners, key=lambda name: alone[name].crps)[:MAX_FIELDS]:
            after = self._scores(self.jobs, (*used, name)) if used else alone[name]
            improves = before.improves(after)
            gains[name] = FieldGain(name, improves, before.gain(after), count)
            if improves:
                used, before = [*used, name], after
        return list(gains.values())

    def _scores(self, jobs: pd.DataFrame, optional: Sequence[str]) -> _Scores:
        """Score the mixture with histories of some optional fields."""
        levels = choose_levels(jobs, self.target.subject, optional)
        log = LogRows.of(jobs, self.target, levels)
        mixture = TargetPredictor.create(self.target, levels, self.settings).mixture
        replay = PrequentialReplay(mixture, log.contexts, log.values, log.limits)
        crps = logs = 0.0
        for rows in batches(self.scored):
            predicted, truth = replay.advance(rows)[0], log.values[rows]
            crps += float(predicted.continuous_ranked_probability(truth).sum())
            bins = np.minimum(predicted.grid.bin(truth), predicted.top_bin())
            mass = predicted.mass[np.arange(len(rows)), bins]
            logs -= float(np.log(np.maximum(mass, np.finfo(np.float32).tiny)).sum())
        return _Scores(crps, logs)

    def _beats_shuffled(self, name: str, scores: _Scores) -> bool:
        """Whether a field's CRPS is lower by MIN_GAIN than of each of SHUFFLES of its values."""
        for seed in range(SHUFFLES):
            order = np.random.default_rng(seed).permutation(len(self.jobs))
            shuffled = self.jobs.assign(**{name: self.jobs[name].to_numpy()[order]})
            if self._scores(shuffled, (name,)).gain(scores) < MIN_GAIN:
                return False
        return True

    def _explains(self, name: str) -> bool:
        """Whether outcomes vary less within a field's kinds of job than after any shuffle."""
        levels = choose_levels(self.jobs, self.target.subject, (name,))
        field = encode(self.jobs, replace(levels, levels=(Level((name,)),), owner=0)).keys[:, 0]
        levels = choose_levels(self.jobs, self.target.subject)
        log = LogRows.of(self.jobs, self.target, levels)
        positions = self.target.grid.log_bin_positions(log.values)
        everyone = max(row for row, level in enumerate(levels.levels) if not level.relative)
        generator = np.random.default_rng(0)
        for level in {0, levels.owner, everyone}:
            keys = log.contexts.keys[:, level]
            variation = _variation(keys, field, positions)
            if all(
                variation < (1 - MIN_GAIN) * _variation(keys, shuffled, positions)
                for shuffled in (generator.permutation(field) for _ in range(SCREENING_SHUFFLES))
            ):
                return True
        return False


def _variation(keys: Keys, field: Keys, values: Floats) -> float:
    """Return the sum of squares of ``values`` around their means by key and field."""
    kinds, _ = pd.factorize(keys ^ (field * _SPREAD))
    means = np.bincount(kinds, values) / np.bincount(kinds)
    return float(((values - means[kinds]) ** 2).sum())
