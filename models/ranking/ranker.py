"""The ranker: predicts wait, transfers and run time of each candidate, and orders them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import partial
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Array, Flags
from jobs.coded_jobs import Coded, CodedJobs, in_microseconds
from jobs.schema import JOB, QUERY_FIELDS
from jobs.transfers import TRANSFER
from models.engine.forecaster import Forecaster
from models.histories.unique_contexts import map_in_parallel, run_together
from models.quantities.stochastic import POINTS, times
from models.ranking.candidates import (
    CANDIDATE_COLUMNS,
    Candidates,
    equal_texts,
    index_ranges,
    join_texts,
)
from models.ranking.load_forecaster import LoadForecaster, predicted_points, read_recent
from models.ranking.order import PARTS, RankingError, Rule, rank
from models.ranking.speeds import Speeds

if TYPE_CHECKING:
    from sqlalchemy import Engine


_MOVES = (
    ("transfer_in", "input_at", "input_bytes", True),
    ("transfer_out", "output_at", "output_bytes", False),
)
"""Part, column of the other end, column of the size, and whether data moves towards the site."""
_CANDIDATE_TEXTS = ("site", "queue", "input_at")
_QUERY_COLUMNS = (
    "source",
    "user",
    "site",
    "queue",
    "requested_walltime",
    "requested_memory",
    "requested_cores",
    "input_bytes",
)
"""Columns that every query has, with missing values where a job does not have them."""
_TRANSFER_TEXTS = ("link", "from_endpoint", "to_endpoint", "file_system", "direction")


@dataclass(frozen=True)
class Ranked:
    """Candidates in order: ``job``, the candidate's texts, the columns of ``order.rank``.

    ``unknown`` names the parts that nothing was observed for, ``never_seen`` the fields that name a
    site or endpoint of which there is no record.
    """

    job: Coded
    columns: dict[str, Coded | Array]

    def __len__(self) -> int:
        return len(self.job.codes)

    def frame(self) -> pd.DataFrame:
        """A row for each candidate; missing values are None or NaN."""
        return pd.DataFrame(
            {
                name: _decoded(column)
                for name, column in {"job_id": self.job, **self.columns}.items()
            }
        )


def _decoded(column: Coded | Array) -> Array:
    return (
        np.array([*column.values, None], dtype=object)[column.codes]
        if isinstance(column, Coded)
        else column
    )


@dataclass(frozen=True)
class Ranker:
    """Forecasters of run times, waits and transfer times, and the speeds of sites.

    ``waits`` and ``transfers`` are None while no outcome of theirs is known.
    """

    runs: Forecaster
    waits: LoadForecaster | None
    transfers: LoadForecaster | None
    speeds: Speeds = field(default_factory=lambda: Speeds({}))

    def rank(self, candidates: Candidates, rule: Rule, now: datetime | None = None) -> Ranked:
        """Rank ``candidates``: jobs in order of appearance, the candidates of each best first.

        A candidate with a site runs there; one without is a replica, of which only the transfer
        counts. ``unknown`` names the parts that nothing was observed for: waits and run times at a
        site of which there is no record (their estimates are those of all sites), and parts that
        cannot be estimated at all, which count as 0. A candidate with an unknown part, or with a
        place that was never seen, is placed behind the other candidates of its job. Jobs that
        differ only in their name are ranked once.

        Args:
            candidates: The candidates of all jobs.
            rule: How they are ordered.
            now: The time of the request; None: the clock.

        Raises:
            RankingError: There are no candidates, they are of both kinds, or one lacks the fields
                that it must have.
        """
        if not len(candidates):
            raise RankingError("there is no candidate to rank")
        if (np.diff(candidates.job.codes) < 0).any():
            candidates = candidates.take(np.argsort(candidates.job.codes, kind="stable"))
        unique, unique_of_job = candidates.unique_jobs()
        columns = self._rank(unique, rule, in_microseconds(now or datetime.now(UTC)))
        sizes = np.bincount(unique.job.codes)
        rows = index_ranges((np.cumsum(sizes) - sizes)[unique_of_job], sizes[unique_of_job])
        begins = np.flatnonzero(np.r_[True, np.diff(candidates.job.codes) != 0])
        jobs = np.repeat(candidates.job.codes[begins], sizes[unique_of_job])
        return Ranked(
            Coded(jobs, candidates.job.values),
            {name: _take(column, rows) for name, column in columns.items()},
        )

    def _rank(self, candidates: Candidates, rule: Rule, now: int) -> dict[str, Coded | Array]:
        at_site = candidates["site"].codes >= 0
        if at_site.any() and not at_site.all():
            raise RankingError(
                "some candidates name a site and some do not: rank sites and replicas apart"
            )
        estimates = self._estimate(candidates, bool(at_site.all()), now)
        groups, deadline = candidates.job.codes, candidates["deadline"]
        optional = {
            "deadline": deadline if np.isfinite(deadline).any() else None,
            "behind": _any_of(estimates.unknown | estimates.never_seen),
            "incomplete": _any_of(estimates.missing),
        }
        starts = np.flatnonzero(np.r_[True, np.diff(groups) != 0, True])

        def rank_jobs(jobs: Array) -> dict[str, Array]:
            rows = slice(starts[jobs[0]], starts[jobs[-1] + 1])
            parts = {name: points[rows] for name, points in estimates.parts.items()}
            some = {name: values[rows] for name, values in optional.items() if values is not None}
            return rank(parts, groups[rows], rule, **some)

        ranked = map_in_parallel(rank_jobs, np.arange(len(starts) - 1))
        order = np.lexsort((ranked["rank"], groups))
        unknown = _listed(estimates.unknown, PARTS, len(groups))
        never_seen = _listed(estimates.never_seen, CANDIDATE_COLUMNS, len(groups))
        return (
            {name: _take(candidates[name], order) for name in _CANDIDATE_TEXTS}
            | {name: values[order] for name, values in ranked.items()}
            | {"unknown": _take(unknown, order), "never_seen": _take(never_seen, order)}
        )

    def _estimate(self, candidates: Candidates, running: bool, now: int) -> _Estimates:
        estimates = _Estimates()
        works = [partial(self._estimate_moves, candidates, estimates, running, now)]
        if running:
            works.append(partial(self._estimate_at_sites, candidates, estimates, now))
        run_together(*works)
        return estimates

    def _estimate_moves(
        self, candidates: Candidates, estimates: _Estimates, running: bool, now: int
    ) -> None:
        for name, end, size, towards in _MOVES:
            moved = candidates[end].codes >= 0
            if running:
                moved &= ~equal_texts(candidates[end], candidates["site"])
            needed = moved & (candidates[size] > 0)
            if name == "transfer_in" and not running and not needed.all():
                raise RankingError(
                    "some candidates have nothing to rank: name a site, "
                    "or input_at and input_bytes of a replica"
                )
            # Nothing is written back from a replica's output_at: no size of an output is missing.
            missing = needed & (self.transfers is None)
            if running:
                missing |= moved & np.isnan(candidates[size])
            estimates.mark(name, missing, estimated=False)
            if needed.any() and (self.transfers is not None or not running):
                estimates.parts[name] = np.zeros((len(candidates), POINTS))
            if needed.any() and self.transfers is not None:
                rows = np.flatnonzero(needed)
                queries = _transfers(candidates.take(rows), end, size, towards, now)
                estimates.parts[name][rows] = self.transfers.points(queries, now)
                unseen = needed & ~self._has_seen(candidates[end])
                if unseen.any():
                    estimates.never_seen[end] = unseen

    def _estimate_at_sites(self, candidates: Candidates, estimates: _Estimates, now: int) -> None:
        queries = self._job_queries(candidates, now)
        site: Coded = candidates["site"]
        if self.waits is None:
            estimates.mark("wait", np.ones(len(candidates), bool), estimated=False)
        else:
            estimates.parts["wait"] = self.waits.points(queries, now)
            estimates.mark("wait", ~self.waits.has_seen(site))
            if not (seen := self._has_seen(site)).all():
                estimates.never_seen["site"] = ~seen
        if not self.speeds.factor:
            estimates.parts["run"] = predicted_points(self.runs, queries)
            return
        # A run at any site, times the factor of this one.
        anywhere = CodedJobs({**queries.columns, "site": Coded.missing(len(queries))}, len(queries))
        points = predicted_points(self.runs, anywhere)
        estimates.parts["run"] = times(points, self.speeds.of_jobs(queries))
        estimates.mark("run", ~self.speeds.is_known(queries))

    def _has_seen(self, names: Coded) -> Flags:
        """Whether any job or transfer with an outcome names each site or endpoint (bool[n])."""
        seen = np.zeros(len(names.codes), bool)
        for forecaster in (self.waits, self.transfers):
            if forecaster is not None:
                seen |= forecaster.has_seen(names)
        return seen

    def _job_queries(self, candidates: Candidates, now: int) -> CodedJobs:
        columns = {
            name: candidates[name]
            for name in QUERY_FIELDS
            if name in candidates.columns or name in _QUERY_COLUMNS
        }
        submitted = np.full(len(candidates), now, np.int64)
        return CodedJobs(columns | {"submitted_at": submitted}, len(candidates))


@dataclass(frozen=True)
class _Estimates:
    """Estimates of n candidates by part, float64[n, POINTS].

    ``unknown`` (by part, bool[n]) is where nothing was observed for it, ``missing`` where it has no
    estimate either; ``never_seen`` (by column) where a place has no record.
    """

    parts: dict[str, Array] = field(default_factory=dict)
    unknown: dict[str, Flags] = field(default_factory=dict)
    missing: dict[str, Flags] = field(default_factory=dict)
    never_seen: dict[str, Flags] = field(default_factory=dict)

    def mark(self, name: str, rows: Flags, estimated: bool = True) -> None:
        """Mark a part of some rows (bool[n]) as unknown, with an estimate or without one."""
        if rows.any():
            self.unknown[name] = rows
            if not estimated:
                self.missing[name] = rows


def _transfers(candidates: Candidates, end: str, size: str, towards: bool, now: int) -> CodedJobs:
    """The transfers that would carry input to candidates, or output from them."""
    site = candidates["site"]
    ends = (candidates[end], site if (site.codes >= 0).any() else candidates["output_at"])
    origin, destination = ends if towards else ends[::-1]
    missing = Coded.missing(len(candidates))
    texts = dict.fromkeys(_TRANSFER_TEXTS, missing) | {
        "from_endpoint": origin,
        "to_endpoint": destination,
        "link": join_texts(origin, destination),
    }
    submitted = np.full(len(candidates), now, np.int64)
    return CodedJobs(
        {**texts, "source": missing, "submitted_at": submitted, "bytes": candidates[size]},
        len(candidates),
    )


def _any_of(masks: dict[str, Flags]) -> Flags | None:
    return np.logical_or.reduce(list(masks.values())) if masks else None


def _listed(masks: dict[str, Flags], names: Sequence[str], rows: int) -> Coded:
    """The names whose mask (bool[rows]) is set, by row, separated by commas."""
    used = [name for name in names if name in masks] + [name for name in masks if name not in names]
    bits = np.zeros(rows, np.int64)
    for bit, name in enumerate(used):
        bits += masks[name].astype(np.int64) << bit
    return Coded(
        bits,
        [
            ", ".join(name for bit, name in enumerate(used) if combination >> bit & 1)
            for combination in range(1 << len(used))
        ],
    )


def _take(column: Coded | Array, rows: Array) -> Coded | Array:
    return Coded(column.codes[rows], column.values) if isinstance(column, Coded) else column[rows]


def build_ranker(engine: Engine, runs: Forecaster, previous: Ranker | None = None) -> Ranker:
    """A ranker that learns waits, transfer times and speeds from the latest records of the store.

    Args:
        engine: The store.
        runs: Predicts run times.
        previous: A ranker whose records are not learned again.
    """
    waits, transfers = (previous.waits, previous.transfers) if previous else (None, None)
    jobs, moved = read_recent(engine, JOB), read_recent(engine, TRANSFER)
    return Ranker(
        runs,
        LoadForecaster.learned_from(jobs, "wait", waits),
        LoadForecaster.learned_from(moved, "transfer_time", transfers),
        Speeds.of(jobs),
    )
