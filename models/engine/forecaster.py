"""The forecaster: the live engine, histories of ended jobs and a model set's weights and refiners, asked and taught."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from threading import RLock
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import CodedJobs, encode_jobs, in_microseconds
from models.engine import hosts
from models.engine.advice import LEFT_ALONE, Advice
from models.engine.allocation import set_aside
from models.engine.explanation import allocation_rule, explain_histories, explain_refiners
from models.engine.model_set import NO_MODEL, ModelSet
from models.engine.predictions import DECIMALS, SHARES, Answers
from models.histories.calibration import Calibration
from models.histories.components import settings_of
from models.histories.features import NOT_AVAILABLE, Contexts, Levels, choose_levels, encode
from models.histories.mixture import Mixture, MixtureState, outcome_order
from models.histories.occupancy import occupancy
from models.histories.unique_contexts import (
    UniqueContexts,
    find_unique_contexts,
    group_rows,
    map_in_parallel,
)
from models.quantities.classes import Cuts, likeliest
from models.quantities.distribution import Distribution
from models.quantities.targets import LIMITED_BY, TARGETS
from models.refiner.clusters import GLOBAL
from models.refiner.refinement import (
    Refiner,
    coarse_masses,
    factors,
    refine,
    refiner_inputs,
    summarise_reweighted,
)


@dataclass(frozen=True)
class _Foreseen:
    """Masses of the kinds of history among n jobs, which of them each job has, its refiner's factors, whether it is a cold start, and
    what to set aside for each kind where that is decided by more than a quantile."""

    masses: Distribution
    which: Array
    factors: Array
    cold: Array
    aside: Mapping[str, Array]


class Forecaster:
    """The live engine: histories of ended jobs, and a model set's weights and refiners if there is one.

    It answers from the first job on. It may be asked and taught from several threads.
    """

    _FEW = 4000
    _CHUNK = 4096

    def __init__(
        self,
        model_set: ModelSet | None = None,
        targets: tuple[str, ...] = ("walltime",),
        advice: Advice | None = None,
    ) -> None:
        self.model_set = model_set
        self.advice = advice or Advice()
        self.names = tuple(model_set.targets) if model_set else targets
        self._lock = RLock()
        self._until = _trained_until(model_set)
        self._first: pd.DataFrame | None = None if model_set else pd.DataFrame()
        self._chosen_by = 0
        self.subject = TARGETS[self.names[0]].subject
        self._start(model_set.levels if model_set else choose_levels(pd.DataFrame(), self.subject))

    def _start(self, levels: Levels) -> None:
        self.levels = levels
        relative = tuple(level.relative for level in levels.levels)
        self.mixtures: dict[str, Mixture] = {}
        self.calibrations: dict[str, Calibration] = {}
        self._cuts = {
            name: Cuts.of(self._thresholds(name), TARGETS[name].grid) for name in self.names
        }
        for name in self.names:
            model = self.model_set.targets[name] if self.model_set else None
            mixture = Mixture(
                TARGETS[name],
                relative,
                levels.owner,
                model.settings if model else settings_of(name),
            )
            if model:
                mixture.restore(model.learned)
            self.mixtures[name] = mixture
            self.calibrations[name] = model.calibration.copy() if model else Calibration()

    @property
    def settled(self) -> bool:
        """Whether the levels are chosen for good."""
        return self._first is None

    def go_on(
        self,
        levels: Levels,
        states: dict[str, MixtureState],
        calibrations: dict[str, Calibration],
        latest: dict[str, int],
    ) -> None:
        """Go on from what an earlier forecaster of the same model learned, all by target (see snapshot.py)."""
        with self._lock:
            self._start(levels)
            self._first = None
            self.calibrations = calibrations
            for name, mixture in self.mixtures.items():
                mixture.state, mixture.latest_outcome_at = states[name], latest[name]

    def _thresholds(self, name: str) -> tuple[float, ...]:
        return tuple(self.model_set.card.thresholds.get(name, ())) if self.model_set else ()

    @property
    def model_version(self) -> str:
        """The version that answers, or ``none`` when no model does."""
        return self.model_set.version if self.model_set else NO_MODEL

    def learn(self, jobs: pd.DataFrame) -> None:
        """Take in jobs that ended, in any order; what is known already changes nothing."""
        with self._lock:
            if self._first is not None:
                jobs = self._choose_again(jobs)
            self._learn(jobs)

    def _choose_again(self, jobs: pd.DataFrame) -> pd.DataFrame:
        """Without a model the levels follow from the first jobs: chosen anew as these double, until they are enough."""
        everything = (
            jobs
            if self._first is None or not len(self._first)
            else pd.concat([self._first, jobs], ignore_index=True)
        )
        self._first = everything if len(everything) < self._FEW else None
        if len(everything) < 2 * self._chosen_by and self._first is not None:
            return jobs
        self._chosen_by = len(everything)
        levels = choose_levels(everything, self.subject)
        if levels == self.levels:
            return jobs
        self._start(levels)
        return everything

    def _learn(self, jobs: pd.DataFrame) -> None:
        contexts = encode(jobs, self.levels)
        clusters = self._clusters(jobs)
        for name, mixture in self.mixtures.items():
            values, limits = TARGETS[name].value(jobs), TARGETS[name].limit(jobs)
            old = np.flatnonzero(contexts.available_at <= self._until)
            mixture.learn(contexts.take(old), values[old], limits[old], weigh=False)
            new = outcome_order(contexts)
            new = new[contexts.available_at[new] > self._until]
            new = new[mixture.find_new_outcomes(contexts.take(new))]
            for start in range(0, len(new), self._CHUNK):
                rows = new[start : start + self._CHUNK]
                part, told = contexts.take(rows), np.isfinite(values[rows])
                answer = self._distribution(name, part, limits[rows], clusters[rows])
                below, upto = answer.probability_integral(np.nan_to_num(values[rows]))
                self.calibrations[name].learn(below[told], upto[told])
                mixture.learn(part, values[rows], limits[rows])

    def _clusters(self, jobs: pd.DataFrame | CodedJobs) -> Array:
        return (
            self.model_set.clusters.assign(jobs)
            if self.model_set
            else np.full(len(jobs), GLOBAL, dtype=object)
        )

    def _distribution(
        self, name: str, contexts: Contexts, limits: Array, clusters: Array
    ) -> Distribution:
        foreseen = self._foresee(name, contexts, limits, clusters)
        answer = foreseen.masses.take(foreseen.which)
        return replace(answer, mass=refine(answer.mass, foreseen.factors))

    def _foresee(self, name: str, contexts: Contexts, limits: Array, clusters: Array) -> _Foreseen:
        mixture = self.mixtures[name]
        # Only the refiner reads the numbers: the histories of jobs that differ by no more are looked at once.
        alike = _alike(contexts, limits)
        few = contexts.take(alike.first_rows)
        counts, asked, aside = mixture.ended_counts(few), limits[alike.first_rows], {}
        if name == "peak_memory" and "walltime" in self.mixtures:
            found = occupancy(mixture, self.mixtures["walltime"], few, asked)
            masses = found.distribution(mixture.grid, asked)
            aside = set_aside(found, masses, asked, self.advice.price)
        else:
            masses = mixture.distributions(few, asked)
        refiners = self._refiners(name)
        coarse = coarse_masses(masses.mass)
        each = coarse[alike.context_of_row]
        shown = (
            refiner_inputs(masses.mass, coarse, counts, contexts.numbers, alike.context_of_row)
            if refiners
            else each
        )
        cold = (counts[:, self.levels.owner] == 0)[alike.context_of_row]
        return _Foreseen(
            masses, alike.context_of_row, factors(shown, each, refiners, clusters), cold, aside
        )

    def distributions(
        self, jobs: pd.DataFrame, name: str, at: datetime | None = None
    ) -> Distribution:
        """The distributions of one target for ``jobs``, a row a job, by what was known at submission (or at ``at``)."""
        with self._lock:
            contexts = encode(jobs, self.levels)
            contexts = contexts if at is None else contexts.predicted_at(at)
            return self._distribution(
                name, contexts, TARGETS[name].limit(jobs), self._clusters(jobs)
            )

    def predict(
        self,
        jobs: pd.DataFrame,
        quantiles: tuple[float, ...] = (),
        at: datetime | None = None,
        classes: bool = False,
    ) -> pd.DataFrame:
        """``answer`` as a DataFrame, a row a job, in the order asked."""
        with self._lock:
            answers = self.answer(
                encode_jobs(jobs, ("submitted_at", "source", "job_id", *self.fields)),
                quantiles,
                at,
                classes,
            )
        return answers.frame(
            jobs["job_id"].to_numpy() if "job_id" in jobs else np.arange(len(jobs)).astype(str)
        )

    @property
    def fields(self) -> frozenset[str]:
        """The fields of jobs that the answer depends on, beside when they were submitted."""
        field = self.model_set.clusters.field if self.model_set else None
        others = (
            *hosts.read_fields(self.names),
            *((field,) if field else ()),
            *(("program",) if self.advice.left_alone else ()),
        )
        return self.levels.fields.union(LIMITED_BY, others)

    def answer(
        self,
        jobs: CodedJobs,
        quantiles: tuple[float, ...] = (),
        at: datetime | None = None,
        classes: bool = False,
    ) -> Answers:
        """Predict every target of ``jobs`` by the outcomes known at submission, or at ``at`` for jobs that still wait.

        How far histories are trusted, and the calibration, are those of now: for a past job that is more than was known (``live_through``
        of ``releases/comparison`` replays both). With ``classes`` also the likeliest class of each target and its probability, by the
        thresholds of the model set. Jobs of one kind are answered once, and many jobs that wait are few kinds. ``jobs`` need
        submitted_at, source and ``fields``.
        """
        with self._lock:
            kinds, few, contexts, clusters = self._asked(jobs, at)
            limits, left_alone = (
                {name: TARGETS[name].limit(few) for name in self.names},
                self.advice.leaves(few),
            )
            power = hosts.powers(few, self.names)

            def answer(rows: Array) -> dict[str, Array]:
                part = contexts.take(rows)
                found = {"cold": np.zeros(len(rows), dtype=bool)}
                for name in self.names:
                    foreseen = self._foresee(name, part, limits[name][rows], clusters[rows])
                    found |= self._numbers(name, foreseen, part, quantiles, classes)
                    found["cold"] |= foreseen.cold
                if not np.isnan(power[rows]).all():
                    self._carry(
                        found,
                        part,
                        power[rows],
                        limits[hosts.CARRIED][rows],
                        clusters[rows],
                        quantiles,
                        classes,
                    )
                self.advice.leave(
                    found,
                    self.names,
                    {name: values[rows] for name, values in limits.items()},
                    left_alone[rows],
                )
                return found

            order, place = _together(contexts)
            found = map_in_parallel(answer, order)
            return Answers(
                found,
                self._answering(clusters[order]),
                found.pop("cold"),
                place[kinds.context_of_row],
                self.model_version,
            )

    def _carry(
        self,
        found: dict[str, Array],
        part: Contexts,
        power: Array,
        limits: Array,
        clusters: Array,
        quantiles: tuple[float, ...],
        classes: bool,
    ) -> None:
        """Put CPU times on hosts of known ``power`` in the place of what jobs take on the hosts they had until now."""
        for each in np.unique(power[~np.isnan(power)]):
            rows = np.flatnonzero(power == each)
            few = part.take(rows)
            foreseen = self._foresee(hosts.WORK, few, np.full(len(rows), np.inf), clusters[rows])
            cuts = (
                Cuts.of(
                    tuple(edge * each for edge in self._thresholds(hosts.CARRIED)),
                    TARGETS[hosts.WORK].grid,
                )
                if classes
                else None
            )
            work = self._numbers(hosts.WORK, foreseen, few, quantiles, classes, cuts)
            # Of whom no work is known, the time on any host says more.
            known = ~foreseen.cold
            hosts.carry(
                found,
                rows[known],
                {name: values[known] for name, values in work.items()},
                each,
                limits[rows[known]],
            )

    def _asked(
        self, jobs: CodedJobs, at: datetime | None
    ) -> tuple[UniqueContexts, CodedJobs, Contexts, Array]:
        """The kinds among ``jobs``; of the first of each kind its fields, its contexts and whose refiner answers it."""
        seen_at = (
            jobs["submitted_at"]
            if at is None
            else np.maximum(jobs["submitted_at"], in_microseconds(at))
        )
        # Nothing changes after the newest outcome.
        seen_at = np.minimum(
            seen_at, max(mixture.latest_outcome_at for mixture in self.mixtures.values())
        )
        kinds = find_unique_contexts(jobs, self.fields, self.levels, seen_at)
        few = jobs.take(kinds.first_rows)
        return (
            kinds,
            few,
            replace(encode(few, self.levels), at=seen_at[kinds.first_rows]),
            self._clusters(few),
        )

    def quantiles(self, jobs: CodedJobs, shares: Array) -> tuple[Array, Array]:
        """Calibrated quantiles of the first target at ``shares``, and nothing else: float64[kinds, shares], and each job's kind."""
        with self._lock:
            name = self.names[0]
            kinds, few, contexts, clusters = self._asked(jobs, None)
            limits = TARGETS[name].limit(few)
            levels = np.sort([self.calibrations[name].level(share) for share in shares])
            bent = bool(self._refiners(name))
            # Without a refiner the histories are all that tells one from another.
            alike = (
                UniqueContexts(np.arange(len(few)), np.arange(len(few)))
                if bent
                else _alike(contexts, limits)
            )
            contexts, limits, clusters = (
                contexts.take(alike.first_rows),
                limits[alike.first_rows],
                clusters[alike.first_rows],
            )

            def answer(rows: Array) -> dict[str, Array]:
                part = contexts.take(rows)
                if not bent:
                    return {
                        name: self.mixtures[name]
                        .distributions(part, limits[rows])
                        .quantiles(levels)
                    }
                return {
                    name: self._distribution(name, part, limits[rows], clusters[rows]).quantiles(
                        levels
                    )
                }

            order, place = _together(contexts)
            return map_in_parallel(answer, order)[name], place[alike.context_of_row][
                kinds.context_of_row
            ]

    def _refiners(self, name: str) -> Mapping[str, Refiner]:
        return self.model_set.targets[name].refiners if self.model_set else {}

    def explain(
        self, jobs: CodedJobs, at: datetime | None = None
    ) -> list[dict[str, dict[str, Any]]]:
        """Why each of a few jobs would get its answer: a dict a job with, by target, histories, similar, contributions and allocation.

        See models/engine/explanation.py; meant for a person, and some hundred times as slow as an answer.
        """
        with self._lock:
            contexts = encode(jobs, self.levels)
            contexts = contexts if at is None else contexts.predicted_at(at)
            clusters, told = (
                self._clusters(jobs),
                [dict[str, dict[str, Any]]() for _ in range(len(jobs))],
            )
            left_alone = self.advice.leaves(jobs)
            for name in self.names:
                mixture, limits = self.mixtures[name], TARGETS[name].limit(jobs)
                foreseen = self._foresee(name, contexts, limits, clusters)
                numbers = self._numbers(name, foreseen, contexts, (), classes=False)
                self.advice.leave(numbers, (name,), {name: limits}, left_alone)
                refiners = dict(self._refiners(name))
                masses = foreseen.masses.take(foreseen.which).mass
                moved = explain_refiners(
                    mixture, self.levels, contexts, masses, refiners, clusters, numbers[name]
                )
                for row, known in enumerate(
                    explain_histories(mixture, self.levels, contexts, limits)
                ):
                    allocation, by_ladder = (
                        float(numbers[f"{name}_allocation"][row]),
                        bool(foreseen.aside),
                    )
                    rule = allocation_rule(
                        bool(foreseen.cold[row]), by_ladder, allocation, float(limits[row])
                    )
                    set_by = {
                        "value": None if np.isnan(allocation) else allocation,
                        "rule": LEFT_ALONE if left_alone[row] else rule,
                    }
                    told[row][name] = {**known, "contributions": moved[row], "allocation": set_by}
            return told

    def _answering(self, clusters: Array) -> Array:
        if self.model_set is None:
            return np.full(len(clusters), NO_MODEL, dtype=object)
        own = {cluster for model in self.model_set.targets.values() for cluster in model.refiners}
        if own <= {GLOBAL}:
            return np.full(len(clusters), GLOBAL, dtype=object)
        return np.array(
            [cluster if cluster in own else GLOBAL for cluster in clusters], dtype=object
        )

    def _numbers(
        self,
        name: str,
        foreseen: _Foreseen,
        contexts: Contexts,
        quantiles: tuple[float, ...],
        classes: bool,
        cuts: Cuts | None = None,
    ) -> dict[str, Array]:
        mixture, level = self.mixtures[name], self.calibrations[name].level
        levels = {
            end: level(share)
            for end, share in (SHARES | {f"_q{share:g}": share for share in quantiles}).items()
        }
        masses, which = foreseen.masses, foreseen.which
        cuts = (self._cuts[name] if cuts is None else cuts) if classes else Cuts()
        numbers, best, shares = summarise_reweighted(
            masses,
            which,
            foreseen.factors,
            np.array([0.5, *levels.values()]),
            mixture.error_scale,
            cuts,
        )
        point = masses.value_in(best, which, mixture.last_in_bin(contexts, best))
        mean, deviation, median, *others = numbers.T
        known = {"": point, "_median": median, "_mean": mean, "_sd": deviation} | dict(
            zip(levels, others, strict=True)
        )
        known |= {end: values[which] for end, values in foreseen.aside.items()}
        told = {f"{name}{end}": np.round(values, DECIMALS) for end, values in known.items()}
        return told | (_classes(name, shares, known=len(cuts) > 0) if classes else {})


def _alike(contexts: Contexts, limits: Array) -> UniqueContexts:
    """Rows grouped by all that the histories read of them."""
    return group_rows(
        [*contexts.keys.T, contexts.at.view(np.uint64), limits.view(np.uint64)], len(contexts)
    )


def _together(contexts: Contexts) -> tuple[Array, Array]:
    """An order in which rows with the same histories stand together, so that each part looks at its own, and each row's place in it."""
    order = np.argsort(contexts.keys[:, 0], kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    return order, place


def _classes(name: str, shares: Array, known: bool) -> dict[str, Array]:
    """The likeliest class of each row and its probability, NaN where no thresholds are known."""
    best, probability = (
        likeliest(shares) if known else (np.full(len(shares), np.nan), np.full(len(shares), np.nan))
    )
    return {f"{name}_class": best, f"{name}_class_probability": np.round(probability, DECIMALS)}


def _trained_until(model_set: ModelSet | None) -> int:
    """The end of the training window in microseconds: weights have learned what became known up to then."""
    if model_set is None:
        return int(np.iinfo(np.int64).min)
    until = model_set.card.window.until_us
    return int(until) if until is not None else NOT_AVAILABLE - 1
