"""The contest: which refiner answers for whom, and how far it goes, by how it did on jobs that came later."""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from models.boosting import BOOSTING, FEWEST_ROWS, CatBoostRefiner, fit_refiner
from models.clusters import GLOBAL
from models.lessons import Lessons, score
from models.targets import Grid

Array = npt.NDArray[Any]

FEWEST_IN_CLUSTER = 1000
FEWEST_TO_JUDGE = 50
WINDOWS = (0.4, 0.6, 0.8)
"""Where the windows of later lessons begin, as shares of all: a refiner fitted on what was known before each is judged on it."""
MUST_WIN = 0.002
"""A cluster's refiner must be better than the global one by this share on later data to answer."""
SHARES = (0.0, 0.5, 0.75)
"""How far a refiner may go from the mixture's masses to its own: none of the way, or half of it where the jobs change, or most."""
TREES = tuple(int(BOOSTING["iterations"] * part) for part in (0.25, 0.5, 0.75, 1.0))
"""To how many of its first trees a refiner may be cut."""
MAY_LOSE = 0.001
"""The fewest trees are kept that lose no more than this share of the score; a hundredth would cost KTH-SP2 one of its error too."""
REACHES = ((0.0, TREES[-1]), *((share, trees) for share in SHARES[1:] for trees in TREES))
"""Every share with every number of trees, all of them last."""


@dataclass(frozen=True)
class Record:
    """How a refiner did in all ``windows`` so far: of its score over the mixture's the logarithms, summed over the ``jobs`` judged.

    ``sums`` has one value for each of REACHES. One window says little, since a few long jobs decide it.
    """

    windows: int = 0
    jobs: int = 0
    sums: tuple[float, ...] = (0.0,) * len(REACHES)

    def add(self, scores: tuple[float, ...], jobs: int) -> Record:
        """With the scores of so many jobs of one more window, at each of REACHES."""
        least = np.finfo(float).tiny
        logs = np.log(np.maximum(scores, least) / max(scores[0], least))
        return Record(self.windows + 1, self.jobs + jobs, tuple(float(x) for x in self.sums + jobs * logs))

    @property
    def share(self) -> float:
        """The share that did best with all trees."""
        return min((share for share in SHARES), key=lambda share: self._sum(share, TREES[-1]))

    @property
    def trees(self) -> int:
        """The fewest trees that at this share lose hardly more than the best number of them."""
        if not self.share:
            return TREES[-1]
        best = min(self._sum(self.share, trees) for trees in TREES)
        return next(trees for trees in TREES if self._sum(self.share, trees) <= best + MAY_LOSE * self.jobs)

    def _sum(self, share: float, trees: int) -> float:
        return self.sums[REACHES.index((share, trees))]

    def cut(self, refiner: CatBoostRefiner) -> CatBoostRefiner:
        """A refiner with as many trees as are worth keeping, which goes as far as did best."""
        return replace(refiner.first(self.trees), share=self.share)


@dataclass(frozen=True)
class Standing:
    """Where a contest left: the refiners that answer (by cluster), the same fitted without the last window, a report a cluster, the record.

    ``fitted`` is the global refiner even where the mixture alone is better.
    """

    refiners: dict[str, CatBoostRefiner] = field(default_factory=dict)
    trials: dict[str, CatBoostRefiner] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)
    record: Record = Record()
    fitted: CatBoostRefiner | None = None


def choose_refiners(lessons: Lessons, clusters: Array, grid: Grid, earlier: Standing | None = None, unseen: int = 0) -> Standing:
    """Fit a refiner for all jobs and one for each cluster, and let each answer only if it wins on later lessons.

    ``lessons`` are in the order in which their outcomes became known. Where an ``earlier`` contest's refiner has not seen the last
    ``unseen`` lessons, these are the next window of its record; else the windows are made here.
    """
    count = len(lessons.truth)
    window = count - unseen, count
    trial = earlier.fitted if earlier and unseen >= FEWEST_ROWS else None
    if earlier and trial and len(new := lessons.split(*window)[1]) >= FEWEST_TO_JUDGE:
        record = _judge(earlier.record, trial, lessons.take(new), grid)
    else:
        record, trial, window = _first_windows(lessons, grid)
    if trial is None:
        return Standing(report=[{"cluster": GLOBAL, "jobs": count, "answers": "mixture", "why": "too few ended jobs"}])
    before, after = lessons.split(*window)
    later, trial = lessons.take(after), record.cut(trial)
    verdict = _verdict(GLOBAL, count, "mixture", score(later, None, grid), score(later, trial, grid), wins=record.share > 0)
    trials = {GLOBAL: trial} if record.share else {}
    winners, report = _contest_clusters(lessons, clusters, (before, after), trials.get(GLOBAL), grid)
    final = fit_refiner(lessons)
    refiners = {GLOBAL: record.cut(final or trial)} if trials else {}
    for name, (own, its_record) in winners.items():
        trials[name] = own
        refiners[name] = its_record.cut(fit_refiner(lessons.take(np.flatnonzero(clusters == name))) or own)
    return Standing(refiners, trials, [verdict | _told(record), *report], record, final)


def _first_windows(lessons: Lessons, grid: Grid) -> tuple[Record, CatBoostRefiner | None, tuple[int, int]]:
    """The record over WINDOWS, the refiner fitted before the last of these that could be judged, and where that window lies."""
    count, width = len(lessons.truth), 1 - WINDOWS[-1]
    record, where = Record(), (0, count)
    last: CatBoostRefiner | None = None
    for start in WINDOWS:
        window = int(count * start), min(int(count * (start + width)), count)
        before, after = lessons.split(*window)
        fitted = fit_refiner(lessons.take(before)) if len(after) >= FEWEST_TO_JUDGE else None
        if fitted:
            record, last, where = _judge(record, fitted, lessons.take(after), grid), fitted, window
    return record, last, where


def _contest_clusters(
    lessons: Lessons, clusters: Array, window: tuple[Array, Array], rival: CatBoostRefiner | None, grid: Grid
) -> tuple[dict[str, tuple[CatBoostRefiner, Record]], list[dict[str, Any]]]:
    """The refiners of clusters that beat the ``rival`` (None: the mixture) on the later rows of ``window``, and a report a cluster."""
    before, after = window
    winners: dict[str, tuple[CatBoostRefiner, Record]] = {}
    report: list[dict[str, Any]] = []
    names, counts = np.unique(clusters.astype(str), return_counts=True)
    for name, jobs in zip(names, counts, strict=True):
        if name == GLOBAL or jobs < FEWEST_IN_CLUSTER or len(names) < 2:
            continue
        past, future = before[clusters[before] == name], lessons.take(after[clusters[after] == name])
        own = fit_refiner(lessons.take(past)) if len(future.truth) >= FEWEST_TO_JUDGE else None
        if own is None:
            report.append({"cluster": name, "jobs": int(jobs), "answers": GLOBAL, "why": "too few ended jobs"})
            continue
        record = _judge(Record(), own, future, grid)
        own = record.cut(own)
        mine, theirs = score(future, own, grid), score(future, rival, grid)
        wins = mine < theirs * (1 - MUST_WIN)
        report.append(_verdict(name, int(jobs), GLOBAL, theirs, mine, wins) | _told(record))
        if wins:
            winners[name] = own, record
    return winners, report


def _judge(record: Record, refiner: CatBoostRefiner, later: Lessons, grid: Grid) -> Record:
    """The record with one more window."""
    cut = {trees: refiner.first(trees) for trees in TREES}
    scores = (score(later, replace(cut[trees], share=share) if share else None, grid) for share, trees in REACHES)
    return record.add(tuple(scores), len(later.truth))


def _told(record: Record) -> dict[str, Any]:
    return {"share": record.share, "trees": record.trees, "windows": record.windows}


def _verdict(name: str, jobs: int, rival: str, theirs: float, own: float, wins: bool) -> dict[str, Any]:
    answers = name if wins else rival
    return {"cluster": name, "jobs": jobs, "answers": answers, "crps": own, f"crps_{rival}": theirs, "gain": 1 - own / theirs}
