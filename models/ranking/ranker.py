"""The ranker: from jobs and their candidates to stochastic values of each part, by what is known now.

A forecaster each for run times, queue waits and transfers, and the records from which the load of queues and links follows.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from jobs.coded import code
from jobs.schema import JOB, OUTCOMES, Record, conform
from jobs.store import read_jobs
from jobs.transfers import TRANSFER
from models.engine.forecaster import Forecaster
from models.past.load import key_of
from models.quantities.stochastic import LEVELS
from models.ranking.order import RankingError, Rule, rank

if TYPE_CHECKING:
    from sqlalchemy import Engine

Array = npt.NDArray[Any]

REQUESTED = tuple(name for name in JOB.columns if name not in OUTCOMES)
CANDIDATE = ("input_at", "output_at", "output_bytes", "deadline")
"""What a candidate says beside the fields of its job: where its input lies, where its output goes and how large that is, and by when,
in seconds from now, the job must be done. The site is where both begin or end."""
MOST = 30_000
"""The latest records that queue waits and transfers are learned from."""
LONGEST = 1e9
"""Seconds; what is never done is taken to take so long."""
AROUND = 2_000
"""The latest records, beside those that have not ended, from which the load now is seen."""


@dataclass(frozen=True)
class Known:
    """What one kind of record has taught: its forecaster, and the records from which the load is seen."""

    forecaster: Forecaster
    around: pd.DataFrame
    record: Record

    @staticmethod
    def of(records: pd.DataFrame, target: str, record: Record) -> Known:
        """Learn from ``records``: jobs for waits, transfers for transfer times."""
        forecaster = Forecaster(None, (target,))
        surround = forecaster.subject.surroundings
        assert surround is not None  # noqa: S101 - both subjects have one
        latest = surround(records.sort_values("submitted_at", kind="stable").tail(MOST)) if len(records) else records
        if len(latest):
            forecaster.learn(latest)
        recent = np.zeros(len(latest), bool)
        recent[-AROUND:] = True
        open_still = latest["ended_at"].isna().to_numpy() if len(latest) else recent
        return Known(forecaster, latest.loc[recent | open_still, list(record.columns)] if len(latest) else conform(latest, record), record)

    def points(self, asked: pd.DataFrame) -> Array:
        """Stochastic values for records that are submitted now (float64[n, POINTS]); each kind of record is foreseen once."""
        surround = self.forecaster.subject.surroundings
        fields = [name for name in self.record.columns if name not in (*self.record.identity, "submitted_at") and asked[name].notna().any()]
        kinds = key_of(asked, fields)
        few = asked.iloc[np.unique(kinds, return_index=True)[1]]
        around = pd.concat([self.around, few], ignore_index=True)
        assert surround is not None  # noqa: S101
        told = surround(around).tail(len(few))
        return foreseen(self.forecaster, told)[np.unique(kinds, return_inverse=True)[1]]


def foreseen(forecaster: Forecaster, asked: pd.DataFrame) -> Array:
    """What a forecaster says of records, as calibrated points (float64[n, POINTS])."""
    name = forecaster.names[0]
    answers = forecaster.answer(code(asked, ("submitted_at", "source", *forecaster.fields)), tuple(LEVELS))
    kinds = np.column_stack([answers.numbers[f"{name}_q{level:g}"] for level in LEVELS])
    return np.sort(np.nan_to_num(kinds, posinf=LONGEST), axis=1)[answers.which]


def ranker(engine: Engine, runs: Forecaster) -> Ranker:
    """A ranker that asks ``runs`` for run times, and knows of queues and transfers what the store does."""
    waits, moved = read_jobs(engine), read_jobs(engine, record=TRANSFER)
    waits = waits[waits["started_at"].notna() | waits["ended_at"].isna()]
    return Ranker(
        runs,
        Known.of(waits, "wait", JOB) if waits["started_at"].notna().any() else None,
        Known.of(moved, "transfer_time", TRANSFER) if moved["ended_at"].notna().any() else None,
    )


def distinct(candidates: pd.DataFrame) -> tuple[pd.DataFrame, pd.DataFrame]:
    """The candidates of the first of all jobs that are alike, and for each job by ``job_id`` the name of the one that it is ``like``."""
    groups, jobs = pd.factorize(candidates["job_id"])
    order = np.argsort(groups, kind="stable")
    kinds = key_of(candidates, [name for name in candidates.columns if name != "job_id"])[order]
    starts = np.flatnonzero(np.r_[True, np.diff(groups[order]) != 0])
    first: dict[bytes, int] = {}
    like = [first.setdefault(part.tobytes(), place) for place, part in enumerate(np.split(kinds, starts[1:]))]
    chosen = np.isin(groups[order], list(first.values()))
    return candidates.iloc[order[chosen]], pd.DataFrame({"job_id": jobs, "like": np.asarray(jobs)[like]})


@dataclass(frozen=True)
class Ranker:
    """All that a ranking asks: who foresees run times, and what is known of queues and transfers (None: nothing yet)."""

    runs: Forecaster
    waits: Known | None
    transfers: Known | None

    def rank(self, candidates: pd.DataFrame, rule: Rule, now: datetime | None = None) -> pd.DataFrame:
        """Rank ``candidates``, a row each with ``job_id``, the job's fields and those of CANDIDATE, the rows of one job together.

        Answers ``job_id``, ``site``, ``queue``, ``input_at`` and what ``ranking.rank`` says. A candidate with a site runs there; one
        without is a replica, whose transfer alone counts. A part of which nothing is known counts nothing: ``unknown`` names it.
        Raises RankingError where there are no candidates, or they are of both kinds. Jobs that are alike in all but their name are
        ranked once.
        """
        if candidates.empty:
            raise RankingError("there is no candidate to rank")
        few, names = distinct(candidates)
        ranked = self._rank(few, rule, now)
        return names.merge(ranked.rename(columns={"job_id": "like"}), on="like", how="left").drop(columns="like")

    def _rank(self, candidates: pd.DataFrame, rule: Rule, now: datetime | None) -> pd.DataFrame:
        at = pd.Timestamp(now) if now else pd.Timestamp.now("UTC")
        rows = candidates.reset_index(drop=True).assign(submitted_at=at)
        for name in (*CANDIDATE, "site", "queue", "input_bytes", "source"):
            if name not in rows:
                rows[name] = None
        runs = rows["site"].notna().to_numpy()
        if runs.any() and not runs.all():
            raise RankingError("some candidates name a site and some do not: rank sites and replicas apart")
        jobs = conform(rows, JOB)
        parts, unknown = self._parts(rows, jobs, bool(runs.all()))
        deadline = pd.to_numeric(rows["deadline"], errors="coerce").to_numpy(dtype=np.float64)
        groups = pd.factorize(rows["job_id"])[0]
        order = np.argsort(groups, kind="stable")
        found = rank(
            {name: part[order] for name, part in parts.items()},
            groups[order],
            rule,
            deadline[order] if np.isfinite(deadline).any() else None,
        )
        told = rows.loc[order, ["job_id", "site", "queue", "input_at"]].reset_index(drop=True)
        answer = told.assign(**found, unknown=", ".join(unknown))
        return answer.iloc[np.lexsort((answer["rank"], groups[order]))].reset_index(drop=True)

    def _parts(self, rows: pd.DataFrame, jobs: pd.DataFrame, running: bool) -> tuple[dict[str, Array], list[str]]:
        parts: dict[str, Array] = {}
        unknown: list[str] = []
        moves = (("transfer_in", "input_at", "input_bytes", True), ("transfer_out", "output_at", "output_bytes", False))
        for name, place, size, towards in moves:
            wanted = rows[place].notna().to_numpy() & (pd.to_numeric(rows[size], errors="coerce").to_numpy(dtype=np.float64) > 0)
            if running:
                wanted &= (rows[place] != rows["site"]).to_numpy()
            if wanted.any():
                parts[name] = self._moved(rows, place, size, towards, wanted, unknown, name)
        if running:
            if self.waits is None:
                unknown.append("wait")
            else:
                parts["wait"] = self.waits.points(jobs)
            parts["run"] = foreseen(self.runs, jobs)
        if not parts:
            raise RankingError("nothing is asked of the candidates: name a site, or input_at and input_bytes")
        return parts, unknown

    def _moved(self, rows: pd.DataFrame, place: str, size: str, towards: bool, wanted: Array, unknown: list[str], name: str) -> Array:
        points = np.zeros((len(rows), len(LEVELS)))
        if self.transfers is None:
            unknown.append(name)
            return points
        ends = (rows[place], rows["site"] if rows["site"].notna().any() else rows["output_at"])
        here, there = ends if towards else ends[::-1]
        asked = pd.DataFrame({"transfer_id": rows["job_id"], "source": self._source(), "submitted_at": rows["submitted_at"]})
        link = here.astype("str") + ">" + there.astype("str")
        asked = asked.assign(from_endpoint=here, to_endpoint=there, link=link.where(there.notna() & here.notna()), bytes=rows[size])
        points[wanted] = self.transfers.points(conform(asked[wanted], TRANSFER))
        return points

    def _source(self) -> str | None:
        around = self.transfers.around if self.transfers else pd.DataFrame()
        return str(around["source"].mode().iloc[0]) if len(around) else None
