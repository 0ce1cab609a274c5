"""Training: live through the log once, then teach CatBoost to bend what the mixture of histories foresaw."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.errors import InputError
from models.calibration import Calibration
from models.clusters import GLOBAL, By, Clusters, find_clusters
from models.components import Settings
from models.distribution import Distribution, join
from models.features import NEVER, Contexts, Levels, choose_levels, encode
from models.lessons import Lessons, Notebook, make_lessons, score
from models.mixture import Mixture, Walk, endings
from models.model_set import ModelSet, TargetModel
from models.refinement import input_names, refine_by_cluster
from models.targets import TARGETS, Grid, Target

Array = npt.NDArray[Any]
Progress = Callable[[str, float], None]

MOST_ROWS = 30_000
FEWEST_ROWS = 500
FEWEST_IN_CLUSTER = 1000
FEWEST_TO_JUDGE = 50
VALIDATION = 0.2
BATCH = 4096
"""How many jobs are foreseen at once while living through a log."""
MUST_WIN = 0.002
"""A cluster's refiner must be better than the global one by this share on later data to answer."""
MAY_LOSE = 0.01
"""The global refiner answers unless the mixture alone is better by this share: it seldom is, and one window of later data is noisy."""
BY_SIZE, MOST_IMPORTANT = 0.25, 10.0
SHARES = (0.5, 1.0)
"""How far a refiner may go from the mixture's masses to its own: half of the way is safer where the jobs have changed."""
BOOSTING = {"iterations": 60, "depth": 4, "learning_rate": 0.08, "l2_leaf_reg": 10.0, "rsm": 0.3}


class TrainingError(InputError):
    """There is nothing to train on, or a setting is wrong; the message is one sentence."""


@dataclass(frozen=True)
class CatBoostRefiner:
    """A CatBoost classifier over coarse bins that starts from the mixture's masses and goes ``share`` of the way to its own."""

    model: Any
    classes: npt.NDArray[np.int64]
    share: float = 1.0

    def ratio(self, inputs: Array, coarse: Array) -> Array:
        """See Refiner; bins that no training job fell into keep their mass."""
        raw = self.model.predict(inputs, prediction_type="RawFormulaVal", thread_count=2 if len(inputs) > 2000 else 1)
        raw = np.column_stack([-raw, raw]) if raw.ndim == 1 else raw
        known = coarse[:, self.classes]
        bent = known * np.exp(raw - raw.max(axis=1, keepdims=True))
        ratio = np.ones_like(coarse)
        total = bent.sum(axis=1, keepdims=True)
        ratio[:, self.classes] = np.divide(bent * known.sum(axis=1, keepdims=True), total * known, where=known > 0, out=np.ones_like(known))
        return 1 - self.share + self.share * ratio

    def save(self, path: Path) -> None:
        """Write the model as CatBoost's own .cbm."""
        self.model.save_model(str(path))


def load_refiner(path: Path, share: float) -> CatBoostRefiner:
    """Read a refiner that goes ``share`` of the way from a .cbm file."""
    from catboost import CatBoostClassifier

    model = CatBoostClassifier()
    model.load_model(str(path))
    return CatBoostRefiner(model, np.asarray(model.classes_, dtype=np.int64), share)


def fit_refiner(lessons: Lessons) -> CatBoostRefiner | None:
    """Teach CatBoost the coarse bins of the outcomes from what is shown, starting from the mixture's masses; None for too little."""
    from catboost import CatBoostClassifier, Pool

    classes, counts = np.unique(lessons.truth, return_counts=True)
    classes = classes[counts >= 2]
    lessons = lessons.take(np.flatnonzero(np.isin(lessons.truth, classes)))
    if len(lessons.truth) < FEWEST_ROWS or len(classes) < 3:
        return None
    baseline = np.log(np.maximum(lessons.coarse[:, classes], 1e-9))
    model = CatBoostClassifier(
        loss_function="MultiClass", thread_count=2, random_seed=0, verbose=False, allow_writing_files=False, **BOOSTING
    )  # fmt: skip
    model.fit(Pool(lessons.shown, lessons.truth, baseline=baseline, weight=_importance(lessons.value)))
    return CatBoostRefiner(model, np.asarray(model.classes_, dtype=np.int64))


def _importance(values: Array) -> Array:
    """How much each outcome counts: the large ones make most of the error that a broker feels, but there are few of them."""
    return 1 - BY_SIZE + BY_SIZE * np.minimum(np.sqrt(values / max(values.mean(), 1e-9)), MOST_IMPORTANT)


def choose_refiners(
    lessons: Lessons, clusters: Array, grid: Grid, earlier: CatBoostRefiner | None = None, unseen: int = 0
) -> tuple[dict[str, CatBoostRefiner], list[dict[str, Any]], dict[str, CatBoostRefiner]]:
    """Fit a refiner for all jobs and one for each cluster, and let each answer only if it wins on later lessons.

    ``lessons`` are in the order in which their outcomes became known. A global refiner fitted ``earlier``, which has not seen the
    last ``unseen`` lessons, stands for this one in the trial. Returns the winners fitted on all lessons, a report a cluster (jobs,
    scores, who answers), and the winners as fitted on the earlier lessons only.
    """
    count = len(lessons.truth)
    later = count - unseen if earlier and unseen >= FEWEST_ROWS else int(count * (1 - VALIDATION))
    before, after = lessons.split(later)
    trial = earlier if earlier and unseen >= FEWEST_ROWS else fit_refiner(lessons.take(before))
    report: list[dict[str, Any]] = []
    if trial is None or len(after) < FEWEST_TO_JUDGE:
        return {}, [{"cluster": GLOBAL, "jobs": len(lessons.truth), "answers": "mixture", "why": "too few ended jobs"}], {}
    trials: dict[str, CatBoostRefiner] = {}
    trial, refined = _as_far_as_good(trial, lessons.take(after), grid)
    alone = score(lessons.take(after), None, grid)
    report.append(_verdict(GLOBAL, len(lessons.truth), "mixture", alone, refined, -MAY_LOSE))
    if report[-1]["answers"] == GLOBAL:
        trials[GLOBAL] = trial
    names, counts = np.unique(clusters.astype(str), return_counts=True)
    for name, count in zip(names, counts, strict=True):
        if name == GLOBAL or count < FEWEST_IN_CLUSTER or len(names) < 2:
            continue
        past, future = before[clusters[before] == name], after[clusters[after] == name]
        own = fit_refiner(lessons.take(past)) if len(future) >= FEWEST_TO_JUDGE else None
        if own is None:
            report.append({"cluster": name, "jobs": int(count), "answers": GLOBAL, "why": "too few ended jobs"})
            continue
        own, mine = _as_far_as_good(own, lessons.take(future), grid)
        rival = score(lessons.take(future), trials.get(GLOBAL), grid)
        report.append(_verdict(name, int(count), GLOBAL, rival, mine))
        if report[-1]["answers"] == name:
            trials[name] = own
    whole = {name: lessons if name == GLOBAL else lessons.take(np.flatnonzero(clusters == name)) for name in trials}
    final = {name: replace(fit_refiner(part) or trials[name], share=trials[name].share) for name, part in whole.items()}
    return final, report, trials


def _as_far_as_good(refiner: CatBoostRefiner, later: Lessons, grid: Grid) -> tuple[CatBoostRefiner, float]:
    """The refiner that goes so far of the way to its own masses as is best on later lessons, and its score there."""
    scores = {share: score(later, replace(refiner, share=share), grid) for share in SHARES}
    best = min(scores, key=scores.__getitem__)
    return replace(refiner, share=best), scores[best]


def _verdict(name: str, jobs: int, rival: str, theirs: float, own: float, must_win: float = MUST_WIN) -> dict[str, Any]:
    won = own < theirs * (1 - must_win)
    return {
        "cluster": name,
        "jobs": jobs,
        "answers": name if won else rival,
        "crps": own,
        f"crps_{rival}": theirs,
        "gain": 1 - own / theirs,
    }


def train(
    jobs: pd.DataFrame,
    *,
    targets: tuple[str, ...] = ("walltime",),
    cluster_by: By | None = None,
    settings: Settings | None = None,
    progress: Progress | None = None,
) -> ModelSet:
    """Train a model set on stored ``jobs`` in time order; raises TrainingError when no job has ended with a known outcome."""
    chosen = [find_target(name) for name in targets]
    settings = settings or Settings()
    levels = choose_levels(jobs)
    contexts = encode(jobs, levels)
    known = contexts.known[contexts.known != NEVER]
    models, reports, metrics = {}, {}, {}
    clusters = Clusters()
    for place, aim in enumerate(chosen):
        values = aim.value(jobs)
        if not len(endings(contexts, values)):
            raise TrainingError(f"no job has ended with a known {aim.name}: there is nothing to train on")
        if place == 0:
            clusters = find_clusters(jobs, values, cluster_by)
        if progress:
            progress(f"training {aim.name}", place / len(chosen))
        model, report, metric = _train_one(aim, levels, settings, contexts, values, aim.limit(jobs), clusters.assign(jobs))
        models[aim.name], reports[aim.name], metrics[aim.name] = model, report, metric
    if progress:
        progress("trained", 1.0)
    submitted = pd.to_datetime(jobs["submitted_at"], utc=True)
    card = {
        "created_at": datetime.now(UTC).isoformat(timespec="seconds"),
        "rows": len(jobs),
        "window": {"from": submitted.min().isoformat(), "until": submitted.max().isoformat(), "until_us": int(known.max())},
        "sources": sorted(map(str, jobs["source"].dropna().unique())) if "source" in jobs else [],
        "levels": [level.name for level in levels.levels],
        "features": {aim.name: input_names(tuple(x.name for x in levels.levels), levels.numbers, aim.grid.bins) for aim in chosen},
        "settings": {"mixture": asdict(settings), "boosting": BOOSTING, "most_rows": MOST_ROWS},
        "cluster_by": cluster_by,
        "clusters": reports,
        "metrics": metrics,
    }
    return ModelSet(card, levels, clusters, models)


def _train_one(
    aim: Target, levels: Levels, settings: Settings, contexts: Contexts, values: Array, limits: Array, clusters: Array
) -> tuple[TargetModel, list[dict[str, Any]], dict[str, float]]:
    mixture = new_mixture(aim, levels, settings)
    order = endings(contexts, values)
    latest = order[-MOST_ROWS:]
    rows = latest[np.argsort(contexts.at[latest], kind="stable")]
    walk = Walk(mixture, contexts, values, limits)
    notebook, parts = Notebook(len(rows)), []
    for start in range(0, len(rows), BATCH):
        few = np.arange(start, min(start + BATCH, len(rows)))
        parts.append(walk.on(rows[few]))
        notebook.put(few, make_lessons(mixture, contexts.take(rows[few]), parts[-1][0].mass, values[rows[few]]))
    seen_order = np.lexsort((contexts.ids[rows], contexts.known[rows]))
    lessons = notebook.take(seen_order)
    refiners, report, trials = choose_refiners(lessons, clusters[rows][seen_order], aim.grid)
    after = seen_order[lessons.split(int(len(rows) * (1 - VALIDATION)))[1]]
    part = contexts.take(rows[after])
    answer = join([answer for answer, _ in parts]).take(after)
    scales = np.concatenate([scales for _, scales in parts])
    if trials:
        answer = refine_by_cluster(answer, mixture.counts(part), part.numbers, trials, clusters[rows[after]])
    calibration = Calibration()
    calibration.learn(*answer.probability_integral(values[rows[after]]))
    metric = _measure(answer, mixture, part, values[rows[after]], scales[after])
    walk.on(np.empty(0, np.int64))
    return TargetModel(aim.name, settings, mixture.learned(), calibration, refiners), report, metric


def _measure(answer: Distribution, mixture: Mixture, contexts: Contexts, truth: Array, scales: Array) -> dict[str, float]:
    point = answer.best_point(scales, mixture.last_in_bin(contexts, answer.best_bin(scales)))
    error = np.abs(point - truth)
    one = np.maximum(1.0, mixture.grid.lowest)
    ratio = np.maximum(point, one) / np.maximum(truth, one)
    low, high = answer.interval(0.9)
    return {
        "validation_jobs": float(len(truth)),
        "mae": float(error.mean()),
        "median_ae": float(np.median(error)),
        "apa": float(np.minimum(ratio, 1 / ratio).mean()),
        "crps": float(answer.continuous_ranked_probability(truth).mean()),
        "coverage_90": float(((truth >= low) & (truth <= high)).mean()),
    }


def find_target(name: str) -> Target:
    """The target of a name; raises TrainingError when there is none."""
    if name not in TARGETS:
        raise TrainingError(f"there is no target {name!r}; there are {', '.join(TARGETS)}")
    return TARGETS[name]


def new_mixture(aim: Target, levels: Levels, settings: Settings) -> Mixture:
    """A mixture of a target that has learned nothing yet."""
    return Mixture(aim, tuple(level.relative for level in levels.levels), levels.owner, settings)


def fit_plain(inputs: pd.DataFrame, logs: Array) -> Callable[[pd.DataFrame], Array]:
    """A plain CatBoost regression by absolute error, for the baseline of that name: columns of text are categories.

    Returns the function that predicts float64[n] for rows with the same columns.
    """
    from catboost import CatBoostRegressor

    names = list(inputs.columns[inputs.dtypes == "object"])
    model = CatBoostRegressor(
        loss_function="MAE", iterations=300, depth=6, learning_rate=0.1, max_ctr_complexity=1, cat_features=names,
        thread_count=2, random_seed=0, verbose=False, allow_writing_files=False,
    )  # fmt: skip
    model.fit(inputs, logs)
    return lambda asked: np.asarray(model.predict(asked), dtype=np.float64)
