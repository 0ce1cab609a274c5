"""The broker that ranks: Gridcast's own ranking of the sites, learned from nothing but what this very grid has done so far."""

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
"""So many jobs end before the histories take them in at once; the load of queues and links is always that of the moment."""


class RankingBroker:
    """Sends each job where Gridcast's ranking by ``rule`` says it is done first; by the shortest queue until something has ended."""

    def __init__(self, grid: GeneratedGrid, rule: Rule) -> None:
        self.rule, self.grid = rule, grid
        self.runs = Forecaster(None, ("walltime",))
        self.known: Ranker | None = None
        self._learned = 0
        self._asked = encode_jobs(
            grid.jobs,
            [name for name in grid.jobs.columns if name not in ("job_id", "site", "submitted_at")],
        )
        self._begin = in_microseconds(start_of(grid))

    def choose(self, job: int, now: float, state: GridState) -> int:
        """See Broker."""
        if (ended := int((state.ended <= now).sum())) >= self._learned + NEWS:
            self._learn(state)
            self._learned = ended
        if self.known is None:
            return ShortestQueue().choose(job, now, state)
        waits, links = (
            self._with(self.known.waits, self._queues(state)),
            self._with(self.known.transfers, self._links(state)),
        )
        around = Ranker(self.runs, waits, links, self.known.speeds)
        moment = pd.Timestamp(self._begin + round(now * 1e6), unit="us", tz="UTC")
        ranked = around.rank(self._candidates(job), self.rule, moment.to_pydatetime())
        site = ranked.columns["site"]
        assert isinstance(site, Coded)  # noqa: S101
        return int(site.codes[0])

    def _learn(self, state: GridState) -> None:
        """Take in what has ended by now, and where each started and what each moved."""
        jobs = job_records(state, np.flatnonzero(state.site != NO_SITE))
        self.runs.learn(jobs[jobs["ended_at"].notna()])
        moved = np.flatnonzero((state.sent < state.there) & (self.grid.input_at != NO_SITE))
        before = self.known
        waits = LoadForecaster.learned_from(jobs, "wait", before.waits if before else None)
        links = LoadForecaster.learned_from(
            transfer_records(state, moved), "transfer_time", before.transfers if before else None
        )
        self.known = Ranker(self.runs, waits, links, Speeds.of(jobs))

    @staticmethod
    def _with(known: LoadForecaster | None, around: CurrentSurroundings) -> LoadForecaster | None:
        return replace(known, surroundings=around) if known else None

    def _micros(self, times: Array) -> Array:
        return np.where(
            np.isnan(times),
            NOT_AVAILABLE,
            self._begin + np.round(np.nan_to_num(times) * 1e6).astype(np.int64),
        )

    def _queues(self, state: GridState) -> CurrentSurroundings:
        """The queues as they are."""
        rows = np.flatnonzero(state.site != NO_SITE)
        here = self._asked.take(rows)
        begin = self._begin / 1e6
        sent, started, ended = (values[rows] for values in (state.sent, state.started, state.ended))
        asked, cores, known = (
            here["requested_walltime"],
            here["requested_cores"],
            self._micros(sent),
        )
        events = queues_in(
            begin + sent, begin + started, begin + ended, asked, cores, known, self._micros(started)
        )
        return CurrentSurroundings.of(
            CodedJobs(
                {**here.columns, "site": Coded(state.site[rows], self.grid.sites)}, len(rows)
            ),
            events,
            QUEUES,
        )

    def _links(self, state: GridState) -> CurrentSurroundings:
        """The links as they are."""
        rows = np.flatnonzero(
            (self.grid.input_at != NO_SITE)
            & (state.site != NO_SITE)
            & (state.site != self.grid.input_at)
        )
        sent, there = state.sent[rows], state.there[rows]
        size = self._asked["input_bytes"][rows]
        rates = size / np.maximum(there - sent, 0.5)
        begin = self._begin / 1e6
        known = self._micros(there)
        events = traffic_in(
            begin + sent, begin + sent, begin + there, size, rates, rates, self._micros(sent), known
        )
        here, there_at = (
            Coded(places[rows], self.grid.sites) for places in (self.grid.input_at, state.site)
        )
        missing = Coded.missing(len(rows))
        told = {
            "source": self._asked.take(rows)["source"],
            "from_endpoint": here,
            "to_endpoint": there_at,
            "link": join_texts(here, there_at),
        }
        places = {
            name: fields
            for name, fields in LINKS.items()
            if name in ("server", "link", "from", "to")
        }
        return CurrentSurroundings.of(
            CodedJobs({**told, "file_system": missing, "direction": missing}, len(rows)),
            events,
            places,
        )

    def _candidates(self, job: int) -> Candidates:
        """Every site, for one job."""
        count = len(self.grid.sites)
        told = dict(self._asked.take(np.full(count, job)).columns)
        place = int(self.grid.input_at[job])
        told["site"] = Coded(np.arange(count), self.grid.sites)
        told["input_at"] = Coded(np.full(count, place if place != NO_SITE else -1), self.grid.sites)
        return Candidates(Coded(np.zeros(count, np.int64), [str(job)]), CodedJobs(told, count))
