"""The ranker: from jobs and their candidates to stochastic values of each part, by what is known now."""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import TYPE_CHECKING

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import Coded, CodedJobs, in_microseconds
from jobs.schema import JOB, QUERY_FIELDS
from jobs.transfers import TRANSFER
from models.engine.forecaster import Forecaster
from models.quantities.stochastic import POINTS, times
from models.ranking.candidates import Candidates, equal_texts, index_ranges, join_texts
from models.ranking.load_forecaster import LoadForecaster, predicted_points, read_recent
from models.ranking.order import PARTS, RankingError, Rule, rank
from models.ranking.speeds import Speeds

if TYPE_CHECKING:
    from sqlalchemy import Engine


_MOVES = (
    ("transfer_in", "input_at", "input_bytes", True),
    ("transfer_out", "output_at", "output_bytes", False),
)
"""Part, where the other end is, what is moved, and whether it comes or goes."""
_TOLD = ("site", "queue", "input_at")
_ALWAYS = (
    "source",
    "user",
    "site",
    "queue",
    "requested_walltime",
    "requested_memory",
    "requested_cores",
    "input_bytes",
)
"""What is asked of every job, told or not."""
_OF_TRANSFER = ("link", "from_endpoint", "to_endpoint", "file_system", "direction")


@dataclass(frozen=True)
class Ranked:
    """Candidates in order: ``job``, texts of the candidate, what ``ranking.rank`` says, and ``unknown``, a row a candidate."""

    job: Coded
    columns: dict[str, Coded | Array]

    def __len__(self) -> int:
        return len(self.job.codes)

    def frame(self) -> pd.DataFrame:
        """A row a candidate; what is not told is None or NaN."""
        return pd.DataFrame(
            {name: _plain(column) for name, column in {"job_id": self.job, **self.columns}.items()}
        )


def _plain(column: Coded | Array) -> Array:
    return (
        np.array([*column.values, None], dtype=object)[column.codes]
        if isinstance(column, Coded)
        else column
    )


@dataclass(frozen=True)
class Ranker:
    """All that a ranking asks: who foresees run times, how fast sites are, what is known of queues and transfers (None: nothing yet)."""

    runs: Forecaster
    waits: LoadForecaster | None
    transfers: LoadForecaster | None
    speeds: Speeds = field(default_factory=lambda: Speeds({}))

    def rank(self, candidates: Candidates, rule: Rule, now: datetime | None = None) -> Ranked:
        """Rank ``candidates``: the jobs in order of appearance, the candidates of each best first.

        A candidate with a site runs there; one without is a replica, whose transfer alone counts. A part of which nothing at all is known
        counts nothing: ``unknown`` names it, and who has such a part stands behind those of the job who have none. Jobs that are alike in
        all but their name are ranked once. Raises RankingError where there are no candidates, where they are of both kinds, or where
        one says too little to be ranked.
        """
        if not len(candidates):
            raise RankingError("there is no candidate to rank")
        if (np.diff(candidates.job.codes) < 0).any():
            candidates = candidates.take(np.argsort(candidates.job.codes, kind="stable"))
        few, like = candidates.distinct()
        columns = self._rank(few, rule, in_microseconds(now or datetime.now(UTC)))
        sizes = np.bincount(few.job.codes)
        rows = index_ranges((np.cumsum(sizes) - sizes)[like], sizes[like])
        taken = {name: _take(column, rows) for name, column in columns.items()}
        names = candidates.job.codes[
            np.flatnonzero(np.r_[True, np.diff(candidates.job.codes) != 0])
        ]
        return Ranked(Coded(np.repeat(names, sizes[like]), candidates.job.values), taken)

    def _rank(self, candidates: Candidates, rule: Rule, now: int) -> dict[str, Coded | Array]:
        runs = candidates["site"].codes >= 0
        if runs.any() and not runs.all():
            raise RankingError(
                "some candidates name a site and some do not: rank sites and replicas apart"
            )
        parts, unknown = self._parts(candidates, bool(runs.all()), now)
        groups, deadline = candidates.job.codes, candidates["deadline"]
        behind = np.logical_or.reduce(list(unknown.values())) if unknown else None
        found = rank(parts, groups, rule, deadline if np.isfinite(deadline).any() else None, behind)
        order = np.lexsort((found["rank"], groups))
        told = {name: _take(candidates[name], order) for name in _TOLD}
        return (
            told
            | {name: values[order] for name, values in found.items()}
            | {"unknown": _take(_named(unknown, len(groups)), order)}
        )

    def _parts(
        self, candidates: Candidates, running: bool, now: int
    ) -> tuple[dict[str, Array], dict[str, Array]]:
        """Stochastic values by part (float64[n, POINTS]), and where nothing is known of a part that counts (bool[n])."""
        parts, unknown = dict[str, Array](), dict[str, Array]()
        asked = self._jobs(candidates, now)
        for name, place, size, towards in _MOVES:
            moved = candidates[place].codes >= 0
            if running:
                moved &= ~equal_texts(candidates[place], candidates["site"])
            wanted = moved & (candidates[size] > 0)
            if name == "transfer_in" and not running and not wanted.all():
                raise RankingError(
                    "nothing is asked of some candidates: name a site, or input_at and input_bytes of a replica"
                )
            # A replica's output_at is only where its copy goes: nothing is written back, so no size is missing.
            lacking = (
                moved & np.isnan(candidates[size]) if running else np.zeros(len(candidates), bool)
            )
            if self.transfers is None:
                lacking |= wanted
            if lacking.any():
                unknown[name] = lacking
            if wanted.any() and (self.transfers is not None or not running):
                parts[name] = np.zeros((len(candidates), POINTS))
            if wanted.any() and self.transfers is not None:
                rows = np.flatnonzero(wanted)
                parts[name][rows] = self.transfers.points(
                    _transfers(candidates.take(rows), place, size, towards, now), now
                )
        if running:
            if self.waits is None:
                unknown["wait"] = np.ones(len(candidates), bool)
            else:
                parts["wait"] = self.waits.points(asked, now)
            parts["run"] = self._runs(asked)
        return parts, unknown

    def _runs(self, asked: CodedJobs) -> Array:
        """Run times by what such jobs do anywhere, times what each site, or host, makes of it (float64[n, POINTS])."""
        if not self.speeds.factor:
            return predicted_points(self.runs, asked)
        anywhere = CodedJobs({**asked.columns, "site": Coded.missing(len(asked))}, len(asked))
        return times(predicted_points(self.runs, anywhere), self.speeds.of_jobs(asked))

    def _jobs(self, candidates: Candidates, now: int) -> CodedJobs:
        told = {
            name: candidates[name]
            for name in QUERY_FIELDS
            if name in candidates.columns or name in _ALWAYS
        }
        return CodedJobs(
            told | {"submitted_at": np.full(len(candidates), now, np.int64)}, len(candidates)
        )


def _transfers(candidates: Candidates, place: str, size: str, towards: bool, now: int) -> CodedJobs:
    """The transfers that would carry input to candidates, or output from them."""
    site = candidates["site"]
    ends = (candidates[place], site if (site.codes >= 0).any() else candidates["output_at"])
    here, there = ends if towards else ends[::-1]
    missing = Coded.missing(len(candidates))
    texts = dict.fromkeys(_OF_TRANSFER, missing) | {
        "from_endpoint": here,
        "to_endpoint": there,
        "link": join_texts(here, there),
    }
    when = np.full(len(candidates), now, np.int64)
    return CodedJobs(
        {**texts, "source": missing, "submitted_at": when, "bytes": candidates[size]},
        len(candidates),
    )


def _named(unknown: dict[str, Array], rows: int) -> Coded:
    """The names of the parts of which nothing is known, by row."""
    mixed = np.zeros(rows, np.int64)
    names = [name for name in PARTS if name in unknown]
    for place, name in enumerate(names):
        mixed += unknown[name].astype(np.int64) << place
    return Coded(
        mixed,
        [
            ", ".join(name for place, name in enumerate(names) if kind >> place & 1)
            for kind in range(1 << len(names))
        ],
    )


def _take(column: Coded | Array, rows: Array) -> Coded | Array:
    return Coded(column.codes[rows], column.values) if isinstance(column, Coded) else column[rows]


def build_ranker(engine: Engine, runs: Forecaster, before: Ranker | None = None) -> Ranker:
    """A ranker that asks ``runs`` for run times, and knows of queues and transfers what the store's latest records tell.

    What ``before`` had learned of them is not learned again.
    """
    waits, transfers = (before.waits, before.transfers) if before else (None, None)
    jobs, moved = read_recent(engine, JOB), read_recent(engine, TRANSFER)
    return Ranker(
        runs,
        LoadForecaster.learned_from(jobs, "wait", waits),
        LoadForecaster.learned_from(moved, "transfer_time", transfers),
        Speeds.of(jobs),
    )
