"""What a shard learns beside its histories, as decayed sums that shards add to each other's.

Weights by count and size, errors, the gate, calibration and point levels are sums: an outcome
multiplies a row by its decay and adds to it. Of each row a shard publishes what its own users'
outcomes have added up to since its model was trained, and how many they were. A reader adds what
came since the publication that it read before, as if both shards' outcomes had come in turns. So a
publication may be missed, repeated or late: each outcome counts once. The gate's steps add up, too,
but each shard takes them by its own slopes. Weights of owners and of templates are not
exchanged: those of a user are learned where the user's outcomes are.
"""

from __future__ import annotations

import io
import json
import zlib
from collections.abc import Iterator, Mapping
from dataclasses import replace
from typing import NamedTuple
from zipfile import BadZipFile

import numpy as np

from infra.aliases import Array
from infra.errors import InputError
from infra.shards import Shard
from infra.shared_lock import SharedLock
from models.engine.encoded_outcomes import EncodedOutcomes
from models.engine.target_predictor import TargetPredictor
from models.histories.calibration import DECAY as CALIBRATION_DECAY
from models.histories.calibration import prior
from models.histories.point_levels import DECAY as POINT_DECAY
from models.histories.point_levels import POINT_LEVELS
from models.histories.weights import (
    ERROR_COUNT,
    ERRORS,
    FACTS_DECAY,
    FAR_OVER_LIMIT,
    LEARNED_FACTS,
    LIMITS,
    CoarseRows,
)


class PublicationError(InputError):
    """What a shard published cannot be added; the message is one sentence."""


class Sums(NamedTuple):
    """Decayed sums of one kind: rows, each of cells that decay alike."""

    keys: Array  # uint64[rows]
    values: Array  # float64[rows, cells, width]; float32 where they were published
    updates: Array  # float64[rows, cells], the weight of the outcomes that were added

    def aligned(self, keys: Array, initial: Array | float = 0.0) -> Sums:
        """Return the rows of ``keys``, the missing ones as they were ``initial``ly."""
        if len(keys) == len(self.keys) and (keys == self.keys).all():
            return self
        position = {key: row for row, key in enumerate(self.keys.tolist())}
        rows = np.array([position.get(key, -1) for key in keys.tolist()], np.int64)
        values, updates = self.values[rows], self.updates[rows]
        values[rows < 0], updates[rows < 0] = initial, 0.0
        return Sums(keys, values, updates)


class Rule(NamedTuple):
    """How sums of one kind are added."""

    decay: Array  # float64[rows or 1, cells], of an outcome of weight 1
    initial: Array | float  # the values of a row without outcomes
    lowest: Array | float  # what values stay above


Learned = dict[str, Sums]
"""What was learned of one target, by kind of sums."""
Publication = Mapping[str, Learned]
"""What one shard learned, by target."""
_FACT_KEYS, _GATE_KEY = np.arange(2, dtype=np.uint64), np.zeros(1, np.uint64)
_BY_SOURCE = ("calibration", "points")
"""The kinds that have a row a source; the others have the same rows everywhere."""
_OWN = 0
"""Stands for the shard itself among the numbers of shards."""
_EXACT = ("gate",)
"""Kinds that are published as float64, since they never fade."""


def since(new: Sums, old: Sums, rule: Rule, initial: Array | float = 0.0) -> Sums:
    """Return what was added to sums since they were ``old``, and by how many outcomes.

    Args:
        new: The sums.
        old: The same earlier.
        rule: Of their kind.
        initial: The values of a row that was not there yet.
    """
    old = old.aligned(new.keys, initial)
    updates = np.maximum(new.updates - old.updates, 0.0)
    decayed = old.values * (rule.decay**updates)[..., None]
    return Sums(new.keys, new.values - decayed, updates)


def in_turns(additions: list[Sums], rule: Rule) -> Sums:
    """Return additions of several shards as if their outcomes had come in turns.

    Each decays by its own outcomes alone. So many more would leave less of it: as much less as the
    mean weight of an outcome among all is smaller.
    """
    keys = np.unique(np.concatenate([addition.keys for addition in additions]))
    if (additions[0].keys.shape == keys.shape) and all(
        np.array_equal(addition.keys, additions[0].keys) for addition in additions
    ):
        keys = additions[0].keys
    aligned = [addition.aligned(keys) for addition in additions]
    updates = np.sum([addition.updates for addition in aligned], axis=0)
    mean = _mean_weight(updates, rule.decay)
    values = [
        addition.values * (mean / _mean_weight(addition.updates, rule.decay))[..., None]
        for addition in aligned
    ]
    return Sums(keys, np.sum(values, axis=0), updates)


def _mean_weight(updates: Array, decay: Array) -> Array:
    """Return the mean weight of so many outcomes, of which the last has weight 1."""
    decay = np.broadcast_to(decay, updates.shape)
    fades = (decay < 1.0) & (updates > 0.0)
    count, factor = np.where(fades, updates, 1.0), np.where(fades, decay, 0.5)
    return np.where(fades, (1.0 - factor**count) / (count * (1.0 - factor)), 1.0)


class TargetSums:
    """The sums of one target: what the shard learned itself, and what it has read of others.

    Args:
        predictor: Has learned nothing of its own yet, or what does not count.
    """

    def __init__(self, predictor: TargetPredictor) -> None:
        self.predictor = predictor
        self._rows = CoarseRows(predictor.mixture.shape)
        priors = prior()[0]
        lowest = np.zeros((1, 2, len(POINT_LEVELS)))
        lowest[:, 0] = -np.inf
        squares = np.repeat([-np.inf, 1.0], predictor.mixture.state.tables.slopes.size)
        self.rules = {
            "weights": Rule(predictor.mixture.shape.forget[self._rows.table][:, None], 0.0, 0.0),
            "facts": Rule(np.full((1, 1), FACTS_DECAY), 0.0, 0.0),
            "gate": Rule(np.ones((1, 1)), 0.0, squares),
            "calibration": Rule(
                CALIBRATION_DECAY[None], np.concatenate([priors, priors], axis=1), 0.0
            ),
            "points": Rule(POINT_DECAY[None], 0.0, lowest.reshape(1, -1)),
        }
        self.own: Learned = {}
        self.read: dict[int, Learned] = {}
        self.rebase()
        self.own = {
            kind: Sums(sums.keys, np.zeros_like(sums.values), np.zeros_like(sums.updates))
            for kind, sums in self._base.items()
        }

    def rebase(self) -> None:
        """Take what was learned so far as learned by all shards."""
        self._base = self._state()

    def fold(self) -> None:
        """Add what the shard learned since the last call to what it has learned itself."""
        state = self._state()
        for kind, sums in state.items():
            self._add_own(kind, self._since_base(kind, sums))
        self._base = state

    def _since_base(self, kind: str, sums: Sums) -> Sums:
        rule = self.rules[kind]
        return since(sums, self._base[kind], rule, rule.initial)

    def _add_own(self, kind: str, addition: Sums) -> None:
        before = self.own[kind].aligned(addition.keys)
        decay = (self.rules[kind].decay ** addition.updates)[..., None]
        self.own[kind] = Sums(
            addition.keys,
            before.values * decay + addition.values,
            before.updates + addition.updates,
        )

    def news(self, published: Mapping[int, Learned]) -> dict[str, Sums]:
        """Return what others' publications add to what was read before, by kind; empty for none."""
        if not published:
            return {}
        news = {}
        for kind, rule in self.rules.items():
            additions = []
            for shard, learned in published.items():
                sums = learned[kind]
                sums = sums._replace(values=sums.values.astype(np.float64))
                before = self.read.get(shard)
                additions.append(since(sums, before[kind], rule) if before else sums)
            news[kind] = in_turns(additions, rule)
        return news

    def add(self, news: Mapping[str, Sums], published: Mapping[int, Learned]) -> None:
        """Add ``news``, as from ``published``, to what is learned; nothing may learn meanwhile."""
        if not news:
            self.fold()
            return
        calibration = self.predictor.calibration
        calibration.add_sources(news["calibration"].keys.tolist())
        calibration.points.add_sources(news["points"].keys.tolist())
        state, merged = self._state(), {}
        for kind, sums in state.items():
            rule, own = self.rules[kind], self._since_base(kind, sums)
            together = in_turns([own, news[kind]], rule).aligned(sums.keys)
            decay = rule.decay ** (together.updates - own.updates)
            values = (sums.values - own.values) * decay[..., None] + together.values
            merged[kind] = np.maximum(values, rule.lowest)
            self._add_own(kind, own)
        self._write(merged)
        self.read |= published
        self.rebase()

    def to_arrays(self) -> dict[str, Array]:
        """Return what ``resume`` needs; nothing may learn meanwhile."""
        self.fold()
        return {
            f"{shard}.{kind}.{field}": values
            for shard, learned in ((_OWN, self.own), *self.read.items())
            for kind, sums in learned.items()
            for field, values in sums._asdict().items()
        }

    def resume(self, arrays: Mapping[str, Array]) -> None:
        """Continue from what ``to_arrays`` returned, with the predictor as it was then."""
        learned = {
            int(shard): {
                kind: Sums(*(arrays[f"{shard}.{kind}.{field}"] for field in Sums._fields))
                for kind in self.rules
            }
            for shard in {name.partition(".")[0] for name in arrays}
        }
        self.own, self.read = learned.pop(_OWN), learned
        self.rebase()

    def lift(self, published: Learned) -> None:
        """Count at least as many own outcomes as were published, where some are not stored now."""
        for kind, sums in self.own.items():
            updates = published[kind].aligned(sums.keys).updates
            self.own[kind] = sums._replace(updates=np.maximum(sums.updates, updates))

    def _state(self) -> dict[str, Sums]:
        """Copy the predictor's sums; ``updates`` count from any start."""
        tables, calibration = self.predictor.mixture.state.tables, self.predictor.calibration
        points, facts = calibration.points, np.zeros((2, 1, LEARNED_FACTS))
        facts[0, 0, : ERROR_COUNT + 1] = tables.facts[: ERROR_COUNT + 1]
        facts[1, 0, FAR_OVER_LIMIT:] = tables.facts[FAR_OVER_LIMIT:LEARNED_FACTS]
        shares, updates = self._rows.read(tables)
        gate = np.concatenate([tables.slopes.ravel(), tables.squares.ravel()])
        histograms = np.concatenate([calibration.upto, calibration.below], axis=2)
        return {
            "weights": Sums(self._rows.keys, shares[:, None], updates[:, None].astype(np.float64)),
            "facts": Sums(_FACT_KEYS, facts, tables.facts[[ERRORS, LIMITS], None]),
            "gate": Sums(_GATE_KEY, gate[None, None], np.zeros((1, 1))),
            "calibration": Sums(calibration.sources, histograms, calibration.learned.copy()),
            "points": Sums(
                points.sources,
                points.sums.copy().reshape(*points.learned.shape, -1),
                points.learned.copy(),
            ),
        }

    def _write(self, merged: Mapping[str, Array]) -> None:
        mixture, calibration = self.predictor.mixture, self.predictor.calibration
        tables = self._rows.write(mixture.state.tables, merged["weights"][:, 0])
        mixture.state = mixture.state._replace(tables=tables)
        tables.facts[: ERROR_COUNT + 1] = merged["facts"][0, 0, : ERROR_COUNT + 1]
        tables.facts[FAR_OVER_LIMIT:LEARNED_FACTS] = merged["facts"][1, 0, FAR_OVER_LIMIT:]
        gate = merged["gate"].reshape(2, *tables.slopes.shape)
        tables.slopes[:], tables.squares[:] = gate
        steps = calibration.upto.shape[2]
        calibration.upto[:] = merged["calibration"][..., :steps]
        calibration.below[:] = merged["calibration"][..., steps:]
        calibration.points.sums[:] = merged["points"].reshape(calibration.points.sums.shape)


class ShardSums(dict[str, TargetSums]):
    """What a shard exchanges with others, by target; empty where there is one predictor.

    Args:
        shard: The shard, None for one predictor.
        predictors: Its predictors by target.
        first: So many first jobs are learned by all shards: where no model gives the first weights,
            a shard's own jobs are too few.
        lock: Held while what was learned elsewhere is added.
    """

    def __init__(
        self,
        shard: Shard | None,
        predictors: Mapping[str, TargetPredictor],
        first: int,
        lock: SharedLock,
    ) -> None:
        super().__init__()
        if shard is not None:
            self.update({name: TargetSums(predictor) for name, predictor in predictors.items()})
        self._shard, self._first, self._lock = shard, first, lock

    @property
    def ready(self) -> bool:
        """Whether it is a shard that has learned the first jobs."""
        return bool(self) and self._first == 0

    @property
    def learned(self) -> Publication:
        """What the shard's own users have taught it since its model was trained, to be published.

        It is current as of the last ``add``.
        """
        return {name: sums.own for name, sums in self.items()}

    def rebase(self) -> None:
        """Take what was learned so far as the first jobs, which all shards learn."""
        self._first = 0
        for sums in self.values():
            sums.rebase()

    def batches(self, outcomes: EncodedOutcomes) -> Iterator[EncodedOutcomes]:
        """Return outcomes to be learned, the first ones of all users as own, then the rest."""
        if self and self._first:
            rows, first = np.arange(len(outcomes.is_own)), self._first
            batch, outcomes = outcomes.take(rows[:first]), outcomes.take(rows[first:])
            yield replace(batch, is_own=np.ones_like(batch.is_own))
            left = max(first - len(rows), 0)
            self.rebase()
            self._first = left
        yield outcomes

    def add(self, published: Mapping[int, Publication]) -> None:
        """Add what other shards published since it was read before.

        Args:
            published: By the number of the shard; of the own number, what the shard published
                before it was started again.
        """
        number = self._shard.number if self._shard else 0
        own = published.get(number)
        by_target = {
            name: {shard: sums[name] for shard, sums in published.items() if shard != number}
            for name in self
        }
        news = {name: sums.news(by_target[name]) for name, sums in self.items()}
        with self._lock.writing():
            for name, sums in self.items():
                sums.add(news[name], by_target[name])
                if own is not None:
                    sums.lift(own[name])


def count_outcomes(publication: Publication) -> int:
    """Count the outcomes of all targets that a publication has."""
    return sum(int(learned["weights"].updates[0, 0]) for learned in publication.values())


def pack(publication: Publication, about: Mapping[str, str]) -> bytes:
    """Return a publication as bytes.

    Args:
        publication: What a shard learned.
        about: Whose it is; ``unpack`` refuses another's.
    """
    arrays: dict[str, Array] = {"about": np.frombuffer(_header(about), np.uint8)}
    for target, learned in publication.items():
        for kind, sums in learned.items():
            values = sums.values if kind in _EXACT else sums.values.astype(np.float32)
            for field, array in sums._replace(values=values)._asdict().items():
                arrays[f"{target}.{kind}.{field}"] = array
    out = io.BytesIO()
    np.savez_compressed(out, allow_pickle=False, **arrays)
    return out.getvalue()


def unpack(body: bytes, about: Mapping[str, str], own: Publication) -> Publication:
    """Read a publication of another shard.

    Args:
        body: As from ``pack``.
        about: Whose it should be.
        own: What this shard learned, whose kinds and sizes it should have.

    Raises:
        PublicationError: It is damaged, or of another model or size.
    """
    try:
        with np.load(io.BytesIO(body), allow_pickle=False) as arrays:
            if arrays["about"].tobytes() != _header(about):
                raise PublicationError("it is of another model, version of Gridcast or shard")
            publication = {
                target: {
                    kind: Sums(*(arrays[f"{target}.{kind}.{field}"] for field in Sums._fields))
                    for kind in learned
                }
                for target, learned in own.items()
            }
    except (KeyError, ValueError, TypeError, OSError, EOFError, BadZipFile, zlib.error) as error:
        raise PublicationError(f"it cannot be read ({type(error).__name__})") from None
    for target, learned in own.items():
        for kind, sums in learned.items():
            if not _fits(publication[target][kind], sums, kind):
                raise PublicationError(f"its {kind} of {target} have other sizes, or no numbers")
    return publication


def _header(about: Mapping[str, str]) -> bytes:
    return json.dumps(about, sort_keys=True).encode()


def _fits(sums: Sums, own: Sums, kind: str) -> bool:
    """Whether published sums are numbers of the same rows, or sources, and sizes as the own."""
    rows = len(sums.keys)
    return (
        (kind in _BY_SOURCE and len(np.unique(sums.keys)) == rows > 0)
        or np.array_equal(sums.keys, own.keys)
    ) and (
        sums.keys.dtype == np.uint64
        and sums.values.shape == (rows, *own.values.shape[1:])
        and sums.updates.shape == (rows, *own.updates.shape[1:])
        and all(values.dtype.kind == "f" for values in (sums.values, sums.updates))
        and bool(np.isfinite(sums.values).all() and (sums.updates >= 0.0).all())
        and bool(np.isfinite(sums.updates).all())
    )
