"""The contest: which refiner answers for whom, and how far it goes, by how it did on jobs that came later."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from infra.aliases import Array
from models.quantities.targets import Grid
from models.refiner.boosting import BOOSTING, FEWEST_ROWS, CatBoostRefiner, fit_refiner
from models.refiner.clusters import GLOBAL
from models.refiner.training_rows import TrainingRows, score

Fits = Callable[[Sequence[TrainingRows]], list[CatBoostRefiner | None]]
"""Fits a refiner to each of several lessons, which do not depend on each other, wherever that is done."""

FEWEST_IN_CLUSTER = 1000
FEWEST_TO_JUDGE = 50
MOST_REPORTED = 100
"""Of clusters without a model of their own only so many, the largest, are reported."""
WINDOWS = (0.4, 0.6, 0.8)
"""Where the windows of later lessons begin, as shares of all: a refiner fitted on what was known before each is judged on it."""
MUST_WIN, FEWEST_DUELS = 0.002, 2
"""A cluster's refiner must be better than the global one by this share, over so many windows at least, to answer."""
SHARES = (0.0, 0.5, 0.75)
"""How far a refiner may go from the mixture's masses to its own: none of the way, or half of it where the jobs change, or most."""
TREES = tuple(int(BOOSTING["iterations"] * part) for part in (0.25, 0.5, 0.75, 1.0))
"""To how many of its first trees a refiner may be cut."""
MAY_LOSE = 0.001
"""The fewest trees are kept that lose no more than this share of the score; a hundredth would cost KTH-SP2 one of its error too."""
REACHES = ((0.0, TREES[-1]), *((share, trees) for share in SHARES[1:] for trees in TREES))
"""Every share with every number of trees, all of them last."""


@dataclass(frozen=True)
class WindowScores:
    """How a refiner did in all ``windows`` so far: of its score over the mixture's the logarithms, summed over the ``jobs`` judged.

    ``sums`` has one value for each of REACHES. One window says little, since a few long jobs decide it.
    """

    windows: int = 0
    jobs: int = 0
    sums: tuple[float, ...] = (0.0,) * len(REACHES)

    def add(self, scores: tuple[float, ...], jobs: int) -> WindowScores:
        """With the scores of so many jobs of one more window, at each of REACHES."""
        least = np.finfo(float).tiny
        logs = np.log(np.maximum(scores, least) / max(scores[0], least))
        return WindowScores(
            self.windows + 1, self.jobs + jobs, tuple(float(x) for x in self.sums + jobs * logs)
        )

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
        return next(
            trees for trees in TREES if self._sum(self.share, trees) <= best + MAY_LOSE * self.jobs
        )

    def _sum(self, share: float, trees: int) -> float:
        return self.sums[REACHES.index((share, trees))]

    def cut(self, refiner: CatBoostRefiner) -> CatBoostRefiner:
        """A refiner with as many trees as are worth keeping, which goes as far as did best."""
        return replace(refiner.first(self.trees), share=self.share)


@dataclass(frozen=True)
class Selection:
    """Where a contest left: the refiners that answer (by cluster), the same fitted without the last window, a report a cluster, the record.

    ``fitted`` is the global refiner even where the mixture alone is better.
    """

    refiners: dict[str, CatBoostRefiner] = field(default_factory=dict)
    validation_refiners: dict[str, CatBoostRefiner] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)
    record: WindowScores = WindowScores()
    fitted: CatBoostRefiner | None = None


def before_windows(ended: Array, lessons: int) -> Array:
    """Those of ``ended`` (in order of ending) that ended before the windows among the last ``lessons`` of them.

    Clusters are found by these: clusters found by the outcomes of a window would win it.
    """
    return ended[: len(ended) - int((1 - WINDOWS[0]) * min(len(ended), lessons))]


def fit_here(many: Sequence[TrainingRows]) -> list[CatBoostRefiner | None]:
    """One after the other, in this process."""
    return [fit_refiner(lessons) for lessons in many]


def select_refiners(
    lessons: TrainingRows,
    clusters: Array,
    grid: Grid,
    earlier: Selection | None = None,
    unseen: int = 0,
    fits: Fits = fit_here,
) -> Selection:
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
        return Selection(
            report=[
                {
                    "cluster": GLOBAL,
                    "jobs": count,
                    "answers": "mixture",
                    "why": "too few ended jobs",
                }
            ]
        )
    later_rows, trial = lessons.split(*window)[1], record.cut(trial)
    later = lessons.take(later_rows)
    verdict = _verdict(
        GLOBAL,
        count,
        "mixture",
        score(later, None, grid),
        score(later, trial, grid),
        wins=record.share > 0,
    )
    trials = {GLOBAL: trial} if record.share else {}
    winners, report = _contest_clusters(lessons, clusters, record, grid, fits)
    final, *others = fits(
        [lessons, *(lessons.take(np.flatnonzero(clusters == name)) for name in winners)]
    )
    refiners = {GLOBAL: record.cut(final or trial)} if trials else {}
    refiners |= {
        name: _cut(record, other or own)
        for (name, own), other in zip(winners.items(), others, strict=True)
    }
    small = _small_clusters(lessons.take(later_rows), clusters, clusters[later_rows], trial, grid)
    report = [verdict | _told(record), *report, *small]
    return Selection(refiners, trials | winners, report, record, final)


def _small_clusters(
    later: TrainingRows,
    clusters: Array,
    later_clusters: Array,
    refiner: CatBoostRefiner,
    grid: Grid,
) -> list[dict[str, Any]]:
    """Report the clusters too small for a model of their own, with the global model's score."""
    names, counts = np.unique(clusters.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    rows: list[dict[str, Any]] = []
    for name, jobs in zip(names[order], counts[order], strict=True):
        if name == GLOBAL or jobs >= FEWEST_IN_CLUSTER or len(rows) == MOST_REPORTED:
            continue
        of_cluster = later.take(np.flatnonzero(later_clusters == name))
        row: dict[str, Any] = {"cluster": str(name), "jobs": int(jobs), "answers": GLOBAL}
        if len(of_cluster.truth):
            row[f"crps_{GLOBAL}"] = score(of_cluster, refiner, grid)
        rows.append(row | {"why": f"fewer than {FEWEST_IN_CLUSTER:,} ended jobs"})
    return rows


def _windows(lessons: TrainingRows) -> Iterator[tuple[tuple[int, int], Array, Array]]:
    """Each of WINDOWS in which there is enough to judge: where it lies, the rows known before it, and those that are its own."""
    count, width = len(lessons.truth), 1 - WINDOWS[-1]
    for start in WINDOWS:
        window = int(count * start), min(int(count * (start + width)), count)
        before, after = lessons.split(*window)
        if len(after) >= FEWEST_TO_JUDGE:
            yield window, before, after


def _first_windows(
    lessons: TrainingRows, grid: Grid
) -> tuple[WindowScores, CatBoostRefiner | None, tuple[int, int]]:
    """The record over WINDOWS, the refiner fitted before the last of these that could be judged, and where that window lies."""
    record, where = WindowScores(), (0, len(lessons.truth))
    last: CatBoostRefiner | None = None
    for window, before, after in _windows(lessons):
        if fitted := fit_refiner(lessons.take(before)):
            record, last, where = _judge(record, fitted, lessons.take(after), grid), fitted, window
    return record, last, where


def _contest_clusters(
    lessons: TrainingRows, clusters: Array, record: WindowScores, grid: Grid, fits: Fits
) -> tuple[dict[str, CatBoostRefiner], list[dict[str, Any]]]:
    """The refiners of clusters that beat the global one (or the mixture, where that answers) in every window, and a report a cluster.

    One window will not do: of many clusters some win by chance, and these did 7 % worse afterwards than the global one (KTH-SP2).
    """
    names, counts = np.unique(clusters.astype(str), return_counts=True)
    large = {
        str(name): int(jobs)
        for name, jobs in zip(names, counts, strict=True)
        if name != GLOBAL and jobs >= FEWEST_IN_CLUSTER
    }
    if len(names) < 2 or not large:
        return {}, []
    own: dict[str, CatBoostRefiner] = {}
    duels: dict[str, list[tuple[int, float, float]]] = {name: [] for name in large}
    for _, before, after in _windows(lessons):
        judged = {name: lessons.take(after[clusters[after] == name]) for name in large}
        judged = {
            name: later for name, later in judged.items() if len(later.truth) >= FEWEST_TO_JUDGE
        }
        told = [lessons.take(before[clusters[before] == name]) for name in judged]
        fitted, *others = (
            fits([lessons.take(before), *told]) if record.share else [None, *fits(told)]
        )
        rival = _cut(record, fitted) if fitted else None
        for (name, later), mine in zip(judged.items(), others, strict=True):
            if mine:
                own[name] = _cut(record, mine)
                duels[name].append(
                    (len(later.truth), score(later, own[name], grid), score(later, rival, grid))
                )
    report = [_verdict_of_duels(name, jobs, duels[name]) for name, jobs in large.items()]
    return {
        verdict["cluster"]: own[verdict["cluster"]]
        for verdict in report
        if verdict["answers"] != GLOBAL
    }, report


def _verdict_of_duels(
    name: str, jobs: int, duels: list[tuple[int, float, float]]
) -> dict[str, Any]:
    """Whether a cluster's own refiner answers: it must have won each of two windows at least, and all together clearly."""
    if len(duels) < FEWEST_DUELS:
        return {"cluster": name, "jobs": jobs, "answers": GLOBAL, "why": "too few ended jobs"}
    judged, mine, theirs = np.array(duels).T
    own, rival = float(np.average(mine, weights=judged)), float(np.average(theirs, weights=judged))
    wins = bool((mine <= theirs).all() and own < rival * (1 - MUST_WIN))
    return _verdict(name, jobs, GLOBAL, rival, own, wins) | {"windows": len(duels)}


def _cut(record: WindowScores, refiner: CatBoostRefiner) -> CatBoostRefiner:
    """As the record says, or where that leaves all to the mixture, all trees half of the way."""
    return record.cut(refiner) if record.share else replace(refiner, share=SHARES[1])


def _judge(
    record: WindowScores, refiner: CatBoostRefiner, later: TrainingRows, grid: Grid
) -> WindowScores:
    """The record with one more window."""
    cut = {trees: refiner.first(trees) for trees in TREES}
    scores = (
        score(later, replace(cut[trees], share=share) if share else None, grid)
        for share, trees in REACHES
    )
    return record.add(tuple(scores), len(later.truth))


def _told(record: WindowScores) -> dict[str, Any]:
    return {"share": record.share, "trees": record.trees, "windows": record.windows}


def _verdict(
    name: str, jobs: int, rival: str, theirs: float, own: float, wins: bool
) -> dict[str, Any]:
    answers = name if wins else rival
    return {
        "cluster": name,
        "jobs": jobs,
        "answers": answers,
        "crps": own,
        f"crps_{rival}": theirs,
        "gain": 1 - own / theirs,
    }
