"""The broker that uses Gridcast's ranking, learned from what the simulated grid has done so far."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pandas as pd

from infra.aliases import Array
from jobs.coded_jobs import NOT_AVAILABLE, Coded, CodedJobs, encode_jobs, in_microseconds
from jobs.workload.grid import NO_SITE, GeneratedGrid
from models.engine.forecaster import Forecaster
from models.past.queues import SCOPES as QUEUES
from models.past.queues import queues_in
from models.past.surroundings import CurrentSurroundings
from models.past.traffic import SCOPES as LINKS
from models.past.traffic import traffic_in
from models.ranking.candidates import Candidates, join_texts
from models.ranking.load_forecaster import LoadForecaster
from models.ranking.order import Rule
from models.ranking.ranker import Ranker
from models.ranking.speeds import Speeds
from scheduling.brokering.brokers import ShortestQueue
from scheduling.brokering.grid import GridState, job_records, start_of, transfer_records

NEWS = 100
"""After so many ended jobs the histories learn them; the load is always current."""


class RankingBroker:
    """Sends each job to the site ranked first; to the shortest queue until NEWS jobs have ended."""

    def __init__(self, grid: GeneratedGrid, rule: Rule) -> None:
        self.rule, self.grid = rule, grid
        self.runs = Forecaster(None, ("walltime",))
        self.ranker: Ranker | None = None
        self._learned = 0
        self._queries = encode_jobs(
            grid.jobs,
            [name for name in grid.jobs.columns if name not in ("job_id", "site", "submitted_at")],
        )
        self._begin = in_microseconds(start_of(grid))

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        if (ended := int((state.ended <= now).sum())) >= self._learned + NEWS:
            self._learn(state)
            self._learned = ended
        if self.ranker is None:
            return ShortestQueue().choose(job, now, state)
        waits = _with_load(self.ranker.waits, self._queues(state))
        links = _with_load(self.ranker.transfers, self._links(state))
        current = Ranker(self.runs, waits, links, self.ranker.speeds)
        moment = pd.Timestamp(self._begin + round(now * 1e6), unit="us", tz="UTC")
        ranked = current.rank(self._candidates(job), self.rule, moment.to_pydatetime())
        site = ranked.columns["site"]
        assert isinstance(site, Coded)  # noqa: S101
        return int(site.codes[0])

    def _learn(self, state: GridState) -> None:
        """Learn the jobs that have ended, and all waits and transfers."""
        jobs = job_records(state, np.flatnonzero(state.site != NO_SITE))
        self.runs.learn(jobs[jobs["ended_at"].notna()])
        moved = np.flatnonzero((state.sent < state.there) & (self.grid.input_at != NO_SITE))
        previous = self.ranker
        waits = LoadForecaster.learned_from(jobs, "wait", previous.waits if previous else None)
        links = LoadForecaster.learned_from(
            transfer_records(state, moved),
            "transfer_time",
            previous.transfers if previous else None,
        )
        self.ranker = Ranker(self.runs, waits, links, Speeds.of(jobs))

    def _micros(self, times: Array) -> Array:
        return np.where(
            np.isnan(times),
            NOT_AVAILABLE,
            self._begin + np.round(np.nan_to_num(times) * 1e6).astype(np.int64),
        )

    def _queues(self, state: GridState) -> CurrentSurroundings:
        """The load of the queues now."""
        rows = np.flatnonzero(state.site != NO_SITE)
        jobs = self._queries.take(rows)
        begin = self._begin / 1e6
        sent, started, ended = (values[rows] for values in (state.sent, state.started, state.ended))
        events = queues_in(
            begin + sent,
            begin + started,
            begin + ended,
            jobs["requested_walltime"],
            jobs["requested_cores"],
            self._micros(sent),
            self._micros(started),
        )
        site = Coded(state.site[rows], self.grid.sites)
        columns = CodedJobs({**jobs.columns, "site": site}, len(rows))
        return CurrentSurroundings.of(columns, events, QUEUES)

    def _links(self, state: GridState) -> CurrentSurroundings:
        """The load of the links now."""
        has_moved = (state.site != NO_SITE) & (state.site != self.grid.input_at)
        rows = np.flatnonzero((self.grid.input_at != NO_SITE) & has_moved)
        sent, there = state.sent[rows], state.there[rows]
        size = self._queries["input_bytes"][rows]
        rates = size / np.maximum(there - sent, 0.5)
        begin = self._begin / 1e6
        events = traffic_in(
            begin + sent,
            begin + sent,
            begin + there,
            size,
            rates,
            rates,
            self._micros(sent),
            self._micros(there),
        )
        origin = Coded(self.grid.input_at[rows], self.grid.sites)
        destination = Coded(state.site[rows], self.grid.sites)
        missing = Coded.missing(len(rows))
        columns = {
            "source": self._queries.take(rows)["source"],
            "from_endpoint": origin,
            "to_endpoint": destination,
            "link": join_texts(origin, destination),
            "file_system": missing,
            "direction": missing,
        }
        names = ("server", "link", "from", "to")
        keys = {name: fields for name, fields in LINKS.items() if name in names}
        return CurrentSurroundings.of(CodedJobs(columns, len(rows)), events, keys)

    def _candidates(self, job: int) -> Candidates:
        """Every site, for one job."""
        count = len(self.grid.sites)
        columns = dict(self._queries.take(np.full(count, job)).columns)
        input_at = int(self.grid.input_at[job])
        columns["site"] = Coded(np.arange(count), self.grid.sites)
        codes = np.full(count, input_at if input_at != NO_SITE else -1)
        columns["input_at"] = Coded(codes, self.grid.sites)
        return Candidates(Coded(np.zeros(count, np.int64), [str(job)]), CodedJobs(columns, count))


def _with_load(
    forecaster: LoadForecaster | None, surroundings: CurrentSurroundings
) -> LoadForecaster | None:
    return replace(forecaster, surroundings=surroundings) if forecaster else None
