"""Forecaster: the live engine, fed with ended jobs and queried from several threads."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from types import MappingProxyType
from typing import Any

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags, Floats, Integers
from infra.shards import Shard
from infra.shared_lock import SharedLock
from jobs.coded_jobs import CodedJobs, encode_jobs, in_microseconds
from models.engine import hosts
from models.engine.advice import Advice
from models.engine.encoded_outcomes import EncodedOutcomes
from models.engine.explanation import explain_target
from models.engine.level_selection import select_levels
from models.engine.model_set import NO_MODEL, ModelSet
from models.engine.predictions import BoundQueries, Predictions, prediction_columns
from models.engine.sharding import job_slots, without_user_levels
from models.engine.shared_learning import ShardSums
from models.engine.target_predictor import (
    TargetPrediction,
    TargetPredictor,
    batches,
    group_by_history,
)
from models.histories.calibration import Calibration
from models.histories.features import Contexts, Levels, choose_levels, encode
from models.histories.labels import add_label_columns
from models.histories.mixture import Mixture, MixtureState, outcome_order
from models.histories.unique_contexts import (
    UniqueContexts,
    find_unique_contexts,
    group_rows,
    map_in_parallel,
)
from models.quantities.classes import Cuts
from models.quantities.targets import LIMITED_BY, TARGETS
from models.quantities.within import Bounds
from models.refiner.clusters import GLOBAL

LEVELS_FINAL_JOBS = 4000
"""Without a model the levels are chosen anew as the jobs double, until there are so many."""


@dataclass(frozen=True)
class _UniqueQueries:
    """The unique contexts among queried jobs: which each job has, and of each its fields."""

    unique: UniqueContexts
    jobs: CodedJobs
    contexts: Contexts
    clusters: Array


class Forecaster:
    """The live engine: a predictor a target, by the weights and refiners of a model set if any.

    It predicts from the first job on, and may be called from several threads: predictions run at
    the same time, learning runs alone.

    Args:
        model_set: A trained version; None for the histories alone.
        targets: The targets predicted without a model set.
        advice: How allocations are chosen; the defaults unless given.
        shard: Whose users' outcomes alone enter the histories of users; None for everybody's.
    """

    def __init__(
        self,
        model_set: ModelSet | None = None,
        targets: tuple[str, ...] = ("walltime",),
        advice: Advice | None = None,
        shard: Shard | None = None,
    ) -> None:
        self.model_set = model_set
        self.advice, self.shard = advice or Advice(), shard
        self.names = tuple(model_set.targets) if model_set else targets
        self._lock = SharedLock()
        self._trained_until = (
            model_set.card.window.until_us if model_set else int(np.iinfo(np.int64).min)
        )
        self._first_jobs: pd.DataFrame | None = None if model_set else pd.DataFrame()
        self._levels_chosen_by = 0
        self.subject = TARGETS[self.names[0]].subject
        self._start(model_set.levels if model_set else choose_levels(pd.DataFrame(), self.subject))

    def _start(self, levels: Levels) -> None:
        self.levels = levels
        self.predictors = {
            name: TargetPredictor.create(
                TARGETS[name],
                levels,
                model=self.model_set.targets[name] if self.model_set else None,
            )
            for name in self.names
        }
        self._cuts = {
            name: Cuts.of(self._thresholds(name), TARGETS[name].grid) for name in self.names
        }
        first = 0 if self.model_set else LEVELS_FINAL_JOBS
        self.sums = ShardSums(self.shard, self.predictors, first, self._lock)

    @property
    def mixtures(self) -> dict[str, Mixture]:
        """The mixture of histories of each target."""
        return {name: predictor.mixture for name, predictor in self.predictors.items()}

    @property
    def levels_final(self) -> bool:
        """Whether the levels are chosen for good."""
        return self._first_jobs is None

    def resume(
        self,
        levels: Levels,
        states: dict[str, MixtureState],
        calibrations: dict[str, Calibration],
        latest_outcomes_at: dict[str, int],
    ) -> None:
        """Continue from what an earlier forecaster of the same model learned (see snapshot.py).

        Args:
            levels: The levels of the earlier forecaster.
            states: The state of each target's mixture.
            calibrations: The calibration of each target.
            latest_outcomes_at: When the newest outcome of each became available, µs.
        """
        with self._lock.writing():
            self._start(levels)
            self._first_jobs = None
            for name, predictor in self.predictors.items():
                predictor.calibration = calibrations[name]
                predictor.mixture.state = states[name]
                predictor.mixture.latest_outcome_at = latest_outcomes_at[name]
            self.sums.rebase()

    @property
    def model_version(self) -> str:
        """The version that predicts, or ``none`` where no model does."""
        return self.model_set.version if self.model_set else NO_MODEL

    def learn(self, jobs: pd.DataFrame, rows: int | None = None) -> None:
        """Learn jobs that ended, in any order; those learned before change nothing.

        Args:
            jobs: The jobs.
            rows: How many are learned at a time, in between predictions go on; None: all.
        """
        rows, encoded = rows or max(len(jobs), 1), None
        for start in range(0, len(jobs), rows):
            if self._first_jobs is None and encoded is None:
                encoded = self._encode_outcomes(jobs)
            with self._lock.writing():
                if encoded is None:
                    some = self._rechoose_levels(jobs.iloc[start : start + rows])
                    self._learn(self._encode_outcomes(some))
                else:
                    self._learn(encoded.take(np.arange(start, min(start + rows, len(jobs)))))
            self._lock.let_readers_in()

    def _rechoose_levels(self, jobs: pd.DataFrame) -> pd.DataFrame:
        """Choose the levels anew where the jobs have doubled; returns the jobs to learn then."""
        all_jobs = jobs
        if self._first_jobs is not None and len(self._first_jobs):
            all_jobs = pd.concat([self._first_jobs, jobs], ignore_index=True)
        self._first_jobs = all_jobs if len(all_jobs) < LEVELS_FINAL_JOBS else None
        if len(all_jobs) < 2 * self._levels_chosen_by and self._first_jobs is not None:
            return jobs
        self._levels_chosen_by = len(all_jobs)
        levels = select_levels(all_jobs, [TARGETS[name] for name in self.names]).levels
        if levels == self.levels:
            return jobs
        self._start(levels)
        return all_jobs

    def _encode_outcomes(self, jobs: pd.DataFrame) -> EncodedOutcomes:
        targets = [TARGETS[name] for name in self.names]
        return EncodedOutcomes(
            encode(jobs, self.levels),
            self._clusters(jobs),
            self.owns(jobs),
            np.array([target.value(jobs) for target in targets]),
            np.array([target.limit(jobs) for target in targets]),
        )

    def _learn(self, outcomes: EncodedOutcomes) -> None:
        for batch in self.sums.batches(outcomes):
            self._learn_batch(batch)

    def _learn_batch(self, outcomes: EncodedOutcomes) -> None:
        contexts, is_own = outcomes.contexts, outcomes.is_own
        runs = [np.arange(len(is_own))]
        if self.shard is not None:
            # Others' outcomes come first: of more than a history keeps, older ones were missing.
            runs = list(batches(outcome_order(contexts)))
        is_trained = contexts.available_at <= self._trained_until
        for name, values, limits in zip(self.names, outcomes.values, outcomes.limits, strict=True):
            predictor = self.predictors[name]
            for run in runs:
                foreign = run[~is_own[run] & np.isfinite(values[run])]
                if len(foreign):
                    queries = contexts.take(foreign)
                    coarse = without_user_levels(queries, self.levels, predictor.mixture)
                    predictor.load_histories(coarse, values[foreign], limits[foreign])
                trained = run[is_own[run] & is_trained[run]]
                if len(trained):
                    queries = contexts.take(trained)
                    predictor.load_histories(queries, values[trained], limits[trained])
                since = run[is_own[run] & ~is_trained[run]]
                clusters = outcomes.clusters[since]
                predictor.learn(contexts.take(since), values[since], limits[since], clusters)

    def owns(self, jobs: pd.DataFrame | CodedJobs) -> Flags:
        """Whether each job is of a user whose histories are complete here (bool[n])."""
        if self.shard is None:
            return np.ones(len(jobs), dtype=np.bool_)
        return np.asarray(self.shard.slots[job_slots(jobs)])

    def _clusters(self, jobs: pd.DataFrame | CodedJobs) -> Array:
        if self.model_set is None:
            return np.full(len(jobs), GLOBAL, dtype=object)
        return self.model_set.clusters.assign(jobs)

    def _predict_target(
        self, name: str, contexts: Contexts, limits: Array, clusters: Array, allocate: bool = True
    ) -> TargetPrediction:
        pairs = allocate and name == "peak_memory"
        walltime = self.predictors.get("walltime") if pairs else None
        return self.predictors[name].predict(
            contexts, limits, clusters, walltime.mixture if walltime else None, self.advice.price
        )

    def _columns(
        self,
        name: str,
        prediction: TargetPrediction,
        contexts: Contexts,
        quantiles: tuple[float, ...],
        cuts: Cuts | None,
    ) -> dict[str, Array]:
        return prediction_columns(self.predictors[name], prediction, contexts, quantiles, cuts)

    def _thresholds(self, name: str) -> tuple[float, ...]:
        return tuple(self.model_set.card.thresholds.get(name, ())) if self.model_set else ()

    def _contexts(self, jobs: pd.DataFrame | CodedJobs, at: datetime | None) -> Contexts:
        contexts = encode(jobs, self.levels)
        return contexts if at is None else contexts.predicted_at(at)

    def predict(
        self,
        jobs: pd.DataFrame,
        quantiles: tuple[float, ...] = (),
        at: datetime | None = None,
        classes: bool = False,
    ) -> pd.DataFrame:
        """Predict every target as a DataFrame, a row a job (see ``predict_encoded``).

        Args:
            jobs: The jobs.
            quantiles: Levels of further quantiles.
            at: As of when, or as of each submission.
            classes: Whether the likeliest class of each target is wanted.
        """
        with self._lock.reading():
            encoded = encode_jobs(jobs, ("submitted_at", "source", "job_id", *self.fields))
            predictions = self._predict_encoded(encoded, quantiles, at, classes)
        return predictions.frame(
            jobs["job_id"].to_numpy() if "job_id" in jobs else np.arange(len(jobs)).astype(str)
        )

    @property
    def fields(self) -> frozenset[str]:
        """The fields of jobs that predictions depend on, beside the submission."""
        cluster_field = self.model_set.clusters.field if self.model_set else None
        more = (
            *hosts.read_fields(self.names),
            *((cluster_field,) if cluster_field else ()),
            *(("program",) if self.advice.exempt_programs else ()),
        )
        return self.levels.fields.union(LIMITED_BY, more)

    def predict_encoded(
        self,
        jobs: CodedJobs,
        quantiles: tuple[float, ...] = (),
        at: datetime | None = None,
        classes: bool = False,
        bounds: Mapping[str, Bounds] = MappingProxyType({}),
        targets: tuple[str, ...] | None = None,
    ) -> Predictions:
        """Predict every target by the outcomes available at submission, or at ``at``.

        Weights, error scales and calibration are those of now: for a past job that is more than
        was known then (``backtest.predict_in_time`` replays these too). Jobs with the same context
        are predicted once, and many waiting jobs have few contexts.

        Args:
            jobs: The jobs, with submitted_at, source and ``fields``.
            quantiles: Levels of further quantiles.
            at: As of when, or as of each submission.
            classes: Whether the likeliest class of each target and its probability are wanted, by
                the thresholds of the model set.
            bounds: By target, within what the probability of its outcome is wanted (see
                ``Predictions.within``).
            targets: The targets of which columns are wanted; all by default.
        """
        with self._lock.reading():
            return self._predict_encoded(jobs, quantiles, at, classes, bounds, targets)

    def _predict_encoded(
        self,
        jobs: CodedJobs,
        quantiles: tuple[float, ...],
        at: datetime | None,
        classes: bool,
        bounds: Mapping[str, Bounds] = MappingProxyType({}),
        targets: tuple[str, ...] | None = None,
    ) -> Predictions:
        queries = self._unique_queries(jobs, at)
        targets = self.names if targets is None else targets
        limits = {name: TARGETS[name].limit(queries.jobs) for name in self.names}
        exempt = self.advice.is_exempt(queries.jobs)
        power = hosts.powers(queries.jobs, targets)
        context_of_row = queries.unique.context_of_row
        bound_queries = {
            name: BoundQueries(target_bounds, context_of_row, len(exempt))
            for name, target_bounds in bounds.items()
        }

        def predict(rows: Array) -> dict[str, Array]:
            contexts, clusters = queries.contexts.take(rows), queries.clusters[rows]
            row_limits = {name: values[rows] for name, values in limits.items()}
            columns = {"cold": np.zeros(len(rows), dtype=bool)}
            for name in self.names:
                if name not in targets and name not in bounds:
                    continue
                allocate = {name, "walltime"} <= set(targets)
                prediction = self._predict_target(
                    name, contexts, row_limits[name], clusters, allocate
                )
                if name in bounds:
                    bound_queries[name].answer(rows, self.predictors[name], prediction)
                if name not in targets:
                    continue
                cuts = self._cuts[name] if classes else None
                columns |= self._columns(name, prediction, contexts, quantiles, cuts)
                columns["cold"] |= prediction.cold
            self._scale_to_hosts(
                columns, contexts, power[rows], row_limits, clusters, quantiles, classes
            )
            self.advice.apply_requests(columns, targets, row_limits, exempt[rows])
            return columns

        order, position = _by_history(queries.contexts)
        columns = map_in_parallel(predict, order)
        return Predictions(
            columns,
            self._answering_clusters(queries.clusters[order]),
            columns.pop("cold"),
            position[context_of_row],
            self.model_version,
            within={name: answers.within() for name, answers in bound_queries.items()},
        )

    def _scale_to_hosts(
        self,
        columns: dict[str, Array],
        contexts: Contexts,
        power: Floats,
        limits: dict[str, Array],
        clusters: Array,
        quantiles: tuple[float, ...],
        classes: bool,
    ) -> None:
        """Replace CPU times on hosts of known ``power`` by the predicted work over that power."""
        for value in np.unique(power[~np.isnan(power)]):
            rows = np.flatnonzero(power == value)
            queries, unlimited = contexts.take(rows), np.full(len(rows), np.inf)
            prediction = self._predict_target(hosts.CPU_WORK, queries, unlimited, clusters[rows])
            edges = tuple(edge * value for edge in self._thresholds(hosts.CPU_TIME))
            cuts = Cuts.of(edges, TARGETS[hosts.CPU_WORK].grid) if classes else None
            work = self._columns(hosts.CPU_WORK, prediction, queries, quantiles, cuts)
            # Where no work of the owner is known, its time on any host says more.
            warm = ~prediction.cold
            hosts.replace_cpu_times(
                columns,
                rows[warm],
                {name: values[warm] for name, values in work.items()},
                value,
                limits[hosts.CPU_TIME][rows[warm]],
            )

    def _unique_queries(self, jobs: CodedJobs, at: datetime | None) -> _UniqueQueries:
        jobs = add_label_columns(jobs, self.levels.columns, self.levels.numbers)
        query_at = jobs["submitted_at"]
        if at is not None:
            query_at = np.maximum(query_at, in_microseconds(at))
        # Nothing changes after the newest outcome.
        query_at = np.minimum(
            query_at, max(mixture.latest_outcome_at for mixture in self.mixtures.values())
        )
        unique = find_unique_contexts(jobs, self.fields, self.levels, query_at)
        first = jobs.take(unique.first_rows)
        contexts = replace(encode(first, self.levels), at=query_at[unique.first_rows])
        return _UniqueQueries(unique, first, contexts, self._clusters(first))

    def quantiles(self, jobs: CodedJobs, levels: Array) -> tuple[Floats, Integers]:
        """Predict calibrated quantiles of the first target, and nothing else.

        Args:
            jobs: The jobs, with submitted_at, source and ``fields``.
            levels: The levels, 0 to 1.

        Returns:
            float64[contexts, levels], and the context of each job.
        """
        with self._lock.reading():
            name = self.names[0]
            predictor = self.predictors[name]
            queries = self._unique_queries(jobs, None)
            contexts, clusters = queries.contexts, queries.clusters
            limits = TARGETS[name].limit(queries.jobs)
            wanted = np.sort(levels)
            position = queries.unique.context_of_row
            if not predictor.refiners:  # only the histories tell one context from another
                unique = group_by_history(contexts, limits)
                first, position = unique.first_rows, unique.context_of_row[position]
                contexts, limits, clusters = contexts.take(first), limits[first], clusters[first]

            def predict(rows: Array) -> dict[str, Array]:
                batch, batch_limits = contexts.take(rows), limits[rows]
                if predictor.refiners:
                    masses = predictor.distribution(batch, batch_limits, clusters[rows])
                else:
                    masses = predictor.mixture.distributions(batch, batch_limits)
                familiarity = predictor.mixture.familiarity(batch, batch_limits)
                quantiles = masses.quantiles(predictor.calibration.levels(wanted, familiarity))
                return {name: familiarity.widen(quantiles, wanted, masses.limit)}

            order, order_position = _by_history(contexts)
            return map_in_parallel(predict, order)[name], order_position[position]

    def explain(
        self, jobs: CodedJobs, at: datetime | None = None
    ) -> list[dict[str, dict[str, Any]]]:
        """Explain the predictions of a few jobs (see explanation.py); some hundred times as slow.

        Args:
            jobs: The jobs.
            at: As of when, or as of each submission.

        Returns:
            A dict a job with, by target, histories, similar, contributions and allocation.
        """
        with self._lock.reading():
            contexts, clusters = self._contexts(jobs, at), self._clusters(jobs)
            exempt = self.advice.is_exempt(jobs)
            explanations: list[dict[str, dict[str, Any]]] = [{} for _ in range(len(jobs))]
            for name in self.names:
                limits = TARGETS[name].limit(jobs)
                prediction = self._predict_target(name, contexts, limits, clusters)
                columns = self._columns(name, prediction, contexts, (), cuts=None)
                self.advice.apply_requests(columns, (name,), {name: limits}, exempt)
                rows = explain_target(
                    self.predictors[name],
                    prediction,
                    columns,
                    self.levels,
                    contexts,
                    limits,
                    clusters,
                    exempt,
                )
                for explanation, row in zip(explanations, rows, strict=True):
                    explanation[name] = row
            return explanations

    def _answering_clusters(self, clusters: Array) -> Array:
        """Whose refiner answers (object[n]): the cluster's own, the global one or no model's."""
        if self.model_set is None:
            return np.full(len(clusters), NO_MODEL, dtype=object)
        return self.model_set.answering_clusters(clusters)


def _by_history(contexts: Contexts) -> tuple[Integers, Integers]:
    """An order in which rows of the same histories are neighbours, and each row's position in it.

    So neighbours share what is read of the histories, and parallel parts read different ones.
    """
    histories = group_rows([*contexts.keys.T], len(contexts)).context_of_row
    order = np.argsort(histories, kind="stable")
    position = np.empty_like(order)
    position[order] = np.arange(len(order))
    return order, position
