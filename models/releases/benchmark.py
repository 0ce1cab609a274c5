"""The common benchmark: several versions' errors on the same later jobs.

None of the versions was trained on these jobs. They are the later jobs of the newest training, of
which the first value of its version is its candidate's; the champion and up to MAX_EARLIER other
versions are measured on them again. Values are comparable where the digest is the same.
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import pandas as pd

from infra.settings import Settings
from models.engine.backtest import predict_in_time
from models.engine.model_set import ModelError, ModelSet
from models.quantities.metrics import coverage
from models.quantities.targets import TARGETS
from models.releases import registry
from models.releases.candidate import CandidateComparison
from models.releases.comparison import COMPARISON_BASELINES, outcomes
from models.releases.mlflow_client import RegistryError
from models.releases.verification import load_model_set
from models.releases.versions import Version

MAX_EARLIER = 2
"""So many versions beside the champion are measured again, the newest; each takes some seconds."""
DIGEST_TAG, JOBS_TAG = "benchmark_digest", "benchmark_jobs"

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Benchmark:
    """The jobs that versions are compared on.

    Attributes:
        target: The target that decides.
        later: The jobs with their outcomes.
        digest: Of the jobs and outcomes, 12 hexadecimal digits.
        baseline: The smallest mean absolute error of a simple rule on them, NaN without any.
    """

    target: str
    later: pd.DataFrame
    digest: str
    baseline: float

    @staticmethod
    def of(comparison: CandidateComparison, target: str) -> Benchmark | None:
        """Take the later jobs of a comparison; None where there were too few."""
        if comparison.later.empty:
            return None
        table = comparison.table
        rules = table[(table["target"] == target) & table["predictor"].isin(COMPARISON_BASELINES)]
        first = rules[rules["source"] == table["source"].iloc[0]]
        return Benchmark(
            target,
            comparison.later,
            jobs_digest(comparison.later[["source", "job_id", "submitted_at", "ended_at"]]),
            float(first["mae"].min()),
        )

    def version_tags(self, values: Mapping[str, float]) -> dict[str, str]:
        """Return the tags of a version measured on these jobs: its values, digest and count."""
        numbers = {name: f"{value:.6g}" for name, value in values.items()}
        return {DIGEST_TAG: self.digest, JOBS_TAG: str(len(self.later)), **numbers}

    def values(self, predictions: pd.DataFrame) -> dict[str, float]:
        """Return the metrics of a version: ``benchmark_mae_s`` (of the unit), …."""
        truth = outcomes(self.later, self.target)
        actual = truth.to_numpy(dtype=float)
        point, low, high = (
            predictions.loc[truth.index, f"{self.target}{end}"].to_numpy(dtype=float)
            for end in ("", "_low", "_high")
        )
        unit = TARGETS[self.target].unit
        values = {
            f"benchmark_mae_{unit}": float(np.abs(point - actual).mean()),
            "benchmark_coverage_90": coverage(actual, low, high),
            f"benchmark_baseline_mae_{unit}": self.baseline,
        }
        return {name: value for name, value in values.items() if np.isfinite(value)}


def measure_earlier_versions(
    benchmark: Benchmark,
    jobs: pd.DataFrame,
    comparison: CandidateComparison,
    newest: Version,
    settings: Settings,
) -> list[str]:
    """Measure the champion, and earlier versions not trained on the jobs, on a benchmark.

    A version that cannot be loaded or reached is left as it was.

    Args:
        benchmark: The jobs.
        jobs: The jobs of the training, by which histories are made.
        comparison: Has the predictions of the champion.
        newest: The version just published, whose number is the step of the metrics.
        settings: Whose registry.

    Returns:
        The labels of the versions measured.
    """
    measured = []
    champion = comparison.champion
    if champion and "champion" in comparison.answers:
        answers = [(champion, comparison.answers["champion"])]
    else:
        answers = []
    for version, predictions in (*answers, *_predict(benchmark, jobs, champion, newest, settings)):
        try:
            values = benchmark.values(predictions)
            tags = benchmark.version_tags(values)
            registry.log_measured(version, values, tags, step=newest.version, settings=settings)
            measured.append(version.label)
        except RegistryError as error:
            log.warning("%s was not measured on the benchmark: %s", version.label, error)
    return measured


def _predict(
    benchmark: Benchmark,
    jobs: pd.DataFrame,
    champion: Version | None,
    newest: Version,
    settings: Settings,
) -> Iterator[tuple[Version, pd.DataFrame]]:
    """Yield earlier versions that were not trained on the jobs, with their predictions."""
    if champion is None:
        return
    done = 0
    for version in registry.versions(settings):
        if done == MAX_EARLIER:
            return
        if version.version in (newest.version, champion.version) or version.state == "unfinished":
            continue
        try:
            model_set = load_model_set(version, settings)
            if benchmark.target in model_set.targets and _is_new_to(model_set, benchmark.later):
                done += 1
                yield version, predict_in_time(model_set, jobs, benchmark.later)
        except (ModelError, RegistryError) as error:
            log.warning("%s was not measured on the benchmark: %s", version.label, error)


def _is_new_to(model_set: ModelSet, later: pd.DataFrame) -> bool:
    """Tell whether the model was trained on each of the jobs' sources, and on none of the jobs."""
    until = pd.to_datetime(later["source"].map(model_set.card.trained_until), utc=True)
    return bool((later["submitted_at"] > until).all())


def jobs_digest(jobs: pd.DataFrame) -> str:
    """Return a digest of jobs in whatever order, 12 hexadecimal digits."""
    hashes = pd.util.hash_pandas_object(jobs, index=False).to_numpy(np.uint64)
    with np.errstate(over="ignore"):
        total = f"{len(hashes)} {hashes.sum()} {np.bitwise_xor.reduce(hashes, initial=0)}"
    return hashlib.sha256(total.encode()).hexdigest()[:12]
