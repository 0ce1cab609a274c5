"""Comparison of a candidate with the champion on later jobs, source by source."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pandas as pd

from infra.aliases import Progress
from models.engine.backtest import predict_in_time
from models.engine.model_set import ModelSet
from models.engine.training import train
from models.refiner.clusters import By
from models.refiner.selection import Fits, fit_here
from models.releases.comparison import (
    COMPARISON_COLUMNS,
    Difference,
    comparison_table,
    difference,
    outcomes,
)
from models.releases.diagnostics import CALIBRATION_LEVELS
from models.releases.versions import Version

EVALUATION_SHARE = 0.2
"""The share of a source's jobs, the latest by submission, that a candidate is compared on."""
MAX_EVALUATION_JOBS = 10_000
"""More later jobs than this, of all sources, would take minutes and change no decision."""
MIN_EVALUATION_JOBS = 200
"""Fewer later jobs than this decide nothing about a source."""
TIMES = ("submitted_at", "ended_at")
MAX_REGRESSION = 0.02
"""No promotion while the 95 % interval still allows the candidate to be worse by more than this."""


@dataclass(frozen=True)
class SourceSplit:
    """How the jobs of one source are split for a comparison; ``later`` is 0 where too few are new.

    ``trained`` and ``later`` count jobs; ``fresh`` those submitted since the champion's training.
    """

    source: str
    jobs: int
    trained: int
    later: int
    fresh: int
    since: pd.Timestamp


@dataclass(frozen=True)
class CandidateComparison:
    """How a candidate did on later jobs beside the champion and the baselines.

    ``later`` are the jobs compared on and ``answers`` the predictions of them by ``candidate`` and,
    where it predicts the same target, ``champion``; there are none where too few jobs are new.
    ``better`` is None where there was no champion to compare with, or nothing to compare on.
    ``by_source`` has the difference from the champion for each source.
    """

    splits: tuple[SourceSplit, ...]
    later: pd.DataFrame
    answers: Mapping[str, pd.DataFrame]
    table: pd.DataFrame
    champion: Version | None
    better: bool | None
    sentence: str
    by_source: Mapping[str, Difference] = field(default_factory=dict)

    @property
    def predictions(self) -> pd.DataFrame:
        """The candidate's predictions of ``later``; empty where there are none."""
        return self.answers.get("candidate", self.later)


def compare_candidate(
    jobs: pd.DataFrame,
    targets: tuple[str, ...],
    cluster_by: By | None,
    champion: tuple[Version, ModelSet] | None,
    progress: Progress | None = None,
    fits: Fits = fit_here,
) -> CandidateComparison:
    """Train on the earlier jobs, predict the later ones, and compare with champion and baselines.

    Neither the candidate nor the champion was trained on the later jobs (see ``split_sources``).

    Args:
        jobs: Ended jobs of one or more sources.
        targets: What is predicted, the most important first; the first one decides.
        cluster_by: What tells clusters apart.
        champion: The champion and its model set, if there is one.
        progress: Told of the progress.
        fits: Fits the refiners (see ``models.engine.training.train``).
    """
    version, model_set = champion or (None, None)
    splits, past, until, later = split_sources(jobs, model_set)
    if later.empty:
        return no_comparison(splits, later, version, _too_few_sentence(splits, version))
    candidate = train(past, targets=targets, cluster_by=cluster_by, until=until, fits=fits)
    predictions = predict_in_time(candidate, jobs, later, CALIBRATION_LEVELS, progress)
    answers, target = {"candidate": predictions}, targets[0]
    if version is None or model_set is None or target not in model_set.targets:
        rows = comparison_table(jobs, later, answers, targets)
        sentence = f"There was no champion of {target} to compare with."
        return CandidateComparison(splits, later, answers, rows, version, None, sentence)
    answers["champion"] = predict_in_time(model_set, jobs, later, progress=progress)
    common = tuple(name for name in targets if name in model_set.targets)
    overall, by_source, better = compare_by_source(
        outcomes(later, target), predictions[target], answers["champion"][target], later["source"]
    )
    sentence = (
        f"On {len(later):,} later jobs its mean absolute error of {target} is {overall} "
        f"than that of {version.label}."
    )
    if len(by_source) > 1:
        details = "; ".join(f"{name} {excess}" for name, excess in by_source.items())
        sentence = f"{sentence} By source: {details}."
        if worse := [name for name, excess in by_source.items() if excess.low > 0]:
            sentence = f"{sentence} It is worse on {', '.join(worse)}, and no source may be."
    if rule := why_not_promotable(overall):
        sentence = f"{sentence} {rule}"
    missing = [name for name in model_set.targets if name not in targets]
    promotable: bool | None = better
    if better and missing:
        promotable = None
        sentence = (
            f"{sentence} It does not predict {', '.join(missing)}, which {version.label} does."
        )
    return CandidateComparison(
        splits,
        later,
        answers,
        comparison_table(jobs, later, answers, common),
        version,
        promotable,
        sentence,
        by_source,
    )


def no_comparison(
    splits: tuple[SourceSplit, ...], later: pd.DataFrame, champion: Version | None, sentence: str
) -> CandidateComparison:
    """Return a comparison without jobs.

    Args:
        splits: How the jobs are split.
        later: A frame of the jobs' columns.
        champion: The champion, if any.
        sentence: Why nothing was compared.
    """
    nothing = pd.DataFrame(columns=COMPARISON_COLUMNS)
    return CandidateComparison(splits, later.iloc[:0], {}, nothing, champion, None, sentence)


def compare_by_source(
    truth: pd.Series, candidate: pd.Series, champion: pd.Series, sources: pd.Series
) -> tuple[Difference, dict[str, Difference], bool]:
    """Compare the errors of a candidate with the champion's, together and source by source.

    Args:
        truth: The outcomes of the later jobs, in order of submission.
        candidate: Its predictions of them.
        champion: Those of the champion.
        sources: The source of each job.

    Returns:
        The difference over all sources, that of each, and whether the candidate may be promoted:
        not where a source surely got worse.
    """
    overall = difference(truth, candidate, champion, sources=sources)
    by_source = {
        str(source): difference(of_source, candidate, champion)
        for source, of_source in truth.groupby(sources.loc[truth.index], sort=True)
    }
    surely_worse = len(by_source) > 1 and any(excess.low > 0 for excess in by_source.values())
    return overall, by_source, is_promotable(overall) and not surely_worse


def split_sources(
    jobs: pd.DataFrame, champion: ModelSet | None
) -> tuple[tuple[SourceSplit, ...], pd.DataFrame, int, pd.DataFrame]:
    """Split ended ``jobs`` into those to train on and the later ones to compare on, by source.

    Each source is cut at its own time: logs of different years are stored side by side. A source
    with too few earlier or later jobs is trained on and not compared.

    Returns:
        A split a source, the earlier jobs with the time (µs) by which their outcomes are used, and
        the later jobs (both under the index of ``jobs``).
    """
    sources = sorted(jobs["source"].unique())
    most = max(MAX_EVALUATION_JOBS // max(len(sources), 1), MIN_EVALUATION_JOBS)
    submitted_at, ended_at = (
        np.asarray(jobs[name].dt.as_unit("us").astype("int64")) for name in TIMES
    )
    splits: list[SourceSplit] = []
    past, later = (np.zeros(len(jobs), dtype=bool) for _ in range(2))
    cuts = np.full(len(jobs), 0, dtype=np.int64)
    for source in sources:
        of_source = (jobs["source"] == source).to_numpy()
        window = champion.card.window_of(source) if champion else None
        until_us = window.until_us if window else None
        submitted = submitted_at[of_source]
        after = of_source & (submitted_at > evaluation_start(submitted, until_us, most))
        cut = int(submitted_at[after].min()) if after.any() else 0
        before = of_source & (ended_at <= cut)
        compared = min(before.sum(), after.sum()) >= MIN_EVALUATION_JOBS
        if compared:
            later |= after
        else:
            before, cut = of_source, int(ended_at[of_source].max())
        past |= of_source & (submitted_at < cut) if compared else of_source
        cuts[of_source] = cut
        splits.append(
            SourceSplit(
                source,
                len(submitted),
                int(before.sum()),
                int(after.sum()) if compared else 0,
                len(submitted) if until_us is None else int((submitted > until_us).sum()),
                pd.Timestamp(cut, unit="us", tz="UTC"),
            )
        )
    latest = int(cuts.max(initial=0))
    earlier = jobs[past]
    # Of a source that is cut before the others, later outcomes are not yet known either.
    unknown = (ended_at > cuts)[past] & (cuts < latest)[past]
    if unknown.any():
        earlier = earlier.assign(ended_at=earlier["ended_at"].mask(unknown))
    return tuple(splits), earlier, latest, jobs[later]


def evaluation_start(
    submitted: npt.NDArray[np.int64],
    champion_until: int | None,
    most: int = MAX_EVALUATION_JOBS,
) -> int:
    """Return the time (µs) after which submitted jobs compare a candidate with the champion.

    These are the last EVALUATION_SHARE of the jobs, at most ``most``. Of the jobs that came since
    the champion was trained only the later half compares: on the earlier half a candidate learns
    what the champion does not know, or it would be no better than the champion.

    Args:
        submitted: Submission times of all jobs (int64[n], µs).
        champion_until: When the latest outcome that the champion was trained on became available.
        most: The most jobs to compare on.
    """
    ordered = np.sort(submitted)
    since = int(ordered[-min(int(len(ordered) * EVALUATION_SHARE) + 1, most)])
    if champion_until is None:
        return since
    fresh = ordered[ordered > champion_until]
    return max(since, int(fresh[len(fresh) // 2]) if len(fresh) else champion_until)


def is_promotable(excess: Difference) -> bool:
    """Tell whether the error is lower, and the interval ends at MAX_REGRESSION or below."""
    return excess.share < 0 and excess.high <= MAX_REGRESSION


def why_not_promotable(excess: Difference) -> str:
    """Name the rule of ``is_promotable`` that a candidate breaks; empty where it breaks none.

    >>> why_not_promotable(Difference(-0.01, -0.12, 0.13)).partition(": ")[2]
    "the 95 % interval of the error's change, -12.0 % to +13.0 %, must end at +2 % or below."
    """
    if excess.share >= 0:
        return "Only a lower error is promoted."
    if is_promotable(excess):
        return ""
    low, high, most = (
        f"{100 * share:+.1f} %" for share in (excess.low, excess.high, MAX_REGRESSION)
    )
    return (
        f"The improvement is not proven: the 95 % interval of the error's change, {low} to {high}, "
        f"must end at {most.replace('.0', '')} or below."
    )


def _too_few_sentence(splits: tuple[SourceSplit, ...], champion: Version | None) -> str:
    fresh = sum(split.fresh for split in splits)
    needed = MIN_EVALUATION_JOBS * (2 if champion else 5)
    since = f" since {champion.label}" if champion else ""
    where = " of one source" if len(splits) > 1 else ""
    return (
        f"Nothing to compare by: only {fresh:,} jobs that ended were submitted{since}, "
        f"and {needed:,}{where} are needed."
    )
