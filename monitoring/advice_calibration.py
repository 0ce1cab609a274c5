"""Calibration of advice: how much the jobs after past advice needed, measured by the jobs before.

At past moments the ended jobs of each kind have a longest (largest) outcome and a limit: the
request, or the most that the queue's jobs requested or used. What later jobs needed is a margin:
0 at the longest, 1 at the limit, on a logarithmic scale. The margin of advice at a risk is the
least that all but that share of the later jobs kept to, one more counted as exceeding it (split
conformal prediction), among kinds with as many jobs and, if it is more, among the kind's own jobs.
Only jobs that had ended when the advice is given are used.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.aliases import Floats, Integers

DAY = 86_400_000_000
MONTH = 28 * DAY
"""The jobs that advice is from, and those that it is for (µs)."""
HISTORY = 182 * DAY
"""How long ago the jobs of a kind, and past advice, count (µs)."""
MOMENTS = 24
"""Past moments at which advice is compared with later jobs."""
MIN_JOBS = 5
"""Similar jobs that advice needs."""
MIN_KINDS = 10
"""Kinds of job whose later jobs tell what other kinds need."""
SIZES = (10, 20, 50, 100, 300)
"""Numbers of past jobs between which kinds are compared."""
MIN_ROOM = 1.05
"""Least ratio of a queue's limit to the longest of a kind's jobs."""
OTHER_PROGRAMS, NO_PROGRAM = "other programs", "jobs without a program"
REQUESTS = {"walltime": "requested_walltime", "peak_memory": "requested_memory"}
UNITS = {"walltime": 60.0, "peak_memory": 2.0**20}
"""Amounts are advised in whole units: minutes and MiB."""
FIELDS = (
    *("user", "program", "job_name", "queue", "status", "submitted_at", "ended_at"),
    *("walltime", "cpu_time", "peak_memory", "cores", "requested_cores"),
    *("requested_walltime", "requested_memory"),
)
"""What is read of the site's jobs."""


@dataclass(frozen=True)
class Kinds:
    """Jobs with the codes of their kinds: by program, cores and request, and by the last two.

    Times are microseconds; ``needs`` are NaN where unknown; the two codes have no value in common;
    ``queue_limits`` are the site's limits by the code of the queue, 0 where unknown.
    """

    submitted: Integers
    ended: Integers
    needs: Floats
    requests: Floats
    queues: Integers
    by_program: Integers
    by_request: Integers
    queue_limits: Floats

    @staticmethod
    def of(
        jobs: pd.DataFrame, target: str, by_user: bool, limits: pd.Series | None = None
    ) -> Kinds:
        """Code the kinds of jobs.

        Args:
            jobs: Jobs that have ended; ``{target}_need`` is used where there is one.
            target: walltime or peak_memory.
            by_user: Whether jobs of different users are of different kinds.
            limits: The ``limits_of_queues`` of the site; without, those of these jobs.
        """
        queues, names_of_queues = pd.factorize(jobs["queue"].fillna(""))
        site_limits = pd.Series(dtype=float) if limits is None else limits
        needs = jobs[f"{target}_need" if f"{target}_need" in jobs else target]
        requests = jobs[REQUESTS[target]].fillna(0.0)
        request_fields = [jobs["requested_cores"].fillna(1.0), jobs["requested_walltime"].fillna(0)]
        if by_user:
            request_fields.append(jobs["user"].fillna(""))
        names = jobs["program"].fillna(jobs["job_name"]).fillna("–")
        by_program = _codes([names, *request_fields])
        return Kinds(
            _microseconds(jobs["submitted_at"]),
            _microseconds(jobs["ended_at"]),
            needs.where(needs > 0).to_numpy(float),
            requests.to_numpy(float),
            queues,
            by_program,
            _codes(request_fields) + len(jobs),
            site_limits.reindex(names_of_queues).fillna(0.0).to_numpy(float),
        )

    def at(self, now: int, since: int | None = None) -> tuple[Integers, pd.DataFrame]:
        """The kind of each job, and the kinds that advice can be given for at a moment.

        Args:
            now: When the advice is given: only jobs that had ended are used.
            since: The first submission of the jobs that make a kind; a MONTH before unless given.

        Returns:
            The kind of each job; and by kind its ``recent`` jobs, those of HISTORY (``jobs``), the
            ``longest`` need, the ``request`` and the ``queue_limit``.
        """
        since = now - MONTH if since is None else since
        ended = self.ended <= now
        recent = ended & (self.submitted >= since)
        counts = np.bincount(self.by_program[recent], minlength=len(self.by_program))
        kinds = np.where(counts[self.by_program] >= MIN_JOBS, self.by_program, self.by_request)
        past = ended & (self.submitted >= min(since, now - HISTORY)) & np.isfinite(self.needs)
        columns = {
            "kind": kinds[past],
            "need": self.needs[past],
            "request": self.requests[past],
            "queue": self.queues[past],
            "recent": recent[past],
        }
        jobs = pd.DataFrame(columns)
        most = jobs[["need", "request"]].max(axis=1).groupby(jobs["queue"]).max()
        by_kind = jobs.groupby("kind").agg(
            jobs=("need", "size"),
            recent=("recent", "sum"),
            longest=("need", "max"),
            request=("request", "median"),
            queue=("queue", "last"),
        )
        by_kind = by_kind[by_kind["recent"] >= MIN_JOBS]
        own_limits = by_kind["queue"].map(most).to_numpy(float)
        limits = np.maximum(own_limits, self.queue_limits[by_kind["queue"].to_numpy(int)])
        return kinds, by_kind.assign(queue_limit=limits)

    def moments(self) -> Integers:
        """Past moments between which about as many jobs with known needs ended."""
        ended = np.sort(self.ended[np.isfinite(self.needs)])
        shares = np.arange(1, MOMENTS + 1) / (MOMENTS + 1)
        return np.unique(ended[(shares * len(ended)).astype(int)]) if len(ended) else ended


def limits_of_queues(jobs: pd.DataFrame, target: str) -> pd.Series:
    """The most that the jobs of each queue requested or used of a target."""
    most = jobs[[target, REQUESTS[target]]].max(axis=1)
    return most.groupby(jobs["queue"].fillna("").astype(str)).max().fillna(0.0)


def _microseconds(times: pd.Series) -> Integers:
    return times.astype("datetime64[us, UTC]").astype("int64").to_numpy().astype(np.int64)


def _codes(fields: list[pd.Series]) -> Integers:
    return np.asarray(pd.factorize(pd.MultiIndex.from_arrays(fields))[0], dtype=np.int64)


def with_limits(kinds: pd.DataFrame, unit: float) -> pd.DataFrame:
    """Add the ends of the scale of margins, and which kinds are compared.

    Args:
        kinds: Kinds of ``Kinds.at``.
        unit: The whole unit of amounts.

    Returns:
        The kinds with ``longest`` in whole units, ``limit`` (the request where all jobs kept to
        it, else the queue's limit) and ``cell``.
    """
    longest = np.ceil(kinds["longest"] / unit) * unit
    keeps_to_request = (kinds["request"] > 0) & (longest < kinds["request"])
    beyond = np.maximum(kinds["queue_limit"], MIN_ROOM * longest)
    sizes = np.digitize(kinds["jobs"], SIZES)
    return kinds.assign(
        longest=longest,
        limit=kinds["request"].where(keeps_to_request, beyond),
        cell=np.where(keeps_to_request, sizes, sizes + len(SIZES) + 1),
    )


def later_needs(jobs: Kinds, unit: float) -> pd.DataFrame:
    """Measure the needs of jobs by the jobs of their kind that had ended at past moments.

    Args:
        jobs: Jobs that had ended when advice is given.
        unit: The whole unit of amounts.

    Returns:
        A row a moment and later job: ``kind``, ``job``, ``cell`` and ``margin``.
    """
    parts = [_NO_NEEDS]
    for now in jobs.moments():
        is_later = (jobs.submitted > now) & (jobs.submitted <= now + MONTH)
        later = np.flatnonzero(is_later & np.isfinite(jobs.needs))
        if not len(later):
            continue
        kinds, past = jobs.at(now)
        rows = past.index.get_indexer(pd.Index(kinds[later]))
        later, rows = later[rows >= 0], rows[rows >= 0]
        scale = with_limits(past, unit).iloc[rows]
        longest, limit = scale["longest"].to_numpy(), scale["limit"].to_numpy()
        columns = {
            "kind": scale.index.to_numpy(),
            "job": later,
            "cell": scale["cell"].to_numpy(),
            "margin": np.log(jobs.needs[later] / longest) / np.log(limit / longest),
        }
        parts.append(pd.DataFrame(columns))
    return pd.concat(parts, ignore_index=True)


_NO_NEEDS = pd.DataFrame(
    {
        "kind": np.array([], dtype=np.int64),
        "job": np.array([], dtype=np.int64),
        "cell": np.array([], dtype=np.int64),
        "margin": np.array([], dtype=float),
    }
)


def least_jobs(risk: float) -> int:
    """Later jobs that a risk needs, for one more that exceeds the advice to be within it."""
    return math.ceil(1 / risk - 1 - 1e-9)


@dataclass(frozen=True)
class Margin:
    """The margin of advice: -inf without later jobs; ``later_jobs`` is how many tell it."""

    value: float
    later_jobs: int

    @staticmethod
    def of(needs: pd.DataFrame, risk: float) -> Margin:
        """The least margin that all but a share of the jobs kept to; the largest if too few.

        Args:
            needs: Later needs.
            risk: The share of jobs that may need more.
        """
        jobs, rows = needs["job"].nunique(), len(needs)
        if not rows:
            return Margin(-math.inf, 0)
        repeats = rows / jobs
        exceeding = max(0, math.floor(risk * (rows + repeats) - repeats + 1e-9))
        return Margin(float(np.sort(needs["margin"])[rows - 1 - exceeding]), jobs)


def margins(
    kinds: pd.DataFrame, own: pd.DataFrame, site: pd.DataFrame, risk: float
) -> pd.DataFrame:
    """Choose the margin of each kind.

    Args:
        kinds: Kinds with their limits.
        own: Later needs of jobs of these kinds.
        site: Later needs of the site's jobs.
        risk: The share of jobs that may need more.

    Returns:
        By kind the ``margin``; ``later_jobs`` that tell it, and whether they are ``enough``.
    """
    by_cell: dict[int, Margin] = {}
    cells = dict(list(site.groupby("cell")))
    for half in (0, len(SIZES) + 1):
        widest = -math.inf
        for cell in reversed(range(half, half + len(SIZES) + 1)):
            needs = cells.get(cell, site.iloc[:0])
            if needs["kind"].nunique() < MIN_KINDS:
                continue
            margin = Margin.of(needs, risk)
            # Few jobs never have less margin than many.
            widest = max(widest, margin.value)
            by_cell[cell] = Margin(widest, margin.later_jobs)
        for cell in range(half + 1, half + len(SIZES) + 1):
            if cell not in by_cell and cell - 1 in by_cell:
                by_cell[cell] = by_cell[cell - 1]
    by_kind = dict(list(own.groupby("kind")))
    rows = []
    for kind, cell in zip(kinds.index.to_numpy(), kinds["cell"].to_numpy(), strict=True):
        needs = by_kind.get(kind, own.iloc[:0])
        of_kind = Margin.of(needs[needs["cell"].gt(len(SIZES)) == (cell > len(SIZES))], risk)
        alike = by_cell.get(int(cell), Margin(-math.inf, 0))
        jobs = max(of_kind.later_jobs, alike.later_jobs)
        rows.append((max(of_kind.value, alike.value), jobs, jobs >= least_jobs(risk)))
    return pd.DataFrame(rows, columns=["margin", "later_jobs", "enough"], index=kinds.index)


def amounts(kinds: pd.DataFrame, least: Floats, unit: float) -> pd.DataFrame:
    """Choose what to request.

    Args:
        kinds: Kinds with their limits and margins.
        least: The amounts that other rules advise at least.
        unit: The whole unit.

    Returns:
        The kinds with ``amount`` (without enough later jobs no less than the request, NaN without
        one) and ``capped``: whether the queue's limit is less than the risk takes.
    """
    columns = ("longest", "limit", "request", "margin", "queue_limit")
    longest, limit, request, margin, most = (kinds[name].to_numpy(float) for name in columns)
    # Beyond e^50 seconds or bytes every limit is less.
    wanted = longest * np.exp(np.clip(np.log(limit / longest) * margin, -50.0, 50.0))
    wanted, most = np.maximum(least, wanted), np.maximum(most, np.maximum(longest, request))
    amount = np.ceil(np.minimum(wanted, most) / unit) * unit
    fallback = np.where(request > 0, np.maximum(request, amount), np.nan)
    return kinds.assign(
        amount=np.where(kinds["enough"], amount, fallback), capped=kinds["enough"] & (wanted > most)
    )


def advised_amounts(
    kinds: pd.DataFrame,
    own: pd.DataFrame,
    site: pd.DataFrame,
    least: Floats,
    risk: float,
    unit: float,
) -> pd.DataFrame:
    """Choose what kinds of job should request.

    Args:
        kinds: Kinds of ``Kinds.at``.
        own: Later needs of jobs of these kinds.
        site: Later needs of the site's jobs.
        least: The amounts that other rules advise at least.
        risk: The share of jobs that may need more.
        unit: The whole unit of amounts.

    Returns:
        By kind ``amount``, ``capped``, ``enough`` and ``later_jobs``.
    """
    kinds = with_limits(kinds, unit)
    return amounts(kinds.join(margins(kinds, own, site, risk)), least, unit)
