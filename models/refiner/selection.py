"""Model selection: which refiner answers for which jobs, and how far, by later jobs' scores."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import numpy as np

from infra.aliases import Array
from models.quantities.targets import Grid
from models.refiner.boosting import BOOSTING, MIN_ROWS, CatBoostRefiner
from models.refiner.boosting import fit_here as fit_here
from models.refiner.clusters import GLOBAL
from models.refiner.training_rows import TrainingRows, score

Fits = Callable[[Sequence[TrainingRows]], list[CatBoostRefiner | None]]
"""Fits a refiner to each of several independent sets of training rows, wherever that is done."""

_Window = tuple[tuple[int, int], Array, Array]

MIN_CLUSTER_ROWS = 1000
MAX_SMALL_CLUSTERS = 100
"""How many clusters too small for a refiner of their own a report lists, the largest first."""
MIN_VALIDATION_ROWS = 50
WINDOWS = (0.4, 0.6, 0.8)
"""Where validation windows begin, as shares of all rows: a refiner fitted on what was available
before a window is scored on it."""
MIN_GAIN, MIN_COMPARISONS = 0.002, 2
"""A cluster's refiner must be better than the global one by this share, in so many windows."""
LOST = "worse than the global one in the last of these windows"
"""Why a cluster does not answer that was not fitted for the windows after."""
SHARES = (0.0, 0.5, 0.75)
"""How far a refiner may go from the mixture's masses to its own."""
TREES = tuple(int(BOOSTING["iterations"] * share) for share in (0.25, 0.5, 0.75, 1.0))
"""To how many of its first trees a refiner may be cut."""
MAX_LOSS = 0.001
"""The fewest trees are kept that lose no more than this share of the score; a hundredth would cost
KTH-SP2 one of its error too."""
REACHES = ((0.0, TREES[-1]), *((share, trees) for share in SHARES[1:] for trees in TREES))
"""Every share with every number of trees, all of them last."""


@dataclass(frozen=True)
class WindowScores:
    """Scores of refiners in all windows so far; one window says little, as few jobs decide it.

    Attributes:
        windows: How many there were.
        jobs: How many jobs were scored.
        sums: For each of REACHES the logarithm of its score over the mixture's, summed over jobs.
    """

    windows: int = 0
    jobs: int = 0
    sums: tuple[float, ...] = (0.0,) * len(REACHES)

    def add(self, scores: tuple[float, ...], jobs: int) -> WindowScores:
        """Return these with the ``scores`` at each of REACHES of one more window of ``jobs``."""
        least = np.finfo(float).tiny
        logs = np.log(np.maximum(scores, least) / max(scores[0], least))
        sums = tuple(float(total) for total in self.sums + jobs * logs)
        return WindowScores(self.windows + 1, self.jobs + jobs, sums)

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
            trees for trees in TREES if self._sum(self.share, trees) <= best + MAX_LOSS * self.jobs
        )

    def _sum(self, share: float, trees: int) -> float:
        return self.sums[REACHES.index((share, trees))]

    def cut(self, refiner: CatBoostRefiner) -> CatBoostRefiner:
        """Return a refiner with the best number of trees and share."""
        return refiner.first(self.trees).to_share(self.share)


@dataclass(frozen=True)
class Selection:
    """The result of a model selection.

    Attributes:
        refiners: The refiners that answer, by cluster.
        validation_refiners: The same fitted without the last window.
        report: A record a cluster.
        scores: Of all windows so far.
        fitted: The global refiner, even where the mixture alone is better.
    """

    refiners: dict[str, CatBoostRefiner] = field(default_factory=dict)
    validation_refiners: dict[str, CatBoostRefiner] = field(default_factory=dict)
    report: list[dict[str, Any]] = field(default_factory=list)
    scores: WindowScores = WindowScores()
    fitted: CatBoostRefiner | None = None


def before_windows(ended: Array, max_rows: int) -> Array:
    """Return those of ``ended`` before the windows among the last ``max_rows`` of them.

    Clusters are found by these: clusters found by the outcomes of a window would win it.
    """
    return ended[: len(ended) - int((1 - WINDOWS[0]) * min(len(ended), max_rows))]


def select_refiners(
    rows: TrainingRows,
    clusters: Array,
    grid: Grid,
    earlier: Selection | None = None,
    unseen: int = 0,
    fits: Fits = fit_here,
) -> Selection:
    """Fit a refiner for all jobs and one a cluster; each answers only if it wins on later rows.

    Args:
        rows: In order of availability.
        clusters: The cluster of each (object[n]).
        grid: The target's grid.
        earlier: An earlier selection, whose refiner is scored on the rows that it has not seen.
        unseen: How many of the last rows these are.
        fits: Where refiners are fitted.
    """
    count = len(rows.truth)
    window = count - unseen, count
    fitted = earlier.fitted if earlier and unseen >= MIN_ROWS else None
    windows, large = list(_windows(rows)), _large_clusters(clusters)
    scores: WindowScores | None = None
    if earlier and fitted and len(later := rows.split(*window)[1]) >= MIN_VALIDATION_ROWS:
        scores = _add_window(earlier.scores, fitted, rows.take(later), grid)
    trials = _trials(rows, clusters, large, windows)
    compared = windows if scores is None or (trials and scores.share) else []
    batch = [rows, *(rows.take(before) for _, before, _ in compared)]
    first_trials = trials[0] if trials else []
    batch += [trial.before for trial in first_trials]
    # All at once, for threads or workers side by side.
    final, *window_fits = fits(batch) if scores or windows else [None]
    by_window, own = window_fits[: len(compared)], window_fits[len(compared) :]
    if scores is None:
        scores, fitted, window = _first_windows(rows, grid, by_window)
    if fitted is None:
        reason = {"answers": "mixture", "why": "too few ended jobs"}
        return Selection(report=[{"cluster": GLOBAL, "jobs": count} | reason])
    validation_index = rows.split(*window)[1]
    validation, trial = rows.take(validation_index), scores.cut(fitted)
    errors = score(validation, None, grid), score(validation, trial, grid)
    verdict = _verdict(GLOBAL, count, "mixture", *errors, wins=scores.share > 0)
    verdict |= {"share": scores.share, "trees": scores.trees, "windows": scores.windows}
    validation_refiners = {GLOBAL: trial} if scores.share else {}
    rivals = by_window if by_window and scores.share else [None] * len(windows)
    comparison = _ClusterComparison(large, rivals, scores, grid)
    comparison.add(first_trials, own)
    for window_trials in trials[1:]:
        left = [trial for trial in window_trials if comparison.can_win(trial.cluster)]
        comparison.add(left, fits([trial.before for trial in left]))
    winners, report = comparison.winners()
    own_final = fits([rows.take(np.flatnonzero(clusters == name)) for name in winners])
    refiners = {GLOBAL: scores.cut(final or trial)} if validation_refiners else {}
    refiners |= {
        name: _cut(scores, refitted or own)
        for (name, own), refitted in zip(winners.items(), own_final, strict=True)
    }
    small = _report_small(validation, clusters, clusters[validation_index], trial, grid)
    report = [verdict, *report, *small]
    return Selection(refiners, validation_refiners | winners, report, scores, final)


def _report_small(
    validation: TrainingRows,
    clusters: Array,
    validation_clusters: Array,
    refiner: CatBoostRefiner,
    grid: Grid,
) -> list[dict[str, Any]]:
    """Report the clusters too small for a refiner of their own, with the global one's score."""
    names, counts = np.unique(clusters.astype(str), return_counts=True)
    order = np.argsort(-counts, kind="stable")
    small = [i for i in order if names[i] != GLOBAL and counts[i] < MIN_CLUSTER_ROWS]
    report: list[dict[str, Any]] = []
    for name, jobs in zip(names[small], counts[small], strict=True):
        if len(report) == MAX_SMALL_CLUSTERS:
            break
        verdict: dict[str, Any] = {"cluster": str(name), "jobs": int(jobs), "answers": GLOBAL}
        of_cluster = validation.take(np.flatnonzero(validation_clusters == name))
        if len(of_cluster.truth):
            verdict[f"crps_{GLOBAL}"] = score(of_cluster, refiner, grid)
        report.append(verdict | {"why": f"fewer than {MIN_CLUSTER_ROWS:,} ended jobs"})
    return report


def _windows(rows: TrainingRows) -> Iterator[_Window]:
    """Yield bounds, training and validation rows of each of WINDOWS with enough to score."""
    count, width = len(rows.truth), 1 - WINDOWS[-1]
    for start in WINDOWS:
        window = int(count * start), min(int(count * (start + width)), count)
        before, after = rows.split(*window)
        if len(after) >= MIN_VALIDATION_ROWS:
            yield window, before, after


def _first_windows(
    rows: TrainingRows, grid: Grid, by_window: Sequence[CatBoostRefiner | None]
) -> tuple[WindowScores, CatBoostRefiner | None, tuple[int, int]]:
    """Return the scores over WINDOWS, the refiner fitted before the last one, and its bounds.

    Args:
        rows: The training rows.
        grid: The target's grid.
        by_window: The refiner fitted before each of the windows.
    """
    scores, bounds = WindowScores(), (0, len(rows.truth))
    last: CatBoostRefiner | None = None
    for (window, _, after), fitted in zip(_windows(rows), by_window, strict=True):
        if fitted:
            scores = _add_window(scores, fitted, rows.take(after), grid)
            last, bounds = fitted, window
    return scores, last, bounds


class _Errors(NamedTuple):
    """Scores of a cluster's own refiner and its rival in a window of so many jobs."""

    jobs: int
    own: float
    rival: float


class _Trial(NamedTuple):
    """A cluster's rows before a window, by its number, and in it."""

    window: int
    cluster: str
    before: TrainingRows
    later: TrainingRows


def _large_clusters(clusters: Array) -> dict[str, int]:
    """Return how many jobs each cluster has that may have a refiner of its own."""
    names, counts = np.unique(clusters.astype(str), return_counts=True)
    if len(names) < 2:
        return {}
    return {
        str(name): int(jobs)
        for name, jobs in zip(names, counts, strict=True)
        if name != GLOBAL and jobs >= MIN_CLUSTER_ROWS
    }


def _trials(
    rows: TrainingRows, clusters: Array, large: Iterable[str], windows: Sequence[_Window]
) -> list[list[_Trial]]:
    """Return, by window, the trials of large clusters with enough jobs in the window to score."""
    by_window = [
        [
            _Trial(number, name, rows.take(before[clusters[before] == name]), rows.take(of_cluster))
            for name in large
            if len(of_cluster := after[clusters[after] == name]) >= MIN_VALIDATION_ROWS
        ]
        for number, (_, before, after) in enumerate(windows)
    ]
    return [trials for trials in by_window if trials]


class _ClusterComparison:
    """Finds the clusters' refiners that beat the global one in every window, window by window.

    Where the mixture answers for all jobs, it is what they must beat. One window is not enough: of
    many clusters some win by chance, and these did 7 % worse later than the global one (KTH-SP2).

    Args:
        large: The jobs of each large cluster.
        rivals: The global refiner fitted before each window; None for the mixture.
        scores: How far the global refiner goes.
        grid: The target's grid.
    """

    def __init__(
        self,
        large: Mapping[str, int],
        rivals: Sequence[CatBoostRefiner | None],
        scores: WindowScores,
        grid: Grid,
    ) -> None:
        self._large, self._scores, self._grid = large, scores, grid
        self._rivals = [_cut(scores, rival) if rival else None for rival in rivals]
        self._latest: dict[str, CatBoostRefiner] = {}
        self._errors: dict[str, list[_Errors]] = {name: [] for name in large}

    def can_win(self, cluster: str) -> bool:
        """Whether a cluster has lost no window yet: one that has is not fitted for later ones."""
        return all(errors.own <= errors.rival for errors in self._errors[cluster])

    def add(self, trials: Sequence[_Trial], own: Sequence[CatBoostRefiner | None]) -> None:
        """Compare in one more window; ``own`` is fitted to each trial's rows before it."""
        for trial, refiner in zip(trials, own, strict=True):
            if refiner:
                self._latest[trial.cluster] = candidate = _cut(self._scores, refiner)
                rival = self._rivals[trial.window]
                errors = (score(trial.later, answer, self._grid) for answer in (candidate, rival))
                self._errors[trial.cluster].append(_Errors(len(trial.later.truth), *errors))

    def winners(self) -> tuple[dict[str, CatBoostRefiner], list[dict[str, Any]]]:
        """The winners' refiners fitted before the last window, and a report of all."""
        report = [self._verdict(name, jobs) for name, jobs in self._large.items()]
        names = [verdict["cluster"] for verdict in report if verdict["answers"] != GLOBAL]
        return {name: self._latest[name] for name in names}, report

    def _verdict(self, name: str, jobs: int) -> dict[str, Any]:
        """Decide whether a cluster answers: it must win every window, and clearly in all."""
        windows, can_win = self._errors[name], self.can_win(name)
        if can_win and len(windows) < MIN_COMPARISONS:
            return {"cluster": name, "jobs": jobs, "answers": GLOBAL, "why": "too few ended jobs"}
        weights, own_errors, rival_errors = np.array(windows).T
        own = float(np.average(own_errors, weights=weights))
        rival = float(np.average(rival_errors, weights=weights))
        wins = can_win and own < rival * (1 - MIN_GAIN)
        verdict = _verdict(name, jobs, GLOBAL, rival, own, wins) | {"windows": len(windows)}
        return verdict if can_win else verdict | {"why": LOST}


def _cut(scores: WindowScores, refiner: CatBoostRefiner) -> CatBoostRefiner:
    """Cut a refiner as the scores say, or let it go half of the way where they prefer none."""
    return scores.cut(refiner) if scores.share else refiner.to_share(SHARES[1])


def _add_window(
    scores: WindowScores, refiner: CatBoostRefiner, later: TrainingRows, grid: Grid
) -> WindowScores:
    by_trees = {trees: refiner.first(trees) for trees in TREES}
    candidates = (by_trees[trees].to_share(share) if share else None for share, trees in REACHES)
    errors = tuple(score(later, candidate, grid) for candidate in candidates)
    return scores.add(errors, len(later.truth))


def _verdict(
    name: str, jobs: int, rival: str, rival_error: float, own_error: float, wins: bool
) -> dict[str, Any]:
    return {
        "cluster": name,
        "jobs": jobs,
        "answers": name if wins else rival,
        "crps": own_error,
        f"crps_{rival}": rival_error,
        "gain": 1 - own_error / rival_error,
    }
